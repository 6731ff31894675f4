from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.known_answers import make
from bvit_analysis.errors import ConfigError
from bvit_analysis.records import Run, load_run
from bvit_analysis.tables import (
    chance_of,
    excess_by_site,
    excess_finding,
    excess_table,
    load_runs,
    observed_of,
    over_sites,
)

pytestmark = pytest.mark.slow
RESILIENT = {"name": "grs", "regularization": "resilient", "regularization_strength": 2.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        make("noise", place, seed)
    return place


def named(folder: Path, recipe: dict[str, object]) -> Run:
    """Give a run a recipe, as if the trainer had made it."""
    path = folder / "run.json"
    record = json.loads(path.read_text()) | {"config": {"recipe": recipe}}
    path.write_text(json.dumps(record))
    return load_run(folder)


def test_the_excess_has_the_interval_of_its_runs(folder: Path) -> None:
    runs = load_runs(folder)
    table = excess_table(runs, measures=["oscillating_flips", "flip_back_10"])
    for row in table.itertuples():
        each = [
            over_sites(observed_of(run))[row.measure]
            - over_sites(chance_of(run).figures)[row.measure]
            for run in runs
        ]
        assert row.excess == pytest.approx(np.mean(each))
        assert row.excess == pytest.approx(row.observed - row.chance)
        low, high = stats.t.interval(0.95, 2, np.mean(each), stats.sem(each))
        assert (row.low, row.high) == pytest.approx((low, high))
        assert (row.recipe, row.null, row.term, row.runs, row.note) == (
            "watched",
            "re-dealt",
            False,
            3,
            "",
        )
    pair = excess_table(list(runs)[:2], measures=["flip_back_10"])
    assert np.isnan(pair["low"]).all()
    assert np.isfinite(pair["excess"]).all()


def test_a_site_and_all_of_one_site_agree(folder: Path) -> None:
    table = excess_by_site(load_runs(folder)[0]).set_index(["site", "measure"])
    one, together = table.loc["0"], table.loc["all"]
    np.testing.assert_allclose(one["excess"], one["observed"] - one["chance"])
    wide = together.drop("flip_flop_ratio")  # of sums: a run rounds its figures to seven digits
    np.testing.assert_allclose(wide["excess"], one.drop("flip_flop_ratio")["excess"], atol=1e-9)


def test_where_one_run_lacks_gradients_all_of_its_recipe_have_white_noise(
    folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "runs"))
    for part in (copy / "noise-seed1" / "trajectories").glob("part-*"):
        part.unlink()
    table = excess_table(load_runs(copy), measures=["oscillating_flips"])
    assert table["null"].tolist() == ["white"]
    assert table["runs"].tolist() == [3]
    assert "1 of 3 runs: no chance line: re-dealing needs" in table["note"].iloc[0]
    strict = excess_table(load_runs(copy), null="re-dealt", measures=["oscillating_flips"])
    assert strict["runs"].tolist() == [2]


def test_a_gradient_term_has_a_line_with_it_and_one_without(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder / "noise-seed0", tmp_path / "noise-seed0"))
    run = named(copy, RESILIENT)
    table = excess_table(run, measures=["oscillating_flips", "bimodality_coefficient"])
    assert [name.split(" ")[0] for name in table["recipe"].unique()] == ["grs"]
    chance = table.set_index(["measure", "term"])["chance"]
    # docs/science.md: the term alone lowers the oscillating flips of noise, and makes two modes
    assert chance["oscillating_flips", True] < 0.75 * chance["oscillating_flips", False]
    assert chance["bimodality_coefficient", True] > 1.1 * chance["bimodality_coefficient", False]
    own = named(copy, RESILIENT | {"regularization": "mine.terms:Pull"})
    assert excess_table(own, measures=["oscillating_flips"])["term"].tolist() == [False]


def test_wrong_names_are_refused_with_the_nearest(folder: Path) -> None:
    runs = load_runs(folder)
    with pytest.raises(ConfigError, match="oscillating_flips"):
        excess_table(runs, measures=["oscilating_flips"])
    with pytest.raises(ConfigError, match="re-dealt"):
        excess_table(runs, null="redealt")
    with pytest.raises(ConfigError, match="white"):
        chance_of(runs[0], null="whit")


def test_a_finding_says_what_the_table_holds(folder: Path) -> None:
    table = excess_table(load_runs(folder), measures=["oscillating_flips", "tail_share"])
    row = table.iloc[0]
    text = excess_finding(table, "oscillating_flips")
    assert (
        f"observed {row['observed']:.3g}, chance {row['chance']:.3g} (re-dealt gradients)" in text
    )
    assert f"excess {row['excess']:+.2g} [{row['low']:+.2g}, {row['high']:+.2g}]" in text
    assert ("which holds 0" in text) == (row["low"] < 0 < row["high"])
    assert text.endswith("(3 runs)")
    assert "12 times or more" in excess_finding(table, "tail_share")
    one = excess_table(load_runs(folder)[0], measures=["oscillating_flips"])
    assert "an interval over runs needs three" in excess_finding(one, "oscillating_flips")
    with pytest.raises(ConfigError, match="tail_share"):
        excess_finding(table, "tail_shares")


def test_a_finding_without_chance_says_why(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder / "noise-seed0", tmp_path / "noise-seed0"))
    record = json.loads((copy / "run.json").read_text())
    record["optimizer"] = {"name": "unknown"}
    (copy / "run.json").write_text(json.dumps(record))
    text = excess_finding(excess_table(load_run(copy), measures=["flip_back_10"]), "flip_back_10")
    assert "no chance line: the optimizer is not recorded" in text
    assert "excess" not in text
