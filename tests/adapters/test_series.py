"""What trackers are given of a run: every number that was recorded, once, under a tag of its own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bvit_analysis.adapters.series import Export, missing, number_of, points
from bvit_analysis.errors import RunError
from bvit_analysis.records import SITE_METRICS, load_run
from tests.support import without_torch
from tests.support.growing_run import begin, grow
from tests.support.synthetic_run import make_run


def test_every_number_of_a_small_run(tmp_path: Path) -> None:
    writer = begin(tmp_path / "run")
    grow(writer, 1, 5)
    writer.close()
    found = points(load_run(tmp_path / "run"))
    assert list(found) == [1, 2, 3, 4, 5]
    assert found[4] == {"scalars/loss": 0.25, "flip_rate/fc": 0.125}
    assert found[5] == {
        "scalars/loss": 0.2,
        "scalars/accuracy": pytest.approx(0.05),
        "timings/images_per_s": 640.0,
        "timings/elapsed_s": 0.5,
        "flip_rate/fc": pytest.approx(0.1),
    }
    assert number_of(found) == 4 * 2 + 5


def test_counts_are_those_of_the_tables(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", steps=20))
    found = points(run)
    frames = (run.scalars, run.timings, run.sites)
    recorded = [frame.drop(columns=["step", "site", "kind"], errors="ignore") for frame in frames]
    assert number_of(found) == sum(int(frame.notna().to_numpy().sum()) for frame in recorded)
    measures = {tag.partition("/")[0] for values in found.values() for tag in values}
    assert measures - {"scalars", "timings"} <= set(SITE_METRICS)
    row = run.sites[(run.sites["step"] == 20) & (run.sites["site"] == "blocks.1.attn.qkv")].iloc[0]
    assert found[20]["flip_rate/blocks.1.attn.qkv"] == row["flip_rate"]
    assert not any(math.isnan(value) for values in found.values() for value in values.values())


def test_what_is_missing_is_what_the_tracker_lacks() -> None:
    wanted = {1: {"a": 1.0}, 2: {"a": 2.0, "b": 3.0}}
    assert missing(wanted, {}, Path("x")) == wanted
    assert missing(wanted, {1: {"a": 1.0}, 2: {"b": 3.0}}, Path("x")) == {2: {"a": 2.0}}
    assert missing(wanted, wanted, Path("x")) == {}


@pytest.mark.parametrize("kept", [{1: {"a": 1.5}}, {1: {"c": 1.0}}, {9: {"a": 1.0}}])
def test_another_run_of_the_name_is_not_mixed_in(kept: dict[int, dict[str, float]]) -> None:
    with pytest.raises(RunError, match="already holds a run of this name") as refused:
        missing({1: {"a": 1.0}}, kept, Path("there"))
    assert str(refused.value).startswith("there ")


def test_an_export_says_what_it_did() -> None:
    assert str(Export("run", Path("x"), 7, 2)) == "run: 7 figures in x, 2 of them new"
    assert (
        str(Export("run", Path("x"), 0, 0)) == "run: no figures recorded yet, nothing written to x"
    )


@pytest.mark.processes
@pytest.mark.parametrize("tracker", ["tensorboard", "trackio"])
def test_an_export_needs_no_torch(tmp_path: Path, tracker: str) -> None:
    run = make_run(tmp_path / "run", steps=2, blocks=1)
    command = ("-m", "bvit_analysis.cli", "export", str(run), "--to", tracker)
    done = without_torch.python(tmp_path, *command, "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    figures = number_of(points(load_run(run)))
    assert done.stdout.startswith(f"run: {figures} figures in ")
    assert done.stdout.endswith(f", {figures} of them new\n")
