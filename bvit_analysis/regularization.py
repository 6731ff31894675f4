"""GRS, the gradient regularization scheme: gradient terms that drive latent weights towards two modes.

What is the paper's: arXiv 2305.14730 says that its scheme drives weights to a bimodal distribution and moves latent
weights smoothly away from the quantization boundary, so that they oscillate less. What is ours: every formula below.
The paper's equations are not public, so this is a reconstruction. All terms share one form, per output channel c,

    g'_cj = g_cj + strength * S_c * f(u_cj),    u_cj = v_cj / alpha_c,    alpha_c = mean_j |v_cj|,

where v is the argument of the sign: the latent weight w itself, or w_cj - mean_j w_cj where a recipe centres its
weights. The boundary is at v = 0 and the modes are at v = +-alpha, so force, size and counted flips are all of v.
S_c has the unit of the gradient and f has none, so that `strength` means the same at any scale of the weights:

    resilient     f = u - sign(u),    S_c = clip(flip fraction_c, 0.01, 0.2) * max_j |g_cj|   (after ReBNN, 2302.00956)
    bin_centre    f = u - sign(u),    S_c = ramp(t) * mean_j |g_cj|                           (after 2203.11086)
    double_well   f = u (u^2 - 1),    S_c = ramp(t) * mean_j |g_cj|                           (ours)

ramp(t) = (1 - cos(pi t)) / 2 over t = share of training done. ReBNN clips its coefficient to absolute bounds 1e-5 and
2e-4, whose ratio of 20 is kept here on the flip fraction instead, because gradients of a ViT have another scale.
Decoupled application moves the weight by -lr * strength * s_c * f * alpha_c, with s_c = S_c without its gradient
factor, so that Adam does not rescale it. Every term is zero at u = +1 and u = -1. With centred weights the mean of f over
a row is left in: it moves the row's mean, which no sign sees.

A term is a class of its own: its force, its size, and the state it needs. A recipe names one of TERMS, or holds such a
term; docs/extending.md has an example.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from bvit_analysis.config import Recipe
from bvit_analysis.config.recipes import given
from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.quantizers import channel_scale, sign, sign_argument

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


class GradientTerm(ABC):
    """One gradient term: g' = g + strength * size * gradient_size(g) * force(u), per output channel.

    A term holds settings alone. What it must remember of a weight is the state that start() makes and advance()
    replaces; it goes into checkpoints, so that a resumed training goes on to the bit.
    """

    @abstractmethod
    def force(self, u: Tensor) -> Tensor:
        """Return f(u), dimensionless, (O, I), for u = v / alpha, arguments of the sign in units of their channel's mean |v|."""

    @abstractmethod
    def size(self, weight: Tensor, state: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return s_c, dimensionless, (O, 1) or a scalar.

        Args:
            weight: Argument v of the sign, (O, I), in weight units.
            state: As start() or advance() returned it.
            progress: Share of training done, 0..1.
        """

    def gradient_size(self, grad: Tensor) -> Tensor:
        """Return what gives a coupled term the gradient's unit, (O, 1), for grad (O, I): by default mean_j |g_cj|."""
        return grad.abs().mean(dim=1, keepdim=True)

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the state for v (O, I), the argument of the sign, before the first step; by default there is none."""
        return {}

    def advance(
        self, weight: Tensor, state: Mapping[str, Tensor], steps: int
    ) -> Mapping[str, Tensor]:
        """Return the state after `steps` steps, with the names of start(); by default it does not change.

        It is called once a step, after the term is applied and before the optimizer moves the weight.
        """
        return state


@final
@dataclass(frozen=True, kw_only=True)
class ResilientTerm(GradientTerm):
    """Pull to the nearer mode, the stronger the more signs of a channel flip. Source: after ReBNN, arXiv 2302.00956.

    f = u - sign(u), s_c = clip(flip fraction_c, 0.01, 0.2), gradient size max_j |g_cj|. The flip fraction compares the
    signs at the ends of the last full period; before one is full it is 0, and the lower bound holds.
    """

    period: int = 100
    "Applied steps over which flips are counted."

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ConfigError(f"ResilientTerm.period must be at least 1, got {self.period}")

    def force(self, u: Tensor) -> Tensor:
        return bin_force(u)

    def size(self, weight: Tensor, state: Mapping[str, Tensor], progress: float) -> Tensor:
        return state["fraction"].clamp(*FLIP_FRACTION_BOUNDS)

    def gradient_size(self, grad: Tensor) -> Tensor:
        return grad.abs().amax(dim=1, keepdim=True)

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        return {"reference": weight >= 0, "fraction": torch.zeros_like(weight[:, :1])}

    def advance(
        self, weight: Tensor, state: Mapping[str, Tensor], steps: int
    ) -> Mapping[str, Tensor]:
        if steps % self.period:
            return state
        now = weight >= 0
        return {"reference": now, "fraction": flip_fraction(state["reference"], now)}


@final
@dataclass(frozen=True)
class BinCentreTerm(GradientTerm):
    """Pull to the nearer mode, more and more: f = u - sign(u), s = ramp(t). Source: after arXiv 2203.11086."""

    def force(self, u: Tensor) -> Tensor:
        return bin_force(u)

    def size(self, weight: Tensor, state: Mapping[str, Tensor], progress: float) -> Tensor:
        return torch.tensor(cosine_ramp(progress), device=weight.device)


@final
@dataclass(frozen=True)
class DoubleWellTerm(GradientTerm):
    """Roll into the nearer of two wells, more and more: f = u (u^2 - 1), s = ramp(t). Source: our construction."""

    def force(self, u: Tensor) -> Tensor:
        return double_well_force(u)

    def size(self, weight: Tensor, state: Mapping[str, Tensor], progress: float) -> Tensor:
        return torch.tensor(cosine_ramp(progress), device=weight.device)


TERMS: Mapping[str, GradientTerm | None] = {
    "none": None,
    "resilient": ResilientTerm(),
    "bin_centre": BinCentreTerm(),
    "double_well": DoubleWellTerm(),
}
"What a recipe's `regularization` may name."


def make_term(term: Any) -> GradientTerm | None:
    """Return the gradient term a recipe means, None for none.

    Args:
        term: A name in TERMS, a term, or a class of terms that is made without arguments.

    Raises:
        ConfigError: If there is no such term.
    """
    if isinstance(term, str):
        if term not in TERMS:
            raise ConfigError(unknown_name("gradient term", term, TERMS))
        return TERMS[term]
    try:
        made = term() if callable(term) else term
    except TypeError as error:
        raise ConfigError(
            f"gradient term {term!r} cannot be made without arguments: {error}; give an object of it"
        ) from error
    if not isinstance(made, GradientTerm):
        raise ConfigError(
            f"{term!r} is no gradient term; expected a bvit_analysis.regularization.GradientTerm"
        )
    return made


class GradientRegularizer:
    """Apply a recipe's gradient term to the binary weights of a model, between backward and the optimizer's step.

    Args:
        weights: Latent weights by site name, each (O, I).
        recipe: Which term, how strong, coupled or decoupled, and whether weights are centred.

    Raises:
        ConfigError: If the recipe's term is only named, or is none.
    """

    def __init__(self, weights: dict[str, nn.Parameter], recipe: Recipe) -> None:
        self._weights = weights
        self._recipe = recipe
        self._term = make_term(given(recipe, "regularization"))
        self._steps = 0
        self._states: dict[str, Mapping[str, Tensor]] = {}
        if self._term is not None:
            self._states = {n: self._term.start(self._argument(w)) for n, w in weights.items()}

    def _argument(self, weight: Tensor) -> Tensor:
        return sign_argument(weight.detach(), self._recipe.centre_weights)

    @torch.no_grad()
    def apply(self, *, learning_rate: float, progress: float) -> None:
        """Add the term to each gradient (coupled) or to each weight (decoupled).

        Args:
            learning_rate: Of this step; used by the decoupled form.
            progress: Share of training done, 0..1.

        Raises:
            ConfigError: If the term's force is not of the weight's shape.
        """
        term = self._term
        if term is None:
            return
        for name, weight in self._weights.items():
            if weight.grad is None:
                continue
            argument = self._argument(weight)
            alpha = channel_scale(argument).clamp(min=torch.finfo(weight.dtype).tiny)
            force = term.force(argument / alpha)
            if force.shape != weight.shape:
                raise ConfigError(
                    f"{type(term).__name__}.force must return the shape {tuple(weight.shape)} of u, got"
                    f" {tuple(force.shape)} at {name}"
                )
            force = force * self._recipe.regularization_strength
            size = term.size(argument, self._states[name], progress)
            if self._recipe.regularization_mode == "coupled":
                weight.grad.add_(force.mul_(size * term.gradient_size(weight.grad)))
            else:
                weight.sub_(force.mul_(size * alpha * learning_rate))
        self._steps += 1
        for name, weight in self._weights.items():
            argument = self._argument(weight)
            self._states[name] = term.advance(argument, self._states[name], self._steps)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state a resumed run needs, as plain tensors: 'steps', and 'STATE.SITE' for each term's state."""
        state = {"steps": torch.tensor(self._steps)}
        for name, own in self._states.items():
            state |= {f"{key}.{name}": value for key, value in own.items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a state from state_dict()."""
        self._steps = int(state["steps"])
        for name, own in self._states.items():
            self._states[name] = {
                key: state[f"{key}.{name}"].to(value.device) for key, value in own.items()
            }
