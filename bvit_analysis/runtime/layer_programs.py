"""Packed layers written as operations of a program: what a shift adds, and a linear layer.

Shape letters: B images, N tokens, M = B N rows, C channels, I inputs, O outputs, W words of 64 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor, nn

from bvit_analysis.errors import UnsupportedModelError
from bvit_analysis.layers.shift import Shift
from bvit_analysis.packed.bits import words_of
from bvit_analysis.runtime.kernels.memory import INPUT, OUTPUT, Address, Workspace
from bvit_analysis.runtime.kernels.operations import BLOCK, Input
from bvit_analysis.runtime.kernels.programs import Program, Shortcut, constant, finish_of

SIGNS, LINEARS = "shifts, signs", "block linears"
"Labels that the time of an operation is booked on; a linear's own sign is in its time."


def empty(*shape: int) -> Tensor:
    """Return a float32 tensor with nothing in it yet, from numpy.

    numpy asks the system for huge pages where an array is large, torch does not: touching new small pages takes longer
    than computing what is written there.
    """
    return torch.from_numpy(np.empty(shape, np.float32))


class _HasShift(Protocol):
    @property
    def shift(self) -> Shift: ...


class LinearTensors(Protocol):
    """What a program needs to know of a linear layer: PackedLinear has it.

    `words` (W, O) int64 are the signs of its weight, `scale`, `bias`, `slope` and `zeta` (O,) finish the product.
    """

    @property
    def in_features(self) -> int: ...
    @property
    def out_features(self) -> int: ...
    @property
    def shortcut(self) -> bool: ...
    @property
    def activation(self) -> nn.Module | None: ...
    @property
    def sign(self) -> _HasShift: ...
    @property
    def words(self) -> Tensor: ...
    @property
    def scale(self) -> Tensor: ...
    @property
    def bias(self) -> Tensor | None: ...
    @property
    def slope(self) -> Tensor | None: ...
    @property
    def zeta(self) -> Tensor | None: ...


def averaged_parts(layer: LinearTensors) -> int | None:
    """Return how many parts of the input a shortcut averages, 1 for none; None where the kernel cannot.

    The kernel adds parts one by one; torch adds many in another order.
    """
    parts = max(1, layer.in_features // layer.out_features)
    return None if parts >= 16 or (parts > 1 and layer.out_features == 1) else parts


def why_not_linear(layer: LinearTensors) -> str | None:
    """Return why a linear layer cannot be written as operations, None if it can."""
    if layer.activation is not None:
        return f"an activation of type {type(layer.activation).__name__}"
    if layer.shortcut and averaged_parts(layer) is None:
        return "a shortcut that is a mean of many parts"
    return why_not_shifts([layer.sign.shift])


def why_not_shifts(shifts: list[Shift]) -> str | None:
    """Return why shifts that act side by side cannot be written as operations, None if they can."""
    forms = [shift.mean_form() for shift in shifts]
    names = ", ".join(sorted({type(shift).__name__ for shift in shifts}))
    if any(form is None for form in forms):
        return f"a shift of type {names}"
    if len({form.share is None for form in forms if form}) > 1:
        return f"shifts of type {names} side by side"
    return None


@dataclass(frozen=True)
class Scratch:
    """What the operations of a layer read and write besides its input: B, N, and addresses for shifts and bits."""

    images: int
    tokens: int
    add: Address
    "(B, C) float32, C as large as needed."
    packed: Address
    "(M W,) uint64."
    sums: Address
    "(B ceil(N / BLOCK) C,) float64."

    @classmethod
    def sized(
        cls, space: Workspace, images: int, tokens: int, channels: int, words: int
    ) -> Scratch:
        """Reserve memory for layers of up to so many input channels, and words a row."""
        return cls(
            images,
            tokens,
            space.take(np.float32, images * channels),
            space.take(np.uint64, images * tokens * words),
            space.take(np.float64, images * -(-tokens // BLOCK) * channels),
        )

    @property
    def rows(self) -> int:
        """Return M."""
        return self.images * self.tokens


def write_input(
    program: Program,
    scratch: Scratch,
    x: Address,
    shifts: list[Shift],
    channels: int,
    heads: int = 1,
) -> Input:
    """Write what shifts, each of its share of the channels, add to x (M, C); return how to read x.

    The shifts are such that why_not_shifts() has nothing against them.
    """
    packed = scratch.packed
    forms = [form for shift in shifts if (form := shift.mean_form()) is not None]
    own = channels // len(forms)
    # -0.0 is the one number that adds nothing to any other, to the sign of zero
    bias = _joined(
        [constant(own, -0.0) if form.bias is None else _vector(form.bias, own) for form in forms]
    )
    shares = [_vector(form.share, own) for form in forms if form.share is not None]
    if not shares:
        return Input(x, channels, channels, program.keep(bias), scratch.rows, packed, heads)
    add, share = scratch.add, _joined(shares)
    program.mean(x, channels, scratch.images, scratch.tokens, bias, share, scratch.sums, add, SIGNS)
    return Input(x, channels, channels, add, scratch.tokens, packed, heads)


def write_linear(
    program: Program,
    scratch: Scratch,
    layer: LinearTensors,
    x: Address,
    out: Address,
    *,
    residual: Address | None = None,
) -> None:
    """Write a linear layer of x (M, I) into out (M, O), which may be the residual that is added to it."""
    scale, bias, slope, zeta = (
        None if vector is None else vector.numpy()
        for vector in (layer.scale, layer.bias, layer.slope, layer.zeta)
    )
    assert scale is not None
    shortcut: Shortcut | None = None
    if layer.shortcut:
        parts = averaged_parts(layer)
        assert parts is not None
        shortcut = Shortcut(x, layer.in_features, parts)
    finish = finish_of(
        layer.out_features, scale, bias, slope, zeta, shortcut=shortcut, residual=residual
    )
    source = write_input(program, scratch, x, [layer.sign.shift], layer.in_features)
    weight = layer.words.numpy().view(np.uint64)
    program.linear(source, scratch.rows, weight, finish, out, LINEARS)


class LinearProgram:
    """The program of one linear layer, for inputs anywhere in memory; one call at a time.

    Args:
        layer: A layer that why_not_linear() has nothing against.
        images: B.
        tokens: N.
        threads: At most so many threads run it.
        times: How often the layer is computed, for timings.
    """

    def __init__(
        self, layer: LinearTensors, images: int, tokens: int, threads: int, *, times: int = 1
    ) -> None:
        self._program = Program(threads)
        inputs = layer.in_features
        self._space = Workspace()
        scratch = Scratch.sized(self._space, images, tokens, inputs, words_of(inputs))
        for _ in range(times):
            write_linear(self._program, scratch, layer, Address(0, INPUT), Address(0, OUTPUT))

    def run(self, x: Tensor, out: Tensor) -> None:
        """Compute the layer of x (B, N, I), contiguous, into out (B, N, O)."""
        self._program.bind({INPUT: x.data_ptr(), OUTPUT: out.data_ptr()})
        with self._space.there() as moved:
            self._program.bind(moved)
            self._program.run()


def _joined(vectors: list[ndarray]) -> ndarray:
    return vectors[0] if len(vectors) == 1 else np.concatenate(vectors)


def _vector(tensor: Tensor, channels: int) -> ndarray:
    # a kernel reads memory: a vector that is too short would be read beyond its end
    if tensor.shape != (channels,) or tensor.dtype != torch.float32:
        raise UnsupportedModelError(
            f"a shift's mean_form() must hold float32 vectors of {channels} channels, got {tensor.dtype} of"
            f" {tuple(tensor.shape)}"
        )
    return tensor.detach().numpy()
