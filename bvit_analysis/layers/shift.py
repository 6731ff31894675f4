"""Shifts of an activation before its sign, and the sign itself.

What is the paper's: arXiv 2305.14730 says that its activation shift module (ASM) acts before the sign, tunes
activations dynamically, and answers large variation between channels. What is ours: every formula below. The
paper's equations are not public, so this is a reconstruction; docs/decisions.md says why `token_mean` is the default.

Shape letters: B batch, N tokens, C channels, H hidden units, h heads, d channels a head.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor, nn
from torch.nn import functional

from bvit_analysis.quantizers import clipped_sign, polynomial_sign


def token_mean(x: Tensor) -> Tensor:
    """Return the mean of x (B, N, C) over tokens, (B, C), summed in float64 where the device has it.

    So it does not depend on the number of threads or on the order of the sum, but for one case in about 1e8: signs are
    decided by it, and other code than torch's decides the same.
    """
    if x.device.type == "mps" or x.dtype == torch.float64:
        return x.mean(dim=1)
    return x.mean(dim=1, dtype=torch.float64).to(x.dtype)


class StaticShift(nn.Module):
    """Add a learned constant to each channel: y = x + b_c, with b = 0 at the start.

    Source: RSign of ReActNet, arXiv 2003.03488 (A1 in docs/science.md).

    Args:
        dim: Channels C.

    Shape:
        Input and output (B, N, C), in the units of the input.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class TokenMeanShift(nn.Module):
    """Add a learned constant and take away a learned share of the channel's own mean: y = x + b_c - k_c m_c(x).

    m_c(x) is the mean over the tokens of one image, so the shift depends on the input; b = k = 0 at the start. With
    k_c = 1 each channel is centred image by image, which is where its sign carries most. Cost: 2C parameters. In eval
    mode the mean is token_mean(), in training mode torch's, which is faster; they agree to rounding.
    Source: a reconstruction of the activation shift module of arXiv 2305.14730 (A2-lite in docs/science.md).

    Args:
        dim: Channels C.

    Shape:
        Input and output (B, N, C), in the units of the input.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))
        self.share = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        mean = (x.mean(dim=1) if self.training else token_mean(x)).unsqueeze(1)  # (B, 1, C)
        return x + (self.bias - self.share * mean)


class BottleneckShift(nn.Module):
    """Add a constant and a small network of the channel means: y = x + b + W2 silu(W1 m(x)).

    m(x) is the mean over tokens, (B, C); W2 = 0 and b = 0 at the start, so it starts as the identity. Cost:
    C + 2 C H parameters with H = max(1, C // reduction). Source: a reconstruction of the activation shift module of
    arXiv 2305.14730 in the spirit of DyBNN, INSTA-BNN and BCDNet (A2 in docs/science.md).

    Args:
        dim: Channels C.
        reduction: C / H.
        name: Module path; W1 is drawn from a generator seeded by it, never from the global one.

    Shape:
        Input and output (B, N, C), in the units of the input.
    """

    def __init__(self, dim: int, *, reduction: int, name: str = "") -> None:
        super().__init__()
        hidden = max(1, dim // reduction)
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.down = nn.Parameter(torch.randn(hidden, dim, generator=generator) / dim**0.5)
        self.up = nn.Parameter(torch.zeros(dim, hidden))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=1)  # (B, C)
        hidden = functional.silu(functional.linear(mean, self.down))
        shift = functional.linear(hidden, self.up, self.bias)
        return x + shift.unsqueeze(1)


def make_shift(kind: str, dim: int, *, reduction: int, name: str = "") -> nn.Module:
    """Build the shift a recipe names: 'none', 'static', 'token_mean' or 'bottleneck'."""
    if kind == "static":
        return StaticShift(dim)
    if kind == "token_mean":
        return TokenMeanShift(dim)
    if kind == "bottleneck":
        return BottleneckShift(dim, reduction=reduction, name=name)
    return nn.Identity()


class BinarySign(nn.Module):
    """Shift an activation, then take its sign; the output of `shift` is where information is measured.

    Forward: sign(shift(x)), sign(0) = +1. Backward: the straight-through slope named by `gradient`.

    Args:
        shift: A module that keeps the shape, nn.Identity() for none.
        dim: Channels C.
        gradient: 'polynomial' (arXiv 1808.00278) or 'clip'.

    Shape:
        Input (B, N, C) in any unit; output the same shape, values in {-1, +1}.
    """

    def __init__(self, shift: nn.Module, *, dim: int, gradient: str) -> None:
        super().__init__()
        self.shift = shift
        self.dim = dim
        self.gradient = gradient
        self._sign = polynomial_sign if gradient == "polynomial" else clipped_sign

    def forward(self, x: Tensor) -> Tensor:
        return self._sign(self.shift(x))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, gradient={self.gradient}"
