"""Flips of textbook weights: fair coins, a stationary Gaussian AR(1) latent, a Poisson count. None of them is chance.

What an optimizer does to noise is another thing: with momentum a weight flips back less often than an AR(1) weight of
the same rate (.17 against .70 within 10 steps), so a distance from these laws tells nothing of learning. Chance is
simulated through the recorded optimizer, in chance_line.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def theta_from_flip_rate(rate: float) -> float:
    """Return the AR(1) correlation whose sign flips at this rate.

    theta = cos(pi * rate), the inverse of rate = arccos(theta) / pi.

    Args:
        rate: Flips per weight and step, 0..1.

    Returns:
        Correlation of the latent weight with itself one step later, -1..1.
    """
    return math.cos(math.pi * rate)


def coin_flip_back(k: Sequence[int]) -> NDArray[np.float64]:
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
