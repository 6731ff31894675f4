"""The run folder: what is written is read back, and what is damaged or hostile is named and left out."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bvit_analysis import files as run_files
from bvit_analysis.errors import BvitError, ConfigError, RunError
from bvit_analysis.records import (
    SCHEMAS,
    SITE_METRICS,
    Run,
    RunWarning,
    RunWriter,
    check_name,
    find_runs,
    load_run,
    write_json_atomic,
)
from bvit_analysis.records import parts as run_parts
from bvit_analysis.records import store as run_store
from bvit_analysis.records import writer as run_writer
from tests.support.synthetic_run import make_run

SITES = [
    {"site_id": 0, "site": "blocks.0.a", "kind": "weight", "shape": [3, 4], "n_weights": 12},
    {"site_id": 1, "site": "_hidden/b", "kind": "weight", "shape": [2, 2], "n_weights": 4},
]


def _scalars(writer: RunWriter, start: int, stop: int) -> None:
    for step in range(start, stop):
        writer.append("scalars", {"step": step, "loss": 1.0 / step, "lr": 0.1})


def _listing(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def _read(path: Path) -> Run:
    run = load_run(path)
    for kind in SCHEMAS:
        getattr(run, kind)
    _ = run.result
    return run


@pytest.fixture
def parts_run(tmp_path: Path) -> Path:
    """A run of 10 sealed scalar parts, 10 steps each."""
    writer = RunWriter(tmp_path / "run", info={})
    for part in range(10):
        _scalars(writer, 1 + 10 * part, 11 + 10 * part)
        writer.seal()
    writer.write_status("finished", 100, 100)
    writer.close(compact=False)
    return tmp_path / "run"


# Round trips ----------------------------------------------------------------------------------


def test_every_kind_comes_back_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sites = rng.uniform(size=(2, len(SITE_METRICS))).astype(np.float32)
    sites[:, SITE_METRICS.index("kurtosis")] += 1
    latent = rng.normal(size=5).astype(np.float32)
    with RunWriter(tmp_path / "r", info={"sites": SITES, "seed": 3}) as writer:
        writer.append("scalars", {"step": 7, "loss": 0.1, "accuracy": 1 / 3})
        writer.append("timings", {"step": [7, 8], "images_per_s": [1.5, np.nan], "elapsed_s": 2})
        columns = dict(zip(SITE_METRICS, sites.T, strict=True))
        writer.append("sites", {"step": 7, "site_id": [0, 1], **columns})
        hist = {"step": 7, "site_id": [1, 0], "lo": -4, "hi": 4.0}
        writer.append("histograms", {**hist, "kind": "u", "counts": [[1, 2, 3], [4, 2**40]]})
        writer.append(
            "trajectories",
            {
                "step": 7,
                "site_id": 0,
                "index": np.arange(5),
                "latent": latent,
                "gradient": -latent,
                "sign": np.array([1, -1, 1, -1, 1], np.int8),
            },
        )
        gross = np.arange(12).reshape(3, 4)
        signs = np.where(gross % 2, 1, -1)
        for site, cut in (("blocks.0.a", np.s_[:, :]), ("_hidden/b", np.s_[:2, :2])):
            writer.write_counts(
                site,
                gross=gross[cut],
                first_sign=signs[cut],
                last_sign=-signs[cut],
                late=gross[cut] // 2,
                steps=9,
            )
        writer.write_result({"test_accuracy": np.float32(0.5), "validation_accuracy": np.nan})
    run = load_run(tmp_path / "r")
    row = run.scalars.iloc[0]
    assert (row["step"], row["loss"], row["accuracy"]) == (7, 0.1, 1 / 3)
    assert np.isnan(row["grad_norm"])
    assert run.timings["elapsed_s"].tolist() == [2, 2]
    assert run.sites["site"].tolist() == ["blocks.0.a", "_hidden/b"]
    assert run.sites["kind"].tolist() == ["weight", "weight"]
    np.testing.assert_array_equal(run.sites[list(SITE_METRICS)].to_numpy(), sites)
    assert set(run.sites[list(SITE_METRICS)].dtypes) == {np.dtype(np.float32)}
    assert list(run.histograms.columns) == ["step", "site", "kind", "lo", "hi", "counts"]
    assert [counts.tolist() for counts in run.histograms["counts"]] == [[4, 2**40], [1, 2, 3]]
    assert run.trajectories["latent"].tolist() == latent.tolist()
    assert run.trajectories["sign"].dtype == np.int8
    assert run.trajectories["site"].cat.categories.tolist() == ["blocks.0.a", "_hidden/b"]
    counts = run.counts("_hidden/b")
    assert counts["gross"].tolist() == [[0, 1], [4, 5]]
    assert counts["gross"].dtype == np.int32
    assert counts["steps"] == 9
    assert not (tmp_path / "r" / "counts" / "_hidden").exists()
    assert run.result == {"test_accuracy": 0.5, "validation_accuracy": None}
    assert run.site_table["shape"].tolist() == [(3, 4), (2, 2)]
    assert (run.state, run.step, run.warnings) == ("finished", 8, [])


def test_tables_of_an_empty_run_have_their_columns(tmp_path: Path) -> None:
    RunWriter(tmp_path / "r", info={}).close()
    run = load_run(tmp_path / "r")
    assert list(run.scalars.columns) == SCHEMAS["scalars"].names
    assert list(run.sites.columns) == ["step", "site", "kind", *SITE_METRICS]
    assert list(run.trajectories.columns)[:2] == ["step", "site"]
    assert run.sites.empty
    assert run.histograms.empty
    assert run.costs.empty
    assert run.result is None
    assert (run.state, run.step, run.label) == ("interrupted", 0, "r")


def test_rows_of_one_key_are_one_row_and_nan_never_wins(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "r", info={"sites": SITES}) as writer:
        writer.append("scalars", {"step": [1, 2], "loss": [5.0, 6.0]})
        writer.seal()
        writer.append("scalars", {"step": 2, "accuracy": 0.5})
        writer.append("scalars", {"step": 1, "loss": 4.0})
    run = load_run(tmp_path / "r")
    assert run.scalars["loss"].tolist() == [4.0, 6.0]
    assert run.scalars["accuracy"].tolist()[1] == 0.5


def test_selected_measures_are_read_alone(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "r", steps=4), columns=["flip_rate"])
    assert list(run.sites.columns) == ["step", "site", "kind", "flip_rate"]
    with pytest.raises(ConfigError, match="did you mean 'flip_rate'"):
        load_run(tmp_path / "r", columns=["fliprate"])


def test_appended_memory_may_be_reused_by_the_caller(tmp_path: Path) -> None:
    latent = np.ones(3, np.float32)
    with RunWriter(tmp_path / "r", info={"sites": SITES}) as writer:
        base = {"site_id": 0, "index": np.arange(3), "gradient": latent, "sign": np.ones(3, "i1")}
        for step in (1, 2):
            latent[:] = step
            writer.append("trajectories", {"step": step, "latent": latent, **base})
    assert load_run(tmp_path / "r").trajectories["latent"].tolist() == [1, 1, 1, 2, 2, 2]


@pytest.mark.slow
def test_the_seal_timer_changes_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "a", steps=3, blocks=1)
    monkeypatch.setattr(run_writer, "SEAL_SECONDS", 0.0)
    make_run(tmp_path / "b", steps=3, blocks=1, state="running")
    monkeypatch.setattr(run_store, "MERGE_PARTS", 7)
    make_run(tmp_path / "c", steps=3, blocks=1, state="running")
    assert len(list((tmp_path / "b/sites").glob("part-*"))) > 20
    assert len(list((tmp_path / "c/sites").glob("part-*"))) < 12
    one, *others = (load_run(tmp_path / name) for name in "abc")
    for other in others:
        for kind in SCHEMAS:
            pd.testing.assert_frame_equal(getattr(one, kind), getattr(other, kind))


def test_close_leaves_one_part_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_writer, "SEAL_SECONDS", 0.0)
    path = make_run(tmp_path / "r", steps=2, blocks=1)
    assert [len(list((path / kind).iterdir())) for kind in ("scalars", "sites")] == [1, 1]
    assert not (path / "lock").exists()


def test_large_tables_are_split_and_merged_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_store, "PART_BYTES", 56 * 40)
    with RunWriter(tmp_path / "r", info={}) as writer:
        writer.append("scalars", {"step": np.arange(100), "loss": 1.0})
        writer.seal()
        writer.append("scalars", {"step": np.arange(100, 110), "loss": 1.0})
    parts = list((tmp_path / "r/scalars").glob("part-*"))
    assert len(parts) == 3
    assert load_run(tmp_path / "r").scalars["step"].tolist() == list(range(110))


# Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/x", "a/b", "C:\\x", "CON", "nul.txt", "", ".", "..", "-x", "a" * 81, "a\n"],
)
def test_unsafe_names_are_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="not allowed"):
        check_name(name)
    with pytest.raises(ConfigError, match="not allowed"):
        RunWriter(tmp_path / "root" / "r", info={"run_id": name})
    assert _listing(tmp_path) == set()


def test_malformed_sites_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="malformed site, number 1"):
        RunWriter(tmp_path / "r", info={"sites": [SITES[0], {"site_id": 1}]})
    with pytest.raises(ConfigError, match="one site_id twice"):
        RunWriter(tmp_path / "r", info={"sites": [SITES[0], SITES[0]]})
    assert _listing(tmp_path) == set()


@pytest.mark.parametrize(
    ("kind", "columns", "text"),
    [
        ("scalar", {"step": 1}, "did you mean 'scalars'"),
        ("scalars", {"step": 1, "los": 1.0}, "did you mean 'loss'"),
        ("scalars", {"loss": 1.0}, "need the column 'step'"),
        ("scalars", {"step": 1.5}, "must hold int64"),
        ("scalars", {"step": [1, 2], "loss": [1.0, 2.0, 3.0]}, "differ in length"),
        ("sites", {"step": 1, "site_id": 70000}, "must hold int16"),
        ("scalars", {"step": 1, "loss": "high"}, "must hold float64"),
        ("scalars", {"step": [[1]]}, "1-d"),
        (
            "histograms",
            {"step": 1, "site_id": 0, "kind": "u", "lo": 0, "hi": 1, "counts": [0.5]},
            "whole numbers",
        ),
    ],
)
def test_wrong_rows_are_refused(tmp_path: Path, kind: str, columns: dict, text: str) -> None:
    with RunWriter(tmp_path / "r", info={"sites": SITES}) as writer:
        with pytest.raises(ConfigError, match=text):
            writer.append(kind, columns)
        writer.append("scalars", {"step": [], "loss": []})
    assert load_run(tmp_path / "r").scalars.empty


def test_a_closed_writer_says_so(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "r", info={})
    writer.close()
    writer.close()
    with pytest.raises(RunError, match="resume_step"):
        writer.append("scalars", {"step": 1})


def test_states_by_how_the_writer_ended(tmp_path: Path) -> None:
    def fail(writer: RunWriter) -> None:
        with writer:
            writer.write_status("running", 3, 10)
            raise ValueError("bad")

    writer = RunWriter(tmp_path / "r", info={})
    with pytest.raises(ValueError, match="bad"):
        fail(writer)
    status = load_run(tmp_path / "r").status
    assert (status["state"], status["step"], status["total_steps"]) == ("failed", 3, 10)
    assert status["error"] == "ValueError: bad"
    with pytest.raises(KeyboardInterrupt), RunWriter(tmp_path / "s", info={}):
        raise KeyboardInterrupt
    assert load_run(tmp_path / "s").state == "interrupted"
    with pytest.raises(ConfigError, match="did you mean 'finished'"):
        writer.write_status("finishd", 1)


@pytest.mark.parametrize("state", ["finished", "running", "interrupted", "failed", "silent"])
def test_synthetic_runs_have_the_state_asked_for(tmp_path: Path, state: str) -> None:
    run = load_run(make_run(tmp_path / "r", steps=3, state=state))
    assert run.state == state
    assert run.label == "baseline, seed 0"


def test_running_turns_silent_by_heartbeat_or_dead_process(tmp_path: Path) -> None:
    path = make_run(tmp_path / "r", steps=1, state="running")
    status = load_run(path).status
    write_json_atomic(path / "status.json", {**status, "heartbeat": time.time() - 700})
    assert load_run(path).state == "silent"
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(60)
    write_json_atomic(path / "status.json", {**status, "pid": child.pid})
    assert load_run(path).state == "silent"
    write_json_atomic(path / "status.json", {**status, "pid_started": 1})
    assert load_run(path).state == "silent"
    write_json_atomic(path / "status.json", {**status, "pid": 1, "host": "elsewhere"})
    assert load_run(path).state == "running"


# Damage ---------------------------------------------------------------------------------------


def _truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[40] ^= 0x10
    return bytes(changed)


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip,
        lambda data: b"",
        lambda data: b"step,loss\n1,2\n",
        lambda d: b"\0" * len(d),
    ],
    ids=["truncated", "flipped", "empty", "text", "zeros"],
)
def test_one_damaged_part_is_named_and_the_others_shown(parts_run: Path, damage: Any) -> None:
    part = parts_run / "scalars" / "part-000004.parquet"
    part.write_bytes(damage(part.read_bytes()))
    with pytest.warns(RunWarning, match=r"part-000004\.parquet"):
        run = _read(parts_run)
    assert run.scalars["step"].tolist() == [*range(1, 41), *range(51, 101)]
    assert len(run.warnings) == 1


def test_no_flipped_bit_changes_what_is_read(parts_run: Path) -> None:
    part = parts_run / "scalars" / "part-000000.parquet"
    good = part.read_bytes()
    table = run_parts.read_part(part, "scalars")
    for position in range(0, len(good), 7):
        changed = bytearray(good)
        changed[position] ^= 1 << (position % 8)
        part.write_bytes(changed)
        try:
            found = run_parts.read_part(part, "scalars")
        except run_files.DamagedFile:
            continue
        pd.testing.assert_frame_equal(found.to_pandas(), table.to_pandas())


def test_damaged_parts_survive_resume_and_merging(parts_run: Path) -> None:
    part = parts_run / "scalars" / "part-000004.parquet"
    part.write_bytes(b"junk")
    RunWriter(parts_run, info={}, resume_step=95).close()
    assert part.read_bytes() == b"junk"
    with pytest.warns(RunWarning, match="part-000004"):
        run = load_run(parts_run)
    assert run.scalars["step"].tolist() == [*range(1, 41), *range(51, 96)]


@pytest.mark.parametrize("name", ["status.json", "result.json"])
@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff", '{"schema_version": 9}', "[" * 100_000])
def test_damaged_status_or_result_is_named(tmp_path: Path, name: str, text: str) -> None:
    path = make_run(tmp_path / "r", steps=2)
    (path / name).write_text(text, encoding="latin-1")
    with pytest.warns(RunWarning, match=name):
        run = _read(path)
    assert run.result is None or name == "status.json"
    assert run.step == 2
    assert run.state == ("silent" if name == "status.json" else "finished")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema_version": 2}, "'2'.*reads version 1; update bvit_analysis"),
        ({"schema_version": 0}, "record the run again"),
        ({"schema_version": None}, "record the run again"),
        ({"schema_version": True}, "record the run again"),
        ({"sites": [{"site": "x"}]}, "malformed site"),
        ({"sites": 3}, "no list of sites"),
        ({"config": [1]}, "config"),
        ({"run_id": "../x"}, "not allowed"),
    ],
)
def test_foreign_run_json_is_refused_in_one_line(tmp_path: Path, change: dict, text: str) -> None:
    path = make_run(tmp_path / "r", steps=1)
    info = json.loads((path / "run.json").read_text())
    write_json_atomic(path / "run.json", {**info, **change})
    with pytest.raises(RunError, match=text) as caught:
        load_run(path)
    assert "\n" not in str(caught.value)


def test_missing_run_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"expected a folder with a run\.json; record one with"):
        load_run(tmp_path / "none")
    make_run(tmp_path / "runs" / "mine", steps=1)
    with pytest.raises(RunError, match="pass one of the runs in it: .*mine"):
        load_run(tmp_path / "runs")
    with pytest.raises(RunError, match="no folder at"):
        find_runs(tmp_path / "none")
    assert find_runs(tmp_path) == [tmp_path / "runs" / "mine"]
    assert find_runs(tmp_path / "runs" / "mine") == [tmp_path / "runs" / "mine"]


def test_counts_missing_unknown_or_damaged(tmp_path: Path) -> None:
    path = make_run(tmp_path / "r", steps=2)
    run = load_run(path)
    site = "blocks.0.attn.qkv"
    with pytest.raises(RunError, match=f"did you mean '{site}'"):
        run.counts("blocks.0.atn.qkv")
    with pytest.raises(RunError, match="no flip counts"):
        run.counts("blocks.0.attn.q_sign")
    file = path / "counts" / f"{site}.npz"
    good = file.read_bytes()
    for damaged in (good[:100], b"", b"PK\x03\x04" + b"\0" * 50):
        file.write_bytes(damaged)
        with pytest.raises(RunError, match="restore the file"):
            run.counts(site)
    expected = None
    for position in range(0, len(good), 31):
        changed = bytearray(good)
        changed[position] ^= 1 << (position % 8)
        file.write_bytes(changed)
        try:
            found = run.counts(site)
        except RunError:
            continue
        expected = expected or found
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name])


# Reading while writing, kills and resuming ----------------------------------------------------


def test_reading_while_parts_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_writer, "SEAL_SECONDS", 0.0)
    monkeypatch.setattr(run_store, "MERGE_PARTS", 3)
    writer = RunWriter(tmp_path / "r", info={})
    read = run_parts.read_part
    step = iter(range(2, 1000))

    def read_late(path: Path, kind: str, columns: Any = None, **options: Any) -> pa.Table:
        # Between the listing of a part and its reading the writer adds rows and merges parts.
        if next(calls) % 4 == 0:
            _scalars(writer, now := next(step), now + 1)
        return read(path, kind, columns, **options)

    calls = iter(range(10_000))
    monkeypatch.setattr("bvit_analysis.records.rows.read_part", read_late)
    _scalars(writer, 1, 2)
    for _ in range(12):
        steps = load_run(tmp_path / "r").scalars["step"].tolist()
        assert steps == list(range(1, len(steps) + 1))
    writer.close()


_WRITER = """
import sys, time
from bvit_analysis.records import writer as run_writer
run_writer.SEAL_SECONDS = 0.05
writer = run_writer.RunWriter(sys.argv[1], info={})
step = 0
while True:
    step += 1
    writer.append("scalars", {"step": step, "loss": 1.0 / step})
    if step % 50 == 0:
        print(step, flush=True)
    time.sleep(0.001)
"""


@pytest.mark.processes
def test_sigkill_loses_at_most_the_unsealed_rows(tmp_path: Path) -> None:
    path = tmp_path / "r"
    child = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            if int(line) >= 500:
                break
        live = load_run(path)
        assert live.state == "running"
        with pytest.raises(RunError, match=f"written by process {child.pid}"):
            RunWriter(path, info={}, resume_step=1)
        child.send_signal(signal.SIGKILL)
        child.wait(60)
        (path / "scalars" / ".part-999999.parquet.1-ab.tmp").write_bytes(b"half")
    run = load_run(path)
    steps = run.scalars["step"].tolist()
    assert run.state == "silent"
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 300
    # The lock of a dead process is taken over, and only its owner cleans up.
    with RunWriter(path, info={}, resume_step=200) as writer:
        assert not list(path.rglob("*.tmp"))
        _scalars(writer, 201, 211)
    assert load_run(path).scalars["step"].tolist() == list(range(1, 211))


def test_resume_sets_later_rows_aside_and_deletes_none(parts_run: Path) -> None:
    info = (parts_run / "run.json").read_bytes()
    (parts_run / "result.json").write_text('{"schema_version": 1}')
    before = load_run(parts_run).scalars
    with RunWriter(parts_run, info={"seed": 9}, resume_step=55) as writer:
        assert load_run(parts_run).scalars["step"].tolist() == list(range(1, 56))
        assert writer.step == 55
        _scalars(writer, 56, 61)
    with RunWriter(parts_run, info={}, resume_step=-1) as writer:
        assert load_run(parts_run).scalars.empty
        _scalars(writer, 1, 4)
    assert load_run(parts_run).scalars["step"].tolist() == [1, 2, 3]
    assert (parts_run / "run.json").read_bytes() == info
    assert load_run(parts_run).result is None
    assert (parts_run / "scalars" / "superseded-1" / "result.json").exists()
    kept = [
        run_parts.read_part(path, "scalars").to_pandas()
        for path in parts_run.glob("scalars/superseded-*/part-*")
    ]
    rows = pd.concat(kept).drop_duplicates("step").sort_values("step", ignore_index=True)
    pd.testing.assert_frame_equal(rows, before)


@pytest.mark.slow
def test_a_crash_at_any_file_operation_of_a_resume_loses_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def run_until(path: Path, last: int) -> int:
        calls = 0

        def guarded(function: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == last:
                    raise Killed
                return function(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", guarded(os.fsync))
            patch.setattr(Path, "replace", guarded(Path.replace))
            with contextlib.suppress(Killed):
                writer = RunWriter(path, info={}, resume_step=15)
                _scalars(writer, 16, 31)
                writer.close()
        return calls

    last = 0
    while True:
        last += 1
        path = tmp_path / f"r{last}"
        with RunWriter(path, info={}) as writer:
            for start in (1, 11, 21):
                _scalars(writer, start, start + 10)
                writer.seal()
            writer.close(compact=False)
        calls = run_until(path, last)
        (path / "lock").unlink(missing_ok=True)
        assert set(range(1, 16)) <= set(load_run(path).scalars["step"])
        run_until(path, 0)
        scalars = load_run(path).scalars
        assert scalars["step"].tolist() == list(range(1, 31))
        if calls < last:
            break
    assert last > 15


def test_an_existing_run_is_not_written_over(parts_run: Path) -> None:
    before = _listing(parts_run)
    with pytest.raises(RunError, match=r"already holds a run; .*Watch.resume"):
        RunWriter(parts_run, info={})
    assert _listing(parts_run) == before


# Hostile folders ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("form", ["link", "pipe", "folder"])
@pytest.mark.parametrize("place", ["scalars/part-000009.parquet", "result.json", "status.json"])
def test_what_is_no_regular_file_is_skipped_with_a_reason(
    tmp_path: Path, form: str, place: str
) -> None:
    path = make_run(tmp_path / "r", steps=2)
    target = path / place
    secret = tmp_path / "secret"
    if target.exists():
        target.rename(secret)
    else:
        secret.write_bytes((path / "scalars/part-000000.parquet").read_bytes())
    if form == "link":
        target.symlink_to(secret)
    elif form == "pipe":
        os.mkfifo(target)
    else:
        target.mkdir()
    started = time.monotonic()
    with pytest.warns(RunWarning, match="symbolic link|not a regular file|cannot be opened"):
        run = _read(path)
    assert run.scalars["step"].tolist() == [1, 2]
    assert target.name in run.warnings[0]
    assert time.monotonic() - started < 2


def test_linked_folders_are_not_entered(tmp_path: Path) -> None:
    path = make_run(tmp_path / "r", steps=2)
    for name in ("scalars", "counts"):
        (path / name).rename(tmp_path / name)
        (path / name).symlink_to(tmp_path / name)
    with pytest.warns(RunWarning, match="symbolic link"):
        run = _read(path)
    assert run.scalars.empty
    with pytest.raises(RunError, match="linked folder"):
        run.counts("blocks.0.attn.qkv")


def test_a_writer_does_not_follow_links_either(tmp_path: Path) -> None:
    path = make_run(tmp_path / "r", steps=2)
    (path / "scalars").rename(tmp_path / "scalars")
    (path / "scalars").symlink_to(tmp_path / "scalars")
    with pytest.raises(RunError, match="symbolic link"):
        RunWriter(path, info={}, resume_step=1)
    assert not (path / "lock").exists()


def test_linked_or_huge_run_json_is_refused(tmp_path: Path) -> None:
    path = make_run(tmp_path / "r", steps=1)
    (path / "run.json").rename(tmp_path / "run.json")
    (path / "run.json").symlink_to(tmp_path / "run.json")
    with pytest.raises(RunError, match="symbolic link"):
        load_run(path)
    (path / "run.json").unlink()
    with (path / "run.json").open("wb") as file:
        file.truncate(run_files.MAX_JSON_BYTES + 1)
    with pytest.raises(RunError, match="too large"):
        load_run(path)


class _Marker:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    path = make_run(tmp_path / "r", steps=2)
    marker = tmp_path / "marker"
    file = path / "counts" / "blocks.0.attn.qkv.npz"
    good = dict(np.load(file))
    bad = np.empty((96, 32), object)
    bad[:] = _Marker(marker)
    np.savez(file, **{**good, "gross": bad}, allow_pickle=True)
    with pytest.raises(RunError, match="restore the file"):
        load_run(path).counts("blocks.0.attn.qkv")
    file.write_bytes(pickle.dumps(_Marker(marker)))
    with pytest.raises(RunError, match="restore the file"):
        load_run(path).counts("blocks.0.attn.qkv")
    assert not marker.exists()


def test_claimed_sizes_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = make_run(tmp_path / "r", steps=2)
    info = json.loads((path / "run.json").read_text())
    info["sites"][0]["shape"] = [2**30, 2**30]
    write_json_atomic(path / "run.json", info)
    with pytest.raises(RunError, match="claims"):
        load_run(path).counts("blocks.0.attn.qkv")
    many = pa.table({name: np.zeros(9_000_000, "i1") for name in SCHEMAS["timings"].names})
    note = {"bvit": json.dumps({"kind": "timings", "schema_version": 1, "digests": {}})}
    pq.write_table(many.replace_schema_metadata(note), path / "timings/part-000007.parquet")
    with pytest.warns(RunWarning, match="claims 9000000 rows"):
        load_run(path)


def test_parts_of_another_kind_or_writer_are_skipped(parts_run: Path) -> None:
    folder = parts_run / "scalars"
    pq.write_table(pa.table({"step": [1]}), folder / "part-000020.parquet")
    (parts_run / "timings" / "part-000000.parquet").write_bytes(
        (folder / "part-000000.parquet").read_bytes()
    )
    (folder / "part-1.parquet").write_bytes(b"")  # not a part's name: said, not read
    with (
        pytest.warns(RunWarning, match="was not written as part of"),
        pytest.warns(RunWarning, match=r"scalars: 1 file\(s\) that are no parts, 'part-1.parquet'"),
    ):
        run = load_run(parts_run)
    assert len(run.warnings) == 3
    assert len(run.scalars) == 100


def test_rows_of_unknown_sites_are_left_out(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "r", info={"sites": SITES}) as writer:
        writer.append("sites", {"step": 1, "site_id": [0, 5], "flip_rate": 0.5})
    with pytest.warns(RunWarning, match=r"site_id \[5\]"):
        run = _read(tmp_path / "r")
    assert run.sites["site"].tolist() == ["blocks.0.a"]


# Storage --------------------------------------------------------------------------------------


def test_full_disk_is_one_line_and_earlier_parts_stay(
    parts_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RunWriter(parts_run, info={}, resume_step=100)
    _scalars(writer, 101, 103)
    write = os.write

    def full(handle: int, data: Any) -> int:
        if len(data) > 100:
            return write(handle, data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(BvitError, match=r"No space left for .*part-.*need \d+ bytes, have \d+"):
            writer.seal()
    assert not list(parts_run.rglob("*.tmp"))
    assert len(load_run(parts_run).scalars) == 100
    writer.close()  # there is room again, and the rows had stayed in memory
    assert load_run(parts_run).scalars["step"].max() == 102


def test_without_room_to_merge_the_parts_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RunWriter(tmp_path / "r", info={})
    for step in (1, 2):
        _scalars(writer, step, step + 1)
        writer.seal()
    writer.write_status("finished", 2)

    def full(handle: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        writer.close()
    assert len(list((tmp_path / "r/scalars").iterdir())) == 2
    assert load_run(tmp_path / "r").scalars["step"].tolist() == [1, 2]


@pytest.mark.parametrize("operation", ["fsync", "open", "replace"])
def test_other_faults_surface_too(
    parts_run: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    writer = RunWriter(parts_run, info={}, resume_step=100)
    _scalars(writer, 101, 103)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, "replace") if operation == "replace" else (os, operation)), fail)
        with pytest.raises(RunError, match="cannot write .*Permission denied"):
            writer.seal()
    writer.close()
    assert load_run(parts_run).scalars["step"].max() == 102


def test_a_really_full_disk(small_disk: Path) -> None:
    rng = np.random.default_rng(0)
    writer = RunWriter(small_disk / "r", info={})
    stored = 0

    def fill() -> None:
        nonlocal stored
        while stored < 100:
            steps = np.arange(stored * 5000, (stored + 1) * 5000)
            writer.append("scalars", {"step": steps, "loss": rng.normal(size=5000)})
            writer.seal()
            stored += 1

    with pytest.raises(BvitError, match=r"No space left for .*need \d+ bytes, have \d+") as caught:
        fill()
    assert "\n" not in str(caught.value)
    assert stored > 2
    assert not list(small_disk.rglob("*.tmp"))
    run = load_run(small_disk / "r")
    assert len(run.scalars) == stored * 5000
    with pytest.raises(RunError, match="No space left"):
        writer.close()
    assert load_run(small_disk / "r").warnings == []


def test_a_read_only_place_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write .*file"):
        RunWriter(tmp_path / "file" / "r", info={})
    with pytest.raises(RunError, match="cannot write .*file"):
        RunWriter(tmp_path / "file", info={})


def test_odd_paths_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "a b" / "\u00fcml\u00e4ut" / ("x" * 200)
    odd.mkdir(parents=True)
    (tmp_path / "linked").symlink_to(odd)
    make_run(tmp_path / "linked" / "r", steps=1)
    monkeypatch.chdir(odd)
    assert load_run("r").step == 1
    assert find_runs(".") == [Path("r")]


def test_json_never_holds_nan(tmp_path: Path) -> None:
    value = {
        "a": np.float32("nan"),
        "b": [np.inf, np.int64(3)],
        "c": np.arange(2),
        "d": (True, None),
    }
    write_json_atomic(tmp_path / "x.json", {**value, 5: tmp_path})
    found = json.loads((tmp_path / "x.json").read_text())
    expected = {"a": None, "b": [None, 3], "c": [0, 1], "d": [True, None], "5": str(tmp_path)}
    assert found == expected


@pytest.mark.processes
def test_a_run_is_read_without_torch(tmp_path: Path) -> None:
    make_run(tmp_path / "r", steps=1)
    code = (
        "import sys; from bvit_analysis.records import load_run;"
        f"load_run({str(tmp_path / 'r')!r}).sites; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_appending_is_cheap(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "r", info={"sites": SITES})
    values = np.zeros(160, np.float32)
    site_id, index, sign = np.zeros(160, np.int16), np.arange(160), np.ones(160, np.int8)
    columns = {"site_id": site_id, "index": index, "latent": values, "gradient": values}
    best = float("inf")
    for repeat in range(5):
        started = time.perf_counter()
        for step in range(200):
            writer.append("trajectories", {"step": 200 * repeat + step, "sign": sign, **columns})
        best = min(best, (time.perf_counter() - started) / 200)
    writer.close()
    # Generous, since machines differ; about 20 microseconds where this was written.
    assert best < 1e-3


def test_warnings_are_shown_once(parts_run: Path) -> None:
    (parts_run / "scalars" / "part-000001.parquet").write_bytes(b"")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = load_run(parts_run)
        _ = run.scalars
        _ = run.scalars
    assert len(caught) == 1
    assert run.warnings == [str(caught[0].message)]


def test_parts_are_plain_parquet_with_the_fixed_schema(tmp_path: Path) -> None:
    path = make_run(tmp_path / "r", steps=2)
    for kind, schema in SCHEMAS.items():
        for part in (path / kind).glob("part-*"):
            table = pq.read_table(io.BytesIO(part.read_bytes()))
            assert table.column_names == schema.names


def test_torch_tensors_are_taken_as_they_are(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    ones = torch.ones(3, 4, dtype=torch.int8)
    with RunWriter(tmp_path / "r", info={"sites": SITES}) as writer:
        writer.append("scalars", {"step": torch.tensor(3), "loss": torch.tensor(0.5)})
        row = {"step": 3, "site_id": 0, "kind": "u", "lo": -4, "hi": 4}
        writer.append("histograms", {**row, "counts": torch.arange(5)})
        counts = {"gross": 2 * ones.int(), "late": -ones.int(), "steps": torch.tensor(3)}
        writer.write_counts("blocks.0.a", first_sign=ones, last_sign=-ones, **counts)
    run = load_run(tmp_path / "r")
    assert run.histograms["counts"][0].tolist() == [0, 1, 2, 3, 4]
    assert run.scalars["loss"].tolist() == [0.5]
    assert run.counts("blocks.0.a")["last_sign"].sum() == -12
