"""What cannot be is never a figure: values outside their range, impossible rows, parts and files of another run."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bvit_analysis import tables
from bvit_analysis.errors import RunError
from bvit_analysis.records import MEASURES, RunWarning, RunWriter, load_run, write_json_atomic
from bvit_analysis.records.parts import _digest, encode_part
from tests.support.synthetic_run import make_run

SITES = [{"site_id": 0, "site": "a", "kind": "weight", "shape": [2, 2], "n_weights": 4}]
CHANNELS = [{"site_id": 0, "site": "a", "kind": "activation", "shape": [3], "n_weights": 0}]


def _recorded(path: Path, kind: str, columns: dict[str, Any], sites: Any = SITES) -> Path:
    with RunWriter(path, info={"sites": sites}) as writer:
        writer.append(kind, columns)
    return path


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("flip_rate", [0.1, -3.0]),
        ("bimodality_coefficient", [0.5, 55.0]),
        ("sign_entropy_bits", [0.9, -0.2]),
        ("sign_entropy_plugin_bits", [1.0, 1.5]),
        ("kurtosis", [3.0, 0.5]),
        ("weight_scale", [0.0, -1e-3]),
        ("gross_flips", [5.0, math.inf]),
        ("channel_spread", [5.0, -math.inf]),
    ],
)
def test_a_site_measure_outside_its_range_is_missing_and_said(
    tmp_path: Path, name: str, values: list[float]
) -> None:
    path = _recorded(tmp_path / "r", "sites", {"step": [1, 2], "site_id": 0, name: values})
    run = load_run(path)
    with pytest.warns(RunWarning, match=rf"part-\d+\.parquet: 1 value\(s\) of '{name}' outside"):
        found = run.sites[name]
    assert found.tolist()[0] == np.float32(values[0])
    assert math.isnan(found[1])
    assert len(run.warnings) == 1


@pytest.mark.parametrize(
    ("kind", "name", "wrong"),
    [
        ("scalars", "accuracy", 79.38),
        ("scalars", "accuracy", -0.1),
        ("scalars", "loss", math.inf),
        ("scalars", "lr", -1e-3),
        ("scalars", "grad_norm", -1.0),
        ("scalars", "epoch", -1.0),
        ("timings", "images_per_s", -5.0),
        ("timings", "elapsed_s", -math.inf),
    ],
)
def test_a_scalar_outside_its_range_is_missing_and_said(
    tmp_path: Path, kind: str, name: str, wrong: float
) -> None:
    path = _recorded(tmp_path / "r", kind, {"step": [1, 2, 3], name: [0.5, wrong, math.nan]})
    run = load_run(path)
    with pytest.warns(RunWarning, match=f"1 value.*'{name}' outside"):
        found = getattr(run, kind)[name].tolist()
    assert found[0] == 0.5
    assert all(math.isnan(value) for value in found[1:])


def test_negative_losses_are_figures(tmp_path: Path) -> None:
    run = load_run(_recorded(tmp_path / "r", "scalars", {"step": [1], "loss": [-2.0]}))
    assert run.scalars["loss"].tolist() == [-2.0]


@pytest.mark.parametrize(
    ("kind", "good", "wrong", "text"),
    [
        ("scalars", {"step": 1, "loss": 1.0}, {"step": -1}, "impossible step"),
        (
            "trajectories",
            {"step": 1, "site_id": 0, "index": 0, "latent": 0.1, "gradient": 0.1, "sign": 1},
            {"sign": 0},
            "impossible sign",
        ),
        (
            "trajectories",
            {"step": 1, "site_id": 0, "index": 0, "latent": 0.1, "gradient": 0.1, "sign": 1},
            {"index": -4},
            "impossible index",
        ),
        (
            "histograms",
            {"step": 1, "site_id": 0, "kind": "u", "lo": 0.0, "hi": 1.0, "counts": [[1, 2]]},
            {"counts": [[3, -1]]},
            "impossible count",
        ),
        (
            "histograms",
            {"step": 1, "site_id": 0, "kind": "u", "lo": 0.0, "hi": 1.0, "counts": [[1, 2]]},
            {"hi": 0.0},
            "impossible range of bins",
        ),
        (
            "histograms",
            {"step": 1, "site_id": 0, "kind": "u", "lo": 0.0, "hi": 1.0, "counts": [[1, 2]]},
            {"lo": -math.inf},
            "impossible range of bins",
        ),
        (
            "channels",
            {"step": 1, "site_id": 0, "n": 9, "counts": [[1, 2, 9]]},
            {"counts": [[1, 2, 10]]},
            "impossible count",
        ),
        (
            "channels",
            {"step": 1, "site_id": 0, "n": 9, "counts": [[1, 2, 9]]},
            {"n": -9, "counts": [[]]},
            "impossible number of values",
        ),
    ],
)
def test_an_impossible_row_is_left_out_and_said(
    tmp_path: Path, kind: str, good: dict[str, Any], wrong: dict[str, Any], text: str
) -> None:
    sites = CHANNELS if kind == "channels" else SITES
    with RunWriter(tmp_path / "r", info={"sites": sites}) as writer:
        writer.append(kind, good)
        writer.append(kind, {**good, "step": 2, **wrong})
    run = load_run(tmp_path / "r")
    with pytest.warns(RunWarning, match=rf"1 row\(s\) with an {text} are left out"):
        rows = getattr(run, kind)
    assert rows["step"].tolist() == [1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("test_accuracy", 79.38),
        ("validation_accuracy", -1),
        ("teacher_test_accuracy", "0.9"),
        ("test_count", -500),
        ("test_accuracy", True),
        ("test_accuracy", 10**400),
    ],
)
def test_a_result_outside_its_range_is_no_figure(tmp_path: Path, name: str, value: Any) -> None:
    path = make_run(tmp_path / "r", steps=2)
    result = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps({**result, name: value}))
    with pytest.warns(RunWarning, match=rf"result\.json: {name} .* taken as missing"):
        table = tables.run_table(load_run(path))
    if name in table.columns:
        assert math.isnan(table[name].iloc[0])
    assert "7938" not in table.to_string()


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("gross", -np.ones((2, 2), int)),
        ("first_sign", np.zeros((2, 2), int)),
        ("late", np.full((2, 2), -2)),
        ("steps", np.array(-1)),
    ],
)
def test_impossible_flip_counts_are_refused_and_said(
    tmp_path: Path, name: str, array: np.ndarray
) -> None:
    ones = np.ones((2, 2), int)
    sites = [*SITES, {**SITES[0], "site_id": 1, "site": "b"}]
    good = {"gross": ones, "first_sign": ones, "last_sign": -ones, "late": ones, "steps": 9}
    with RunWriter(tmp_path / "r", info={"sites": sites}) as writer:
        writer.write_counts("a", **{**good, name: array})
        writer.write_counts("b", **good)
    run = load_run(tmp_path / "r")
    with pytest.raises(RunError, match="cannot be"):
        run.counts("a")
    assert "counts" in run.warnings[0]
    with pytest.warns(RunWarning, match="1 of 2 weight sites of run r are left out, a first"):
        assert tables.flip_totals(run) == (4, 4, 4)


# Another run's files -----------------------------------------------------------------------------


def test_parts_of_another_run_are_left_out_and_named(tmp_path: Path) -> None:
    mine, other = (make_run(tmp_path / name, steps=4, blocks=1) for name in ("mine", "other"))
    rows = {kind: len(getattr(load_run(mine), kind)) for kind in ("sites", "scalars", "channels")}
    for kind in rows:
        part = next((other / kind).glob("part-*"))
        shutil.copy(part, mine / kind / "part-000077.parquet")
    shutil.copy(other / "result.json", mine / "result.json")
    shutil.copy(other / "counts/blocks.0.attn.qkv.npz", mine / "counts/blocks.0.attn.qkv.npz")
    shutil.copy(other / "examples/attention.npz", mine / "examples/attention.npz")
    with pytest.warns(RunWarning, match="belongs to run 'other', not to 'mine'"):
        run = load_run(mine)
    assert len(run.warnings) == 3
    assert {kind: len(getattr(run, kind)) for kind in rows} == rows
    with pytest.warns(RunWarning, match=r"result\.json: belongs to run 'other'"):
        assert run.result is None
    with pytest.warns(RunWarning, match=r"attention\.npz: belongs to run 'other'"):
        assert run.attention is None
    with pytest.raises(RunError, match="belongs to run 'other'"):
        run.counts("blocks.0.attn.qkv")
    # A resume copies nothing of it either.
    foreign = (mine / "sites/part-000077.parquet").read_bytes()
    RunWriter(mine, info={}, resume_step=2).close()
    assert (mine / "sites/part-000077.parquet").read_bytes() == foreign


def _write(path: Path, table: pa.Table, note: Any) -> None:
    with pq.ParquetWriter(path, table.schema, store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"bvit": json.dumps(note)})


def _note(table: pa.Table, **changes: Any) -> dict[str, Any]:
    digests = {name: _digest(table.column(name)) for name in table.column_names}
    return {"kind": "sites", "schema_version": 1, "digests": digests, **changes}


def test_a_part_without_an_id_is_one_of_the_first_release(tmp_path: Path) -> None:
    path = _recorded(tmp_path / "r", "sites", {"step": 1, "site_id": 0, "flip_rate": 0.5})
    table = pa.table({"step": [2], "site_id": pa.array([0], pa.int16()), "flip_rate": [0.25]})
    _write(path / "sites/part-000005.parquet", table, _note(table))
    assert load_run(path).sites["flip_rate"].tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("columns", "changes", "text"),
    [
        ({}, {"digests": []}, "has no digests"),
        ({}, {"kind": "scalars"}, "was not written as part of"),
        ({"site_id": None}, {}, "lacks the column 'site_id'"),
        ({"flip_rate": pa.array(["a"])}, {}, "of another type"),
        ({"flip_rate": pa.array([[1.0]])}, {}, "of another type"),
        ({"site_id": pa.array([2**40])}, {}, "not a readable"),
        ({"new": pa.array([1.0])}, {"digests": {"step": "x"}}, "other columns than those"),
    ],
)
def test_a_part_that_is_none_of_ours_is_named(
    tmp_path: Path, columns: dict[str, Any], changes: dict[str, Any], text: str
) -> None:
    path = _recorded(tmp_path / "r", "sites", {"step": 1, "site_id": 0, "flip_rate": 0.5})
    given = {"step": pa.array([2]), "site_id": pa.array([0]), "flip_rate": pa.array([0.25])}
    given = {k: v for k, v in {**given, **columns}.items() if v is not None}
    table = pa.table(given)
    _write(path / "sites/part-000005.parquet", table, _note(table, **changes))
    with pytest.warns(RunWarning, match=f"part-000005.*{text}"):
        rows = load_run(path).sites
    assert rows["flip_rate"].tolist() == [0.5]


@pytest.mark.parametrize("note", [[], "x", 3, None])
def test_a_note_that_is_no_object_is_named(tmp_path: Path, note: Any) -> None:
    path = _recorded(tmp_path / "r", "scalars", {"step": 1, "loss": 0.5})
    table = pa.table({"step": [2], "loss": [0.25]})
    _write(path / "scalars/part-000005.parquet", table, note)
    with pytest.warns(RunWarning, match="note that is not an object"):
        assert load_run(path).scalars["loss"].tolist() == [0.5]


def test_two_columns_of_one_name_are_named(tmp_path: Path) -> None:
    path = _recorded(tmp_path / "r", "scalars", {"step": 1, "loss": 0.5})
    arrays = [pa.array([2]), pa.array([0.25]), pa.array([0.75])]
    table = pa.Table.from_arrays(arrays, names=["step", "loss", "loss"])
    digests = {"step": _digest(table.column(0)), "loss": _digest(table.column(1))}
    note = {"kind": "scalars", "schema_version": 1, "digests": digests}
    _write(path / "scalars/part-000005.parquet", table, note)
    with pytest.warns(RunWarning, match="two columns named 'loss'"):
        assert load_run(path).scalars["loss"].tolist() == [0.5]


def test_columns_that_are_filled_count_as_values(tmp_path: Path) -> None:
    path = _recorded(tmp_path / "r", "sites", {"step": 1, "site_id": 0, "flip_rate": 0.5})
    many = 5_000_000
    table = pa.table({"step": pa.array(np.zeros(many, np.int64)), "site_id": np.zeros(many, "i2")})
    (path / "sites/part-000005.parquet").write_bytes(encode_part("sites", table, "r"))
    with pytest.warns(RunWarning, match="values, at most 128000000 are read"):
        assert load_run(path).sites["flip_rate"].tolist() == [0.5]


@pytest.mark.parametrize("heartbeat", [10**400, -1, float("nan"), "now", None])
def test_a_heartbeat_that_is_none_is_silence(tmp_path: Path, heartbeat: Any) -> None:
    path = make_run(tmp_path / "r", steps=1, state="running")
    status = load_run(path).status
    text = json.dumps({**status, "heartbeat": heartbeat, "host": "elsewhere"})
    (path / "status.json").write_text(text)
    started = time.monotonic()
    state = load_run(path).state
    assert state == ("running" if heartbeat == 10**400 else "silent")
    assert time.monotonic() - started < 5


def test_a_step_that_cannot_be_is_not_believed(tmp_path: Path) -> None:
    path = _recorded(tmp_path / "r", "scalars", {"step": [1, 2], "loss": 0.5})
    status = load_run(path).status
    for step in (-7, 2**60, "3"):
        write_json_atomic(path / "status.json", {**status, "step": step})
        assert load_run(path).step == 2


@pytest.mark.parametrize(
    "change",
    [{"site_id": -1}, {"site_id": 2**20}, {"site": "x" * 3000}, {"n_weights": -5}],
)
def test_a_site_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = _recorded(tmp_path / "r", "scalars", {"step": 1, "loss": 0.5})
    info = json.loads((path / "run.json").read_text())
    write_json_atomic(path / "run.json", {**info, "sites": [{**SITES[0], **change}]})
    with pytest.raises(RunError, match="malformed site, number 0"):
        load_run(path)


def test_every_measure_has_a_range_that_its_own_values_pass(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "r", steps=20, recipe="binaryvit"))
    for name in ("sites", "scalars", "timings"):
        assert len(getattr(run, name))
    assert run.warnings == []
    assert all(one.low < one.high for one in MEASURES.values())
