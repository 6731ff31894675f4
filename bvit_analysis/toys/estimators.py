"""Sign, scale and straight-through estimators as curves, and what a sign tells about a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from bvit_analysis.errors import ConfigError, unknown_name

Array: TypeAlias = np.ndarray


def sign(x: Array | float) -> Array:
    """Return +1.0 where x >= 0, else -1.0, in the shape of x.

    Example:
        >>> sign([-2.0, -0.0, 0.0, 3.0])
        array([-1.,  1.,  1.,  1.])
    """
    return np.where(np.asarray(x) >= 0, 1.0, -1.0)


@dataclass(frozen=True)
class Estimator:
    """A step and the smooth curve whose slope stands in for the step's own slope, which is zero."""

    forward: Callable[[Array], Array]
    "What the forward pass uses."
    slope: Callable[[Array], Array]
    "What the backward pass multiplies the gradient by."
    pretended: Callable[[Array], Array]
    "The curve that has this slope: what the backward pass takes the step for."
    formula: str
    "The slope in words and symbols."
    source: str
    "Where it comes from."


def _inside(x: Array) -> Array:
    return (np.abs(x) <= 1).astype(float)


def _bent(x: Array) -> Array:
    held = np.clip(x, -1, 1)
    return 2 * held - held * np.abs(held)


ESTIMATORS: dict[str, Estimator] = {
    "identity": Estimator(
        sign, lambda x: np.ones_like(x), lambda x: x, "1 everywhere", "Bengio et al., 1308.3432"
    ),
    "clipped": Estimator(
        sign, _inside, lambda x: np.clip(x, -1, 1), "1 where |x| <= 1, else 0", "1602.02830"
    ),
    "polynomial": Estimator(
        sign, lambda x: np.maximum(0, 2 - 2 * np.abs(x)), _bent, "max(0, 2 - 2|x|)", "1808.00278"
    ),
    "boolean": Estimator(
        lambda x: (x >= 0).astype(float),
        _inside,
        lambda x: np.clip(x, -1, 1) + 0.5,
        "1 where |x| <= 1, else 0; levels 0 and 1",
        "2203.06390",
    ),
    "elastic": Estimator(
        lambda x: (2 * x >= 1).astype(float),
        lambda x: ((x >= 0) & (x <= 1)).astype(float),
        lambda x: np.clip(x, 0, 1),
        "1 where 0 <= x <= 1, else 0; levels 0 and 1",
        "2205.13016, with scale 1",
    ),
}
"Straight-through estimators of quantizers.py by name, and the plain identity that they improve on."

SIGN_ESTIMATORS = ("identity", "clipped", "polynomial")
"Those whose levels are -1 and +1."


def estimator(name: str) -> Estimator:
    """Return an estimator by name.

    Raises:
        ConfigError: If there is none of this name.
    """
    if name not in ESTIMATORS:
        raise ConfigError(unknown_name("estimator", name, ESTIMATORS))
    return ESTIMATORS[name]


def best_scale(w: Array) -> float:
    """Return alpha = mean |w|, which minimises scale_error."""
    return float(np.abs(w).mean())


def scale_error(w: Array, alpha: float) -> float:
    """Return ||w - alpha sign(w)||^2, in squared weight units."""
    return float(np.square(w - alpha * sign(w)).sum())


def sign_entropy_bits(x: Array) -> float:
    """Return the entropy of the signs of x in bits: -p log2 p - (1 - p) log2 (1 - p), p = share of x >= 0."""
    p = float((np.asarray(x) >= 0).mean())
    return sum(-q * math.log2(q) for q in (p, 1 - p) if q > 0)
