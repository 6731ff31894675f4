"""Shares and means that say NaN where there is nothing to take a share of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bvit_analysis.errors import ConfigError

Array = Tensor | NDArray[Any]

ROUNDING = 1e-12
"Below this share of its own scale a deviation is rounding of float64 sums, not variation."


def share(part: float, whole: float) -> float:
    """Return part / whole of two counts, NaN where whole is 0.

    Args:
        part: A count.
        whole: A count, at least part.

    Returns:
        Share, 0..1.

    Example:
        >>> share(1, 4), share(0, 0)
        (0.25, nan)
    """
    return float(part) / float(whole) if whole else math.nan


def mean_of(values: Tensor, *sources: Tensor) -> float:
    """Return the mean of values, NaN where there are none or a tensor they were made from has a NaN."""
    # torch's mean of nothing is NaN, without a warning
    hidden = any(bool(source.isnan().any()) for source in sources)
    return math.nan if hidden else float(values.mean())


def as_numpy(values: Array | float) -> NDArray[Any]:
    """Return a numpy array of a tensor, an array or a number."""
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values)


def check_same_shape(name: str, a: Tensor, b: Tensor) -> None:
    """Raise ConfigError unless both tensors have one shape."""
    if a.shape != b.shape:
        raise ConfigError(
            f"{name} expects two tensors of one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
