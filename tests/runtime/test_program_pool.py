"""Programs are lent to one call at a time, and the last few wait for the next."""

from __future__ import annotations

import copy

import pytest

from bvit_analysis.runtime.kept_programs import KeptPrograms


def test_kept_programs_serve_one_call_at_a_time() -> None:
    kept: KeptPrograms[list[int]] = KeptPrograms(spare=2)
    made: list[list[int]] = []

    def make() -> list[int]:
        made.append([])
        return made[-1]

    with kept.lent("a", make) as first, kept.lent("a", make) as second:
        assert first is not second
    with kept.lent("a", make) as again:
        assert again is first or again is second
    assert len(made) == 2
    with pytest.raises(KeyError), kept.lent("a", make):
        raise KeyError  # what failed half way is not used again
    assert len(kept._free) == 1
    assert copy.deepcopy(kept)._free == []
