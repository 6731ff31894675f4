"""Statistics beside their nulls, on laws whose modes are known, and the choice of runs and steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bvit_analysis import measures, tables
from bvit_analysis.errors import ConfigError
from bvit_analysis.records import Run, load_run
from bvit_analysis.tables.bimodality import STATISTICS
from bvit_analysis.tables.chance import GAUSSIAN_NULLS
from tests.support.synthetic_run import make_run


def law(name: str) -> torch.Tensor:
    random = np.random.default_rng(0)
    size, mode = 400_000, random.choice([-1.0, 1.0], 400_000)
    values = {
        "gaussian": lambda: random.normal(size=size),
        "laplace": lambda: random.laplace(size=size),
        "uniform": lambda: random.uniform(-1, 1, size),
        "two modes": lambda: mode + random.normal(0, 0.25, size),
        "wide modes": lambda: mode + random.normal(0, 0.5, size),
        "one peak of two": lambda: mode + random.normal(0, 1.0, size),
        "three peaks": lambda: random.choice([-1, 0, 0, 1], size) + random.normal(0, 0.1, size),
        "skewed": lambda: random.exponential(size=size) - 0.5,
    }[name]()
    return torch.from_numpy(values / np.abs(values).mean())


def table_of(u: torch.Tensor) -> pd.DataFrame:
    counts = measures.histogram(u, -4.0, 4.0, 81)
    values = {
        "bimodality_coefficient": measures.bimodality_coefficient(u),
        "otsu_ratio": measures.otsu_ratio(u),
        "kurtosis": measures.kurtosis(u),
        "mass_near_zero_010": measures.mass_near_zero(u, 0.1),
        "valley_depth": measures.valley_depth(counts, -4.0, 4.0),
    }
    rows = []
    for name, (label, points) in STATISTICS.items():
        null = GAUSSIAN_NULLS[name]
        rows.append((name, label, (values[name] - null) / (points - null)))
    return pd.DataFrame(rows, columns=["statistic", "label", "towards"])


@pytest.mark.parametrize(
    ("name", "disagree", "words"),
    [
        ("gaussian", False, "no statistic lies towards two modes"),
        ("laplace", False, "no statistic lies towards two modes"),
        ("two modes", False, "all 5 statistics lie towards two modes"),
        ("wide modes", False, "all 5 statistics lie towards two modes"),
        ("uniform", True, "valley depth not"),
        ("one peak of two", True, "valley depth not"),
        ("three peaks", True, "mass near zero, |u| < 0.1"),
        ("skewed", True, "Otsu ratio (separation)"),
    ],
)
def test_verdict_on_known_laws(name: str, disagree: bool, words: str) -> None:
    table = table_of(law(name))
    assert tables.statistics_disagree(table) is disagree
    verdict = tables.bimodality_verdict(table)
    assert words in verdict
    assert verdict.startswith("the statistics disagree") == disagree


def test_between_clear_and_absent_is_said() -> None:
    table = pd.DataFrame({"label": ["a", "b"], "towards": [0.3, 0.05]})
    assert not tables.statistics_disagree(table)
    assert tables.bimodality_verdict(table).startswith("1 of 2 statistics lie clearly")
    nothing = table.assign(towards=np.nan)
    assert tables.bimodality_verdict(nothing) == "no statistic is recorded"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(make_run(tmp_path_factory.mktemp("runs") / "r", recipe="grs", steps=25))


def test_two_points_and_gaussian_are_the_ends_of_the_scale(run: Run) -> None:
    frame = tables.bimodality_at(run, site="blocks.0.attn.qkv", step=17)
    assert frame.attrs["step"] == 10
    row = run.sites.query("site == 'blocks.0.attn.qkv' and step == 10").iloc[0]
    for one in frame.itertuples():
        assert one.value == pytest.approx(row[one.statistic])
        assert one.gaussian + one.towards * (one.points - one.gaussian) == pytest.approx(one.value)


def test_all_sites_count_by_their_weights(run: Run) -> None:
    frame = tables.bimodality_at(run)
    assert frame.attrs["step"] == 25
    rows = run.sites.query("kind == 'weight' and step == 25")
    total = weights = 0.0
    sizes = run.site_table.set_index("site")["n_weights"]
    for site, value in zip(rows["site"], rows["kurtosis"], strict=True):
        total += float(sizes[site]) * float(value)
        weights += float(sizes[site])
    assert frame.set_index("statistic").loc["kurtosis", "value"] == pytest.approx(total / weights)


def test_unknown_sites_and_missing_measures(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'blocks\.0\.attn\.qkv'"):
        tables.bimodality_at(run, site="blocks.0.attn.kqv")
    few = load_run(run.path, columns=["flip_rate"])
    assert tables.bimodality_at(few).empty
    assert tables.distribution_steps(few) == []
    assert tables.distribution_steps(run) == [0, 10, 20, 25]


def test_the_step_that_stands_for_a_step() -> None:
    assert tables.step_at([]) is None
    assert tables.step_at([50, 0]) == 50
    assert tables.step_at([10, 20], 5) == 10
    assert tables.step_at([10, 20], 19) == 10


def test_pairs_are_of_one_seed_where_there_are_such(tmp_path: Path) -> None:
    def load(recipe: str, seed: int) -> Run:
        path = tmp_path / f"{recipe}-{seed}"
        return load_run(make_run(path, recipe=recipe, seed=seed, steps=1, blocks=1))

    first, second = load("baseline", 0), load("baseline", 1)
    grs, asm = load("grs", 1), load("asm", 2)
    assert tables.pair_of_seed([first, second, asm, grs], "grs") == (1, 3)
    assert tables.pair_of_seed([first, second, asm], "asm") == (0, 2)
    assert tables.pair_of_seed([first, second], "grs") == (0, 1)
    assert tables.pair_of_seed([asm, grs], "grs") == (0, 1)
    assert tables.pair_of_seed([grs], "grs") == (0, None)
    assert tables.pair_of_seed([], "grs") == (None, None)
