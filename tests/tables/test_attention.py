"""Where bits lie among the teacher's attention: by loops over queries and keys, and at the extremes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bvit_analysis import tables
from bvit_analysis.errors import ConfigError
from bvit_analysis.records import AttentionExamples
from tests.support.synthetic_run import attention_examples


@pytest.fixture
def examples() -> AttentionExamples:
    return attention_examples(np.random.default_rng(3), ["a", "b"])


@pytest.mark.parametrize("token", [None, 0, 9])
def test_numbers_by_loops(token: int | None, examples: AttentionExamples) -> None:
    table = tables.attention_table(examples, image=1, block=1, token=token)
    assert table["head"].tolist() == [0, 1]
    for head in (0, 1):
        shares, masses, bests, students = [], [], [], []
        for query in range(17) if token is None else [token]:
            bits = examples.bits[1, 1, head, query].tolist()
            teacher = examples.teacher[1, 1, head, query].astype(float).tolist()
            student = examples.scores[1, 1, head, query].astype(float).tolist()
            ones = sum(bits)
            shares.append(ones / 17)
            masses.append(sum(t for t, bit in zip(teacher, bits, strict=True) if bit))
            students.append(sum(s for s, bit in zip(student, bits, strict=True) if bit))
            bests.append(sum(sorted(teacher, reverse=True)[:ones]))
        share, mass, best = np.mean(shares), np.mean(masses), np.mean(bests)
        row = table.loc[head]
        assert row["share_of_ones"] == pytest.approx(share)
        assert row["teacher_mass"] == pytest.approx(mass)
        assert row["best_mass"] == pytest.approx(best)
        assert row["student_mass"] == pytest.approx(np.mean(students))
        assert row["placement"] == pytest.approx((mass - share) / (best - share))


def test_bits_at_the_teachers_strongest_tokens_place_one(examples: AttentionExamples) -> None:
    rank = np.argsort(np.argsort(-examples.teacher, axis=-1), axis=-1)
    best = dataclasses.replace(examples, bits=rank < 4)
    assert tables.attention_table(best)["placement"].tolist() == pytest.approx([1, 1])
    worst = dataclasses.replace(examples, bits=rank >= 13)
    assert (tables.attention_table(worst)["placement"] < 0).all()


def test_random_bits_place_zero(examples: AttentionExamples) -> None:
    random = np.random.default_rng(0)
    placements = []
    for _ in range(300):
        chosen = random.permuted(np.arange(17) < 5 * np.ones(examples.bits.shape), axis=-1)
        table = tables.attention_table(dataclasses.replace(examples, bits=chosen))
        placements.extend(table["placement"])
    assert np.mean(placements) == pytest.approx(0, abs=0.01)


def test_no_choice_and_no_teacher_give_nan(examples: AttentionExamples) -> None:
    every = dataclasses.replace(examples, bits=np.ones_like(examples.bits))
    table = tables.attention_table(every)
    assert table["placement"].isna().all()
    assert table["teacher_mass"].tolist() == pytest.approx([1, 1])
    alone = dataclasses.replace(examples, teacher=None, teacher_predictions=None)
    assert tables.attention_table(alone)[["teacher_mass", "best_mass"]].isna().all(axis=None)
    assert tables.attention_table(alone)["share_of_ones"].notna().all()


@pytest.mark.parametrize("wrong", [{"image": 3}, {"block": -1}, {"token": 17}])
def test_places_out_of_range_name_the_range(
    wrong: dict[str, int], examples: AttentionExamples
) -> None:
    with pytest.raises(ConfigError, match=rf"expected {next(iter(wrong))} in 0\.\."):
        tables.attention_table(examples, **wrong)


@pytest.mark.parametrize(
    ("tokens", "height", "width", "grid"),
    [
        (17, 28, 28, (1, 4, 4)),
        (16, 28, 28, (0, 4, 4)),
        (198, 224, 224, (2, 14, 14)),
        (33, 32, 64, (1, 4, 8)),
        (201, 224, 224, (5, 14, 14)),
        (2, 8, 8, (1, 1, 1)),
        (1, 8, 8, (0, 1, 1)),
        (12, 8, 30, (0, 1, 12)),
    ],
)
def test_tokens_lie_on_the_image(
    tokens: int, height: int, width: int, grid: tuple[int, int, int]
) -> None:
    assert tables.token_grid(tokens, height, width) == grid
