"""The operations that kernels can be asked for, as records: a program is a table of them.

Python writes a record's fields, and machine code reads them, by the names given here once. An operation is cut into
pieces that any thread may take, so all that it needs is in its record: how it is cut, sizes and addresses. Strides are
in elements.

Shape letters: M rows (B images of N tokens), C channels, I inputs, O outputs, W words of 64 bits, h heads, d channels
a head.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple, get_type_hints

import numpy as np

from bvit_analysis.runtime.kernels.memory import Address, Region


class Kind(IntEnum):
    """What an operation does; beside each the sections of its record that it reads."""

    NORM = 0  # norm
    TOKEN_SUMS = 1  # mean: sums over BLOCK tokens each
    MEAN_SHIFT = 2  # mean: what a token-mean shift adds, from those sums
    SIGN = 3  # input: shift, sign and pack
    LINEAR = 4  # input and linear: the same where the bits are not there yet, then the product and its finish
    ATTENTION = 5  # attention


BLOCK = 32
"Tokens of an image that are one unit of TOKEN_SUMS."
GROUP = 64
"Channels of an image that are one unit of MEAN_SHIFT."


class Norm(NamedTuple):
    """Layer norm of x (M, C) over C into out (M, C); a unit is a row."""

    x: Address
    out: Address
    weight: Address
    bias: Address
    eps: np.float32
    channels: int


class Mean(NamedTuple):
    """bias - factor * mean of x (M, C) over tokens, into out (B, C), by float64 sums (B ceil(N / BLOCK), C)."""

    x: Address
    stride: int
    tokens: int
    channels: int
    sums: Address
    bias: Address
    factor: Address
    out: Address


class Input(NamedTuple):
    """What a sign or a linear layer reads: x (M, C) and what a shift adds; or, without x, bits that are there already.

    `add` has a row of C floats for each `add_each` rows of x; bits are (M, h ceil(C / h / 64)) words, those of a head
    in words of its own. A unit of SIGN is a row.
    """

    x: Address | None
    stride: int
    channels: int
    add: Address | None
    add_each: int
    packed: Address
    heads: int = 1


class Linear(NamedTuple):
    """leak(product * scale + bias + shortcut) + zeta + residual, into out (M, O).

    The vectors are (O,), padded to whole tiles. The shortcut is (M, shortcut_channels), of which shortcut_parts are
    averaged, 1 for none. A unit is a row, or the columns of a tile where `by_column`.
    """

    rows: int
    outputs: int
    weight: Address
    scale: Address
    bias: Address
    slope: Address
    zeta: Address
    shortcut: Address | None
    shortcut_parts: int
    shortcut_channels: int
    residual: Address | None
    out: Address
    by_column: bool


class Attention(NamedTuple):
    """Attention of packed q, k and v, (M, h W) in rows `stride` words apart, into out (M, h d); a unit is a head.

    `table` is (h, d + 1); either `level` (h,) decides bits by it, or `limit` (h,) by counts alone. `values` has a
    head's scale in each lane of a tile; `near` (B, h, N) bool takes which rows are within `margin` of a tie.
    """

    q: Address
    k: Address
    v: Address
    stride: int
    tokens: int
    head_dim: int
    heads: int
    table: Address
    level: Address | None
    limit: Address | None
    values: Address
    margin: float
    out: Address
    near: Address


Section = Norm | Mean | Input | Linear | Attention

ADDRESS = np.dtype(np.intp)
OPTIONAL_ADDRESS = np.dtype([("at", ADDRESS), ("given", np.bool_)], align=True)
"An address that may be missing: `at` says nothing where it is not `given`."

_FORMATS: dict[Any, np.dtype[Any]] = {
    int: np.dtype(np.int64),
    bool: np.dtype(np.bool_),
    float: np.dtype(np.float64),
    np.float32: np.dtype(np.float32),
    Address: ADDRESS,
    Address | None: OPTIONAL_ADDRESS,
}


def _record(section: type[Section]) -> np.dtype[Any]:
    fields = get_type_hints(section)
    return np.dtype([(name, _FORMATS[hint]) for name, hint in fields.items()], align=True)


SECTIONS: dict[type[Section], str] = {
    Norm: "norm",
    Mean: "mean",
    Input: "input",
    Linear: "linear",
    Attention: "attention",
}
"Where in a record the fields of each kind of section are."

CUT = np.dtype(
    [
        ("units", np.int64),  # what there is to do: rows, or images times heads or groups
        ("each", np.int64),  # units of a piece
        ("pieces", np.int64),
    ]
)
"How an operation is cut into pieces."

OPERATION = np.dtype(
    [
        ("kind", np.int64),
        ("cut", CUT),
        *((name, _record(section)) for section, name in SECTIONS.items()),
    ],
    align=True,
)
"An operation; sections that its kind does not read are zeros."


def offset_of(record: np.dtype[Any], name: str) -> int:
    """Return where a field of a record begins, in bytes."""
    assert record.fields is not None
    return record.fields[name][1]


class _AddressField(NamedTuple):
    number: int  # of the field in its section
    slot: int  # where in an operation it begins, as a number of 64-bit integers
    optional: bool


def _address_fields(section: type[Section]) -> list[_AddressField]:
    name = SECTIONS[section]
    start = offset_of(OPERATION, name)
    return [
        _AddressField(
            index, (start + offset_of(OPERATION[name], field)) // 8, hint == (Address | None)
        )
        for index, (field, hint) in enumerate(get_type_hints(section).items())
        if hint in (Address, Address | None)
    ]


_ADDRESS_FIELDS = {section: _address_fields(section) for section in SECTIONS}
Moving = list[tuple[Region, int, int]]
"Addresses that each run gives anew: region, offset in it, slot in the operation as 64-bit integers."


def write(record: np.void, section: Section) -> Moving:
    """Write a section into the record of an operation, and return which of its addresses each run must give anew."""
    numbers: list[Any] = list(section)
    moving: Moving = []
    kind = type(section)
    for number, slot, optional in _ADDRESS_FIELDS[kind]:
        address = numbers[number]
        if address is None:
            numbers[number] = 0, False
            continue
        numbers[number] = (address.at, True) if optional else address.at
        if address.region is not None:
            moving.append((address.region, address.at, slot))
    record[SECTIONS[kind]] = tuple(numbers)
    return moving


def _lines(fields: list[tuple[str, Any]], size: int) -> np.dtype[Any]:
    """Return a record of so many bytes: whole lines of the cache, so that threads do not wait for each other's."""
    record, names = np.dtype(fields, align=True), [name for name, _ in fields]
    return np.dtype(
        {
            "names": names,
            "formats": [record[name] for name in names],
            "offsets": [offset_of(record, name) for name in names],
            "itemsize": size,
        },
        align=True,
    )


SHARE = _lines([("taken", np.int64), ("done", np.int64), ("doubts", np.int64)], 64)
"""A thread's share of an operation while a program runs: pieces taken, pieces done, rows of attention near a tie.

The pieces are dealt into a share a thread, in order, so that a thread meets the rows again that it has in its cache;
who has finished his own takes of the others'."""


class Status(IntEnum):
    """What a thread that serves programs is doing."""

    IDLE = 0
    POSTED = 1
    ASLEEP = 2


MAIL = _lines(
    [
        ("status", np.int64),
        ("operations", ADDRESS),  # of a table of OPERATION
        ("count", np.int64),
        ("state", ADDRESS),  # of SHARE (count, shares)
        ("first", np.int64),  # the operation to begin with
        ("share", np.int64),  # the one that the reader of the mail begins with
        ("shares", np.int64),
    ],
    128,
)
"A program that a thread is asked to run, with others or alone."
