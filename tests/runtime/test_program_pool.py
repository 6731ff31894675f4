"""Programs are lent to one call at a time, and the last few wait for the next."""

from __future__ import annotations

import copy

import pytest

from bvit_analysis.runtime.program_pool import ProgramPool


def test_programs_serve_one_call_at_a_time() -> None:
    pool: ProgramPool[list[int]] = ProgramPool(spare=2)
    made: list[list[int]] = []

    def make() -> list[int]:
        made.append([])
        return made[-1]

    with pool.lent("a", make) as first, pool.lent("a", make) as second:
        assert first is not second
    with pool.lent("a", make) as again:
        assert again is first or again is second
    assert len(made) == 2
    with pytest.raises(KeyError), pool.lent("a", make):
        raise KeyError  # what failed half way is not used again
    assert len(pool._free) == 1
    assert copy.deepcopy(pool)._free == []
