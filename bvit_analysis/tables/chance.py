"""Intervals and sign-flip tests over seeds, and what a centred Gaussian has of the catalogue's measures.

Pure numpy and scipy, no state. The null of a difference between recipes is that its sign is arbitrary for each seed.
What flips would happen anyway is in chance_line.py, laws of textbooks are in textbook_laws.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bvit_analysis.errors import ConfigError
from bvit_analysis.records import MEASURES

GAUSSIAN_NULLS: dict[str, float] = {
    name: one.null for name, one in MEASURES.items() if one.null is not None
}
"The catalogue's nulls: a measure's value on a centred Gaussian (twin_agreement: on independent balanced signs)."

_MOST_EXACT = 20  # seeds of which all sign patterns are tried
_DRAWN = 99_999


def t_interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of the mean over seeds, NaN below three values.

    mean +- t_{n-1} * s / sqrt(n). With fewer than three seeds the points are the honest picture.

    Args:
        values: One number a seed, shape (n,).
        level: Coverage under normal differences, between 0 and 1.

    Returns:
        Lower and upper end in the unit of the values.

    Raises:
        ConfigError: If the level is not between 0 and 1.

    Example:
        >>> low, high = t_interval([1.0, 2.0, 3.0])
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    from scipy.special import stdtrit  # here, as below: who draws a curve need not wait for scipy

    if not 0.0 < level < 1.0:
        raise ConfigError(f"expected a level between 0 and 1, such as 0.95; got {level:g}")
    x = np.asarray(values, dtype=np.float64)
    if x.size < 3:
        return math.nan, math.nan
    quantile = float(stdtrit(x.size - 1, 0.5 + level / 2))
    half = quantile * float(x.std(ddof=1)) / math.sqrt(x.size)
    return float(x.mean()) - half, float(x.mean()) + half


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of paired differences under arbitrary signs.

    The share of the 2^n sign patterns whose |sum| is at least the observed one: of all of them up to 20
    seeds; above, of 99,999 patterns drawn with a fixed seed and the observed one, so that p is at least 1e-5
    and its error at p = 0.05 is 0.0007 (one standard deviation).

    Args:
        differences: One paired difference a seed, shape (n,).

    Returns:
        p in (0, 1]; NaN where n is 0 or a difference is not finite.

    Example:
        >>> sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        0.03125
    """
    return _sign_flip_p(tuple(float(value) for value in differences))


@lru_cache(maxsize=1024)  # all patterns of 20 seeds take seconds, and an explorer asks again
def _sign_flip_p(differences: tuple[float, ...]) -> float:
    from scipy.stats import permutation_test

    x = np.asarray(differences, dtype=np.float64)
    scale = float(np.abs(x).sum())
    if not x.size or not math.isfinite(scale):
        return math.nan
    if x.size == 1 or scale == 0.0:
        return 1.0  # every pattern has the observed |sum|

    def statistic(x: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        # scipy counts as ties what differs by rounding of the statistic; the 1 makes that rounding of the terms.
        return 1.0 + np.abs(x.sum(axis=axis)) / scale

    found = permutation_test(
        (x,),
        statistic,
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=2**_MOST_EXACT if x.size <= _MOST_EXACT else _DRAWN,
        batch=2**12,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted by Holm's step-down rule; NaN entries are no claims and stay NaN.

    Args:
        p_values: One p a claim.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted = [math.nan] * len(p_values)
    claims = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, index) in enumerate(claims):
        largest = max(largest, min(1.0, (len(claims) - rank) * p))
        adjusted[index] = largest
    return adjusted
