"""How bimodal latent weights are, from rows that were divided by their own mean size.

Shape letters: O output channels (rows), I inputs.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from bvit_analysis.errors import ConfigError
from bvit_analysis.measures.shares import ROUNDING, Array, as_numpy, share

_PIECE = 2**17
# Binomial weights of order 8: a Gaussian of 1.41 bins, 0.14 in u for the 81 bins on [-4, 4].
_SMOOTHING = np.array([math.comb(8, i) / 2**8 for i in range(9)])


def normalise_rows(w: Tensor, centre: bool = False) -> Tensor:
    """Divide each row by its own mean size: u = w / mean_row|w|.

    Rows of unequal scale, pooled as they are, hide modes and fake kurtosis. A row without any value but zero (with
    centre: a constant row) gives zeros, and these stay in the pool.

    Args:
        w: Argument of the sign, (O, I) or (O, ...), weight units.
        centre: Whether to take w minus its row mean first, as a centred binarizer does. A site's effective() is
            centred already.

    Returns:
        u, w's shape, dimensionless, at least float32.

    Raises:
        ConfigError: If w has fewer than two dimensions.
    """
    if w.ndim < 2:
        raise ConfigError(f"expected weights of shape (O, I), got shape {tuple(w.shape)}")
    dtype = torch.promote_types(w.dtype, torch.float32)
    rows = w.detach().flatten(1).double()
    size = rows.abs().mean(dim=1, keepdim=True)
    floor = torch.zeros_like(size)
    if centre:
        rows = rows - rows.mean(dim=1, keepdim=True)
        floor = ROUNDING * size  # the mean of equal numbers need not be that number
        size = rows.abs().mean(dim=1, keepdim=True)
    return torch.where(size <= floor, 0.0, rows / size).to(dtype).view_as(w)


def skew_and_kurtosis(u: Tensor) -> tuple[float, float]:
    """Return m3 / m2^1.5 and m4 / m2^2 with central moments m_k = E[(u - E u)^k].

    Args:
        u: Normalised weights, any shape.

    Returns:
        Skew (any sign) and kurtosis (1..inf, Gaussian 3); both NaN where there are no or only equal values.
    """
    x = u.detach().double().flatten()
    if x.numel() == 0:
        return math.nan, math.nan
    largest = x.abs().max()
    x = x / largest  # so that powers of tiny weights do not underflow; 0 / 0 is NaN, as promised
    x = x - x.mean()
    square = x * x
    variance = square.mean()
    if not float(variance) > ROUNDING**2:
        return math.nan, math.nan
    skew = (square * x).mean() / variance**1.5
    return float(skew), float((square * square).mean() / variance**2)


def kurtosis(u: Tensor) -> float:
    """Return the fourth standardised moment, k = m4 / m2^2; not excess.

    Null: 3 (Gaussian); uniform 1.8; two points 1. Tails dominate it: uniform and mild mixtures share values.

    Args:
        u: Normalised weights, any shape.

    Returns:
        Kurtosis, 1..inf; NaN where there are no or only equal values.
    """
    return skew_and_kurtosis(u)[1]


def bimodality_coefficient(u: Tensor) -> float:
    """Return Sarle's coefficient, (skew^2 + 1) / kurtosis.

    Null: 1/3 (Gaussian). 5/9 is the uniform's value, not a test: a one-peaked exponential gives .56 by its skew.

    Args:
        u: Normalised weights, any shape.

    Returns:
        Coefficient, 0..1; NaN where there are no or only equal values.
    """
    skew, kurt = skew_and_kurtosis(u)
    return (skew * skew + 1) / kurt


def otsu_ratio(u: Tensor) -> float:
    """Return the between-class share of a split at 0, (E|u|)^2 / E[u^2], which is 1 - relative binarization error.

    The error is that of scale E|u| times sign(u). Null: 2 / pi = .637 (Gaussian); Laplace .5, uniform .75.

    Args:
        u: Normalised weights, any shape.

    Returns:
        Ratio, 0..1; NaN where there are no values or only zeros.
    """
    x = u.detach().double().abs().flatten()
    if x.numel() == 0:
        return math.nan
    x = x / x.max()
    return float(x.mean() ** 2 / (x * x).mean())


def mass_near_zero(u: Tensor, delta: float) -> float:
    """Return the share of weights near the boundary, P(|u| < delta).

    Null: .032, .064, .127 at delta .05, .1, .2 (Gaussian). It does not show whether those weights move.

    Args:
        u: Normalised weights, any shape.
        delta: Half-width of the band, in units of the row's mean|w|.

    Returns:
        Share, 0..1; NaN where there are no values or any is NaN.
    """
    if bool(u.isnan().any()):
        return math.nan
    near = sum(int((piece.double().abs() < delta).sum()) for piece in _pieces(u))
    return share(near, u.numel())


def histogram(u: Tensor, lo: float, hi: float, bins: int) -> Tensor:
    """Count values in equal bins on [lo, hi]; the first and the last bin also take what lies beyond.

    Bin i holds lo + i w <= u < lo + (i + 1) w with w = (hi - lo) / bins. Infinities go to the end bins, NaN nowhere.

    Args:
        u: Values, any shape.
        lo: Lower edge.
        hi: Upper edge, above lo.
        bins: Number of bins.

    Returns:
        Counts, (bins,), int64, on u's device.

    Raises:
        ConfigError: If hi is not above lo or bins is below 1.

    Example:
        >>> histogram(torch.tensor([-9.0, 0.0, 0.1, float("nan")]), -1.5, 1.5, 3)
        tensor([1, 2, 0])
    """
    if not (hi > lo and bins >= 1):
        raise ConfigError(f"expected hi > lo and bins >= 1, got lo {lo}, hi {hi}, bins {bins}")
    counts = torch.zeros(bins, dtype=torch.int64, device=u.device)
    for piece in _pieces(u):
        x = piece.double()
        x = x[~x.isnan()].clamp(lo, hi)
        index = ((x - lo) * (bins / (hi - lo))).long().clamp(0, bins - 1)
        counts += torch.bincount(index, minlength=bins)
    return counts


def _pieces(u: Tensor) -> tuple[Tensor, ...]:
    """Return values in pieces that stay in a processor's cache, which halves the time of a large layer."""
    return u.detach().flatten().split(_PIECE)


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
