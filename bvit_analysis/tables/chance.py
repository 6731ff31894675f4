"""What chance alone gives: null values of the flip measures, intervals and exact tests over seeds.

Plain numpy, no state. The null of the flip measures is a stationary Gaussian AR(1) latent weight x with
lag-1 correlation theta, whose sign flips with probability arccos(theta) / pi a step. The null of a
difference between recipes is that its sign is arbitrary for each seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bvit_analysis.records import MEASURES

GAUSSIAN_NULLS: dict[str, float] = {
    name: one.null for name, one in MEASURES.items() if one.null is not None
}
"The catalogue's nulls: a measure's value on a centred Gaussian (twin_agreement: on independent balanced signs)."

MAX_EXACT = 20


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


def student_t_cdf(t: float, dof: int) -> float:
    """Return P(T <= t) of Student's law with a whole number of degrees of freedom.

    The finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4.

    Args:
        t: Quantile.
        dof: Degrees of freedom, >= 1.
    """
    angle = math.atan2(t, math.sqrt(dof))
    sine, cosine = math.sin(angle), math.cos(angle)
    if dof % 2:
        term, total = cosine, 0.0
        for index in range(1, (dof - 1) // 2 + 1):
            total += term
            term *= cosine * cosine * (2 * index) / (2 * index + 1)
        inside = 2.0 / math.pi * (angle + sine * total)
    else:
        term, total = 1.0, 0.0
        for index in range(1, dof // 2 + 1):
            total += term
            term *= cosine * cosine * (2 * index - 1) / (2 * index)
        inside = sine * total
    return 0.5 * (1.0 + inside)


def student_t_quantile(p: float, dof: int) -> float:
    """Return the t at which Student's law reaches probability p, by bisection.

    Args:
        p: Probability in [0.5, 1).
        dof: Degrees of freedom, >= 1.

    Example:
        >>> round(student_t_quantile(0.975, 4), 4)
        2.7764
    """
    if not (0.5 <= p < 1.0 and dof >= 1):
        raise ValueError(f"expected p in [0.5, 1) and dof >= 1, got p={p}, dof={dof}")
    low, high = 0.0, 1.0
    while student_t_cdf(high, dof) < p:
        high *= 2.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if student_t_cdf(middle, dof) < p else (low, middle)
    return 0.5 * (low + high)


def t_interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of the mean over seeds, NaN below three values.

    mean +- t_{n-1} * s / sqrt(n). With fewer than three seeds the points are the honest picture.

    Args:
        values: One number a seed, shape (n,).
        level: Coverage under normal differences, 0..1.

    Returns:
        Lower and upper end in the unit of the values.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.size < 3:
        return math.nan, math.nan
    half = (
        student_t_quantile(0.5 + level / 2, x.size - 1) * float(x.std(ddof=1)) / math.sqrt(x.size)
    )
    return float(x.mean()) - half, float(x.mean()) + half


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the exact two-sided p of paired differences under arbitrary signs.

    The share of the 2^n sign patterns whose |sum| is at least the observed one.

    Args:
        differences: One paired difference a seed, shape (n,), 1 <= n <= 20.

    Returns:
        p in (0, 1]; NaN where n is 0 or above 20.

    Example:
        >>> sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        0.03125
    """
    x = np.asarray(differences, dtype=np.float64)
    if not 1 <= x.size <= MAX_EXACT:
        return math.nan
    sums = np.zeros(1)
    for value in x:
        sums = np.concatenate([sums + value, sums - value])
    # the tolerance counts patterns that tie with the observed one up to rounding
    tolerance = 1e-12 * float(np.abs(x).sum())
    return float(np.mean(np.abs(sums) >= abs(float(x.sum())) - tolerance))


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
