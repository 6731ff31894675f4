"""Shifts, rules and gradient terms as a researcher writes them, over public names alone; none of them is a good idea."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bvit_analysis import GradientTerm
from bvit_analysis.layers import AttentionRule, MeanForm, Shift, ShiftCost, token_mean
from bvit_analysis.quantizers import elastic_levels, sign


class ClampedMeanShift(Shift):
    """y = x + b_c - k_c clamp(m_c(x), -1, 1): depends on the image, and no program knows it."""

    def __init__(self, dim: int, *, name: str = "", bound: float = 1.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))
        self.share = nn.Parameter(torch.full((dim,), 0.5))
        self.bound = bound

    def added(self, x: Tensor) -> Tensor:
        mean = token_mean(x).unsqueeze(1).clamp(-self.bound, self.bound)
        return self.bias - self.share * mean

    def cost(self) -> ShiftCost:
        # sum and add to each value; two comparisons, a product and a difference a channel
        return ShiftCost(per_value=2, per_image=4 * self.bias.numel())


class NeighbourShift(Shift):
    """y = x + k_c x of the token before: differs from token to token."""

    def __init__(self, dim: int, *, name: str = "") -> None:
        super().__init__()
        self.share = nn.Parameter(torch.full((dim,), 0.25))

    def added(self, x: Tensor) -> Tensor:
        return self.share * x.roll(1, dims=1)

    def cost(self) -> ShiftCost:
        return ShiftCost(per_value=2)


class HalfMeanShift(Shift):
    """y = x + b_c - m_c(x) / 2: a program can hold it."""

    fixed: Tensor

    def __init__(self, dim: int, *, name: str = "") -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("fixed", torch.full((dim,), 0.5))

    def added(self, x: Tensor) -> Tensor:
        return self.bias - self.fixed * token_mean(x).unsqueeze(1)

    def cost(self) -> ShiftCost:
        return ShiftCost(per_value=2, per_image=2 * self.bias.numel())

    def mean_form(self) -> MeanForm:
        return MeanForm(bias=self.bias, share=self.fixed)


@dataclass(frozen=True)
class Clamped:
    """Makes a ClampedMeanShift with a bound of its own."""

    bound: float = 1.0

    def __call__(self, dim: int, *, name: str = "") -> Shift:
        return ClampedMeanShift(dim, name=name, bound=self.bound)


@dataclass(frozen=True)
class SteadyTerm(GradientTerm):
    """Pull to the nearer mode, weaker where a running mean of a weight's sign says that it rests."""

    memory: float = 0.75

    def force(self, u: Tensor) -> Tensor:
        return u - sign(u)

    def size(self, weight: Tensor, state: Mapping[str, Tensor], progress: float) -> Tensor:
        return 1 - state["mean"].abs().mean(dim=1, keepdim=True)

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        return {"mean": torch.zeros_like(weight)}

    def advance(
        self, weight: Tensor, state: Mapping[str, Tensor], steps: int
    ) -> Mapping[str, Tensor]:
        return {"mean": self.memory * state["mean"] + (1 - self.memory) * sign(weight)}


@dataclass(frozen=True)
class UniformRule(AttentionRule):
    """[softmax(scores) >= 1/N], whatever the learned scale is."""

    takes_softmax = True

    def bits(self, scores: Tensor, scale: Tensor) -> Tensor:
        level = torch.full_like(scale, 2 / scores.shape[-1])
        return elastic_levels(scores.softmax(dim=-1), level)

    def argument(self, scores: Tensor, scale: Tensor) -> Tensor:
        return scores.softmax(dim=-1) - 1 / scores.shape[-1]


class DrawnShift(Shift):
    """A mistake: its weights come from torch's global generator."""

    def __init__(self, dim: int, *, name: str = "") -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(dim))

    def added(self, x: Tensor) -> Tensor:
        return self.bias

    def cost(self) -> ShiftCost:
        return ShiftCost(per_value=1)


class NarrowShift(Shift):
    """A mistake to pack: what it adds is one number an image."""

    def __init__(self, dim: int, *, name: str = "") -> None:
        super().__init__()

    def added(self, x: Tensor) -> Tensor:
        return x.mean(dim=(1, 2), keepdim=True)

    def cost(self) -> ShiftCost:
        return ShiftCost(per_value=1)
