"""Shifts of an activation before its sign, and the sign itself.

What is the paper's: arXiv 2305.14730 says that its activation shift module (ASM) acts before the sign, tunes
activations dynamically, and answers large variation between channels. What is ours: every formula below. The
paper's equations are not public, so this is a reconstruction; docs/decisions.md says why `token_mean` is the default.

A shift is a class of its own: it says what it adds, what that costs, and whether a packed program can hold it. A recipe
names one of SHIFTS, or holds such a class; docs/extending.md has an example.

Shape letters: B batch, N tokens, C channels, H hidden units, h heads, d channels a head.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.quantizers import clipped_sign, polynomial_sign


def token_mean(x: Tensor) -> Tensor:
    """Return the mean of x (B, N, C) over tokens, (B, C), summed in float64 where the device has it.

    So it does not depend on the number of threads or on the order of the sum, but for one case in about 1e8: signs are
    decided by it, and other code than torch's decides the same.
    """
    if x.device.type == "mps" or x.dtype == torch.float64:
        return x.mean(dim=1)
    return x.mean(dim=1, dtype=torch.float64).to(x.dtype)


@final
@dataclass(frozen=True, kw_only=True)
class ShiftCost:
    """What a shift does for one image, beside holding its parameters; a transcendental function is one operation."""

    per_value: int = 0
    "Element-wise operations for each of the N C values; adding the shift is one."
    per_image: int = 0
    "Element-wise operations beside those, once an image: work on channel means, for example."
    float_macs: int = 0
    "Multiply-accumulates of matrix products, once an image."


@final
@dataclass(frozen=True, kw_only=True)
class MeanForm:
    """What a packed program can hold of a shift: it adds b_c - k_c m_c(x), with m_c as token_mean()."""

    bias: Tensor | None = None
    "b, (C,); None adds no constant."
    share: Tensor | None = None
    "k, (C,); None takes no mean. A shift with a share has a bias."


class Shift(nn.Module, ABC):
    """Add something to each activation before its sign: y = x + added(x).

    A researcher's own shift derives from this and is made as ``MyShift(C, name=module_path)``; random weights in it are
    drawn from a generator seeded by the name, never from torch's global one.

    Shape:
        Input and output (B, N, C), in the units of the input.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in cls.__dict__:
            raise ConfigError(
                f"{cls.__name__} has a forward() of its own, which packed inference would not know; return what is"
                " added to x from added(x) instead"
            )

    @abstractmethod
    def added(self, x: Tensor) -> Tensor | None:
        """Return what is added to x (B, N, C).

        Packed inference calls it too, so in eval mode equal x must give equal bits: for means take token_mean().

        Returns:
            (C,), (B, 1, C) or (B, N, C), in the units of x; None for nothing.
        """

    @abstractmethod
    def cost(self) -> ShiftCost:
        """Return what it does for one image; its parameters are counted by the ledger."""

    def mean_form(self) -> MeanForm | None:
        """Return how a packed program can compute added(), to the bit; None where only added() itself can."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        added = self.added(x)
        return x if added is None else x + added


class NoShift(Shift):
    """Add nothing: y = x.

    Args:
        dim: Channels C.
        name: Module path.
    """

    def __init__(self, dim: int, *, name: str = "") -> None:
        super().__init__()

    def added(self, x: Tensor) -> None:
        return None

    def cost(self) -> ShiftCost:
        return ShiftCost()

    def mean_form(self) -> MeanForm:
        return MeanForm()


class StaticShift(Shift):
    """Add a learned constant to each channel: y = x + b_c, with b = 0 at the start.

    Source: RSign of ReActNet, arXiv 2003.03488 (A1 in docs/science.md).

    Args:
        dim: Channels C.
        name: Module path.
    """

    def __init__(self, dim: int, *, name: str = "") -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))

    def added(self, x: Tensor) -> Tensor:
        return self.bias

    def cost(self) -> ShiftCost:
        return ShiftCost(per_value=1)

    def mean_form(self) -> MeanForm:
        return MeanForm(bias=self.bias)


class TokenMeanShift(Shift):
    """Add a learned constant and take away a learned share of the channel's own mean: y = x + b_c - k_c m_c(x).

    m_c(x) is the mean over the tokens of one image, so the shift depends on the input; b = k = 0 at the start. With
    k_c = 1 each channel is centred image by image, which is where its sign carries most. Cost: 2C parameters. In eval
    mode the mean is token_mean(), in training mode torch's, which is faster; they agree to rounding.
    Source: a reconstruction of the activation shift module of arXiv 2305.14730 (A2-lite in docs/science.md).

    Args:
        dim: Channels C.
        name: Module path.
    """

    def __init__(self, dim: int, *, name: str = "") -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))
        self.share = nn.Parameter(torch.zeros(dim))

    def added(self, x: Tensor) -> Tensor:
        mean = (x.mean(dim=1) if self.training else token_mean(x)).unsqueeze(1)  # (B, 1, C)
        return self.bias - self.share * mean

    def cost(self) -> ShiftCost:
        # sum over tokens and add to each value; per channel one product and one difference
        return ShiftCost(per_value=2, per_image=2 * self.bias.numel())

    def mean_form(self) -> MeanForm:
        return MeanForm(bias=self.bias, share=self.share)


class BottleneckShift(Shift):
    """Add a constant and a small network of the channel means: y = x + b + W2 silu(W1 m(x)).

    m(x) is the mean over tokens, (B, C); W2 = 0 and b = 0 at the start, so it starts as the identity. Cost:
    C + 2 C H parameters with H = max(1, C // reduction). Source: a reconstruction of the activation shift module of
    arXiv 2305.14730 in the spirit of DyBNN, INSTA-BNN and BCDNet (A2 in docs/science.md).

    Args:
        dim: Channels C.
        reduction: C / H.
        name: Module path; W1 is drawn from a generator seeded by it, never from the global one.
    """

    def __init__(self, dim: int, *, reduction: int, name: str = "") -> None:
        super().__init__()
        hidden = max(1, dim // reduction)
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.down = nn.Parameter(torch.randn(hidden, dim, generator=generator) / dim**0.5)
        self.up = nn.Parameter(torch.zeros(dim, hidden))

    def added(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=1)  # (B, C)
        hidden = functional.silu(functional.linear(mean, self.down))
        return functional.linear(hidden, self.up, self.bias).unsqueeze(1)

    def cost(self) -> ShiftCost:
        # mean over tokens and add to each value; C -> H -> C once an image with SiLU (4: negate, exp, plus 1, divide)
        hidden, channels = self.down.shape
        macs = self.down.numel() + self.up.numel()
        return ShiftCost(per_value=2, per_image=4 * hidden + channels, float_macs=macs)


SHIFTS: Mapping[str, Callable[..., Shift]] = {
    "none": NoShift,
    "static": StaticShift,
    "token_mean": TokenMeanShift,
    "bottleneck": BottleneckShift,
}
"What a recipe's `shift` may name."


def make_shift(shift: Any, dim: int, *, reduction: int, name: str = "") -> Shift:
    """Build the shift of a site.

    Args:
        shift: A name in SHIFTS, or what makes a shift: a class derived from Shift, or an object that is called alike.
        dim: Channels C.
        reduction: Channels per hidden unit; of 'bottleneck' alone.
        name: Module path of the site.

    Raises:
        ConfigError: If there is no such shift, or calling it as ``shift(dim, name=name)`` does not give one.
    """
    if isinstance(shift, str):
        if shift not in SHIFTS:
            raise ConfigError(unknown_name("shift", shift, SHIFTS))
        settings = {"reduction": reduction} if SHIFTS[shift] is BottleneckShift else {}
        return SHIFTS[shift](dim, name=name, **settings)
    called = getattr(shift, "__qualname__", None) or repr(shift)
    try:
        made = shift(dim, name=name)
    except TypeError as error:
        raise ConfigError(
            f"{called} cannot be made as shift(dim, name=...): {error}; see bvit_analysis.layers.Shift"
        ) from error
    if not isinstance(made, Shift):
        raise ConfigError(
            f"{called}(dim, name=...) gave a {type(made).__name__}; expected a bvit_analysis.layers.Shift"
        )
    return made


class BinarySign(nn.Module):
    """Shift an activation, then take its sign; the output of `shift` is where information is measured.

    Forward: sign(shift(x)), sign(0) = +1. Backward: the straight-through slope named by `gradient`.

    Args:
        shift: What is added first; NoShift for nothing.
        dim: Channels C.
        gradient: 'polynomial' (arXiv 1808.00278) or 'clip'.

    Shape:
        Input (B, N, C) in any unit; output the same shape, values in {-1, +1}.
    """

    def __init__(self, shift: Shift, *, dim: int, gradient: str) -> None:
        super().__init__()
        self.shift = shift
        self.dim = dim
        self.gradient = gradient
        self._sign = polynomial_sign if gradient == "polynomial" else clipped_sign

    def forward(self, x: Tensor) -> Tensor:
        return self._sign(self.shift(x))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, gradient={self.gradient}"
