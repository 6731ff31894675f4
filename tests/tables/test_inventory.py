"""What is said about a run folder: finished, being written, watched only, damaged, foreign."""

from __future__ import annotations

from pathlib import Path

import pytest

from bvit_analysis import tables
from bvit_analysis.records import RunWarning, load_run
from tests.support.synthetic_run import make_run


def test_a_finished_run_and_its_teacher(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "one", recipe="grs", seed=3, steps=20))
    teacher = load_run(make_run(tmp_path / "teacher", kind="float", steps=20))
    table = tables.inventory([run, teacher])
    assert table.columns.tolist() == ["grs, seed 3", "float, seed 0"]
    told = table["grs, seed 3"]
    assert told["kind"] == "binary"
    assert told["steps"] == "20 of 20"
    assert told["error"] == "none"
    sites = [told[f"{kind} sites"] for kind in ("weight", "activation", "attention")]
    assert sites == ["8", "14", "2"]
    assert told["rows of trajectories"] == f"{len(run.trajectories):,}"
    assert told["flip counts"] == told["cost ledger"] == "yes"
    assert told["parts left out"] == "0"
    assert table.loc["weight sites", "float, seed 0"] == "0"
    assert tables.damage([run, teacher]) == []


@pytest.mark.parametrize("state", ["running", "silent", "failed"])
def test_a_run_that_did_not_end(tmp_path: Path, state: str) -> None:
    table = tables.inventory(load_run(make_run(tmp_path / "going", steps=20, state=state)))
    told = table.iloc[:, 0]
    assert told["state"] == state
    assert told["steps"] == "20 of 40"
    assert told["test accuracy"] == "not recorded"
    assert told["flip counts"] == "no"
    error = "TrainingError: loss is nan at step 60" if state == "failed" else "none"
    assert told["error"] == error


def test_a_watched_run_has_no_configuration(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "mine", kind="watched", steps=20))
    told = tables.inventory(run)["mine"]
    assert told["recipe"] == "watched"
    assert tables.config_table(run).empty
    assert tables.config_table([]).empty
    assert tables.inventory([]).empty


@pytest.mark.slow
def test_configurations_side_by_side(tmp_path: Path) -> None:
    runs = [
        load_run(make_run(tmp_path / "a", recipe="baseline", steps=20)),
        load_run(make_run(tmp_path / "b", recipe="asm", steps=20)),
    ]
    table = tables.config_table(runs)
    differs = table[table.nunique(axis=1) > 1]
    assert differs.loc["recipe.shift"].tolist() == ["none", "token_mean"]
    assert differs.index.tolist() == ["recipe.name", "recipe.shift"]
    assert table.loc["data.name"].nunique() == 1


def test_equal_labels_keep_their_columns(tmp_path: Path) -> None:
    runs = [load_run(make_run(tmp_path / place / "x", steps=20)) for place in ("one", "two")]
    names = ["baseline, seed 0 (one/x)", "baseline, seed 0 (two/x)"]
    assert tables.inventory(runs).columns.tolist() == names
    assert tables.config_table(runs).columns.tolist() == names


def test_damage_is_told_line_by_line(tmp_path: Path) -> None:
    path = make_run(tmp_path / "hurt", steps=20)
    part = sorted((path / "scalars").glob("*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:100])
    with pytest.warns(RunWarning):
        run = load_run(path)
    told = tables.inventory(run).iloc[:, 0]
    assert told["parts left out"] == "1"
    lines = tables.damage(run)
    assert len(lines) == 1
    assert lines[0].startswith("hurt: left out ")
