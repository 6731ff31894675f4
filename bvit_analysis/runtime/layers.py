"""Binary layers whose weights and signs are packed bits: inference on the CPU alone.

Tensors in and out; between them numpy views of the same memory go through the kernels.

Shape letters: B batch, N tokens, M = B N rows, I inputs, O outputs, C channels, W words, h heads, d channels a head.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bvit_analysis.errors import ConfigError, UnsupportedModelError
from bvit_analysis.layers.activation import RPReLU
from bvit_analysis.layers.attention import BinaryAttention
from bvit_analysis.layers.linear import BinaryLinear
from bvit_analysis.runtime.kernels import products as kernels
from bvit_analysis.runtime.kernels.threads import thread_count
from bvit_analysis.runtime.layer_programs import (
    LinearProgram,
    averaged_parts,
    empty,
    why_not_linear,
)
from bvit_analysis.runtime.program_pool import HoldsPrograms, ProgramPool
from bvit_analysis.runtime.signs import Observer, PackedSign, rows_per_row

_SPARE = 2  # programs of a layer that wait for the next call


class PackedLinear(HoldsPrograms):
    """Compute what a BinaryLinear in eval mode computes, from packed weights: y = f(s P + bias + shortcut(x)).

    P is the integer product by XNOR and popcount, s = weight scale times input scale; -gamma of RPReLU is in the bias.

    Args:
        layer: The simulated layer, taken over; its weight may be on the meta device, it is not read.
        words: Packed weight, transposed: (W, O) int64, bit j of [w, o] is the sign of input 64 w + j of output o.
        scale: s, (O,), float32.

    Shape:
        Input (B, N, I), float32, on the CPU; output (B, N, O).
    """

    words: Tensor
    scale: Tensor
    bias: Tensor | None
    slope: Tensor | None
    zeta: Tensor | None

    def __init__(self, layer: BinaryLinear, words: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.shortcut = layer.shortcut
        self.sign = PackedSign(layer.sign)
        self.backend: str | None = None
        self.forget()
        bias: Tensor | None = layer.bias
        slope: Tensor | None = None
        zeta: Tensor | None = None
        self.activation: nn.Module | None = None
        if isinstance(layer.activation, RPReLU):
            gamma = layer.activation.gamma
            bias = -gamma if bias is None else bias - gamma
            slope, zeta = layer.activation.slope, layer.activation.zeta
        elif not isinstance(layer.activation, nn.Identity):
            self.activation = layer.activation
        self.register_buffer("words", words.contiguous())
        for name, value in (("scale", scale), ("bias", bias), ("slope", slope), ("zeta", zeta)):
            # not cloned: nobody else keeps the layer, and a model file's vectors would be held twice while it loads
            self.register_buffer(name, None if value is None else value.detach().contiguous())

    def forget(self) -> None:
        self._programs: ProgramPool[LinearProgram] = ProgramPool(_SPARE)
        self._by_kernel: bool | None = None

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.in_features)
        if self._by_kernel is None:
            numpy = kernels.choose_backend(self.backend) == "numpy"
            self._by_kernel = numpy or why_not_linear(self) is not None
        sign = self.sign
        watched = sign.observer is not None or sign._forward_hooks or sign._forward_pre_hooks
        if self._by_kernel or watched or 0 in x.shape:
            return self._kernel_by_kernel(x)
        images, tokens, _ = x.shape
        out = empty(images, tokens, self.out_features)
        key = images, tokens, thread_count()
        with self._programs.lent(key, lambda: LinearProgram(self, *key)) as program:
            program.run(x.contiguous(), out)
        return out

    def _kernel_by_kernel(self, x: Tensor) -> Tensor:
        images, tokens, inputs = x.shape
        flat = x.reshape(images * tokens, inputs)
        buffers = (
            self._buffers
        )  # a module's own attribute look-up takes as long as a kernel's start
        y = kernels.linear(
            self.sign(flat.view(images, tokens, inputs)),
            _array(buffers["words"]).view(np.uint64),
            inputs,
            _array(buffers["scale"]),
            _array(buffers["bias"]),
            self._shortcut(flat),
            _array(buffers["slope"]),
            _array(buffers["zeta"]),
            backend=self.backend,
        )
        out = torch.from_numpy(y).view(images, tokens, self.out_features)
        return out if self.activation is None else self.activation(out)

    def _shortcut(self, flat: Tensor) -> np.ndarray | None:
        if not self.shortcut:
            return None
        if averaged_parts(self) is None:
            parts = self.in_features // self.out_features
            return flat.unflatten(-1, (parts, self.out_features)).mean(dim=-2).numpy()
        return flat.numpy()

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, shortcut={self.shortcut}"


class PackedBits(nn.Module):
    """Hold what turns integer scores into bits: a score's scale and the level a per head.

    Args:
        attention: The simulated attention; a rule without a level_form() is refused.
    """

    score_scale: Tensor
    level: Tensor | None

    def __init__(self, attention: BinaryAttention) -> None:
        super().__init__()
        probabilities = attention.probabilities
        scale = attention.log_score_scale.exp() / math.sqrt(attention.head_dim)
        self.register_buffer("score_scale", scale.detach().flatten())
        form = probabilities.level_form()
        if form is None:
            raise UnsupportedModelError(
                f"cannot pack attention by {probabilities.rule}: packed attention decides [softmax(scores) >= a/2] or"
                " [scores >= 0] alone, and this rule has no level_form()"
            )
        self.register_buffer("level", None if form.level is None else form.level.flatten())
        self.observer: Observer | None = None

    def exact(self, scores: np.ndarray, head: np.ndarray) -> np.ndarray:
        """Return the bits of rows (R, N) of integer scores as torch's own softmax decides them."""
        assert self.level is not None
        heads = torch.from_numpy(head)
        product = torch.from_numpy(scores).float()
        p = (product * self.score_scale[heads, None]).softmax(dim=-1)
        return (2 * p >= self.level[heads, None]).numpy()


class PackedAttention(nn.Module):
    """Compute what a BinaryAttention in eval mode computes, on packed heads.

    Scores are popcounts; bits come from a table of the d + 1 values that a score can have, and from torch's softmax in
    rows near a tie; the context is a popcount again.

    Args:
        attention: The simulated attention.
        qkv: Its packed linear D -> 3D.
        proj: Its packed linear D -> D.

    Shape:
        Input and output (B, N, D), float32, on the CPU.
    """

    value_scale: Tensor

    def __init__(
        self, attention: BinaryAttention, *, qkv: PackedLinear, proj: PackedLinear
    ) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.head_dim = attention.head_dim
        self.backend: str | None = None
        self.qkv = qkv
        self.q_norm = attention.q_norm
        self.k_norm = attention.k_norm
        self.q_sign = PackedSign(attention.q_sign, heads=self.num_heads)
        self.k_sign = PackedSign(attention.k_sign, heads=self.num_heads)
        self.v_sign = PackedSign(attention.v_sign, heads=self.num_heads)
        self.probabilities = PackedBits(attention)
        value_scale = attention.probabilities.scale() * attention.log_value_scale.exp()
        self.register_buffer("value_scale", value_scale.detach().flatten())
        self.norm = attention.norm
        self.proj = proj

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        if attn_mask is not None or is_causal:
            raise UnsupportedModelError(
                "binary attention has no mask; call the model without attn_mask and is_causal"
            )
        images, tokens, _ = x.shape
        q_words, k_words, v_words = self._packed_heads(self.qkv(x))
        if self.probabilities.observer is not None:
            self.probabilities.observer(self._revealed(q_words, k_words, tokens))
        context = torch.from_numpy(
            self._attend(q_words, k_words, v_words, tokens, self.value_scale.numpy())
        )
        return self.proj(self.norm(context.view(images, tokens, self.num_heads * self.head_dim)))

    def _packed_heads(self, qkv: Tensor) -> list[np.ndarray]:
        signs = (self.q_sign, self.k_sign, self.v_sign)
        parts = qkv.chunk(3, dim=-1)  # each (B, N, D)
        norms = (self.q_norm, self.k_norm)
        if not all(isinstance(norm, nn.Identity) for norm in norms):
            q, k = (self._normed(norm, x) for norm, x in zip(norms, parts[:2], strict=True))
            return [sign(x) for sign, x in zip(signs, (q, k, parts[2]), strict=True)]
        # One pass over all three, as if they were one layer of 3 h heads.
        images, tokens, channels = qkv.shape
        each = [sign.added(x) for sign, x in zip(signs, parts, strict=True)]
        rows = max(len(added) for added in each)
        added = np.concatenate([np.repeat(a, rows // max(1, len(a)), axis=0) for a in each], axis=1)
        words = kernels.sign_pack(
            qkv.view(images * tokens, channels).numpy(),
            added,
            rows_per_image=rows_per_row(added, images, tokens),
            heads=3 * self.num_heads,
            backend=self.backend,
        )
        width = words.shape[1] // 3
        found = [words[:, start : start + width] for start in (0, width, 2 * width)]
        for sign, of_sign in zip(signs, found, strict=True):
            sign.observe(of_sign, tokens)
        return found

    def _normed(self, norm: nn.Module, x: Tensor) -> Tensor:
        if isinstance(norm, nn.Identity):
            return x
        heads = x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
        return norm(heads).transpose(1, 2).flatten(2)

    def _attend(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, tokens: int, scale: np.ndarray
    ) -> np.ndarray:
        bits = self.probabilities
        return kernels.attention(
            q,
            k,
            v,
            tokens=tokens,
            head_dim=self.head_dim,
            score_scale=bits.score_scale.numpy(),
            level=_array(bits.level),
            value_scale=scale,
            exact_bits=None if bits.level is None else bits.exact,
            backend=self.backend,
        )

    def _revealed(self, q: np.ndarray, k: np.ndarray, tokens: int) -> np.ndarray:
        """Return the bits (B, h, N, N) that the kernel decides, found through its contexts of chosen values.

        With values of +1 a context counts a row's bits; with +1 at one token alone it is 2 bit - count.
        """
        words = q.shape[1] // self.num_heads
        images = len(q) // tokens
        one = np.ones(self.num_heads, np.float32)
        full = np.full_like(q, np.iinfo(np.uint64).max)
        count = self._attend(q, k, full, tokens, one)[:, :: self.head_dim]  # (M, h)
        bits = np.empty((images, tokens, self.num_heads, tokens), bool)
        for start in range(0, tokens, self.head_dim):
            width = min(self.head_dim, tokens - start)
            chosen = np.zeros((images, tokens, self.num_heads, words), np.uint64)
            channel = np.arange(width)
            chosen[:, start + channel, :, channel // 64] = (
                np.uint64(1) << (channel % 64).astype(np.uint64)
            )[:, None, None]
            context = self._attend(q, k, chosen.reshape(q.shape), tokens, one)
            context = context.reshape(images, tokens, self.num_heads, self.head_dim)
            total = count.reshape(images, tokens, self.num_heads, 1)
            bits[..., start : start + width] = (context + total > 0)[..., :width]
        return bits.transpose(0, 2, 1, 3)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}"


def check_input(module: nn.Module, x: Tensor, channels: int) -> None:
    """Refuse an input that the packed layers would misread.

    Raises:
        ConfigError: If it is not float32 (B, N, channels) on the CPU, has a gradient, or the module is in training mode.
    """
    name = type(module).__name__
    if module.training:
        raise ConfigError(f"{name} is for inference alone; call eval() on the model")
    if x.requires_grad and torch.is_grad_enabled():
        raise ConfigError(f"{name} has no gradient; call it under torch.no_grad()")
    if x.device.type != "cpu" or x.dtype != torch.float32:
        raise ConfigError(f"{name} takes float32 on the CPU, got {x.dtype} on {x.device}")
    if x.dim() != 3 or x.shape[-1] != channels:
        raise ConfigError(f"{name} takes (B, N, {channels}), got {tuple(x.shape)}")


def _array(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.numpy()
