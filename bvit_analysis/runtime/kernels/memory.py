"""Where operations read and write: memory that is known when a program is written, and memory that each run names.

Shape letters as in programs.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

_LINE = 64  # bytes of a line of the cache
_HELD_BYTES = 2**18  # a workspace of at most so many stays between runs


class Region:
    """Memory that lies somewhere else in each run: Program.bind() says where. Regions are told apart by identity."""


INPUT, OUTPUT = Region(), Region()
"What the caller of a program gives it to read, and to write."


@dataclass(slots=True)  # not frozen, which takes as long as all else to make one
class Address:
    """Where an array begins.

    Args:
        at: Bytes from the start of the region, or of all memory where there is none.
        region: The memory it is in, if that moves between runs.
    """

    at: int
    region: Region | None = None

    def __add__(self, count: int) -> Address:
        """Return the address so many bytes further on."""
        return Address(self.at + count, self.region)


def start_of(array: ndarray) -> int:
    """Return where an array begins in memory, in bytes."""
    return int(array.__array_interface__["data"][0])


def address(array: ndarray) -> Address:
    """Return the address of an array, which must live as long as the program that is given it."""
    return Address(start_of(array))


class Workspace:
    """Memory that operations read and write in between; it is there during a run alone, unless it is little.

    Between runs whatever else computes may have it: the peak is of one or the other, not of both.
    """

    def __init__(self) -> None:
        self._sizes: dict[Region, int] = {}
        self._memory: dict[Region, ndarray] = {}

    def take(self, kind: type[np.generic], count: int) -> Address:
        """Reserve a region for `count` numbers; return where it begins."""
        region = Region()
        self._sizes[region] = max(1, -(-count * np.dtype(kind).itemsize // _LINE)) * _LINE
        return Address(0, region)

    def view(self, start: Address, kind: type[np.generic], *shape: int) -> ndarray:
        """Return reserved memory as an array, during a run."""
        assert start.region is not None
        end = start.at + math.prod(shape) * np.dtype(kind).itemsize
        return self._memory[start.region][start.at : end].view(kind).reshape(shape)

    @contextmanager
    def there(self) -> Iterator[dict[Region, int]]:
        """Have the memory, region by region, as small holes are found sooner.

        Gives where regions lie, for Program.bind(): those that moved since the last run.
        """
        if self._memory:
            yield {}
            return
        self._memory = {region: _aligned(size) for region, size in self._sizes.items()}
        try:
            yield {region: start_of(memory) for region, memory in self._memory.items()}
        except BaseException:
            self._memory = {}  # nobody knows whether its addresses were put into a program
            raise
        if sum(self._sizes.values()) > _HELD_BYTES:
            self._memory = {}


def _aligned(size: int) -> ndarray:
    """Return so many bytes that begin at a line of the cache."""
    whole = np.empty(size + _LINE, np.uint8)
    start = -start_of(whole) % _LINE
    return whole[start : start + size]
