"""The one catalogue of what a run can hold: every measure with its unit, range, null, direction and words.

To add a measure, add its entry here and let an instrument declare and fill it: tables, plots, explorers, the record
and its checks read the rest from here.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.records.measure import GRADIENT_TERM, SHIFT, Measure

FLIP_BACK_STEPS = (1, 5, 10, 50, 100)
"Flip-back is counted within so many steps."

NEAR_ZERO = {"005": 0.05, "010": 0.1, "020": 0.2}
"Suffix of mass_near_zero and the |u| below which a weight counts as near zero."

_weight = functools.partial(Measure, kind="weight")
_distribution = functools.partial(Measure, kind="weight", null_words="Gaussian weights")
_activation = functools.partial(Measure, kind="activation", in_atlas=False)
_accuracy = functools.partial(
    Measure, kind="result", unit="share of images", low=0.0, high=1.0, form=".2%", in_atlas=False
)

_SHARE: dict[str, Any] = {"low": 0.0, "high": 1.0}
_AMOUNT: dict[str, Any] = {"low": 0.0}
_HIDDEN: dict[str, Any] = {"in_atlas": False, "in_ablation": False}
_LOG: dict[str, Any] = {"scale": "log"}
# What the paper claims: GRS lowers or raises it, ASM lowers or raises it.
_GRS_DOWN: dict[str, Any] = {"better": -1, "moved_by": frozenset({GRADIENT_TERM})}
_GRS_UP: dict[str, Any] = {**_GRS_DOWN, "better": 1}
_ASM_DOWN: dict[str, Any] = {"better": -1, "moved_by": frozenset({SHIFT})}
_ASM_UP: dict[str, Any] = {**_ASM_DOWN, "better": 1}
_BOTH_UP: dict[str, Any] = {"better": 1, "moved_by": frozenset({SHIFT, GRADIENT_TERM})}


def _flips() -> list[Measure]:
    return [
        _weight(
            name="flip_rate",
            words="flip rate",
            unit="flips per weight and step",
            label="flips per weight and step",
            sentence="Flips since the row before, per weight and step.",
            **_SHARE,
            **_GRS_DOWN,
            margin=1e-5,
            scale="log",
        ),
        _weight(
            name="gross_flips",
            words="gross flips",
            unit="per weight so far",
            sentence="All flips of a weight since the start.",
            **_AMOUNT,
            **_LOG,
            **_HIDDEN,
        ),
        _weight(
            name="net_flips",
            words="net flips",
            unit="per weight so far",
            sentence="1 where the present sign differs from the first one, else 0; the mean over weights.",
            **_SHARE,
            **_LOG,
            **_HIDDEN,
        ),
        _weight(
            name="oscillating_flips",
            words="oscillating flips",
            unit="per weight so far",
            label="oscillating flips per weight so far",
            sentence="Gross minus net flips: those that were undone.",
            **_AMOUNT,
            **_GRS_DOWN,
            margin=0.01,
            scale="log",
        ),
        _weight(
            name="flip_flop_ratio",
            words="flip-flop ratio",
            unit="gross / net flips",
            sentence="Gross flips for each net one; it grows with the length of a run.",
            **_AMOUNT,
            **_GRS_DOWN,
            margin=0.01,
            scale="log",
            in_atlas=False,
        ),
        *(_flip_back(k) for k in FLIP_BACK_STEPS),
        _weight(
            name="frequent_share",
            words="frequent flippers",
            unit="share of weights that flip often",
            label="share of weights that flip often",
            sentence="Weights whose flips per step lie above watch.frequency_threshold.",
            **_SHARE,
            **_GRS_DOWN,
            margin=1e-4,
            scale="log",
        ),
        _weight(
            name="concentration",
            words="concentration of flips",
            unit="share of all flips",
            sentence="Flips of the one percent of weights that flip most.",
            **_SHARE,
            **_LOG,
            **_HIDDEN,
        ),
        _weight(
            name="near_threshold_share",
            words="weights near the threshold",
            unit="share of weights near the threshold",
            label="share of weights near the threshold",
            sentence="Weights closer to the sign's boundary than one typical update.",
            **_SHARE,
            scale="log",
            in_ablation=False,
        ),
    ]


def _level_changes() -> list[Measure]:
    return [
        _weight(
            name="level_change_rate",
            words="level changes",
            unit="changes per weight and step",
            sentence="Weights of more than two levels that changed their level, per weight and step.",
            **_SHARE,
            scale="log",
            in_ablation=False,
        ),
        _weight(
            name="level_reversal_rate",
            words="level reversals",
            unit="reversals per weight and step",
            sentence="Level changes opposite to the weight's change before, which 2203.11086 calls oscillation.",
            **_SHARE,
            scale="log",
            in_ablation=False,
        ),
        _weight(
            name="level_rise_share",
            words="level changes upwards",
            unit="share of level changes",
            sentence="Of the level changes those to a higher level.",
            **_SHARE,
            **_HIDDEN,
        ),
        _weight(
            name="sign_change_rate",
            words="sign changes between several levels",
            unit="sign changes per weight and step",
            sentence="Sign changes of weights that have more than two levels; those of binary weights are flips.",
            **_SHARE,
            **_LOG,
            **_HIDDEN,
        ),
    ]


def _flip_back(steps: int) -> Measure:
    compared = steps == 10
    return _weight(
        name=f"flip_back_{steps}",
        words=f"flip-back within {steps} steps",
        unit="probability of flipping back",
        label=f"share of flips back within {steps} steps",
        sentence=f"Flips since the row before that undid the weight's last flip at most {steps} steps earlier.",
        **_SHARE,
        null_words="a Gaussian AR(1) weight of the same flip rate",
        margin=0.01,
        **(_GRS_DOWN if compared else {**_LOG, **_HIDDEN}),
    )


def _distributions() -> list[Measure]:
    return [
        _distribution(
            name="bimodality_coefficient",
            words="bimodality coefficient",
            unit="0..1",
            sentence="(skew^2 + 1) / kurtosis of latent weights; 1 for two sharp points.",
            **_SHARE,
            null=1 / 3,
            **_GRS_UP,
            margin=0.005,
        ),
        _distribution(
            name="kurtosis",
            words="kurtosis",
            unit="1 for two points",
            label="kurtosis",
            sentence="Fourth moment of latent weights over the square of their variance.",
            low=1.0,
            null=3.0,
            **_LOG,
            **_HIDDEN,
        ),
        _distribution(
            name="otsu_ratio",
            words="Otsu ratio (separation)",
            unit="0..1",
            label="Otsu ratio of weights (0..1)",
            sentence="(mean |u|)^2 / mean u^2, the variance that the two signs explain: 1 - binarization error.",
            **_SHARE,
            null=2 / math.pi,
            **_GRS_UP,
            margin=0.005,
            scale="log",
            in_atlas=False,
        ),
        *(_mass_near_zero(suffix, delta) for suffix, delta in NEAR_ZERO.items()),
        _distribution(
            name="valley_depth",
            words="valley depth",
            unit="0..1",
            sentence="How much lower the density of latent weights is at 0 than at its peaks.",
            **_SHARE,
            null=0.0,
            **_LOG,
            **_HIDDEN,
        ),
        _weight(
            name="weight_scale",
            words="weight scale",
            unit="mean |w|",
            sentence="Mean size of a latent weight.",
            **_AMOUNT,
            **_LOG,
            **_HIDDEN,
        ),
    ]


def _mass_near_zero(suffix: str, delta: float) -> Measure:
    shown = suffix == "010"
    return _distribution(
        name=f"mass_near_zero_{suffix}",
        words=f"mass near zero, |u| < {delta:g}",
        unit=f"share of weights with |u| < {delta:g}",
        label=f"share of weights with |u| < {delta:g}",
        sentence="Latent weights close to the sign's boundary, in units of their row's mean size.",
        **_SHARE,
        null=math.erf(delta * math.sqrt(1 / math.pi)),
        margin=0.001,
        **(_GRS_DOWN if shown else {**_LOG, **_HIDDEN}),
    )


def _activations() -> list[Measure]:
    return [
        _activation(
            name="sign_entropy_bits",
            words="sign entropy",
            unit="bits per channel",
            sentence="Entropy of the sign of a channel, corrected after Miller and Madow, mean over channels.",
            low=0.0,
            high=1 + 1 / (4 * math.log(2)),  # the correction, where only two signs were seen
            **_ASM_UP,
            margin=0.005,
        ),
        _activation(
            name="sign_entropy_plugin_bits",
            words="sign entropy",
            unit="bits per channel",
            label="sign entropy, uncorrected (bits per channel)",
            sentence="Entropy of the sign of a channel without correction, mean over channels.",
            **_SHARE,
            in_ablation=False,
        ),
        _activation(
            name="near_constant_share",
            words="near-constant channels",
            unit="share of channels below 0.5 bit",
            label="share of channels below 0.5 bit",
            sentence="Channels whose sign hardly ever changes.",
            **_SHARE,
            **_ASM_DOWN,
            margin=0.005,
        ),
        _activation(
            name="constant_share",
            words="constant channels",
            unit="share of channels",
            sentence="Channels whose sign never changes.",
            **_SHARE,
            in_ablation=False,
        ),
        _activation(
            name="positive_share",
            words="positive signs",
            unit="share of signs",
            sentence="Activations whose sign is +1.",
            **_SHARE,
            in_ablation=False,
        ),
        _activation(
            name="channel_spread",
            words="spread of channels",
            unit="sigma",
            sentence="Standard deviation over channels of their mean / standard deviation.",
            **_AMOUNT,
            in_ablation=False,
        ),
        _activation(
            name="binarization_error",
            words="binarization error",
            unit="1 - corr(x, sign x)^2",
            label="binarization error of activations (0..1)",
            sentence="The share of an activation's variance that its sign loses.",
            **_SHARE,
            null=1 - 2 / math.pi,
            null_words="Gaussian",
            **_ASM_DOWN,
            margin=0.005,
        ),
        _activation(
            name="twin_agreement",
            words="agreement with float twin",
            unit="share of equal signs",
            label="sign agreement with the float twin (0..1)",
            sentence="How often a binary activation has the sign of the float teacher's at the same place.",
            **_SHARE,
            null=0.5,
            null_words="independent signs",
            **_ASM_UP,
            margin=0.005,
        ),
    ]


def _plain(kind: Any, name: str, words: str, unit: str, **range_: Any) -> Measure:
    return Measure(name=name, kind=kind, words=words, unit=unit, **_HIDDEN, **range_)


def _steps_and_results() -> list[Measure]:
    return [
        _plain("scalar", "epoch", "epoch", "passes through the images", **_AMOUNT),
        _plain("scalar", "loss", "training loss", "nats"),
        _plain("scalar", "lr", "learning rate", "per step", **_AMOUNT),
        _plain("scalar", "grad_norm", "gradient norm", "before clipping", **_AMOUNT),
        _plain("scalar", "accuracy", "validation accuracy", "share of images", **_SHARE),
        _plain("scalar", "validation_loss", "validation loss", "nats"),
        _plain("timing", "images_per_s", "speed", "images per second", **_AMOUNT),
        _plain("timing", "elapsed_s", "time since the start", "seconds", **_AMOUNT),
        _accuracy(name="test_accuracy", words="test accuracy", margin=0.005, **_BOTH_UP),
        _accuracy(
            name="validation_accuracy", words="validation accuracy", margin=0.005, **_BOTH_UP
        ),
        _accuracy(
            name="best_validation_accuracy", words="best validation accuracy", in_ablation=False
        ),
        _accuracy(
            name="teacher_test_accuracy", words="the teacher's test accuracy", in_ablation=False
        ),
        _plain("result", "test_correct", "test images that are right", "images", **_AMOUNT),
        _plain("result", "test_count", "test images", "images", **_AMOUNT),
    ]


MEASURES: dict[str, Measure] = {
    one.name: one
    for one in (
        *_flips(),
        *_distributions(),
        *_activations(),
        *_level_changes(),
        *_steps_and_results(),
    )
}
"Every measure by name, in the order of the columns."


def catalogued(*names: str) -> tuple[Measure, ...]:
    """Return measures of the catalogue by name, for what an instrument declares.

    Raises:
        ConfigError: If there is none of a name.
    """
    for name in names:
        if name not in MEASURES:
            raise ConfigError(unknown_name("measure", name, MEASURES))
    return tuple(MEASURES[name] for name in names)


def names_of(*kinds: str) -> tuple[str, ...]:
    """Return the names of the catalogue's measures of some kinds, in the order of their columns."""
    return tuple(name for name, one in MEASURES.items() if one.kind in kinds)


FLIP_MEASURES = tuple(one.name for one in _flips())
"Measures of the flips of binary weights, which weights of more than two levels do not have."

SITE_METRICS = names_of("weight", "activation")
"Columns that `Run.sites` always has."

COLUMNS: dict[str, tuple[str, ...]] = {
    "scalars": names_of("scalar"),
    "timings": names_of("timing"),
    "sites": SITE_METRICS,
}
"Kinds of rows that hold measures, and the catalogue's columns of each."
