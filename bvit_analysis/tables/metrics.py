"""The figures that runs are judged by: their words, their direction, and the order of recipes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bvit_analysis.errors import ConfigError, unknown_name

FLOAT = "float"

RECIPE_ORDER: tuple[str, ...] = ("baseline", "grs", "asm", "binaryvit", FLOAT)
"Order of recipes in every table, legend and axis; other names follow, by name."


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column of run_table with what a reader must know to judge it."""

    label: str
    "Words on an axis, with the unit."
    better: int
    "+1 where the paper's claim is that the named recipes raise it, -1 where they lower it."
    claimed_for: frozenset[str]
    "Recipes that 2305.14730 makes the claim for."
    margin: float
    "A difference below this is called no difference; same unit."
    form: str = ".3g"
    "How one value is written."


_ALL = frozenset({"grs", "asm", "binaryvit"})

_GRS = frozenset({"grs", "binaryvit"})

_ASM = frozenset({"asm", "binaryvit"})

METRICS: dict[str, Metric] = {
    "test_accuracy": Metric(
        label="test accuracy (share of images)",
        better=1,
        claimed_for=_ALL,
        margin=0.005,
        form=".2%",
    ),
    "validation_accuracy": Metric(
        label="validation accuracy (share of images)",
        better=1,
        claimed_for=_ALL,
        margin=0.005,
        form=".2%",
    ),
    "late_flip_rate": Metric(
        label="late flip rate (flips per weight and step)",
        better=-1,
        claimed_for=_GRS,
        margin=1e-5,
    ),
    "oscillating_flips_per_weight": Metric(
        label="oscillating flips (per weight, whole run)",
        better=-1,
        claimed_for=_GRS,
        margin=0.01,
    ),
    "flip_flop_ratio": Metric(
        label="flip-flop ratio (gross / net flips)", better=-1, claimed_for=_GRS, margin=0.01
    ),
    "frequent_share": Metric(
        label="share of weights that flip often", better=-1, claimed_for=_GRS, margin=1e-4
    ),
    "flip_back_10": Metric(
        label="flip-back within 10 steps (probability, last half)",
        better=-1,
        claimed_for=_GRS,
        margin=0.01,
    ),
    "bimodality_coefficient": Metric(
        label="bimodality coefficient (0..1)", better=1, claimed_for=_GRS, margin=0.005
    ),
    "otsu_ratio": Metric(
        label="Otsu ratio of weights (0..1)", better=1, claimed_for=_GRS, margin=0.005
    ),
    "mass_near_zero_010": Metric(
        label="share of weights with |u| < 0.1", better=-1, claimed_for=_GRS, margin=0.001
    ),
    "sign_entropy_bits": Metric(
        label="sign entropy (bits per channel)", better=1, claimed_for=_ASM, margin=0.005
    ),
    "near_constant_share": Metric(
        label="share of channels below 0.5 bit", better=-1, claimed_for=_ASM, margin=0.005
    ),
    "binarization_error": Metric(
        label="binarization error of activations (0..1)", better=-1, claimed_for=_ASM, margin=0.005
    ),
    "twin_agreement": Metric(
        label="sign agreement with the float twin (0..1)",
        better=1,
        claimed_for=_ASM,
        margin=0.005,
    ),
}


def metric(name: str) -> Metric:
    """Return what is known of a metric.

    Raises:
        ConfigError: If there is no metric of that name.
    """
    if name not in METRICS:
        raise ConfigError(unknown_name("metric", name, METRICS))
    return METRICS[name]


def ordered(recipes: Iterable[str]) -> list[str]:
    """Return distinct recipe names in the fixed order, unknown ones after the known, by name."""
    distinct = set(recipes)
    known = [recipe for recipe in RECIPE_ORDER if recipe in distinct]
    return known + sorted(distinct.difference(RECIPE_ORDER))
