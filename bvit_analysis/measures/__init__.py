"""What flips, what is bimodal, what is informative: the measures as pure functions.

Conventions. A sign is +1 where the value the forward pass uses is >= 0, else -1, so NaN counts as -1. A step is an
applied optimizer step. Every site-level figure is a Python float, computed in float64. Where a figure is not defined
(no elements, nothing flipped, no variance) it is NaN and the docstring says so; nothing here warns. A NaN among
weights makes every figure of them NaN, because a figure of the rest would hide it.
"""

from bvit_analysis.measures.bimodality import bimodality_coefficient as bimodality_coefficient
from bvit_analysis.measures.bimodality import histogram as histogram
from bvit_analysis.measures.bimodality import kurtosis as kurtosis
from bvit_analysis.measures.bimodality import mass_near_zero as mass_near_zero
from bvit_analysis.measures.bimodality import normalise_rows as normalise_rows
from bvit_analysis.measures.bimodality import otsu_ratio as otsu_ratio
from bvit_analysis.measures.bimodality import skew_and_kurtosis as skew_and_kurtosis
from bvit_analysis.measures.bimodality import valley_depth as valley_depth
from bvit_analysis.measures.flips import arccos_flip_probability as arccos_flip_probability
from bvit_analysis.measures.flips import concentration as concentration
from bvit_analysis.measures.flips import flip_back_probability as flip_back_probability
from bvit_analysis.measures.flips import flip_flop_ratio as flip_flop_ratio
from bvit_analysis.measures.flips import flip_rate as flip_rate
from bvit_analysis.measures.flips import frequent_share as frequent_share
from bvit_analysis.measures.flips import gross_flips as gross_flips
from bvit_analysis.measures.flips import near_threshold_share as near_threshold_share
from bvit_analysis.measures.flips import net_flips as net_flips
from bvit_analysis.measures.flips import oscillating_flips as oscillating_flips
from bvit_analysis.measures.information import binarization_error as binarization_error
from bvit_analysis.measures.information import (
    binarization_error_from_sums as binarization_error_from_sums,
)
from bvit_analysis.measures.information import binary_entropy_bits as binary_entropy_bits
from bvit_analysis.measures.information import channel_entropy_bits as channel_entropy_bits
from bvit_analysis.measures.information import channel_moments as channel_moments
from bvit_analysis.measures.information import channel_spread as channel_spread
from bvit_analysis.measures.information import constant_share as constant_share
from bvit_analysis.measures.information import near_constant_share as near_constant_share
from bvit_analysis.measures.information import sign_agreement as sign_agreement
from bvit_analysis.measures.shares import share as share
