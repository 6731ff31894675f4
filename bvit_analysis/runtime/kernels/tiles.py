"""Tiles of a product by XOR or AND and popcount, as LLVM vectors: what a layer and an attention multiply with.

A tile is emitted as vectors that stay in registers, because accumulators in an array would go through memory: `rows` x
4 vectors of 64-bit lanes, each lane the count of one output. LLVM turns ctpop into VPOPCNTDQ where the CPU has it, and
into table look-ups in registers where not. No flag allows it to fuse or reorder floats. Addresses and strides are in
bytes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from bvit_analysis.runtime.kernels.jit import LANES, intrinsic

I32, I64, F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()

COLUMNS = 4 * LANES
"Outputs of a tile: four vectors."
ROWS = 4 if LANES == 8 else 2
"Rows of a tile: as many as leave registers for the weights."


def pointer_to(builder: Any, base: Any, offset: Any, pointee: Any) -> Any:
    """Emit the pointer to a value some bytes after an address."""
    return builder.inttoptr(builder.add(base, offset), pointee.as_pointer())


def popcount(builder: Any, vector: Any) -> Any:
    """Emit the number of set bits of each 64-bit lane."""
    suffix = f"v{vector.type.count}i64"
    signature = ir.FunctionType(vector.type, [vector.type])
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.ctpop.{suffix}")
    return builder.call(function, [vector])


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """Emit a vector with the value in each lane."""
    kind = ir.VectorType(value.type, lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros)


def _pair(builder: Any, low: Any, high: Any) -> Any:
    mask = ir.Constant(ir.VectorType(I32, 2 * LANES), list(range(2 * LANES)))
    return builder.shuffle_vector(low, high, mask)


def _counts(builder: Any, operation: str, rows: int, given: list[Any]) -> list[list[Any]]:
    """Emit the loop over words; return the counts as rows x 4 vectors of LANES x i64.

    Given are address and stride of the packed rows, of the packed columns, and the number of words.
    """
    a, a_stride, w, w_stride, words = given
    vector = ir.VectorType(I64, LANES)
    sums = [[cgutils.alloca_once(builder, vector) for _ in range(4)] for _ in range(rows)]
    for slot in sum(sums, []):
        builder.store(ir.Constant(vector, [0] * LANES), slot)
    with cgutils.for_range(builder, words) as loop:
        at = builder.mul(loop.index, w_stride)
        weights = []
        for quarter in range(4):
            offset = builder.add(at, ir.Constant(I64, quarter * LANES * 8))
            weights.append(builder.load(pointer_to(builder, w, offset, vector), align=8))
        along = builder.mul(loop.index, ir.Constant(I64, 8))
        for row in range(rows):
            offset = builder.add(along, builder.mul(a_stride, ir.Constant(I64, row)))
            word = builder.load(pointer_to(builder, a, offset, I64), align=8)
            word = splat(builder, word, LANES)
            for quarter in range(4):
                bits = getattr(builder, operation)(word, weights[quarter])
                slot = sums[row][quarter]
                builder.store(builder.add(builder.load(slot), popcount(builder, bits)), slot)
    return [[builder.load(slot) for slot in row] for row in sums]


def _tile(rows: int, operation: str, layer: bool) -> Any:
    """Make the tile: out = float(base - 2 count) * scale, and the rest of a linear layer where `layer`.

    Its arguments: address and stride of the packed rows, of the packed columns, the words; base (one i64 a row) and
    its stride; scale, bias, slope, zeta; shortcut, residual and out, each with its stride.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, base_stride, scale, bias, slope, zeta = args[5:11]
        short, short_stride, residual, residual_stride, out, out_stride = args[11:]
        counts = _counts(builder, operation, rows, args[:5])
        floats = ir.VectorType(F32, 2 * LANES)
        zero = ir.Constant(floats, [0.0] * (2 * LANES))

        def vector(start: Any, offset: Any) -> Any:
            return builder.load(pointer_to(builder, start, offset, floats), align=4)

        for half in range(2):
            column = ir.Constant(I64, half * 2 * LANES * 4)
            scales = vector(scale, column)
            if layer:
                biases, slopes, zetas = (vector(start, column) for start in (bias, slope, zeta))
            for row in range(rows):
                number = ir.Constant(I64, row)
                of_row = builder.mul(base_stride, number)
                start = builder.load(pointer_to(builder, base, of_row, I64), align=8)
                count = _pair(builder, counts[row][2 * half], counts[row][2 * half + 1])
                count = builder.trunc(count, ir.VectorType(I32, 2 * LANES))
                start = splat(builder, builder.trunc(start, I32), 2 * LANES)
                y = builder.sitofp(builder.sub(start, builder.add(count, count)), floats)
                y = builder.fmul(y, scales)
                if layer:
                    y = builder.fadd(y, biases)
                    of_row = builder.add(builder.mul(short_stride, number), column)
                    y = builder.fadd(y, vector(short, of_row))
                    above = builder.fcmp_ordered(">", y, zero)
                    y = builder.select(above, y, builder.fmul(slopes, y))
                    y = builder.fadd(y, zetas)
                    of_row = builder.add(builder.mul(residual_stride, number), column)
                    y = builder.fadd(vector(residual, of_row), y)
                of_row = builder.add(builder.mul(out_stride, number), column)
                builder.store(y, pointer_to(builder, out, of_row, floats), align=4)
        return context.get_dummy_value()

    @intrinsic
    def tile(
        typing: Any, a: Any, an: Any, w: Any, wn: Any, words: Any, base: Any, bn: Any,
        scale: Any, bias: Any, slope: Any, zeta: Any, short: Any, sn: Any, residual: Any, rn: Any,
        out: Any, on: Any,
    ) -> Any:  # fmt: skip
        return types.void(*[types.int64] * 17), generate

    return tile


layer_tile, layer_row = _tile(ROWS, "xor", True), _tile(1, "xor", True)
context_tile, context_row = _tile(ROWS, "and_", False), _tile(1, "and_", False)


@intrinsic
def popcnt(typing: Any, word: Any) -> Any:
    """Return the number of set bits of a word."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate
