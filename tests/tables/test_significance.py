"""The tests over seeds against enumeration, scipy and simulation: how often they cry wolf, and how often they see one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bvit_analysis import tables
from bvit_analysis.errors import ConfigError
from bvit_analysis.tables.significance import (
    check_level,
    flips_from,
    holm,
    sign_flip_ps,
    smallest_p,
    student_p,
)

RECIPES = ("grs", "asm", "binaryvit")
EXCLUDED = ("same direction, interval excludes zero", "opposite direction")


def statistic(differences: np.ndarray) -> float:
    return float(abs(np.nansum(differences)) / math.sqrt(np.nansum(differences**2)))


def one_p(differences: Sequence[float] | np.ndarray) -> float:
    """Return p of a comparison that has no family; its own and the adjusted one are the same."""
    (own,), (adjusted,) = sign_flip_ps([list(differences)])
    assert own == adjusted or (math.isnan(own) and math.isnan(adjusted))
    return own


def enumerated(family: np.ndarray) -> list[float]:
    """Step-down maxima over all sign patterns, by brute force."""
    observed = [statistic(row) for row in family]
    order = np.argsort(observed)[::-1]
    patterns = [np.array(signs) for signs in itertools.product((-1, 1), repeat=family.shape[1])]
    found, largest = {}, 0.0
    for rank, index in enumerate(order):
        maxima = [max(statistic(family[i] * signs) for i in order[rank:]) for signs in patterns]
        share = float(np.mean(np.array(maxima) >= observed[index] - 1e-9))
        found[index] = largest = max(largest, share)
    return [found[index] for index in range(len(family))]


@pytest.mark.parametrize("seed", range(6))
def test_step_down_maxima_equal_enumeration(seed: int) -> None:
    random = np.random.default_rng(seed)
    family = random.normal(0.5, 1.0, (3, 2 + seed))
    if seed > 2:
        family[1, 2] = math.nan
    own, adjusted = sign_flip_ps(family.tolist())
    assert adjusted == pytest.approx(enumerated(family), abs=1e-12)
    alone = [enumerated(row[None, ~np.isnan(row)])[0] for row in family]
    assert own == pytest.approx(alone, abs=1e-12)


@pytest.mark.parametrize("count", [2, 5, 6, 9])
def test_one_comparison_is_scipys_permutation_test(count: int) -> None:
    x = np.random.default_rng(count).normal(0.4, 1.0, count)
    found = stats.permutation_test(
        (x,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
    ).pvalue
    assert one_p(x) == pytest.approx(found)


def test_twenty_seeds_are_exact_and_above_patterns_are_drawn() -> None:
    x = np.random.default_rng(3).normal(0.012, 0.03, 22)
    sums = np.zeros(1)
    for value in x[:20]:
        sums = np.concatenate([sums + value, sums - value])
    exact = float(np.mean(np.abs(sums) >= abs(x[:20].sum()) - 1e-12))
    assert one_p(x[:20]) == pytest.approx(exact, abs=1e-12)
    for value in x[20:]:
        sums = np.concatenate([sums + value, sums - value])
    exact = float(np.mean(np.abs(sums) >= abs(x.sum()) - 1e-12))
    drawn = one_p(x)
    assert abs(drawn - exact) < 4 * math.sqrt(exact * (1 - exact) / 99_999) + 1e-5
    assert one_p(x) == drawn  # the seed is fixed
    assert one_p([1.0] * 40) == 1e-5
    assert smallest_p(40) == 1e-5


def test_ties_parted_by_rounding_are_counted_and_nothing_has_no_p() -> None:
    assert one_p([0.1, 0.2, -0.3]) == 1.0
    assert one_p([0.0, 0.0, 0.0]) == 1.0
    assert one_p([0.5]) == 1.0
    _, adjusted = sign_flip_ps([[1.0, math.nan], [math.nan, math.nan]])
    assert adjusted == pytest.approx([1.0, math.nan], nan_ok=True)
    assert sign_flip_ps([]) == ([], [])
    assert math.isnan(one_p([]))
    assert math.isnan(one_p([1.0, math.inf]))


@pytest.mark.parametrize("count", [3, 5, 21])
def test_students_p_is_scipys(count: int) -> None:
    x = np.random.default_rng(count).normal(0.4, 1.0, count)
    assert student_p(list(x)) == pytest.approx(stats.ttest_1samp(x, 0.0).pvalue, rel=1e-10)
    assert math.isnan(student_p([1.0, 2.0]))
    assert math.isnan(student_p([1.0, 2.0, math.nan]))
    assert student_p([0.0] * count) == 1.0
    assert student_p([0.7 + 0.1 - 0.7] * count) == 0.0


def test_holm_skips_what_is_no_comparison() -> None:
    nan = math.nan
    adjusted = holm([0.04, nan, 0.01, 0.03])
    assert adjusted == pytest.approx([0.06, nan, 0.03, 0.06], nan_ok=True)


@pytest.mark.parametrize("level", [0, 0.0, 1.0, 95, -0.5, math.nan, math.inf, True, "0.95", None])
def test_a_level_that_is_none_is_refused_everywhere(level: object) -> None:
    table = invented(np.zeros((4, 2)))
    calls = (
        lambda: check_level(level),  # type: ignore[arg-type]
        lambda: tables.ablation_table(table, level=level),  # type: ignore[arg-type]
        lambda: tables.verdict_table(table, ["test_accuracy"], level=level),  # type: ignore[arg-type]
        lambda: tables.finding(table, "test_accuracy", level=level),  # type: ignore[arg-type]
        lambda: tables.pairing_table(table, level=level),  # type: ignore[arg-type]
    )
    for call in calls:
        with pytest.raises(ConfigError, match="between 0 and 1, such as 0.95; got"):
            call()


def test_per_cent_are_recognized() -> None:
    with pytest.raises(ConfigError, match="for 95 % write 0.95"):
        check_level(95)


# Families ----------------------------------------------------------------------------------------


def invented(accuracies: np.ndarray) -> pd.DataFrame:
    """Return a run_table of baseline and three recipes, (4, seeds)."""
    rows = [
        {"run_id": f"{recipe}-s{seed}", "label": recipe, "recipe": recipe, "seed": seed}
        | {"state": "finished", "test_accuracy": value, "teacher_test_accuracy": math.nan}
        for recipe, series in zip(("baseline", *RECIPES), accuracies, strict=True)
        for seed, value in enumerate(series)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7, 8, 12, 20, 21, 30])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_a_clear_difference_is_excluded_at_every_number_of_seeds(count: int, level: float) -> None:
    random = np.random.default_rng(count)
    base = random.normal(0.7, 0.01, count)
    others = [base + random.normal(shift, 0.0005, count) for shift in (0.1, -0.1, 0.0)]
    table = tables.ablation_table(invented(np.array([base, *others])), level=level)
    rows = table.set_index("recipe")
    assert (rows.loc[list(RECIPES), "p_smallest"] <= 1 - level).all()
    head = "" if count >= flips_from(level) else "suggests: "
    assert rows.loc["grs", "verdict"] == f"{head}same direction, interval excludes zero"
    assert rows.loc["asm", "verdict"] == f"{head}opposite direction"
    assert (rows.loc[["grs", "asm"], "p_family"] <= 1 - level).all()
    assert (rows.loc[list(RECIPES), "p_family"] >= rows.loc[list(RECIPES), "p_smallest"]).all()


def test_the_smallest_p_can_be_reached_and_stands_beside_the_verdict() -> None:
    base = np.full(6, 0.7)
    steps = np.array([0.010, 0.011, 0.012, 0.010, 0.011, 0.012])
    noise = np.array([0.01, -0.02, 0.005, -0.01, 0.03, -0.01])
    table = invented(np.array([base, base + steps, base + noise, base - noise]))
    row = tables.ablation_table(table).set_index("recipe").loc["grs"]
    # one table of three comparisons and six seeds: 2 of 64 patterns, whatever else is compared
    assert row["p_family"] == row["p_smallest"] == 2 / 64
    assert row["compared"] == 3
    text = tables.finding(table, "test_accuracy")
    assert "excludes zero (p 0.031 in a family of 3, smallest reachable 0.031)" in text
    few = tables.finding(table[table["seed"] < 5], "test_accuracy")
    assert "smallest reachable 0: Student's law alone, sign flips reach 0.062 at best)" in few


def test_a_table_of_many_figures_is_one_family() -> None:
    random = np.random.default_rng(0)
    base = random.normal(0.7, 0.01, 8)
    others = [base + random.normal(shift, 0.002, 8) for shift in (0.0025, 0.0, 0.0)]
    table = invented(np.array([base, *others]))
    names = ["test_accuracy", "late_flip_rate", "bimodality_coefficient", "sign_entropy_bits"]
    for name in names[1:]:
        table[name] = random.normal(0.5, 0.1, len(table))
    alone = tables.verdict_table(table, names[:1]).set_index("recipe")
    whole = tables.verdict_table(table, names)
    assert len(whole) == 12
    joint = whole[whole["metric"] == "test_accuracy"].set_index("recipe")
    assert (joint["p_family"] >= alone["p_family"]).all()
    assert joint.loc["grs", "p_family"] > alone.loc["grs", "p_family"]
    assert (whole["p_smallest"] == 2**-7).all()


def share_with_a_verdict(noise: np.ndarray, shift: float = 0.0) -> tuple[float, float]:
    """Return shares of tables with any false verdict, and with a verdict on the recipe that is shifted.

    Args:
        noise: Accuracies, (tables, 4 recipes, seeds).
        shift: Added to the first recipe, in standard errors of its paired difference.
    """
    count = noise.shape[2]
    differences = noise[:, 1:] - noise[:, :1]
    spread = differences.std(axis=(0, 2), ddof=1) / math.sqrt(count)
    moved = noise.copy()
    moved[:, 1] += shift * spread[0]
    p = stats.ttest_1samp(moved[:, 1:] - moved[:, :1], 0.0, axis=2).pvalue
    # Sign flips can only take verdicts away, and Holm's rule gives none without a p below a third of the threshold.
    candidates = np.flatnonzero((p <= 0.05 / 3 + 1e-12).any(axis=1))
    false = seen = 0
    for index in candidates:
        found = tables.ablation_table(invented(moved[index]))
        verdicts = found.set_index("recipe")["verdict"].str.removeprefix("suggests: ")
        excluded = verdicts[list(RECIPES)].isin(EXCLUDED)
        seen += bool(excluded["grs"])
        false += bool(excluded.iloc[1 if shift else 0 :].any())
    return false / len(noise), seen / len(noise)


TABLES = 2000
ALLOWED = 0.05 + 3 * math.sqrt(0.05 * 0.95 / TABLES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "shared"),
    [(5, 0.0), (6, 0.0), (8, 0.0), (21, 0.0), (40, 0.0), (5, 0.8), (8, 0.8), (21, 0.8)],
)
def test_false_verdicts_are_at_most_five_per_cent_of_tables(count: int, shared: float) -> None:
    random = np.random.default_rng([count, round(10 * shared)])
    noise = math.sqrt(1 - shared) * random.normal(size=(TABLES, 4, count))
    noise += math.sqrt(shared) * random.normal(size=(TABLES, 1, count))  # what a seed does to all
    false, _ = share_with_a_verdict(0.7 + 0.01 * noise)
    assert false <= ALLOWED


@pytest.mark.slow
@pytest.mark.parametrize("draw", ["heavy", "skewed"])
def test_other_laws_than_the_normal_give_no_more_false_verdicts(draw: str) -> None:
    random = np.random.default_rng(7)
    size = (TABLES, 4, 8)
    noise = random.standard_t(2.5, size) if draw == "heavy" else random.exponential(size=size)
    false, _ = share_with_a_verdict(0.5 + 0.01 * noise)
    assert false <= ALLOWED


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "least"), [(5, 0.09), (6, 0.06), (8, 0.12), (21, 0.23), (40, 0.24)]
)
def test_an_effect_of_two_standard_errors_is_seen_about_as_often_as_can_be(
    count: int, least: float
) -> None:
    random = np.random.default_rng(count)
    noise = 0.7 + 0.01 * random.normal(size=(TABLES // 8, 4, count))
    false, seen = share_with_a_verdict(noise, shift=2.0)
    assert seen >= least
    assert false <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / (TABLES // 8))
