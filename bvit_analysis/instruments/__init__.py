"""Instruments: stateful observers of a training, one measured thing a file; the mathematics is in measures."""

from bvit_analysis.instruments.base import Instrument as Instrument
from bvit_analysis.instruments.base import Rows as Rows
from bvit_analysis.instruments.base import Watched as Watched
from bvit_analysis.instruments.bimodality import BimodalityInstrument as BimodalityInstrument
from bvit_analysis.instruments.counters import SignTracker as SignTracker
from bvit_analysis.instruments.distortion import DistortionInstrument as DistortionInstrument
from bvit_analysis.instruments.distortion import TwinListener as TwinListener
from bvit_analysis.instruments.entropy import ActivationListener as ActivationListener
from bvit_analysis.instruments.entropy import EntropyInstrument as EntropyInstrument
from bvit_analysis.instruments.flips import FlipInstrument as FlipInstrument
from bvit_analysis.instruments.levels import LevelInstrument as LevelInstrument
from bvit_analysis.instruments.listening import Listener as Listener
from bvit_analysis.instruments.standard import declared_by as declared_by
from bvit_analysis.instruments.standard import standard as standard
from bvit_analysis.instruments.standard import with_own as with_own
from bvit_analysis.instruments.trajectories import TrajectoryInstrument as TrajectoryInstrument
from bvit_analysis.instruments.verification import Verifier as Verifier
from bvit_analysis.records import Measure as Measure
