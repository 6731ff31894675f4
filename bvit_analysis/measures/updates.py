"""How an optimizer moves a weight, in numpy: AdamW, Adam and SGD with momentum, by torch's exact update formulas.

They are what chance is simulated with, where no torch is; tests hold them to torch's own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from bvit_analysis.errors import ConfigError

Weights = NDArray[np.float64]


class Update(ABC):
    """One optimizer with its state; step() moves the weights in place."""

    @abstractmethod
    def step(self, weights: Weights, gradient: Weights, rate: float) -> None:
        """Move weights by one step.

        Args:
            weights: Latent weights, any shape, changed in place.
            gradient: Of the loss, the same shape, not changed.
            rate: Learning rate of this step.
        """


@final
class AdamUpdate(Update):
    """Adam (1412.6980), and AdamW (1711.05101) where the decay is decoupled.

    m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, and at step t = 1, 2, ...

        w <- w - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)

    before which AdamW takes w <- (1 - lr decay) w, and Adam g <- g + decay w. With amsgrad the largest v so far divides.

    Args:
        betas: b1 and b2.
        eps: Unit of the gradient.
        decay: Weight decay.
        decoupled: Whether the decay is AdamW's.
        amsgrad: Whether v never shrinks.
    """

    def __init__(
        self,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        decay: float = 0.0,
        decoupled: bool = True,
        amsgrad: bool = False,
    ) -> None:
        self._betas, self._eps, self._decay = betas, eps, decay
        self._decoupled, self._amsgrad = decoupled, amsgrad
        self._steps = 0
        self._mean = self._square = self._largest = np.zeros(0)

    def step(self, weights: Weights, gradient: Weights, rate: float) -> None:
        if not self._steps:
            self._mean, self._square, self._largest = (np.zeros_like(weights) for _ in range(3))
        self._steps += 1
        first, second = self._betas
        if self._decay:
            if self._decoupled:
                weights *= 1 - rate * self._decay
            else:
                gradient = gradient + self._decay * weights
        self._mean += (1 - first) * (gradient - self._mean)
        self._square *= second
        self._square += (1 - second) * gradient * gradient
        square = self._square
        if self._amsgrad:
            np.maximum(self._largest, square, out=self._largest)
            square = self._largest
        size = np.sqrt(square)
        size /= math.sqrt(1 - second**self._steps)
        size += self._eps
        np.divide(self._mean, size, out=size)
        size *= rate / (1 - first**self._steps)
        weights -= size


@final
class SgdUpdate(Update):
    """Gradient descent with momentum m, as torch has it.

    g <- g + decay w; b <- m b + (1 - dampening) g, but b = g at the first step; w <- w - lr b, with nesterov
    w <- w - lr (g + m b).

    Args:
        momentum: m, 0..1.
        dampening: Of what is added to b.
        decay: Weight decay.
        nesterov: Whether the step looks ahead.
    """

    def __init__(
        self,
        *,
        momentum: float = 0.0,
        dampening: float = 0.0,
        decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        self._momentum, self._dampening = momentum, dampening
        self._decay, self._nesterov = decay, nesterov
        self._buffer: Weights | None = None

    def step(self, weights: Weights, gradient: Weights, rate: float) -> None:
        if self._decay:
            gradient = gradient + self._decay * weights
        if self._momentum:
            if self._buffer is None:
                self._buffer = gradient.copy()
            else:
                self._buffer *= self._momentum
                self._buffer += (1 - self._dampening) * gradient
            if self._nesterov:
                gradient = gradient + self._momentum * self._buffer
            else:
                gradient = self._buffer
        weights -= rate * gradient


def make_update(name: str, settings: Mapping[str, Any]) -> Update:
    """Return the update of an optimizer as a run records it.

    Args:
        name: 'AdamW', 'Adam' or 'SGD'.
        settings: betas, eps, weight_decay, momentum and so on, as torch names them; what is left out has torch's default.

    Raises:
        ConfigError: If it is none of these, or a setting is not a number that it can have.
    """
    if settings.get("maximize"):
        raise ConfigError(f"the optimizer {name} maximizes, which is not simulated")
    try:
        decay = _number(settings.get("weight_decay", 0.01 if name == "AdamW" else 0.0))
        if name in ("Adam", "AdamW"):
            first, second = settings.get("betas", (0.9, 0.999))
            betas = (_number(first), _number(second))
            if max(betas) >= 1:
                raise ValueError(f"betas {betas}")
            return AdamUpdate(
                betas=betas,
                eps=_number(settings.get("eps", 1e-8)),
                decay=decay,
                decoupled=name == "AdamW" or bool(settings.get("decoupled_weight_decay", False)),
                amsgrad=bool(settings.get("amsgrad", False)),
            )
        if name == "SGD":
            return SgdUpdate(
                momentum=_number(settings.get("momentum", 0.0)),
                dampening=_number(settings.get("dampening", 0.0)),
                decay=decay,
                nesterov=bool(settings.get("nesterov", False)),
            )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the settings of the optimizer {name} cannot be: {error}") from error
    raise ConfigError(f"the optimizer {name[:60]} is not simulated; AdamW, Adam and SGD are")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{str(value)[:40]!r} is no number")
    if not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is below 0 or not finite")
    return float(value)
