"""From the record of an operation to the kernel that does a piece of it: addresses become arrays here."""

from __future__ import annotations

from typing import Any

from numba import carray

from bvit_analysis.runtime.kernels.compiled_attention import attention
from bvit_analysis.runtime.kernels.compiled_linear import linear
from bvit_analysis.runtime.kernels.compiled_mean import mean_shift, token_sums
from bvit_analysis.runtime.kernels.compiled_norm import norm_rows
from bvit_analysis.runtime.kernels.compiled_sign import sign_pack
from bvit_analysis.runtime.kernels.jit import called
from bvit_analysis.runtime.kernels.operations import Kind
from bvit_analysis.runtime.kernels.pointers import booleans, f32, f64, i64, u64
from bvit_analysis.runtime.kernels.tiles import COLUMNS


@called
def piece(operation: Any, number: int) -> int:
    """Do one piece of an operation; return how many rows of attention are near a tie."""
    kind, units, each = operation.kind, operation.cut.units, operation.cut.each
    first = number * each
    last = min(first + each, units)
    if kind == Kind.NORM:
        _norm(operation.norm, units, first, last)
    elif kind == Kind.TOKEN_SUMS:
        token_sums(operation.mean, first, last)
    elif kind == Kind.MEAN_SHIFT:
        mean_shift(operation.mean, first, last)
    elif kind == Kind.SIGN:
        _sign(operation.input, units, first, last)
    elif kind == Kind.LINEAR:
        _linear(operation.input, operation.linear, first, last)
    else:
        return _attention(operation.attention, units, first, last)
    return 0


@called
def _norm(norm: Any, rows: int, first: int, last: int) -> int:
    """Normalise rows first..last."""
    channels = norm.channels
    shape = (rows, channels)
    x, out = carray(f32(norm.x), shape), carray(f32(norm.out), shape)
    weight, bias = carray(f32(norm.weight), channels), carray(f32(norm.bias), channels)
    return norm_rows(x, weight, bias, norm.eps, out, first, last)


@called
def _sign(source: Any, rows: int, first: int, last: int) -> None:
    """Shift, sign and pack rows first..last of an input."""
    channels, heads, each = source.channels, source.heads, source.add_each
    words = heads * ((channels // heads + 63) // 64)
    x = carray(f32(source.x.at), (rows, source.stride))
    add = carray(f32(source.add.at), ((rows + each - 1) // each, channels))
    out = carray(u64(source.packed), (rows, words))
    sign_pack(x, add, each, heads, channels // heads, out, first, last)


@called
def _linear(source: Any, layer: Any, first: int, last: int) -> int:
    """Compute rows, or columns, first..last of a linear layer."""
    channels, outputs, rows = source.channels, layer.outputs, layer.rows
    words = (channels + 63) // 64
    left, right = 0, outputs
    if layer.by_column:
        left, right = COLUMNS * first, min(COLUMNS * last, outputs)
        first, last = 0, rows
    if source.x.given:
        _sign(source, rows, first, last)
    padded = (outputs + COLUMNS - 1) // COLUMNS * COLUMNS
    a = carray(u64(source.packed), (rows, words))
    weight = carray(u64(layer.weight), (words, outputs))
    scale, bias = carray(f32(layer.scale), padded), carray(f32(layer.bias), padded)
    slope, zeta = carray(f32(layer.slope), padded), carray(f32(layer.zeta), padded)
    parts = layer.shortcut_parts if layer.shortcut.given else 0
    shortcut = carray(f32(layer.shortcut.at), (rows, layer.shortcut_channels))
    added = rows if layer.residual.given else 0
    residual = carray(f32(layer.residual.at), (added, outputs))
    out = carray(f32(layer.out), (rows, outputs))
    return linear(
        a, weight, channels, scale, bias, slope, zeta, shortcut, parts, residual, out,
        first, last, left, right,
    )  # fmt: skip


@called
def _attention(fields: Any, units: int, first: int, last: int) -> int:
    """Attend in units first..last of (image, head); return how many rows are near a tie."""
    tokens, head_dim, heads = fields.tokens, fields.head_dim, fields.heads
    images = units // heads
    shape = (images * tokens, fields.stride)
    q, k = carray(u64(fields.q), shape), carray(u64(fields.k), shape)
    v = carray(u64(fields.v), shape)
    table = carray(f64(fields.table), (heads, head_dim + 1))
    by_level = fields.level.given
    level = carray(f64(fields.level.at), heads if by_level else 0)
    limit = carray(i64(fields.limit.at), 0 if by_level else heads)
    values = carray(f32(fields.values), (heads, COLUMNS))
    out = carray(f32(fields.out), (images * tokens, heads * head_dim))
    near = carray(booleans(fields.near), (images, heads, tokens))
    return attention(
        q, k, v, tokens, head_dim, table, level, limit, values, fields.margin, out, near, first,
        last,
    )  # fmt: skip
