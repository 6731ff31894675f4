"""A run's columns belong to the run: releases before and after open alike, and a declaration is a stranger's word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from bvit_analysis import tables
from bvit_analysis.errors import ConfigError
from bvit_analysis.records import (
    MEASURES,
    SCHEMAS,
    SITE_METRICS,
    Measure,
    RunWarning,
    RunWriter,
    load_run,
    write_json_atomic,
)
from bvit_analysis.records.declaration import MAX_OWN, declared_in, own_measures
from bvit_analysis.records.parts import encode_part
from tests.support.synthetic_run import make_run

ROOT = Path(__file__).parents[2]
SITES = [
    {"site_id": 0, "site": "blocks.0.a", "kind": "weight", "shape": [3, 4], "n_weights": 12},
    {"site_id": 1, "site": "blocks.0.b", "kind": "weight", "shape": [2, 2], "n_weights": 4},
]
MINE = Measure(
    name="row_norm",
    kind="weight",
    words="row norm",
    unit="mean ||w||",
    low=0.0,
    high=9.0,
    null=2.0,
    null_words="untrained weights",
)


def _edit(path: Path, **changes: Any) -> None:
    info = json.loads((path / "run.json").read_text())
    write_json_atomic(path / "run.json", {**info, **changes})


def _one_run(path: Path, measures: tuple[Measure, ...] = (MINE,)) -> Path:
    with RunWriter(path, info={"sites": SITES}, measures=measures) as writer:
        row = {"step": [1, 2], "site_id": 0, "flip_rate": [0.1, 0.2]}
        writer.append("sites", row | ({"row_norm": [1.5, 2.5]} if measures else {}))
        writer.append("scalars", {"step": [1, 2], "loss": [3.0, 2.0]})
    return path


# The release before ------------------------------------------------------------------------------


def test_runs_of_the_release_before_open_whole_and_without_a_word() -> None:
    folders = sorted(path.parent for path in (ROOT / "data" / "runs").glob("*/run.json"))
    assert len(folders) == 9
    rows = 0
    for folder in folders:
        info = json.loads((folder / "run.json").read_text())
        assert "columns" not in info
        run = load_run(folder)
        assert list(run.sites.columns) == ["step", "site", "kind", *SITE_METRICS]
        assert run.own_measures == {}
        assert len(run.scalars) > 0
        rows += len(run.sites)
        assert (len(run.sites) > 0) == (info["kind"] != "float")
        assert run.warnings == []
    assert rows == 8 * 1360


# A later release ---------------------------------------------------------------------------------


def _later_release(path: Path, *, declared: bool) -> Path:
    """A run with one column more, several fewer, in another order and other widths, written without our writer's schema."""
    _one_run(path, measures=())
    table = pa.table(
        {
            "reversal_rate": pa.array([0.25, 0.5], pa.float64()),
            "flip_rate": pa.array([0.5, 0.75], pa.float64()),
            "site_id": pa.array([0, 1], pa.int64()),
            "levels": pa.array([2, 3], pa.int32()),
            "step": pa.array([3, 3], pa.int64()),
        }
    )
    (path / "sites/part-000007.parquet").write_bytes(encode_part("sites", table, path.name))
    scalars = pa.table({"step": pa.array([3], pa.int64()), "momentum": pa.array([0.9])})
    (path / "scalars/part-000007.parquet").write_bytes(encode_part("scalars", scalars, path.name))
    facts = {
        "name": "reversal_rate",
        "kind": "weight",
        "words": "reversals",
        "unit": "reversals per weight and step",
        "low": 0.0,
        "high": 1.0,
        "null": 0.125,
        "a_fact_of_the_next_release": [1, 2],
    }
    if declared:
        columns = {"sites": table.column_names, "scalars": ["step", "momentum"], "moods": ["step"]}
        _edit(path, columns=columns, measures=[facts])
    return path


@pytest.mark.parametrize("declared", [True, False])
def test_a_run_of_a_later_release_opens_alike(tmp_path: Path, declared: bool) -> None:
    path = _later_release(tmp_path / "later", declared=declared)
    run = load_run(path)
    own = ["reversal_rate", "levels"]
    assert list(run.sites.columns) == ["step", "site", "kind", *SITE_METRICS, *own]
    last = run.sites[run.sites["step"] == 3]
    assert last["flip_rate"].tolist() == [0.5, 0.75]
    assert last["reversal_rate"].tolist() == [0.25, 0.5]
    assert last["levels"].tolist() == [2, 3]
    assert last["otsu_ratio"].isna().all()
    assert run.sites[run.sites["step"] < 3][own].isna().all().all()
    assert run.scalars["momentum"].tolist()[2] == 0.9
    assert run.scalars["loss"].tolist()[:2] == [3.0, 2.0]
    assert run.warnings == []
    assert run.measures["reversal_rate"].null == (0.125 if declared else None)
    assert run.measures["levels"].words == "levels"
    few = load_run(path, columns=["levels", "flip_rate"])
    assert list(few.sites.columns) == ["step", "site", "kind", "flip_rate", "levels"]
    with pytest.raises(ConfigError, match="did you mean 'reversal_rate'"):
        load_run(path, columns=["reversal_rte"])
    table = tables.run_table(run)
    assert ("reversal_rate" in table.columns) == declared
    assert tables.site_atlas(run, "reversal_rate").grid[:, -1].tolist() == [0.25, 0.5]
    shown = tables.inventory([run])
    assert "reversal_rate, levels" in shown.loc["measures of its own"].iloc[0]


def test_a_resume_by_this_release_keeps_the_columns_of_a_later_one(tmp_path: Path) -> None:
    path = _later_release(tmp_path / "later", declared=False)
    before = load_run(path).sites
    with RunWriter(path, info={}, resume_step=3) as writer:
        writer.append("sites", {"step": 4, "site_id": 1, "flip_rate": 0.1})
    after = load_run(path).sites
    pd.testing.assert_frame_equal(after[after["step"] <= 3], before)
    assert after["flip_rate"].tolist()[-1] == np.float32(0.1)
    with RunWriter(path, info={}, resume_step=2):
        assert load_run(path).sites["step"].tolist() == [1, 2]


def test_a_part_with_what_cannot_be_shown_is_shown_without_and_never_merged_away(
    tmp_path: Path,
) -> None:
    path = _one_run(tmp_path / "r")
    table = pa.table({"step": pa.array([5], pa.int64()), "site_id": pa.array([0], pa.int16())})
    table = table.append_column("Bad name", pa.array([1.0])).append_column("mood", pa.array(["x"]))
    part = path / "sites/part-000009.parquet"
    part.write_bytes(encode_part("sites", table, "r"))
    with pytest.warns(RunWarning, match=r"part-000009.*'Bad name', 'mood' cannot be shown"):
        run = load_run(path)
    assert run.sites["step"].tolist() == [1, 2, 5]
    good = part.read_bytes()
    RunWriter(path, info={}, resume_step=9, measures=(MINE,)).close()
    assert part.read_bytes() == good


# What a writer declares --------------------------------------------------------------------------


def test_a_writer_declares_its_columns_and_the_reader_gives_the_facts_back(tmp_path: Path) -> None:
    path = _one_run(tmp_path / "r")
    info = json.loads((path / "run.json").read_text())
    assert info["columns"]["sites"] == ["step", "site_id", *SITE_METRICS, "row_norm"]
    assert set(info["columns"]) == set(SCHEMAS)
    assert [facts["name"] for facts in info["measures"]] == ["row_norm"]
    run = load_run(path)
    assert run.own_measures == {"row_norm": MINE}
    assert run.measures == {**MEASURES, "row_norm": MINE}
    assert run.sites["row_norm"].tolist() == [1.5, 2.5]
    assert run.sites["row_norm"].dtype == np.float32
    assert load_run(path, columns=["row_norm"]).sites.columns.tolist()[3:] == ["row_norm"]


def test_a_run_goes_on_with_the_measures_it_began_with(tmp_path: Path) -> None:
    path = _one_run(tmp_path / "r")
    for wrong in ((), (MINE, Measure(name="b", kind="weight", words="b", unit="b"))):
        with pytest.raises(ConfigError, match="resume it with the instruments"):
            RunWriter(path, info={}, resume_step=1, measures=wrong)
    with RunWriter(path, info={}, resume_step=1, measures=(MINE,)) as writer:
        writer.append("sites", {"step": 2, "site_id": 0, "row_norm": 4.5})
    assert load_run(path).sites["row_norm"].tolist() == [1.5, 4.5]


def test_what_cannot_be_declared_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    clash = Measure(name="flip_rate", kind="weight", words="flips", unit="per hour")
    scalar = Measure(name="mood", kind="scalar", words="mood", unit="smiles")
    other = Measure(name="row_norm", kind="weight", words="another", unit="norm")
    for wrong, text in (
        ((clash,), "name of another one in the catalogue"),
        ((scalar,), "belongs to a site"),
        ((MINE, other), "declared twice"),
    ):
        with pytest.raises(ConfigError, match=text):
            RunWriter(tmp_path / "r", info={}, measures=wrong)
    assert not (tmp_path / "r").exists()
    assert own_measures((MEASURES["flip_rate"], MINE, MINE)) == (MINE,)
    many = [Measure(name=f"m{i}", kind="weight", words="m", unit="m") for i in range(MAX_OWN + 1)]
    with pytest.raises(ConfigError, match=f"at most {MAX_OWN}"):
        own_measures(many)


# A hostile declaration ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"measures": 3}, "not a list"),
        ({"measures": [MINE.facts()] * 300}, "not a list of at most"),
        ({"measures": [[]]}, "not an object"),
        ({"measures": [{"name": "x"}]}, "declares a measure that is none"),
        ({"measures": [MINE.facts() | {"words": "x" * 10_000}]}, "at most 80 characters"),
        ({"measures": [MINE.facts() | {"unit": "\u202eevil"}]}, "printable"),
        ({"measures": [MINE.facts() | {"form": ".999999999f"}]}, "form must be"),
        ({"measures": [MINE.facts()] * 2}, "'row_norm' twice"),
        ({"measures": [MEASURES["flip_rate"].facts() | {"unit": "per hour"}]}, "read as"),
        ({"columns": []}, "columns is not an object"),
        ({"columns": {"scalars": 3}}, "columns of scalars is not a list"),
        ({"columns": {"sites": ["__import__('os')"]}}, "not allowed"),
        ({"columns": {"sites": [["a"]]}}, "not allowed"),
        ({"columns": {"sites": ["aa", "aa"]}}, "'aa' of sites twice"),
        ({"columns": {"sites": [f"c{i}" for i in range(600)]}}, "at most 512 names"),
    ],
)
def test_a_hostile_declaration_is_passed_over_and_said(
    tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    path = _one_run(tmp_path / "r", measures=())
    _edit(path, **change)
    with pytest.warns(RunWarning, match=text) as caught:
        run = load_run(path)
    assert 1 <= len(run.warnings) <= 20
    assert all("run.json" in str(one.message) and "\n" not in str(one.message) for one in caught)
    assert run.sites["flip_rate"].tolist() == [np.float32(0.1), np.float32(0.2)]
    assert run.measures["flip_rate"] is MEASURES["flip_rate"]
    tables.run_table(run)


def test_a_declaration_cannot_widen_the_range_of_a_known_measure() -> None:
    facts = MEASURES["flip_rate"].facts() | {"low": None, "high": None}
    found = declared_in({"measures": [facts]})
    assert found.own == {}


def test_columns_of_many_parts_stay_bounded(tmp_path: Path) -> None:
    path = _one_run(tmp_path / "r", measures=())
    for part in range(4):
        names = [f"c{part}_{i}" for i in range(100)]
        table = pa.table(
            {"step": pa.array([9], pa.int64()), "site_id": pa.array([part % 2], pa.int16())}
            | {name: pa.array([1.0], pa.float32()) for name in names}
        )
        data = encode_part("sites", table, "r")
        (path / f"sites/part-{part + 10:06d}.parquet").write_bytes(data)
    with pytest.warns(RunWarning, match=f"beyond {MAX_OWN} are left out"):
        run = load_run(path)
    assert len(run.sites.columns) == 3 + len(SITE_METRICS) + MAX_OWN


def test_make_run_is_what_the_writer_declares(tmp_path: Path) -> None:
    info = json.loads((make_run(tmp_path / "r", steps=2) / "run.json").read_text())
    assert info["columns"] == {kind: schema.names for kind, schema in SCHEMAS.items()}
    assert info["measures"] == []
