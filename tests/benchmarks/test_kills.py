"""The campaign of kills: what it would report is seen, and a small one finds nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import kills
from bvit_analysis.files import write_json_atomic
from bvit_analysis.records import load_run
from bvit_analysis.training.run import train
from tests.support.tiny_run import tiny

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children die with parents there")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny(), tmp_path_factory.mktemp("whole") / "run", progress=False)


@pytest.mark.slow
def test_an_equal_run_is_equal_and_a_changed_figure_row_or_weight_is_not(
    whole: Path, tmp_path: Path
) -> None:
    assert kills.strangers(whole) == []
    for change in ("nothing", "result", "rows", "checkpoint", "state"):
        copy = tmp_path / change
        shutil.copytree(whole, copy)
        if change == "result":
            result = load_run(whole).result or {}
            write_json_atomic(copy / "result.json", {**result, "schema_version": 1, "steps": 1})
        elif change == "rows":
            for part in (copy / "scalars").glob("part-*"):
                part.unlink()
        elif change == "checkpoint":
            newest = max((copy / "checkpoints").iterdir())
            shutil.rmtree(newest)
        elif change == "state":
            status = load_run(whole).status
            write_json_atomic(copy / "status.json", {**status, "state": "interrupted"})
        found = kills.differences(whole, copy)
        assert bool(found) == (change != "nothing"), change
        assert all(line.startswith(f"{copy}: ") for line in found)
        expected = {"rows": "scalars.loss", "checkpoint": "weights.", "result": "result"}
        assert expected.get(change, "") in "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["lock", ".lock.1-ab.tmp", "scalars/.part-000000.parquet.1-ab.tmp", "counts/x", "lock.old"]
    + [f"checkpoints/ckpt-00000024{end}" for end in (".old", ".tmp-1-ab", ".gone-ab")],
)
def test_what_no_finished_run_holds_is_a_leftover(whole: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    assert kills.strangers(copy) == []
    (copy / name).touch()
    assert kills.strangers(copy) == [f"{copy}: {name}"]


@pytest.mark.slow
def test_a_small_campaign_finds_nothing() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.kills", "--kills", "6"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr[-2000:]
    assert re.search(r"^kills: 6 \(", found.stdout)
    for name in ("differences", "leftovers", "refused"):
        assert f"\n{name}: 0\n" in found.stdout
    compared = re.search(r"compared to the bit: (\d+)", found.stdout)
    assert compared is not None
    assert int(compared[1]) >= 4  # the teacher and the run of each round
