"""The fully binary linear layer: 1-bit inputs times 1-bit weights, with a real-valued shortcut around both.

Shape letters: B batch, N tokens, I input channels, O output channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bvit_analysis.layers.activation import RPReLU
from bvit_analysis.layers.shift import BinarySign
from bvit_analysis.quantizers import channel_scale, clipped_sign, sign_argument


class BinaryLinear(nn.Module):
    """Multiply signs by signs: y = f( a s (sign(w) . sign(shift(x))) + bias + shortcut(x) ).

    s is the weight scale mean|w| per output channel, constant in differentiation; a > 0 is a learned scale of the
    input, kept as its logarithm so that it can never turn a sign around. Backward: dL/dw = s dL/dw_binary 1[|w| <= 1].
    The shortcut is x itself where I = O, x repeated where O is a multiple of I, and the mean of the I / O copies
    where I is a multiple of O; otherwise there is none. Sources: arXiv 1603.05279, 1808.00278, 2003.03488, 2306.16678.

    In eval mode the product is of signs alone, an exact integer, and a s multiplies it afterwards: what bit-packed
    inference computes, to the bit. In training mode a s is part of the weight, which is the cheaper backward pass; the
    two agree to rounding.

    Args:
        weight: Latent weight to take over, (O, I); it stays the same parameter object.
        bias: Float bias (O,) to take over, or None.
        sign: What binarizes the input.
        activation: What follows the shortcut, for example RPReLU.
        scaled: Whether the binary weight has its channel scale.
        centred: Whether the sign is of w - mean(w) per output channel.
        input_scale: Whether the input has a learned scale.
        shortcut: Whether to add the shortcut.

    Shape:
        Input (B, N, I), output (B, N, O).
    """

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        *,
        sign: BinarySign,
        activation: nn.Module,
        scaled: bool = True,
        centred: bool = False,
        input_scale: bool = True,
        shortcut: bool = True,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.bias = bias
        self.sign = sign
        self.activation = activation
        self.scaled = scaled
        self.centred = centred
        self.log_input_scale = nn.Parameter(torch.zeros(1)) if input_scale else None
        self.fixed_scale: Tensor | None
        self.register_buffer("fixed_scale", None)  # None is not part of the state dict
        larger = max(self.in_features, self.out_features)
        self.shortcut = shortcut and larger % min(self.in_features, self.out_features) == 0

    def latent(self) -> Tensor:
        """Return the argument of the weight's sign, (O, I): w, or w minus its row mean."""
        # With a fixed scale the weight holds signs, and a row of equal signs minus its mean would be all zero.
        return sign_argument(self.weight, self.centred and self.fixed_scale is None)

    def weight_scale(self) -> Tensor:
        """Return the scale of the binary weight, (O, 1), in weight units, detached."""
        if self.fixed_scale is not None:
            return self.fixed_scale.unsqueeze(1)
        if self.scaled:
            return channel_scale(self.latent())
        return torch.ones_like(self.weight[:, :1]).detach()

    def binary_weight(self) -> Tensor:
        """Return the weight the product uses, (O, I): scale times sign, without the input's scale."""
        return self.weight_scale() * clipped_sign(self.latent())

    def output_scale(self) -> Tensor:
        """Return what multiplies the product of signs, (O, 1), in weight units: weight scale times input scale."""
        scale = self.weight_scale()
        if self.log_input_scale is not None:
            scale = scale * self.log_input_scale.exp()
        return scale

    def forward(self, x: Tensor) -> Tensor:
        y = self._product(x)
        if not isinstance(self.activation, RPReLU):
            return self.activation(self._add_shortcut(y, x))
        return self.activation.leak(self._add_shortcut(y, x))

    def _product(self, x: Tensor) -> Tensor:
        """Return scale times product plus bias, and minus gamma where RPReLU follows: it begins with y - gamma."""
        bias: Tensor | None = self.bias
        if isinstance(self.activation, RPReLU):
            gamma = self.activation.gamma
            bias = -gamma if bias is None else bias - gamma
        signs = self.sign(x)
        if self.training:
            weight = self.output_scale() * clipped_sign(self.latent())
            return functional.linear(signs, weight, bias)
        y = functional.linear(signs, clipped_sign(self.latent())) * self.output_scale().squeeze(1)
        return y if bias is None else y + bias

    @torch.no_grad()
    def calibrate(self, shifted: Tensor) -> None:
        """Set the input's scale to E|x|, the best scalar for sign(x), from shifted inputs (B, N, I)."""
        if self.log_input_scale is not None:
            self.log_input_scale.fill_(shifted.abs().mean().clamp(min=1e-6).log())

    def _add_shortcut(self, y: Tensor, x: Tensor) -> Tensor:
        if not self.shortcut:
            return y
        if self.in_features == self.out_features:
            return y + x
        if self.in_features < self.out_features:
            # Broadcasting over the copies instead of writing them out first.
            return (y.unflatten(-1, (-1, self.in_features)) + x.unsqueeze(-2)).flatten(-2)
        return y + x.unflatten(-1, (-1, self.out_features)).mean(dim=-2)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The state dict of an unpacked model fits every model of its kind.
        scale = state_dict.get(f"{prefix}fixed_scale")
        if scale is not None and self.fixed_scale is None:
            self.fixed_scale = torch.ones_like(self.weight[:, 0]).detach()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, shortcut={self.shortcut}"
