"""The benchmark of packed inference: a quick run gives a record that the tables and figures read; no time is judged."""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import packed_contestants as who
from benchmarks import packed_inference, packed_worker
from bvit_analysis import plots, tables

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is Linux's")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Return the record of a quick run on the tiny network, its tasks in this process, and what was printed."""
    path = tmp_path_factory.mktemp("benchmark") / "record.json"

    def here(task: str, *, cache: Path | None = None, **options: Any) -> Any:
        # through JSON, as between processes
        return json.loads(json.dumps(packed_worker.TASKS[task](**options)))

    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(packed_inference, "measured", here)
        packed_inference.main(["--quick", "--models", "tiny", "--json", str(path)])
    return json.loads(path.read_text(encoding="utf-8")), said.getvalue()


@pytest.mark.slow
def test_a_quick_run_leaves_a_whole_record(quick: tuple[dict[str, Any], str]) -> None:
    record, said = quick
    benchmark = tables.packed_benchmark(record)
    ways = {who.PACKED, who.FP32, who.BF16, who.INT8, who.SIMULATED} - set(benchmark.missing)
    assert set(benchmark.models["way"]) == ways
    assert set(benchmark.layers["site"]) == {*who.SITES, who.BLOCK_LINEARS}
    assert set(benchmark.memory["way"]) == ways
    for table in (benchmark.layers, benchmark.models):
        assert (table["ms"] > 0).all()
        assert (table.loc[table["way"] == who.PACKED, "times_packed"] == 1).all()
        assert (table["low"] <= table["high"]).all()
    assert benchmark.made["quick"]
    assert benchmark.machine["versions"]["torch"]
    assert {"compiled", "cached"} == set(benchmark.start["kernels"])
    for goal in record["goals"]:
        assert goal["met"] == (goal["value"] >= goal["goal"])
        assert f"goal {goal['goal']:g}x: {goal['what']}" in said
    assert "goals met" in said
    savings = tables.packed_savings(benchmark, "tiny")
    assert set(savings["quantity"]) == set(tables.SAVINGS)
    assert plots.plot_savings(savings).axison
    assert plots.plot_time_by_part(tables.packed_account(benchmark, "tiny")).axison


@pytest.mark.slow
def test_macs_and_bytes_are_those_of_the_network(quick: tuple[dict[str, Any], str]) -> None:
    layers = tables.packed_benchmark(quick[0]).layers
    of_fc1 = layers[(layers["site"] == "mlp.fc1") & (layers["way"] == who.FP32)].iloc[0]
    tokens, width = 1 + (16 // 8) ** 2, 64
    assert of_fc1["macs"] == tokens * width * 4 * width
    assert of_fc1["gmacs"] == pytest.approx(of_fc1["macs"] / of_fc1["ms"] / 1e6)
    whole = layers[(layers["site"] == who.BLOCK_LINEARS) & (layers["way"] == who.FP32)].iloc[0]
    assert whole["macs"] == tokens * 12 * width**2
    memory = tables.packed_benchmark(quick[0]).memory.set_index("way")
    plain = who.float_model(who.settings()["tiny"])
    numbers = sum(p.numel() for p in plain.parameters())
    assert memory.loc[who.FP32, "held_bytes"] == 4 * numbers
    assert memory.loc[who.BF16, "held_bytes"] == 2 * numbers
    ledger = tables.packed_benchmark(quick[0]).ledger.set_index("way")
    assert ledger.loc[who.FP32, "bytes"] == 4 * numbers


def test_parts_of_a_pass_are_counted_once() -> None:
    setting = who.settings()["tiny"]
    images = setting.images(1)
    for network in (who.float_model(setting), who.load_runtime(who.binary_model(setting))):
        import torch

        with torch.inference_mode():
            rows = packed_worker.account(network, images, 3)
        known = {*tables.costs.PARTS, tables.costs.OTHER}
        assert {row["part"] for row in rows} <= known
        assert all(row["ms"] > 0 for row in rows)
        assert not any(module._forward_hooks for module in network.modules())


def test_the_time_of_a_program_is_split_by_its_parts() -> None:
    import torch

    setting = who.settings()["tiny"]
    with torch.inference_mode():
        network = who.load_runtime(who.binary_model(setting))
        if network.backend != "numba":
            pytest.skip("programs need numba")
        rows = {
            row["part"]: row["ms"] for row in packed_worker.account(network, setting.images(1), 3)
        }
    assert {"patch embedding", "norms", "block linears", "attention products", "head"} <= set(rows)
    assert "blocks" not in rows


def test_a_call_that_repeats_counts_once() -> None:
    calls: list[int] = []
    way = who.Repeated(lambda: calls.append(1) or time.sleep(0.02), 10)
    found = packed_worker.rounds_of({"packed": way, "other": way}, 2)
    assert all(0.001 < seconds < 0.02 for times in found.values() for seconds in times)
    assert len(calls) == 2 * (
        2 + 2 + 2
    )  # to begin with, a spare one in each round, and those that are timed


def test_rounds_let_everyone_take_turns() -> None:
    calls: list[str] = []

    def slow(name: str) -> None:
        calls.append(name)
        time.sleep(0.02)

    found = packed_worker.rounds_of(
        {"packed": lambda: slow("packed"), "FP32": lambda: slow("FP32")}, 3
    )
    assert {name: len(seconds) for name, seconds in found.items()} == {"packed": 3, "FP32": 3}
    assert calls.count("packed") == calls.count("FP32")


def test_ratios_are_taken_within_rounds() -> None:
    times = {"packed": [1.0, 2.0, 4.0], "FP32": [8.0, 10.0, 40.0]}
    row = packed_worker.summary(times, model="m")[1]
    assert row["times_packed"] == 8  # of 8, 5, 10
    assert (row["low"], row["high"]) == (6.5, 9)
    assert row["ms"] == 10_000
    assert math.isclose(packed_worker.summary(times)[0]["times_packed"], 1)


@pytest.mark.slow
def test_goals_depend_on_the_processor(quick: tuple[dict[str, Any], str]) -> None:
    record = quick[0]
    for flags, goal in ((["avx512_vpopcntdq"], 8), ([], 3)):
        machine = {"hardware": {"flags": flags}}
        found = packed_inference.goals({**record, "machine": machine})
        assert {row["goal"] for row in found if row["what"].startswith("linear")} == {goal}


@pytest.mark.processes
def test_a_task_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    stored = packed_inference.measured("files", names=["tiny"], folder=str(tmp_path))
    assert {row["way"] for row in stored["files"]} >= {who.PACKED, who.FP32, who.BF16}
    with pytest.raises(SystemExit, match="KeyError"):
        packed_inference.measured("start", model="unknown", folder=str(tmp_path))
