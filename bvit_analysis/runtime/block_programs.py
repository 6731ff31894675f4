"""The blocks of a packed ViT as one program: every norm, shift, sign, product, shortcut and residual of all blocks.

What a program computes is what the modules compute one by one, to the bit; where a module is of a kind that programs
do not have, there is none, and the modules run.

Shape letters: B images, N tokens, M = B N rows, C channels, H hidden channels, h heads, d channels a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from timm.layers import Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn
from torch.nn.modules import module as torch_module

from bvit_analysis.packed.bits import words_of
from bvit_analysis.runtime.kernels import products as kernels
from bvit_analysis.runtime.kernels.memory import INPUT, Address, Workspace, start_of
from bvit_analysis.runtime.kernels.programs import Program, Scores, norm_agrees
from bvit_analysis.runtime.layer_programs import (
    LINEARS,
    SIGNS,
    Scratch,
    why_not_linear,
    why_not_shifts,
    write_input,
    write_linear,
)
from bvit_analysis.runtime.layers import PackedAttention, PackedLinear

NORMS, ATTENTION = "norms", "attention products"
"Labels that the time of an operation is booked on, beside SIGNS and LINEARS."

_NOTHING = (nn.Identity, nn.Dropout)


def why_not(blocks: list[nn.Module]) -> str | None:
    """Return why blocks cannot be written as a program, None if they can.

    Layer norms are tried: torch may be built with another order of operations than the compiled one.
    """
    tried: dict[tuple[object, ...], bool] = {}
    for number, block in enumerate(blocks):
        for reason in _reasons(block, tried):
            return f"blocks.{number}: {reason}"
    return None


def _reasons(block: nn.Module, tried: dict[tuple[object, ...], bool]) -> Iterator[str]:
    if type(block) is not Block or not isinstance(block.attn, PackedAttention):
        yield f"{type(block).__name__} is not a ViT block with packed attention"
        return
    attention, mlp = block.attn, block.mlp
    if type(mlp) is not Mlp:
        yield f"mlp of type {type(mlp).__name__}"
        return
    idle = {
        "ls1": block.ls1, "ls2": block.ls2, "drop_path1": block.drop_path1, "drop_path2": block.drop_path2,
        "mlp.act": mlp.act, "mlp.drop1": mlp.drop1, "mlp.drop2": mlp.drop2, "mlp.norm": mlp.norm,
        "attn.q_norm": attention.q_norm, "attn.k_norm": attention.k_norm,
    }  # fmt: skip
    for name, module in idle.items():
        if not (isinstance(module, _NOTHING) or type(module).__name__ == "DropPath"):
            yield f"{name} of type {type(module).__name__}"
    norms = [block.norm1, block.norm2]
    if not isinstance(attention.norm, nn.Identity):
        norms.append(attention.norm)
    for norm in norms:
        if not isinstance(norm, nn.LayerNorm) or norm.weight is None or norm.bias is None:
            yield f"norm of type {type(norm).__name__}, or without weight and bias"
            continue
        kind = type(norm), norm.normalized_shape, norm.eps  # one of a kind is enough
        if kind not in tried:
            tried[kind] = _norm_agrees(norm)
        if not tried[kind]:
            yield "torch's layer norm here is not the compiled one, to the bit"
    linears = (attention.qkv, attention.proj, mlp.fc1, mlp.fc2)
    for linear in linears:
        if not isinstance(linear, PackedLinear):
            yield "a linear that is not packed"
        elif (reason := why_not_linear(linear)) is not None:
            yield reason
    signs = (attention.q_sign, attention.k_sign, attention.v_sign)
    if (reason := why_not_shifts([sign.shift for sign in signs])) is not None:
        yield f"attention with {reason}"


def _norm_agrees(norm: nn.LayerNorm) -> bool:
    if len(norm.normalized_shape) != 1 or norm.weight.dtype != torch.float32:
        return False
    with torch.no_grad():
        return norm_agrees(
            lambda rows: norm(torch.from_numpy(rows)).numpy(),
            norm.weight.detach().numpy(),
            norm.bias.detach().numpy(),
            norm.eps,
        )


def works_image_by_image(vit: nn.Module) -> bool:
    """Return whether all that a ViT does before its head gives an image the same floats in a batch of any size."""
    return type(vit) is VisionTransformer and vit.attn_pool is None


class Untouched:
    """Tell whether anybody watches a layer inside the blocks: a hook, or an observer of decisions.

    Args:
        blocks: The blocks.
    """

    def __init__(self, blocks: list[nn.Module]) -> None:
        modules = [module for block in blocks for module in block.modules()]
        names = ("_forward_hooks", "_forward_pre_hooks")
        self._hooks = [getattr(module, name) for module in modules for name in names]
        self._hooks += [getattr(torch_module, f"_global{name}", {}) for name in names]
        self._observed = [module for module in modules if hasattr(module, "observer")]

    def __call__(self) -> bool:
        return not any(self._hooks) and all(m.observer is None for m in self._observed)


@dataclass(frozen=True)
class _Doubt:
    """What settles an attention's rows near a tie."""

    head_dim: int
    value_scale: ndarray
    exact: kernels.ExactBits


class BlockProgram:
    """The program of all blocks for a number of images; one call at a time.

    Args:
        blocks: Blocks that why_not() has nothing against; they must stay in eval mode and not be replaced.
        images: B.
        tokens: N.
        threads: At most so many threads run it.
    """

    def __init__(self, blocks: list[nn.Module], *, images: int, tokens: int, threads: int) -> None:
        self.images, self.tokens, self.threads = images, tokens, threads
        self.program = Program(threads)
        self._doubts: dict[int, _Doubt] = {}
        rows = images * tokens
        linears = [m for b in blocks for m in b.modules() if isinstance(m, PackedLinear)]
        attentions = [m for b in blocks for m in b.modules() if isinstance(m, PackedAttention)]
        channels = linears[0].in_features
        wide = max(linear.out_features for linear in linears)
        heads = max(attention.num_heads for attention in attentions)
        packed = max(
            *(words_of(linear.in_features) for linear in linears),
            *(3 * a.num_heads * words_of(a.head_dim) for a in attentions),
        )
        self._space = Workspace()
        self._h = self._space.take(np.float32, rows * channels)
        self._wide = self._space.take(np.float32, rows * wide)
        inputs = max(wide, *(linear.in_features for linear in linears))
        self._scratch = Scratch.sized(self._space, images, tokens, inputs, packed)
        self._near = self._space.take(np.bool_, rows * heads)
        for block in blocks:
            self._write(block)

    def run(self, x: ndarray, out: ndarray) -> None:
        """Run all blocks on x (B, N, C), and write the result into out (B, N, C), contiguous, which may be x itself."""
        if out is not x:
            np.copyto(out, x)
        with self._bound(out):
            self.program.run(self._settle)

    def timed(self, x: ndarray) -> dict[str, float]:
        """Run all blocks on x (B, N, C) operation by operation; return the seconds of each label."""
        with self._bound(x.copy()):
            seconds = self.program.timed(self._settle)
        labelled = dict.fromkeys((NORMS, SIGNS, LINEARS, ATTENTION), 0.0)
        for label, own in zip(self.program.labels, seconds, strict=True):
            labelled[label] += own
        return labelled

    @contextmanager
    def _bound(self, x: ndarray) -> Iterator[None]:
        """Let the program work on x (B, N, C), contiguous, in place."""
        self.program.bind({INPUT: start_of(x)})
        with self._space.there() as moved:
            self.program.bind(moved)
            yield

    def _write(self, block: Any) -> None:
        attention = block.attn
        wide, h, x = self._wide, self._h, Address(0, INPUT)
        self._norm(block.norm1, x, h)
        self._linear(attention.qkv, h, wide)
        self._attention(attention)
        if not isinstance(attention.norm, nn.Identity):
            self._norm(attention.norm, h, h)
        self._linear(attention.proj, h, x, residual=x)
        self._norm(block.norm2, x, h)
        self._linear(block.mlp.fc1, h, wide)
        self._linear(block.mlp.fc2, wide, x, residual=x)

    def _norm(self, norm: nn.LayerNorm, x: Address, out: Address) -> None:
        weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
        self.program.norm(x, out, self.images * self.tokens, weight, bias, norm.eps, NORMS)

    def _linear(
        self, layer: PackedLinear, x: Address, out: Address, *, residual: Address | None = None
    ) -> None:
        write_linear(self.program, self._scratch, layer, x, out, residual=residual)

    def _attention(self, layer: PackedAttention) -> None:
        rows = self.images * self.tokens
        heads, head_dim = layer.num_heads, layer.head_dim
        signs = (layer.q_sign, layer.k_sign, layer.v_sign)
        shifts = [sign.shift for sign in signs]
        channels = 3 * heads * head_dim
        source = write_input(self.program, self._scratch, self._wide, shifts, channels, 3 * heads)
        self.program.sign(source, rows, SIGNS)
        width = heads * words_of(head_dim)
        q, k, v = (self._scratch.packed + 8 * width * number for number in range(3))
        bits = layer.probabilities
        score_scale, value_scale = bits.score_scale.numpy(), layer.value_scale.numpy()
        level = None if bits.level is None else bits.level.numpy()
        margin = kernels.tie_margin(score_scale, level, head_dim, self.tokens)
        rules = kernels.rules_of(score_scale, level, head_dim)
        scores = Scores(*rules, kernels.lanes_of(value_scale), margin)
        if level is not None:
            self._doubts[len(self.program.labels)] = _Doubt(head_dim, value_scale, bits.exact)
        self.program.attend(
            (q, k, v), 3 * width, self.images, self.tokens, head_dim, scores, self._h, self._near, ATTENTION,
        )  # fmt: skip

    def _settle(self, number: int) -> None:
        doubt = self._doubts[number]
        heads, rows = len(doubt.value_scale), self.images * self.tokens
        width = heads * words_of(doubt.head_dim)
        out = self._space.view(self._h, np.float32, rows, heads * doubt.head_dim)
        near = self._space.view(self._near, np.bool_, self.images, heads, self.tokens)
        words = self._space.view(self._scratch.packed, np.uint64, rows, 3, width)
        q, k, v = (words[:, number] for number in range(3))
        kernels.settle(out, near, q, k, v, doubt.head_dim, doubt.value_scale, doubt.exact)
