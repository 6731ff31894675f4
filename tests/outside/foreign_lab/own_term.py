"""A gradient term of the lab's own."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bvit_analysis import GradientTerm
from bvit_analysis.quantizers import sign


@dataclass(frozen=True)
class BoundedTerm(GradientTerm):
    """Pull to the nearer mode, but never harder than a bound, and more and more while training goes on."""

    bound: float = 0.5

    def force(self, u: Tensor) -> Tensor:
        return (u - sign(u)).clamp(-self.bound, self.bound)

    def size(self, weight: Tensor, state: Mapping[str, Tensor], progress: float) -> Tensor:
        return torch.tensor(progress, device=weight.device)
