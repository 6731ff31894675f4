"""What an executed notebook stores: one shape for who writes and who reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bvit_analysis.outputs import figure_stem, stem_parts


@given(st.integers(1, 9999), st.text(max_size=60))
def test_a_stem_gives_back_its_number_and_what_was_kept_of_its_name(number: int, name: str) -> None:
    stem = figure_stem(number, name)
    parts = stem_parts(stem)
    assert parts is not None
    assert parts[0] == number
    assert figure_stem(*parts) == stem
    assert len(stem) <= len("figure-9999-") + 40


@pytest.mark.parametrize(
    "text", ["", "figure-1", "figure-01.png", "figure-01-A", "../figure-01", "figure-01\n", "x"]
)
def test_no_other_text_is_a_stem(text: str) -> None:
    assert stem_parts(text) is None
