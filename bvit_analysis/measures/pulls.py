"""What a gradient term does to a weight, in numpy: the formulas of regularization.py, for the simulation of chance.

Retyped because who looks at runs has no torch; a test holds each to the term that trains.
"""

from __future__ import annotations

import math
from typing import final

import numpy as np
from numpy.typing import NDArray

from bvit_analysis.errors import ConfigError, unknown_name

Weights = NDArray[np.float64]

PULLS = ("resilient", "bin_centre", "double_well")
"Names of the terms that can be simulated."

_LEAST, _MOST = 0.01, 0.2
_TINY = float(np.finfo(np.float32).tiny)


@final
class Pull:
    """A gradient term that acts on simulated weights: g <- g + strength S_c f(u), u = v / mean_row|v|.

    With f = u - sign(u) and S_c = clip(flip fraction_c, .01, .2) max_j|g_cj| (resilient), f = u - sign(u) and
    S_c = ramp mean_j|g_cj| (bin_centre), f = u (u^2 - 1) and S_c = ramp mean_j|g_cj| (double_well). Decoupled, it moves
    w by -lr strength s_c f mean_row|v| instead.

    Args:
        name: One of PULLS.
        strength: Multiplies the term.
        decoupled: Whether the weight is moved, not the gradient.
        period: Steps over which the flip fraction of the resilient term is counted.

    Raises:
        ConfigError: If there is no such term.
    """

    def __init__(
        self, name: str, strength: float, *, decoupled: bool = False, period: int = 100
    ) -> None:
        if name not in PULLS:
            raise ConfigError(unknown_name("gradient term", name, PULLS))
        self._name, self._strength, self._decoupled = name, strength, decoupled
        self._period = period
        self._steps = 0
        self._reference = np.zeros(0, bool)
        self._fraction = np.zeros(0)

    def apply(
        self,
        weights: Weights,
        argument: Weights,
        gradient: Weights,
        *,
        rate: float,
        progress: float,
    ) -> Weights:
        """Return the gradient with the term (coupled), or move the weights in place (decoupled).

        Args:
            weights: Latent weights w, (O, I).
            argument: What the sign is taken of, v, (O, I): w itself, or w less its row's mean.
            gradient: (O, I).
            rate: Learning rate.
            progress: Share of the training done, 0..1.
        """
        if not self._steps:
            self._reference, self._fraction = argument >= 0, np.zeros((len(argument), 1))
        scale = np.maximum(np.abs(argument).mean(axis=1, keepdims=True), _TINY)
        u = argument / scale
        force = u * (u * u - 1) if self._name == "double_well" else u - np.where(u >= 0, 1.0, -1.0)
        force *= self._strength
        size: Weights | float
        if self._name == "resilient":
            size = np.clip(self._fraction, _LEAST, _MOST)
            unit = np.abs(gradient).max(axis=1, keepdims=True)
        else:
            size = (1 - math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2
            unit = np.abs(gradient).mean(axis=1, keepdims=True)
        self._steps += 1
        count = self._name == "resilient" and self._steps % self._period == 0
        if self._decoupled:
            moved = force * (size * scale * rate)
            weights -= moved
            argument = argument - moved
        else:
            gradient = gradient + force * (size * unit)
        if count:
            now = argument >= 0
            self._fraction = (now != self._reference).mean(axis=1, keepdims=True)
            self._reference = now
        return gradient
