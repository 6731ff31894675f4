"""GRS, the gradient regularization scheme: gradient terms that drive latent weights towards two modes.

What is the paper's: arXiv 2305.14730 says that its scheme drives weights to a bimodal distribution and moves latent
weights smoothly away from the quantization boundary, so that they oscillate less. What is ours: every formula below.
The paper's equations are not public, so this is a reconstruction. All terms share one form, per output channel c,

    g'_cj = g_cj + strength * S_c * f(u_cj),    u_cj = w_cj / alpha_c,    alpha_c = mean_j |w_cj|,

where S_c has the unit of the gradient and f has none, so that `strength` means the same at any scale of the weights:

    resilient     f = u - sign(u),    S_c = clip(flip fraction_c, 0.01, 0.2) * max_j |g_cj|   (after ReBNN, 2302.00956)
    bin_centre    f = u - sign(u),    S_c = ramp(t) * mean_j |g_cj|                           (after 2203.11086)
    double_well   f = u (u^2 - 1),    S_c = ramp(t) * mean_j |g_cj|                           (ours)

ramp(t) = (1 - cos(pi t)) / 2 over t = share of training done. ReBNN clips its coefficient to absolute bounds 1e-5 and
2e-4, whose ratio of 20 is kept here on the flip fraction instead, because gradients of a ViT have another scale.
Decoupled application moves the weight by -lr * strength * s_c * f * alpha_c, with s_c = S_c without its gradient
factor, so that Adam does not rescale it. Every term is zero at u = +1 and u = -1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bvit_analysis.config import Recipe
from bvit_analysis.quantizers import channel_scale, sign

FLIP_FRACTION_BOUNDS = (0.01, 0.2)
"Least and largest flip fraction the resilient term uses; their ratio is that of ReBNN's bounds."


def bin_force(u: Tensor) -> Tensor:
    """Return f(u) = u - sign(u), which descent turns into a pull to the nearer of -1 and +1.

    Args:
        u: Latent weights in units of their scale, (O, I).

    Returns:
        Dimensionless force, (O, I); at u = 0 it is -1, as sign(0) = +1.

    Source: ReBNN, arXiv 2302.00956; oscillation dampening, arXiv 2203.11086.
    """
    return u - sign(u)


def double_well_force(u: Tensor) -> Tensor:
    """Return f(u) = u (u^2 - 1), the slope of the double well V = (1 - u^2)^2 / 4.

    Args:
        u: Latent weights in units of their scale, (O, I).

    Returns:
        Dimensionless force, (O, I); zero at 0 and at both modes.

    Source: our construction (G3 in docs/science.md).
    """
    return u * (u.square() - 1)


def cosine_ramp(progress: float) -> float:
    """Return (1 - cos(pi t)) / 2, which rises from 0 to 1 over t = progress in 0..1."""
    return (1 - math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2


def flip_fraction(before: Tensor, now: Tensor) -> Tensor:
    """Return the share of signs of each output channel that differ: 1 - mean_j [s_before = s_now].

    Args:
        before: Signs as booleans (w >= 0), (O, I).
        now: The same, later.

    Returns:
        Shares, (O, 1), in 0..1.
    """
    return (before != now).float().mean(dim=1, keepdim=True)


class GradientRegularizer:
    """Apply a recipe's gradient term to the binary weights of a model, between backward and the optimizer's step.

    The flip fraction of the resilient term compares the signs at the ends of the last full period of `period` applied
    steps; before one is full it is the lower bound.

    Args:
        weights: Latent weights by site name, each (O, I).
        recipe: Which term, how strong, coupled or decoupled.
        period: Applied steps over which flips are counted.
    """

    def __init__(
        self, weights: dict[str, nn.Parameter], recipe: Recipe, *, period: int = 100
    ) -> None:
        self._weights = weights
        self._recipe = recipe
        self._period = period
        self._steps = 0
        self._reference: dict[str, Tensor] = {}
        self._fraction: dict[str, Tensor] = {}
        if recipe.regularization == "resilient":
            for name, weight in weights.items():
                self._reference[name] = weight.detach() >= 0
                self._fraction[name] = torch.zeros_like(weight[:, :1]).detach()

    @torch.no_grad()
    def apply(self, *, learning_rate: float, progress: float) -> None:
        """Add the term to each gradient (coupled) or to each weight (decoupled).

        Args:
            learning_rate: Of this step; used by the decoupled form.
            progress: Share of training done, 0..1.
        """
        if self._recipe.regularization == "none":
            return
        for name, weight in self._weights.items():
            if weight.grad is None:
                continue
            alpha = channel_scale(weight).clamp(min=torch.finfo(weight.dtype).tiny)
            force = self._force(weight / alpha).mul_(self._recipe.regularization_strength)
            size = self._size(name, progress)
            if self._recipe.regularization_mode == "coupled":
                weight.grad.add_(force.mul_(size * self._gradient_size(weight.grad)))
            else:
                weight.sub_(force.mul_(size * alpha * learning_rate))
        self._count()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state a resumed run needs, as plain tensors."""
        state = {"steps": torch.tensor(self._steps)}
        state |= {f"reference.{name}": value for name, value in self._reference.items()}
        return state | {f"fraction.{name}": value for name, value in self._fraction.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a state from state_dict()."""
        self._steps = int(state["steps"])
        for name in self._reference:
            self._reference[name] = state[f"reference.{name}"].to(self._reference[name].device)
            self._fraction[name] = state[f"fraction.{name}"].to(self._fraction[name].device)

    def _force(self, u: Tensor) -> Tensor:
        return (
            double_well_force(u) if self._recipe.regularization == "double_well" else bin_force(u)
        )

    def _size(self, name: str, progress: float) -> Tensor:
        if self._recipe.regularization == "resilient":
            return self._fraction[name].clamp(*FLIP_FRACTION_BOUNDS)
        return torch.tensor(cosine_ramp(progress), device=self._weights[name].device)

    def _gradient_size(self, grad: Tensor) -> Tensor:
        if self._recipe.regularization == "resilient":
            return grad.abs().amax(dim=1, keepdim=True)
        return grad.abs().mean(dim=1, keepdim=True)

    def _count(self) -> None:
        self._steps += 1
        if self._recipe.regularization != "resilient" or self._steps % self._period:
            return
        for name, weight in self._weights.items():
            now = weight.detach() >= 0
            self._fraction[name] = flip_fraction(self._reference[name], now)
            self._reference[name] = now
