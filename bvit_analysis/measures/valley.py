"""How deep the valley between two modes is, from a histogram."""

from __future__ import annotations

import math

import numpy as np

from bvit_analysis.errors import ConfigError
from bvit_analysis.measures.shares import Array, as_numpy

# Binomial weights of order 8: a Gaussian of 1.41 bins, 0.14 in u for the 81 bins on [-4, 4].
_SMOOTHING = np.array([math.comb(8, i) / 2**8 for i in range(9)])


def valley_depth(counts: Array, lo: float, hi: float) -> float:
    """Return how much lower the density is at 0 than at its peaks: 1 - f(0) / min(left peak, right peak).

    f is the histogram smoothed with binomial weights of order 8 (1, 8, 28, 56, 70, ... over 256; standard deviation
    1.41 bins, which is 0.14 for 81 bins on [-4, 4]). The end bins hold overflow, so they are set to 0 first. Each
    peak is the largest f on its side of 0, bin of 0 included. Null: near 0 for every one-peaked law at 0, a little
    above by noise. A bandwidth is part of this figure: compare equal histograms only.

    Args:
        counts: Histogram of u, (bins,), as histogram() returns it.
        lo: Lower edge.
        hi: Upper edge.

    Returns:
        Depth, 0..1; 0 where one side of 0 has no peak of its own; NaN where no count is left within the end bins.

    Raises:
        ConfigError: If 0 is not between lo and hi.
    """
    if not lo < 0 < hi:
        raise ConfigError(f"expected lo < 0 < hi, got lo {lo}, hi {hi}")
    inner = as_numpy(counts).astype(np.float64)
    inner[[0, -1]] = 0
    if inner.sum() == 0:
        return math.nan
    density = np.convolve(inner, _SMOOTHING)[4:-4]
    zero = int(-lo / (hi - lo) * inner.size)
    lower_peak = min(density[: zero + 1].max(), density[zero:].max())
    return float(1 - density[zero] / lower_peak) if lower_peak > 0 else 0.0
