"""Randomness: a function of seed, purpose and counters, and of nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bvit_analysis.randomness import generator, seed_from, seeded

integers = st.integers(min_value=0, max_value=2**40)


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_seed_is_the_same_everywhere_and_for_ever() -> None:
    # written down once: another value would change every recorded run
    assert seed_from(0, "split") == 4881780577946778530
    assert seed_from(3, "aug", 1, 2) == 5798278548773915305


@given(integers, st.lists(integers, max_size=3), st.lists(integers, max_size=3))
def test_other_counters_give_another_seed(seed: int, one: list[int], other: list[int]) -> None:
    same = seed_from(seed, "aug", *one) == seed_from(seed, "aug", *other)
    assert same == (one == other)


@given(integers, st.text(), st.text())
@pytest.mark.slow
def test_other_purposes_give_another_seed(seed: int, one: str, other: str) -> None:
    assert (seed_from(seed, one) == seed_from(seed, other)) == (one == other)


@given(st.integers(min_value=-(2**70), max_value=2**70))
def test_seed_has_63_bits(seed: int) -> None:
    assert 0 <= seed_from(seed, "init") < 2**63


def test_counters_of_other_integer_types_are_the_same_counters() -> None:
    assert seed_from(0, "aug", np.int64(3), int(torch.tensor(4))) == seed_from(0, "aug", 3, 4)


def test_generators_are_equal_and_apart_from_the_global_one() -> None:
    before = torch.default_generator.get_state()
    first = torch.rand(5, generator=generator(1, "perm", 2))
    assert torch.equal(first, torch.rand(5, generator=generator(1, "perm", 2)))
    assert not torch.equal(first, torch.rand(5, generator=generator(1, "perm", 3)))
    assert torch.equal(before, torch.default_generator.get_state())


def test_seeded_repeats_and_restores() -> None:
    expected = [draw(), draw()]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    assert draw() == expected[0]
    with seeded(5, "step", 1):
        inside = draw()
    with seeded(5, "step", 1):
        assert draw() == inside
    with seeded(5, "step", 2):
        assert draw() != inside
    assert draw() == expected[1]


def test_seeded_restores_after_an_error_and_when_nested() -> None:
    states = random.getstate(), torch.default_generator.get_state()

    def fail() -> None:
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), seeded(0, "step"):
        fail()
    with seeded(0, "step"):
        alone = draw()
    with seeded(0, "step"):
        with seeded(0, "aug"):
            draw()
        assert draw() == alone
    assert random.getstate() == states[0]
    assert torch.equal(torch.default_generator.get_state(), states[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_seeded_covers_cuda() -> None:
    torch.cuda.init()
    before = torch.cuda.get_rng_state()
    with seeded(0, "step"):
        inside = torch.rand(3, device="cuda")
    with seeded(0, "step"):
        assert torch.equal(torch.rand(3, device="cuda"), inside)
    assert torch.equal(torch.cuda.get_rng_state(), before)
