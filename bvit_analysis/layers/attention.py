"""Fully binary attention: both operands of both products are 1-bit.

Shape letters: B batch, N tokens, D = h d channels, h heads, d channels a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bvit_analysis.errors import ConfigError, UnsupportedModelError
from bvit_analysis.layers.attention_rule import AttentionRule, LevelForm
from bvit_analysis.layers.linear import BinaryLinear
from bvit_analysis.layers.shift import BinarySign


class BinaryProbabilities(nn.Module):
    """Turn attention scores into bits whose value is a scale a per head.

    a > 0 is learned per head, kept as its logarithm; it starts at 2/N. The attention multiplies by a after the product
    with the values, which is an exact integer until then.

    Args:
        num_heads: Heads h.
        tokens: Tokens N, for the start value only.
        rule: What decides the bits.

    Shape:
        Input scores (B, h, N, N), dimensionless; output the same shape, values in {0, 1}.
    """

    def __init__(self, num_heads: int, *, tokens: int, rule: AttentionRule) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.rule = rule
        self.log_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(2 / tokens)))

    def scale(self) -> Tensor:
        """Return the value a of a set bit, (h, 1, 1), dimensionless."""
        return self.log_scale.exp()

    def forward(self, scores: Tensor) -> Tensor:
        return self.rule.bits(scores, self.scale())

    @torch.no_grad()
    def level_form(self) -> LevelForm | None:
        """Return how packed attention can decide the same bits, with the scales as they are; None where it cannot.

        Raises:
            ConfigError: If the rule's level is not one number a head.
        """
        scale = self.scale()
        form = self.rule.level_form(scale)
        if form is not None and form.level is not None and form.level.shape != scale.shape:
            raise ConfigError(
                f"{type(self.rule).__name__}.level_form must give a level of shape {tuple(scale.shape)}, got"
                f" {tuple(form.level.shape)}"
            )
        return form

    @torch.no_grad()
    def calibrate(self, scores: Tensor) -> None:
        """Set each head's scale to the rule's best one for these scores, (B, h, N, N), dimensionless."""
        best = self.rule.best_scale(scores)
        if best is not None:
            self.log_scale.copy_(best.log().view_as(self.log_scale))

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, rule={self.rule}"


class BinaryAttention(nn.Module):
    """Attend with signs: q, k, v = sign(.), scores = c_h q k^T / sqrt(d), context = a_h v_h B v with bits B.

    c_h > 0 and v_h > 0 are learned scales per head (of E|q| E|k| and E|v|), kept as logarithms. Sources:
    arXiv 2203.06390, 2205.13016; the paper's own attention (2305.14730) is not public.

    Args:
        qkv: Binary linear D -> 3D.
        proj: Binary linear D -> D.
        q_sign: Sign of queries over D channels; k_sign, v_sign alike.
        k_sign: Sign of keys.
        v_sign: Sign of values.
        probabilities: What binarizes the scores.
        num_heads: Heads h.
        q_norm: Kept from the float attention; k_norm and norm alike.
        k_norm: Norm of keys.
        norm: Norm of the context.
        proj_drop: Kept from the float attention.

    Shape:
        Input and output (B, N, D).
    """

    def __init__(
        self,
        *,
        qkv: BinaryLinear,
        proj: BinaryLinear,
        q_sign: BinarySign,
        k_sign: BinarySign,
        v_sign: BinarySign,
        probabilities: BinaryProbabilities,
        num_heads: int,
        q_norm: nn.Module,
        k_norm: nn.Module,
        norm: nn.Module,
        proj_drop: nn.Module,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = qkv.out_features // 3 // num_heads
        self.qkv = qkv
        self.q_norm = q_norm
        self.k_norm = k_norm
        self.q_sign = q_sign
        self.k_sign = k_sign
        self.v_sign = v_sign
        self.log_score_scale = nn.Parameter(torch.zeros(num_heads, 1, 1))
        self.log_value_scale = nn.Parameter(torch.zeros(num_heads, 1, 1))
        self.probabilities = probabilities
        self.norm = norm
        self.proj = proj
        self.proj_drop = proj_drop

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        if attn_mask is not None or is_causal:
            raise UnsupportedModelError(
                "binary attention has no mask; call the model without attn_mask and is_causal"
            )
        qkv = self.qkv(x)
        q, k, v = self._binary_heads(qkv)
        scores = (q @ k.transpose(-2, -1)) * (self.log_score_scale.exp() / math.sqrt(self.head_dim))
        value_scale = self.probabilities.scale() * self.log_value_scale.exp()
        context = (self.probabilities(scores) @ v) * value_scale
        context = self.norm(context.transpose(1, 2).flatten(2))
        return self.proj_drop(self.proj(context))

    def _binary_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = qkv.chunk(3, dim=-1)  # each (B, N, D); the shifts see channels of all heads
        if not isinstance(self.q_norm, nn.Identity):
            q = self.q_norm(self._heads(q)).transpose(1, 2).flatten(2)
        if not isinstance(self.k_norm, nn.Identity):
            k = self.k_norm(self._heads(k)).transpose(1, 2).flatten(2)
        return (
            self._heads(self.q_sign(q)),
            self._heads(self.k_sign(k)),
            self._heads(self.v_sign(v)),
        )

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # (B, h, N, d)

    @torch.no_grad()
    def calibrate(self, name: str, shifted: Tensor) -> None:
        """Set a head's scales from E|q| E|k| or E|v| of shifted values (B, N, D); name is 'q', 'k' or 'v'.

        Called with 'q' before 'k', as the forward pass goes.
        """
        size = self._heads(shifted).abs().mean(dim=(0, 2, 3)).clamp(min=1e-6).log().view(-1, 1, 1)
        if name == "v":
            self.log_value_scale.copy_(size)
        elif name == "q":
            self.log_score_scale.copy_(size)
        else:
            self.log_score_scale.add_(size)
