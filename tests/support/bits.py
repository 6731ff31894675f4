"""Products of signs by floats, one operation after another: what packed kernels are held against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy import ndarray

from bvit_analysis.runtime.kernels import products

PACKAGE = Path(products.__file__).parents[2]
FORMS = [
    pytest.param(
        "numba", marks=pytest.mark.skipif(products.available() != "numba", reason="needs numba")
    ),
    "numpy",
]
compiled = pytest.mark.skipif(products.available() != "numba", reason="needs numba")


def same(a: ndarray, b: ndarray) -> bool:
    """Whether two float32 arrays are equal to the bit; a NaN equals any NaN."""
    equal = a.view(np.int32) == b.view(np.int32)
    return a.shape == b.shape and bool(np.all(equal | (np.isnan(a) & np.isnan(b))))


def draw(seed: int, *shape: int) -> ndarray:
    """Floats with zeros of both signs, denormals and a wide range among them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape).astype(np.float32)
    kind = rng.integers(0, 12, size=shape)
    x[kind == 0] = 0.0
    x[kind == 1] = -0.0
    x[kind == 2] *= np.float32(1e-42)
    x[kind == 3] *= np.float32(1e18)
    return x


def signs(x: ndarray) -> ndarray:
    return np.where(x >= 0, np.float32(1), np.float32(-1))


def pack_slowly(x: ndarray, heads: int = 1) -> ndarray:
    """Bits one by one, in Python's integers."""
    each = x.shape[1] // heads
    words = -(-each // 64)
    out = np.zeros((len(x), heads * words), np.uint64)
    for row, column in np.argwhere(x >= 0):
        head, place = divmod(int(column), each)
        out[row, head * words + place // 64] |= np.uint64(1 << place % 64)
    return out


def transposed(weight: ndarray) -> ndarray:
    return np.ascontiguousarray(products.sign_pack(weight, backend="numpy").T)


def layer(
    x: ndarray,
    weight: ndarray,
    scale: ndarray,
    bias: ndarray | None = None,
    shortcut: ndarray | None = None,
    slope: ndarray | None = None,
    zeta: ndarray | None = None,
) -> ndarray:
    """The layer by torch: a float product of signs, then one operation after another."""
    y = torch.from_numpy(signs(x)) @ torch.from_numpy(signs(weight)).T
    y = y * torch.from_numpy(scale)
    if bias is not None:
        y = y + torch.from_numpy(bias)
    if shortcut is not None:
        s, outputs = torch.from_numpy(shortcut), len(scale)
        inputs = s.shape[1]
        if inputs < outputs:
            y = (y.unflatten(-1, (-1, inputs)) + s.unsqueeze(-2)).flatten(-2)
        elif inputs > outputs:
            y = y + s.unflatten(-1, (-1, outputs)).mean(dim=-2)
        else:
            y = y + s
    if slope is not None:
        y = torch.ops.aten._prelu_kernel(y, torch.from_numpy(slope))
    if zeta is not None:
        y = y + torch.from_numpy(zeta)
    return y.numpy()
