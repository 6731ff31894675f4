"""Toys that show one idea of binarization each, in plain numpy: small enough to be followed by hand.

sign(x) = +1 where x >= 0, else -1, as everywhere in this library. The formulas are those of quantizers.py and
regularization.py, written a second time: the tests hold each copy against the other.
"""

from __future__ import annotations

from bvit_analysis.toys.estimators import ESTIMATORS as ESTIMATORS
from bvit_analysis.toys.estimators import SIGN_ESTIMATORS as SIGN_ESTIMATORS
from bvit_analysis.toys.estimators import Estimator as Estimator
from bvit_analysis.toys.estimators import best_scale as best_scale
from bvit_analysis.toys.estimators import estimator as estimator
from bvit_analysis.toys.estimators import scale_error as scale_error
from bvit_analysis.toys.estimators import sign as sign
from bvit_analysis.toys.estimators import sign_entropy_bits as sign_entropy_bits
from bvit_analysis.toys.network import MOST_FLOAT as MOST_FLOAT
from bvit_analysis.toys.network import PERIOD as PERIOD
from bvit_analysis.toys.network import Network as Network
from bvit_analysis.toys.network import TwoLayers as TwoLayers
from bvit_analysis.toys.network import first_network as first_network
from bvit_analysis.toys.network import network_gradients as network_gradients
from bvit_analysis.toys.network import network_output as network_output
from bvit_analysis.toys.network import tilted as tilted
from bvit_analysis.toys.network import train_two_layers as train_two_layers
from bvit_analysis.toys.weight import FRACTIONS as FRACTIONS
from bvit_analysis.toys.weight import RETURN_STEPS as RETURN_STEPS
from bvit_analysis.toys.weight import TERMS as TERMS
from bvit_analysis.toys.weight import OneWeight as OneWeight
from bvit_analysis.toys.weight import grs_force as grs_force
from bvit_analysis.toys.weight import grs_ramp as grs_ramp
from bvit_analysis.toys.weight import grs_term as grs_term
from bvit_analysis.toys.weight import one_weight_gradient as one_weight_gradient
from bvit_analysis.toys.weight import one_weight_term as one_weight_term
from bvit_analysis.toys.weight import train_one_weight as train_one_weight
from bvit_analysis.toys.words import XnorProduct as XnorProduct
from bvit_analysis.toys.words import bits as bits
from bvit_analysis.toys.words import operations as operations
from bvit_analysis.toys.words import pack as pack
from bvit_analysis.toys.words import packed_dot as packed_dot
from bvit_analysis.toys.words import xnor_popcount as xnor_popcount
