"""Programs: operations of a packed network in order, written once and run many times without Python between them.

A program holds addresses: of weights, and of the arrays its operations read and write. Whoever writes it keeps those
arrays in it.

Shape letters: M rows (B images of N tokens), C channels, I inputs, O outputs, W words of 64 bits, h heads, d channels
a head.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from bvit_analysis.runtime.kernels import operations as op
from bvit_analysis.runtime.kernels import threads
from bvit_analysis.runtime.kernels.compilation import norm_lanes, tile_columns

# Work of about 35 us on a core with AVX-512, as long as waking a thread takes.
_BITS_A_THREAD = 5e7
_FLOATS_A_THREAD = 6e5
_SCORES_A_THREAD = 8e4
_WORTH_HELP = 25  # of that: below a millisecond, helpers and what torch does before and after are in each other's way

Settle = Callable[[int], None]
"Is given the number of an attention some of whose rows are near a tie, and puts their results right."


def address(array: ndarray | None) -> int:
    """Return where an array begins in memory; 0 for None."""
    return 0 if array is None else int(array.__array_interface__["data"][0])


ELSEWHERE, OUTSIDE = -1, -2
"Addresses that are given at each run: see Program.place()."
_WORKSPACE = -(2**60)  # addresses from here on are offsets


_KEPT_BYTES = 2**18


class Workspace:
    """Memory that operations read and write in between; it is there during a run alone, unless it is little.

    Between runs whatever else computes may have it: the peak is of one or the other, not of both.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._end = 0
        self._memory: list[ndarray] = []

    def take(self, kind: type[np.generic], count: int) -> int:
        """Reserve memory for `count` numbers; return what stands for its address in a program."""
        self._starts.append(self._end)
        self._end += max(1, -(-count * np.dtype(kind).itemsize // 64)) * 64
        return _WORKSPACE + self._starts[-1]

    def view(self, place: int, kind: type[np.generic], *shape: int) -> ndarray:
        """Return reserved memory as an array, during a run."""
        memory = self._memory[self._starts.index(place - _WORKSPACE)]
        return memory[: math.prod(shape) * np.dtype(kind).itemsize].view(kind).reshape(shape)

    @contextmanager
    def there(self) -> Iterator[tuple[ndarray, ndarray] | None]:
        """Have the memory, piece by piece, as small holes are found sooner.

        Gives where pieces start and are, for Program.place_workspace(); None if they are where they were before.
        """
        if self._memory:
            yield None
            return
        ends = [*self._starts[1:], self._end]
        self._memory = [
            _aligned(end - start) for start, end in zip(self._starts, ends, strict=True)
        ]
        try:
            yield np.array(self._starts), np.array([address(piece) for piece in self._memory])
        except BaseException:
            self._memory = []  # nobody knows whether its addresses were put into a program
            raise
        if self._end > _KEPT_BYTES:
            self._memory = []


def _aligned(size: int) -> ndarray:
    """Return so many bytes that begin at a multiple of 64."""
    whole = np.empty(size + 64, np.uint8)
    start = -address(whole) % 64
    return whole[start : start + size]


class Input(NamedTuple):
    """What a linear layer or a sign reads.

    A `packed` address with x = 0 stands for words that are there already; add is (C,) with add_each = M, or a row for
    each add_each rows of x.
    """

    x: int
    stride: int
    channels: int
    add: int
    add_each: int
    packed: int
    heads: int = 1


class Finish(NamedTuple):
    """What a linear layer does to its product: leak(product * scale + bias + shortcut) + zeta + residual.

    The vectors are (O,), padded to whole tiles; shortcut is an address of (M, inputs), parts the inputs / O of a mean,
    1 for the input itself or repeated, 0 for none.
    """

    scale: ndarray
    bias: ndarray
    slope: ndarray
    zeta: ndarray
    shortcut: int = 0
    parts: int = 0
    inputs: int = 0
    residual: int = 0


class Scores(NamedTuple):
    """How attention turns counts of differing bits into bits: see kernels.attention."""

    table: ndarray
    level: ndarray
    limit: ndarray
    values: ndarray
    margin: ndarray


@dataclass
class Program:
    """Operations in the order they run in, for at most `threads` threads."""

    threads: int
    labels: list[str] = field(default_factory=list)
    "What each operation belongs to, for accounts of time."
    kept: list[Any] = field(default_factory=list)
    "Arrays that the addresses point into."
    worth: float = 0.0
    "Work, in times that waking a thread takes."
    _lines: list[list[int]] = field(default_factory=list)
    _rows: ndarray | None = None
    _places: dict[int, tuple[ndarray, ...]] = field(default_factory=dict)
    _offsets: tuple[tuple[ndarray, ...], ndarray, ndarray] | None = None

    def keep(self, array: ndarray) -> int:
        """Keep an array, or its contiguous copy, as long as the program; return where it begins."""
        array = np.ascontiguousarray(array)
        self.kept.append(array)
        return address(array)

    def norm(
        self, x: int, out: int, rows: int, weight: ndarray, bias: ndarray, eps: ndarray, label: str
    ) -> None:
        """Add a layer norm of x (M, C) over C, a multiple of norm_lanes(), into out; eps is one float32."""
        channels = len(weight)
        fields = [x, out, self.keep(weight), self.keep(bias), self.keep(eps), channels]
        self._add(op.NORM, rows, 4, 2 * rows * channels / _FLOATS_A_THREAD, fields, label)

    def mean(
        self, x: int, stride: int, images: int, tokens: int, bias: ndarray, share: ndarray, sums: int, out: int, label: str
    ) -> None:  # fmt: skip
        """Add out = bias - share * mean of x over tokens, (B, C), summed in float64; rows of x are `stride` apart.

        sums is memory of B ceil(N / BLOCK) C float64.
        """
        channels = len(bias)
        fields = [x, stride, tokens, channels, sums, self.keep(bias), self.keep(share), out]
        worth = images * tokens * channels / _FLOATS_A_THREAD
        self._add(op.SUM, images * -(-tokens // op.BLOCK), 1, worth, fields, label)
        units = images * -(-channels // op.GROUP)
        self._add(op.ADD, units, 1, images * channels / _FLOATS_A_THREAD, fields, label)

    def sign(self, source: Input, rows: int, label: str) -> None:
        """Add the packing of [x + add >= 0] into (M, h ceil(C / h / 64)) words."""
        fields = _source(source)
        self._add(op.SIGN, rows, 4, rows * source.channels / _FLOATS_A_THREAD, fields, label)

    def linear(
        self, source: Input, rows: int, weight: ndarray, finish: Finish, out: int, label: str
    ) -> None:
        """Add a linear layer of packed weight (W, O) into out (M, O), and the sign before it where there is one."""
        outputs = weight.shape[1]
        vectors = (finish.scale, finish.bias, finish.slope, finish.zeta)
        by_column = rows < 8 and not source.x and outputs >= 8 * tile_columns()
        fields = [
            *_source(source), self.keep(weight), outputs, *(self.keep(vector) for vector in vectors), finish.shortcut,
            finish.parts, finish.inputs, finish.residual, out, rows, int(by_column),
        ]  # fmt: skip
        worth = rows * outputs * (source.channels + 128) / _BITS_A_THREAD
        worth += rows * source.channels / _FLOATS_A_THREAD if source.x else 0
        units = -(-outputs // tile_columns()) if by_column else rows
        self._add(op.LINEAR, units, 1 if by_column else 4, worth, fields, label)

    def attend(
        self, words: tuple[int, int, int], stride: int, images: int, tokens: int, head_dim: int, scores: Scores, out: int,
        near: int, label: str,
    ) -> None:  # fmt: skip
        """Add attention on packed q, k and v, rows `stride` words apart, into out (M, h d) and near (B, h, N) bool."""
        heads = len(scores.limit)
        kept = [self.keep(array) for array in scores]
        fields = [*words, stride, tokens, head_dim, heads, *kept, out, near]
        worth = images * heads * tokens * tokens / _SCORES_A_THREAD
        self._add(op.ATTEND, images * heads, 1, worth, fields, label)

    def run(self, settle: Settle | None = None) -> None:
        """Run all operations; `settle` is called after an attention with rows near a tie."""
        self._run(self.rows(), settle)

    def place(self, sentinel: int, where: int) -> None:
        """Put an address wherever a sentinel (ELSEWHERE, OUTSIDE) stood when the operations were added."""
        rows = self.rows()
        places = self._places.get(sentinel)
        if places is None:
            places = self._places[sentinel] = np.nonzero(rows == sentinel)
        rows[places] = where

    def place_workspace(self, given: tuple[ndarray, ndarray] | None) -> None:
        """Put the addresses of a workspace's memory wherever a place in it was used; see Workspace.there()."""
        if given is None:
            return
        starts, where = given
        rows = self.rows()
        if self._offsets is None:
            places = np.nonzero(rows <= _WORKSPACE // 2)
            offsets = rows[places] - _WORKSPACE
            piece = np.searchsorted(starts, offsets, side="right") - 1
            self._offsets = places, piece, offsets - starts[piece]
        places, piece, offsets = self._offsets
        rows[places] = where[piece] + offsets

    def timed(self, settle: Settle | None = None) -> list[float]:
        """Run all operations one by one, and return the seconds of each."""
        rows, seconds = self.rows(), []
        for number in range(len(rows)):
            start = time.perf_counter()
            self._run(rows[number : number + 1], settle and functools.partial(_at, settle, number))
            seconds.append(time.perf_counter() - start)
        return seconds

    def rows(self) -> ndarray:
        """Return the operations as the kernels read them, (n, FIELDS) int64; none can be added after that."""
        if self._rows is None:
            self._rows = np.array(self._lines, np.int64).reshape(-1, op.FIELDS)
            self._lines.clear()  # as large as a layer's weights
        return self._rows

    def _run(self, rows: ndarray, settle: Settle | None) -> None:
        number = self.threads if self.worth >= _WORTH_HELP else 1
        done = 0
        while done < len(rows):
            state = threads.new_state(len(rows), number)
            done = threads.run(rows, state, done)
            if settle is not None and state[done - 1, :, op.DOUBTS].any():
                settle(done - 1)

    def _add(
        self, kind: int, units: int, multiple: int, worth: float, fields: list[int], label: str
    ) -> None:
        # More pieces than threads: one that comes late, or shares its core, keeps no other waiting. As many for every
        # operation on rows, so that each thread meets its own rows again.
        wanted = 1 if self.threads == 1 else max(1, min(4 * self.threads, int(400 * worth)))
        each = max(1, -(-units // (wanted * multiple)) * multiple)
        line = [kind, units, each, -(-units // each), *fields]
        assert self._rows is None
        self._lines.append(line + [0] * (op.FIELDS - len(line)))
        self.labels.append(label)
        self.worth += worth


def _source(source: Input) -> list[int]:
    return [
        source.x, source.stride, source.channels, source.heads, source.add, max(1, source.add_each), source.packed
    ]  # fmt: skip


def _at(settle: Settle, number: int, _: int) -> None:
    settle(number)


@functools.lru_cache(maxsize=64)
def constant(length: int, value: float) -> ndarray:
    """Return one number that often, read-only; adding -0.0 changes no float, nor does multiplying by 1."""
    array = np.full(length, value, np.float32)
    array.flags.writeable = False
    return array


def padded(vector: ndarray | None, neutral: float, length: int) -> ndarray:
    """Return a vector as contiguous float32 of a length, or the neutral number that often."""
    if vector is None:
        return constant(length, neutral)
    vector = np.ascontiguousarray(vector, np.float32)
    return vector if len(vector) == length else np.resize(vector, length)


def finish_of(
    outputs: int,
    scale: ndarray,
    bias: ndarray | None = None,
    slope: ndarray | None = None,
    zeta: ndarray | None = None,
) -> Finish:
    """Return how a product of so many outputs is finished; what is missing is replaced by what changes no float."""
    length = -(-outputs // tile_columns()) * tile_columns()
    return Finish(
        padded(scale, 1.0, length),
        padded(bias, -0.0, length),
        padded(slope, 1.0, length),
        padded(zeta, -0.0, length),
    )


def norm_agrees(
    norm: Callable[[ndarray], ndarray], weight: ndarray, bias: ndarray, eps: float
) -> bool:
    """Return whether the compiled layer norm gives the floats of another to the bit, on rows of several sizes."""
    channels = len(weight)
    if channels % norm_lanes():
        return False
    rows = np.random.default_rng(0).standard_normal((21, channels), np.float32)
    rows *= np.float32(2.0) ** np.linspace(-8, 8, 21, dtype=np.float32)[:, None]
    rows += np.linspace(-3, 3, 21, dtype=np.float32)[:, None]
    out = np.empty_like(rows)
    program = Program(1)
    program.norm(
        address(rows), address(out), len(rows), weight, bias, np.array([eps], np.float32), "probe"
    )
    program.run()
    return np.array_equal(out, norm(rows))
