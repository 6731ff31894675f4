"""Shares that say NaN where there is nothing to take a share of; torch is not needed for them."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class _Tensor(Protocol):
    """What of a torch tensor is used here, so that who looks at runs needs no torch."""

    def detach(self) -> Any: ...


Array = _Tensor | NDArray[Any]

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


def as_numpy(values: Array | float) -> NDArray[Any]:
    """Return a numpy array of a tensor, an array or a number."""
    if hasattr(values, "detach"):
        return np.asarray(values.detach().cpu().numpy())
    return np.asarray(values)
