"""The one catalogue of what a run can hold: its measures, and the steps its flip-backs are counted within."""

from __future__ import annotations

WEIGHT_METRICS = (
    "flip_rate",
    "gross_flips",
    "net_flips",
    "oscillating_flips",
    "flip_flop_ratio",
    "flip_back_1",
    "flip_back_5",
    "flip_back_10",
    "flip_back_50",
    "flip_back_100",
    "frequent_share",
    "concentration",
    "near_threshold_share",
    "bimodality_coefficient",
    "kurtosis",
    "otsu_ratio",
    "mass_near_zero_005",
    "mass_near_zero_010",
    "mass_near_zero_020",
    "valley_depth",
    "weight_scale",
)


ACTIVATION_METRICS = (
    "sign_entropy_bits",
    "sign_entropy_plugin_bits",
    "near_constant_share",
    "constant_share",
    "positive_share",
    "channel_spread",
    "binarization_error",
    "twin_agreement",
)


SITE_METRICS = WEIGHT_METRICS + ACTIVATION_METRICS


WITHIN = (1, 5, 10, 50, 100)
"Flip-back is counted within so many steps."


FLIP_BACK_STEPS = (1, 5, 10, 50, 100)
