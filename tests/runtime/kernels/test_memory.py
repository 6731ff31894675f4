"""Memory that each run of a program names, or that is there during a run alone."""

from __future__ import annotations

import numpy as np
import pytest

from bvit_analysis.runtime.kernels import memory
from bvit_analysis.runtime.kernels.memory import Address, Region, Workspace, address, start_of


def test_a_workspace_is_there_during_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    space = Workspace()
    starts = [space.take(np.float32, 3), space.take(np.uint64, 20), space.take(np.bool_, 0)]
    assert len({start.region for start in starts}) == 3
    for held_bytes in (0, 2**20):
        monkeypatch.setattr(memory, "_HELD_BYTES", held_bytes)
        with space.there() as moved:
            assert set(moved) == {start.region for start in starts}
            assert all(at % 64 == 0 for at in moved.values())
            view = space.view(starts[1], np.uint64, 5, 4)
            assert start_of(view) == moved[starts[1].region]
            assert start_of(space.view(starts[1] + 8, np.uint64, 19)) == start_of(view) + 8
            view[:] = 7
            assert view.flags.writeable
        with space.there() as again:
            assert (again == {}) == (held_bytes > 0)


def test_memory_of_a_run_that_failed_is_not_used_again() -> None:
    space = Workspace()
    space.take(np.float32, 3)
    with pytest.raises(KeyError), space.there():
        raise KeyError
    with space.there() as moved:
        assert moved


def test_addresses_are_told_apart_by_region_and_offset() -> None:
    array = np.zeros(4)
    assert address(array) + 8 == Address(array.ctypes.data + 8)
    one, other = Region(), Region()
    assert Address(0, one) + 8 == Address(8, one)
    assert Address(0, one) != Address(0, other)
