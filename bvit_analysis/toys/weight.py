"""One latent weight whose best value lies between -1 and +1, and the gradient terms that hold it still."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.toys.estimators import Array, estimator, sign

TERMS: tuple[str, ...] = ("resilient", "bin_centre", "double_well")
"Gradient terms, the reconstructions of GRS in regularization.py."

FRACTIONS = (0.01, 0.2)
"Least and largest flip fraction that the resilient term uses."

RETURN_STEPS = 10
"A flip counts as undone if the weight flips back within so many steps."


def grs_force(u: Array, kind: str) -> Array:
    """Return the direction of a gradient term at u = w / alpha: u (u^2 - 1) for 'double_well', else u - sign(u).

    Raises:
        ConfigError: If the kind is unknown.
    """
    if kind not in TERMS:
        raise ConfigError(unknown_name("gradient term", kind, TERMS))
    return u * (np.square(u) - 1) if kind == "double_well" else u - sign(u)


def grs_ramp(progress: float) -> float:
    """Return (1 - cos(pi t)) / 2, the share of its strength a late term has at t = progress in 0..1."""
    return (1 - math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2


def grs_term(
    w: Array, g: Array, *, kind: str, strength: float, fraction: Array | float, progress: float
) -> Array:
    """Return strength * S_c * f(w / alpha_c), what a gradient term adds to the gradients of whole rows.

    S_c = clip(fraction_c, 0.01, 0.2) max_j |g_cj| for 'resilient', ramp(progress) mean_j |g_cj| for the others.

    Args:
        w: Latent weights, (O, I).
        g: Their gradients, (O, I).
        kind: One of TERMS.
        strength: Dimensionless.
        fraction: Share of each row's weights that flipped in the last period, (O, 1) or a number.
        progress: Share of training done, 0..1.

    Returns:
        In units of the gradient, (O, I).
    """
    alpha = np.maximum(np.abs(w).mean(axis=1, keepdims=True), np.finfo(float).tiny)
    force = grs_force(w / alpha, kind)
    size = np.abs(g)
    if kind == "resilient":
        row = np.clip(fraction, *FRACTIONS) * size.max(axis=1, keepdims=True)
    else:
        row = grs_ramp(progress) * size.mean(axis=1, keepdims=True)
    return strength * row * force


@dataclass(frozen=True)
class OneWeight:
    """What became of one latent weight; T steps."""

    latent: Array
    "(T + 1,), in units of the scale alpha."
    gradient: Array
    "(T,): what the straight-through estimator passes, without the gradient term."
    target: float
    "What the binary weight should be on average, in units of alpha."

    @property
    def signs(self) -> Array:
        """The binary weight before and after each step, (T + 1,)."""
        return sign(self.latent)

    @property
    def flips(self) -> Array:
        """Whether the sign changed in each step, (T,)."""
        return self.signs[1:] != self.signs[:-1]

    @property
    def late_flips(self) -> int:
        """Flips in the last quarter of the steps."""
        return int(self.flips[-len(self.flips) // 4 :].sum())

    @property
    def mean_sign(self) -> float:
        """Mean binary weight over the last half of the steps, -1..1."""
        return float(self.signs[len(self.signs) // 2 :].mean())

    @property
    def returned(self) -> float:
        """Share of the flips that another flip undoes within RETURN_STEPS; NaN without flips."""
        at = np.flatnonzero(self.flips)
        return float((np.diff(at) <= RETURN_STEPS).sum() / len(at)) if len(at) else math.nan

    @property
    def verdict(self) -> str:
        """'settled' without a late flip, 'oscillating' where most flips are soon undone, else 'undecided'."""
        if not self.late_flips:
            return "settled"
        return "oscillating" if self.late_flips > 1 and self.returned > 0.5 else "undecided"


def one_weight_gradient(w: float, aim: float, estimator_name: str) -> float:
    """Return (sign(w) - aim) * slope(w): the gradient of (sign(w) - aim)^2 / 2 through an estimator."""
    one = np.asarray(w, dtype=float)
    return float((sign(one) - aim) * estimator(estimator_name).slope(one))


def one_weight_term(
    w: float, target: float, *, kind: str, strength: float, progress: float
) -> float:
    """Return the gradient term of the one-weight toy: strength * S * f(w), with alpha = 1.

    One weight alone has alpha = |w| and so no force. This one stands for a weight in a row whose scale is 1 and whose
    largest and mean gradient are 1 + |target|, the most this weight can see; the row flips much: fraction 0.2.
    """
    share = FRACTIONS[1] if kind == "resilient" else grs_ramp(progress)
    return float(strength * share * (1 + abs(target)) * grs_force(np.asarray(w), kind))


def train_one_weight(
    *,
    target: float = 0.3,
    learning_rate: float = 0.05,
    momentum: float = 0.0,
    clip: float = 1.0,
    strength: float = 0.0,
    kind: str = "resilient",
    estimator_name: str = "clipped",
    noise: float = 0.2,
    start: float = 0.5,
    steps: int = 200,
    seed: int = 0,
) -> OneWeight:
    """Train one binary weight by gradient descent on (sign(w) - a_t)^2 / 2, a_t = target + noise * e_t.

    v <- momentum v + g + term;  w <- clip(w - learning_rate v, -clip, clip).

    Args:
        target: Best value, in units of the scale; between -1 and 1 no binary value fits.
        learning_rate: Positive.
        momentum: 0 to below 1.
        clip: Largest |w|; infinity for none.
        strength: Of the gradient term.
        kind: Of the gradient term.
        estimator_name: One of SIGN_ESTIMATORS.
        noise: Standard deviation of the target over the steps, which stands for the choice of the batch.
        start: First latent weight.
        steps: How many.
        seed: Of the noise.

    Returns:
        The latent weight and its gradients.
    """
    aims = target + noise * np.random.default_rng(seed).standard_normal(steps)
    latent, gradient = [start], []
    w, velocity = start, 0.0
    for step in range(steps):
        g = one_weight_gradient(w, float(aims[step]), estimator_name)
        term = one_weight_term(w, target, kind=kind, strength=strength, progress=step / steps)
        velocity = momentum * velocity + g + term
        w = min(max(w - learning_rate * velocity, -clip), clip)
        latent.append(w)
        gradient.append(g)
    return OneWeight(np.array(latent), np.array(gradient), target)
