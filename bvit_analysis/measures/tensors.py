"""Means over tensors and the check that two of them fit."""

from __future__ import annotations

import math

from torch import Tensor

from bvit_analysis.errors import ConfigError


def mean_of(values: Tensor, *sources: Tensor) -> float:
    """Return the mean of values, NaN where there are none or a tensor they were made from has a NaN."""
    # torch's mean of nothing is NaN, without a warning
    hidden = any(bool(source.isnan().any()) for source in sources)
    return math.nan if hidden else float(values.mean())


def check_same_shape(name: str, a: Tensor, b: Tensor) -> None:
    """Raise ConfigError unless both tensors have one shape."""
    if a.shape != b.shape:
        raise ConfigError(
            f"{name} expects two tensors of one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
