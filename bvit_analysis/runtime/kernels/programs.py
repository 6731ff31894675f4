"""Programs: operations of a packed network in order, written once and run many times without Python between them.

A program holds addresses: of weights, and of the arrays its operations read and write. Whoever writes it has those
arrays kept in it.

Shape letters: M rows (B images of N tokens), C channels, I inputs, O outputs, W words of 64 bits, h heads, d channels
a head.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from bvit_analysis.runtime.kernels import operations as op
from bvit_analysis.runtime.kernels import threads
from bvit_analysis.runtime.kernels.compilation import norm_lanes, tile_columns
from bvit_analysis.runtime.kernels.memory import Address, Region, address

# Work of about 35 us on a core with AVX-512, as long as waking a thread takes.
_BITS_A_THREAD = 5e7
_FLOATS_A_THREAD = 6e5
_SCORES_A_THREAD = 8e4
_WORTH_HELP = 25  # of that: below a millisecond, helpers and what torch does before and after are in each other's way

_INTEGERS = op.OPERATION.itemsize // 8

Settle = Callable[[int], None]
"Is given the number of an attention some of whose rows are near a tie, and puts their results right."


class Shortcut(NamedTuple):
    """What is added to a product: x (M, inputs), repeated, or averaged over `parts` runs of O; 1 for x itself."""

    x: Address
    inputs: int
    parts: int


class Finish(NamedTuple):
    """What a linear layer does to its product: leak(product * scale + bias + shortcut) + zeta + residual.

    The vectors are (O,), padded to whole tiles; the residual is (M, O), and may be the output itself.
    """

    scale: ndarray
    bias: ndarray
    slope: ndarray
    zeta: ndarray
    shortcut: Shortcut | None = None
    residual: Address | None = None


class Scores(NamedTuple):
    """How attention turns counts of differing bits into bits: by a level or by a limit; see products.attention."""

    table: ndarray
    level: ndarray | None
    limit: ndarray | None
    values: ndarray
    margin: float


class _Written(NamedTuple):
    """An operation before its record is made."""

    kind: op.Kind
    cut: tuple[int, int, int]  # units, each, pieces
    sections: tuple[op.Section, ...]


@dataclass
class Program:
    """Operations in the order they run in, for at most `threads` threads."""

    threads: int
    labels: list[str] = field(default_factory=list)
    "What each operation belongs to, for accounts of time."
    kept: list[ndarray] = field(default_factory=list)
    "Arrays that the addresses point into."
    worth: float = 0.0
    "Work, in times that waking a thread takes."
    _written: list[_Written] = field(default_factory=list)
    _table: ndarray | None = None
    _integers: ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    "The table's memory as 64-bit integers."
    _moving: dict[Region, list[tuple[int, ndarray]]] = field(default_factory=dict)
    "Of each region offsets in it, and where among the integers their addresses are."

    def keep(self, array: ndarray) -> Address:
        """Keep an array, or its contiguous copy, as long as the program; return where it begins."""
        array = np.ascontiguousarray(array)
        self.kept.append(array)
        return address(array)

    def norm(
        self, x: Address, out: Address, rows: int, weight: ndarray, bias: ndarray, eps: float, label: str
    ) -> None:  # fmt: skip
        """Add a layer norm of x (M, C) over C, a multiple of norm_lanes(), into out (M, C)."""
        channels = len(weight)
        norm = op.Norm(x, out, self.keep(weight), self.keep(bias), np.float32(eps), channels)
        self._add(op.Kind.NORM, rows, 4, 2 * rows * channels / _FLOATS_A_THREAD, label, norm)

    def mean(
        self, x: Address, stride: int, images: int, tokens: int, bias: ndarray, factor: ndarray, sums: Address,
        out: Address, label: str,
    ) -> None:  # fmt: skip
        """Add out = bias - factor * mean of x over tokens, (B, C), summed in float64; rows of x are `stride` apart.

        sums is memory of B ceil(N / BLOCK) C float64.
        """
        channels = len(bias)
        mean = op.Mean(x, stride, tokens, channels, sums, self.keep(bias), self.keep(factor), out)
        worth = images * tokens * channels / _FLOATS_A_THREAD
        self._add(op.Kind.TOKEN_SUMS, images * -(-tokens // op.BLOCK), 1, worth, label, mean)
        units = images * -(-channels // op.GROUP)
        worth = images * channels / _FLOATS_A_THREAD
        self._add(op.Kind.MEAN_SHIFT, units, 1, worth, label, mean)

    def sign(self, source: op.Input, rows: int, label: str) -> None:
        """Add the packing of [x + add >= 0] into (M, h ceil(C / h / 64)) words."""
        worth = rows * source.channels / _FLOATS_A_THREAD
        self._add(op.Kind.SIGN, rows, 4, worth, label, source)

    def linear(
        self, source: op.Input, rows: int, weight: ndarray, finish: Finish, out: Address, label: str
    ) -> None:
        """Add a linear layer of packed weight (W, O) into out (M, O), and the sign before it where there is one."""
        outputs, packed_already = weight.shape[1], source.x is None
        by_column = rows < 8 and packed_already and outputs >= 8 * tile_columns()
        shortcut = finish.shortcut
        linear = op.Linear(
            rows=rows,
            outputs=outputs,
            weight=self.keep(weight),
            scale=self.keep(finish.scale),
            bias=self.keep(finish.bias),
            slope=self.keep(finish.slope),
            zeta=self.keep(finish.zeta),
            shortcut=None if shortcut is None else shortcut.x,
            shortcut_parts=1 if shortcut is None else shortcut.parts,
            shortcut_channels=0 if shortcut is None else shortcut.inputs,
            residual=finish.residual,
            out=out,
            by_column=by_column,
        )
        worth = rows * outputs * (source.channels + 128) / _BITS_A_THREAD
        worth += 0 if packed_already else rows * source.channels / _FLOATS_A_THREAD
        units = -(-outputs // tile_columns()) if by_column else rows
        self._add(op.Kind.LINEAR, units, 1 if by_column else 4, worth, label, source, linear)

    def attend(
        self, words: tuple[Address, Address, Address], stride: int, images: int, tokens: int, head_dim: int,
        scores: Scores, out: Address, near: Address, label: str,
    ) -> None:  # fmt: skip
        """Add attention on packed q, k and v, rows `stride` words apart, into out (M, h d) and near (B, h, N) bool."""
        heads = len(scores.table)
        attention = op.Attention(
            *words,
            stride,
            tokens,
            head_dim,
            heads,
            table=self.keep(scores.table),
            level=None if scores.level is None else self.keep(scores.level),
            limit=None if scores.limit is None else self.keep(scores.limit),
            values=self.keep(scores.values),
            margin=scores.margin,
            out=out,
            near=near,
        )
        worth = images * heads * tokens * tokens / _SCORES_A_THREAD
        self._add(op.Kind.ATTENTION, images * heads, 1, worth, label, attention)

    def bind(self, regions: Mapping[Region, int]) -> None:
        """Say where regions lie from the next run on; each that is used must have been named once."""
        self.table()
        for region, start in regions.items():
            for offset, slots in self._moving.get(region, ()):
                self._integers[slots] = start + offset

    def run(self, settle: Settle | None = None) -> None:
        """Run all operations; `settle` is called after an attention with rows near a tie."""
        self._run(self.table(), settle)

    def timed(self, settle: Settle | None = None) -> list[float]:
        """Run all operations one by one, and return the seconds of each."""
        table, seconds = self.table(), []
        for number in range(len(table)):
            start = time.perf_counter()
            self._run(table[number : number + 1], settle and functools.partial(_at, settle, number))
            seconds.append(time.perf_counter() - start)
        return seconds

    def table(self) -> ndarray:
        """Return the operations as the kernels read them, (n,) op.OPERATION; none can be added after that."""
        if self._table is None:
            # numpy fills records with zeros slowly, and so it makes a view of them
            self._integers = np.zeros(len(self._written) * _INTEGERS, np.int64)
            self._table = table = np.frombuffer(self._integers, op.OPERATION)
            moving: dict[Region, dict[int, list[int]]] = {}
            for number, written in enumerate(self._written):
                record, start = table[number], number * _INTEGERS
                record["kind"], record["cut"] = written.kind, written.cut
                for section in written.sections:
                    for region, offset, slot in op.write(record, section):
                        slots = moving.setdefault(region, {}).setdefault(offset, [])
                        slots.append(start + slot)
            self._moving = {
                region: [(offset, np.array(slots)) for offset, slots in by_offset.items()]
                for region, by_offset in moving.items()
            }
            self._written.clear()  # as large as a layer's weights
        return self._table

    def _run(self, table: ndarray, settle: Settle | None) -> None:
        number = self.threads if self.worth >= _WORTH_HELP else 1
        done = 0
        while done < len(table):
            state = threads.new_state(len(table), number)
            done = threads.run(table, state, done)
            if settle is not None and state["doubts"][done - 1].any():
                settle(done - 1)

    def _add(
        self, kind: op.Kind, units: int, multiple: int, worth: float, label: str, *sections: op.Section
    ) -> None:  # fmt: skip
        # More pieces than threads: one that comes late, or shares its core, keeps no other waiting. As many for every
        # operation on rows, so that each thread meets its own rows again.
        wanted = 1 if self.threads == 1 else max(1, min(4 * self.threads, int(400 * worth)))
        each = max(1, -(-units // (wanted * multiple)) * multiple)
        assert self._table is None
        self._written.append(_Written(kind, (units, each, -(-units // each)), sections))
        self.labels.append(label)
        self.worth += worth


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
    *,
    shortcut: Shortcut | None = None,
    residual: Address | None = None,
) -> Finish:
    """Return how a product of so many outputs is finished; what is missing is replaced by what changes no float."""
    length = -(-outputs // tile_columns()) * tile_columns()
    return Finish(
        padded(scale, 1.0, length),
        padded(bias, -0.0, length),
        padded(slope, 1.0, length),
        padded(zeta, -0.0, length),
        shortcut,
        residual,
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
    program.norm(address(rows), address(out), len(rows), weight, bias, eps, "probe")
    program.run()
    return np.array_equal(out, norm(rows))
