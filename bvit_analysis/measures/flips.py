"""Sign flips of weights and what tells oscillation from learning.

A step is an applied optimizer step. Signs are those the forward pass uses; two signs flip where they are unequal.

Shape letters: T steps, `...` any shape of weights.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bvit_analysis.errors import ConfigError
from bvit_analysis.measures.shares import Array, as_numpy, share
from bvit_analysis.measures.tensors import check_same_shape, mean_of


def flip_rate(previous_sign: Tensor, sign: Tensor) -> float:
    """Return the share of weights whose sign changed in one step: r_t = mean_i 1[s_t != s_(t-1)].

    Null: arccos(theta) / pi, see arccos_flip_probability. It does not show whether the same weights flip.

    Args:
        previous_sign: Signs before the step, {-1, +1} or bool, any shape.
        sign: Signs after it, the same shape.

    Returns:
        Flips per weight and step, 0..1; NaN where there are no weights.

    Raises:
        ConfigError: If the shapes differ.

    Example:
        >>> flip_rate(torch.tensor([1, 1, -1, -1]), torch.tensor([1, -1, -1, -1]))
        0.25
    """
    check_same_shape("flip_rate", previous_sign, sign)
    return share(int((previous_sign != sign).sum()), sign.numel())


def gross_flips(signs: Array) -> NDArray[np.int64]:
    """Count all sign changes of each weight: G_i = sum_t 1[s_t != s_(t-1)].

    At one bit every flip after the first reverses one, so reversals are max(G_i - 1, 0).

    Args:
        signs: Signs after each of T steps and before the first, {-1, +1} or bool, (T + 1, ...).

    Returns:
        Counts, (...), 0..T.
    """
    return _flips(signs).sum(axis=0, dtype=np.int64)


def net_flips(signs: Array) -> NDArray[np.int64]:
    """Tell which weights ended with another sign than they began with: N_i = 1[s_T != s_0].

    Args:
        signs: As for gross_flips, (T + 1, ...).

    Returns:
        0 or 1, (...).
    """
    history = as_numpy(signs)
    return (history[-1] != history[0]).astype(np.int64)


def oscillating_flips(signs: Array) -> NDArray[np.int64]:
    """Count the flips that cancelled each other: O_i = G_i - N_i, always even.

    Args:
        signs: As for gross_flips, (T + 1, ...).

    Returns:
        Counts, (...), 0..T.
    """
    return gross_flips(signs) - net_flips(signs)


def flip_back_probability(signs: Array, k: int) -> float:
    """Return P(a weight flips again within k steps after a flip), over the flips that k steps were seen after.

    Flips of the last k steps are left out: their time was cut off. Streaming form: share(returned, followed), with
    both counts over flips at least k steps old. Null: 1 - 2^-k for white noise; .29, .60, .71 at k = 1, 5, 10 for
    AR(1) with theta 0.99.

    Args:
        signs: As for gross_flips, (T + 1, ...).
        k: Steps, at least 1.

    Returns:
        Probability, 0..1; NaN where no flip was followed for k steps.

    Raises:
        ConfigError: If k is below 1.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1 step, got {k}")
    flips = _flips(signs)
    if len(flips) <= k:
        return math.nan
    followed = flips[:-k]
    # until[t] is the number of flips in steps 0..t-1, so a difference counts those of steps t+1..t+k.
    until = np.concatenate([np.zeros_like(flips[:1], dtype=np.int64), flips.cumsum(axis=0)])
    again = until[k + 1 :] - until[1:-k] > 0
    return share(int((followed & again).sum()), int(followed.sum()))


def frequent_share(gross: Array, steps: int, threshold: float = 0.02) -> float:
    """Return the share of weights that flip often: P(G_i / T > threshold).

    Args:
        gross: Flips of each weight in the window, any shape.
        steps: Steps T of the window.
        threshold: Flips per step; 0.02 is one in 50 steps.

    Returns:
        Share, 0..1; NaN where there are no weights or no steps.
    """
    counts = as_numpy(gross)
    if steps == 0:
        return math.nan
    return share(int((counts > threshold * steps).sum()), counts.size)


def concentration(gross: Array, top: float = 0.01) -> float:
    """Return the share of all flips that the top 1% of weights made.

    The top is ceil(top * n) weights of n, so at least one. Null: near `top` where every weight is alike, .019 for
    AR(1) with theta 0.99 at T = 1500.

    Args:
        gross: Flips of each weight, any shape.
        top: Share of weights, above 0 and at most 1.

    Returns:
        Share, top..1; NaN where nothing flipped.

    Raises:
        ConfigError: If top is not in (0, 1].
    """
    if not 0 < top <= 1:
        raise ConfigError(f"top must be above 0 and at most 1, got {top}")
    counts = as_numpy(gross).reshape(-1)
    if counts.size == 0:
        return math.nan
    first = counts.size - math.ceil(top * counts.size - 1e-9)  # 1e-9: 0.01 * 100 is 1, not 2
    first = min(first, counts.size - 1)
    return share(int(np.partition(counts, first)[first:].sum()), int(counts.sum()))


def near_threshold_share(latent: Tensor, typical_update: Tensor | float) -> float:
    """Return the share of weights that one typical update could flip: P(|w_i| < update_i).

    Null: 2 Phi(update / sigma) - 1 for Gaussian weights. It does not show the direction of motion.

    Args:
        latent: Argument of the sign, any shape, weight units.
        typical_update: Size of an update, one for all or of a shape that broadcasts, weight units, >= 0.

    Returns:
        Share, 0..1; NaN where there are no weights or any value is NaN.
    """
    update = torch.as_tensor(typical_update, dtype=torch.float64, device=latent.device)
    return mean_of((latent.double().abs() < update).double(), latent, update)


def arccos_flip_probability(theta: float) -> float:
    """Return the flip probability per step of a stationary Gaussian AR(1) weight: r_0 = arccos(theta) / pi.

    Args:
        theta: Correlation of the weight with itself one step later, -1..1.

    Returns:
        Probability, 0..1: .045 at 0.99, .014 at 0.999, .5 at 0.

    Raises:
        ConfigError: If theta is not in [-1, 1].
    """
    if not -1 <= theta <= 1:
        raise ConfigError(f"theta is a correlation in [-1, 1], got {theta}")
    return math.acos(theta) / math.pi


def _flips(signs: Array) -> NDArray[np.bool_]:
    history = as_numpy(signs)
    return np.asarray(history[1:] != history[:-1])
