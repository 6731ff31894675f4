from .base import Explorer as Explorer
from .bimodality import BimodalityExplorer as BimodalityExplorer
from .comparer import RunComparer as RunComparer
from .information import InformationExplorer as InformationExplorer
from .live import LiveRun as LiveRun
from .oscillation import OscillationExplorer as OscillationExplorer
from .prediction import Prediction as Prediction
from .sandbox import BinarizationSandbox as BinarizationSandbox
