"""What chance alone gives: null values of the flip measures, intervals and sign-flip tests over seeds.

Pure numpy and scipy, no state. The null of the flip measures is a stationary Gaussian AR(1) latent weight x with
lag-1 correlation theta, whose sign flips with probability arccos(theta) / pi a step. The null of a
difference between recipes is that its sign is arbitrary for each seed.
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


def theta_from_flip_rate(rate: float) -> float:
    """Return the AR(1) correlation whose sign flips at this rate.

    theta = cos(pi * rate), the inverse of rate = arccos(theta) / pi.

    Args:
        rate: Flips per weight and step, 0..1.

    Returns:
        Correlation of the latent weight with itself one step later, -1..1.
    """
    return math.cos(math.pi * rate)


def white_flip_back(k: Sequence[int]) -> NDArray[np.float64]:
    """Return P(flip again within k steps after a flip) where signs are fair coins: 1 - 2^-k.

    Args:
        k: Steps, each >= 1.

    Returns:
        Probabilities, shape (len(k),).
    """
    return 1.0 - 2.0 ** -np.asarray(k, dtype=np.float64)


def _normal_cdf(x: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])


def ar1_flip_back(rate: float, k: Sequence[int], *, cells: int = 800) -> NDArray[np.float64]:
    """Return P(flip again within k steps after a flip) of a stationary Gaussian AR(1) latent weight.

    The density just after an upward crossing, p(x) ~ phi(x) Phi(-theta x / s) with
    s = sqrt(1 - theta^2), is carried forward by x' ~ N(theta x, s^2) on x > 0; what leaves through 0
    has flipped. Only the latent within 80 s of the boundary matters for the k <= 100 that is recorded.

    Args:
        rate: Flips per weight and step, in (0, 0.5]; it sets theta = cos(pi rate).
        k: Steps, each >= 1.
        cells: Cells of the grid over x.

    Returns:
        Probabilities, shape (len(k),); NaN where the rate is not in (0, 0.5].

    Example:
        >>> ar1_flip_back(0.045, [1, 10]).round(2).tolist()
        [0.29, 0.71]

    Reference:
        Orthant probabilities of the normal law; docs/science.md, flips and oscillation.
    """
    steps = np.asarray(k, dtype=np.int64)
    if not 0.0 < rate <= 0.5:
        return np.full(steps.shape, np.nan)
    theta = theta_from_flip_rate(rate)
    spread = math.sqrt(1.0 - theta * theta)
    top = min(8.0, 80.0 * spread)
    width = top / cells
    x = (np.arange(cells) + 0.5) * width
    density = np.exp(-0.5 * x * x) * _normal_cdf(-theta * x / spread)
    density /= density.sum()
    leaving = _normal_cdf(-theta * x / spread)
    kernel = np.exp(-0.5 * ((x[None, :] - theta * x[:, None]) / spread) ** 2)
    kernel *= width / (spread * math.sqrt(2 * math.pi))
    flipped = np.zeros(int(steps.max()) + 1)
    for step in range(1, flipped.size):
        flipped[step] = flipped[step - 1] + float(density @ leaving)
        density = density @ kernel
    return np.minimum(flipped[steps], 1.0)


def poisson_shares(mean: float, top: int) -> NDArray[np.float64]:
    """Return P(count = 0..top) of a Poisson law, the flip counts of weights that are all alike.

    Args:
        mean: Mean flips per weight, >= 0.
        top: Largest count.

    Returns:
        Shares, shape (top + 1,).
    """
    counts = np.arange(top + 1)
    if mean <= 0:
        return (counts == 0).astype(np.float64)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, top + 1)))])
    return np.exp(counts * math.log(mean) - mean - log_factorial)


def ar1_flip_counts(
    rate: float, steps: int, *, weights: int = 4000, seed: int = 0
) -> NDArray[np.int64]:
    """Simulate how often each of many stationary Gaussian AR(1) weights flips.

    Args:
        rate: Flips per weight and step, 0..1.
        steps: Length of the trajectory, steps.
        weights: How many weights to simulate.
        seed: Of the simulation, which draws from its own generator.

    Returns:
        Flips of each weight, shape (weights,).
    """
    random = np.random.default_rng(seed)
    theta = theta_from_flip_rate(rate)
    spread = math.sqrt(max(0.0, 1.0 - theta * theta))
    x = random.standard_normal(weights)
    sign = x >= 0
    flips = np.zeros(weights, dtype=np.int64)
    for _ in range(steps):
        x = theta * x + spread * random.standard_normal(weights)
        new = x >= 0
        flips += new != sign
        sign = new
    return flips


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
