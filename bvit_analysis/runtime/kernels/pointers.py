"""From addresses to what machine code can read: an integer becomes a pointer, which carray() makes an array."""

from __future__ import annotations

from typing import Any

import numba
from numba import types

from bvit_analysis.runtime.kernels.jit import intrinsic
from bvit_analysis.runtime.kernels.operations import OPERATION


def _pointer(kind: Any) -> Any:
    """Make the function from an address to a pointer of a type."""

    @intrinsic
    def pointer(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), generate

    return pointer


f32, f64 = _pointer(types.float32), _pointer(types.float64)
i64, u64 = _pointer(types.int64), _pointer(types.uint64)
booleans = _pointer(types.boolean)
operations_at = _pointer(numba.from_dtype(OPERATION))
