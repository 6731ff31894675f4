"""Event files, read back by TensorBoard's own reader."""

from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bvit_analysis.adapters import export_tensorboard
from bvit_analysis.adapters.series import points
from bvit_analysis.adapters.tensorboard import EVENT_FILE
from bvit_analysis.cli import main
from bvit_analysis.errors import MissingExtraError, RunError
from bvit_analysis.records import RunWriter, load_run
from tests.support.growing_run import begin, grow
from tests.support.synthetic_run import make_run


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Everything in a folder, by tag, as TensorBoard reads it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in tags}


def expected(run: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for step, values in points(load_run(run)).items():
        for tag, value in values.items():
            found.setdefault(tag, []).append((step, float(np.float32(value))))
    return found


@pytest.mark.slow
def test_what_is_read_back_is_what_was_recorded(tmp_path: Path) -> None:
    run = make_run(tmp_path / "grs-seed0", recipe="grs", steps=20)
    done = export_tensorboard(run, tmp_path / "out")
    found = read(tmp_path / "out" / "grs-seed0")
    assert found == expected(run)
    sites = load_run(run).sites
    rows = sites[(sites["site"] == "blocks.0.mlp.fc1") & sites["flip_rate"].notna()]
    assert found["flip_rate/blocks.0.mlp.fc1"] == list(
        zip(rows["step"], rows["flip_rate"].astype(float), strict=True)
    )
    assert done.added == done.figures == sum(map(len, found.values()))


def test_a_running_run_is_gone_on_with_and_nothing_is_there_twice(tmp_path: Path) -> None:
    writer = begin(tmp_path / "run")
    out, file = tmp_path / "out", tmp_path / "out" / "run" / EVENT_FILE
    grow(writer, 1, 5)
    first = export_tensorboard(tmp_path / "run", out)
    before = file.read_bytes()
    grow(writer, 6, 9)
    second = export_tensorboard(tmp_path / "run", out)
    assert (first.added, second.added) == (13, 4 * 2 + 2)
    assert file.read_bytes().startswith(before)
    third = export_tensorboard(tmp_path / "run", out)
    assert (third.figures, third.added) == (23, 0)
    writer.close()
    found = read(out / "run")
    assert found == expected(tmp_path / "run")
    assert max(Counter(step for step, _ in found["scalars/loss"]).values()) == 1
    assert list(out.rglob("*tfevents*")) == [file]


@pytest.mark.parametrize("lost", [1, 9, 40])
def test_what_a_kill_left_half_written_is_written_anew(tmp_path: Path, lost: int) -> None:
    writer = begin(tmp_path / "run")
    grow(writer, 1, 5)
    writer.close()
    file = export_tensorboard(tmp_path / "run", tmp_path / "out").place
    whole = file.read_bytes()
    file.write_bytes(whole[:-lost])
    assert export_tensorboard(tmp_path / "run", tmp_path / "out").added > 0
    assert file.read_bytes() == whole
    file.write_bytes(whole[:-lost] + b"\0" * lost)
    export_tensorboard(tmp_path / "run", tmp_path / "out")
    assert file.read_bytes() == whole


def test_a_value_that_is_no_number_or_no_float32(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", info={}) as writer:
        writer.append("scalars", {"step": [1, 2, 3], "loss": [1.0, math.nan, 1e300]})
    assert export_tensorboard(tmp_path / "run", tmp_path / "out").added == 2
    assert export_tensorboard(tmp_path / "run", tmp_path / "out").added == 0
    assert read(tmp_path / "out" / "run") == {"scalars/loss": [(1, 1.0), (3, math.inf)]}


def test_another_run_of_the_name_is_refused(tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 1)):
        make_run(tmp_path / folder / "run", seed=seed, steps=4, blocks=1)
    place = export_tensorboard(tmp_path / "a" / "run", tmp_path / "out").place
    before = place.read_bytes()
    with pytest.raises(RunError, match="already holds a run of this name"):
        export_tensorboard(tmp_path / "b" / "run", tmp_path / "out")
    assert place.read_bytes() == before


def test_a_run_without_rows_says_so(tmp_path: Path) -> None:
    begin(tmp_path / "run").close()
    done = export_tensorboard(tmp_path / "run", tmp_path / "out")
    assert "no figures recorded yet" in str(done)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    run = make_run(tmp_path / "run", steps=2, blocks=1)
    with pytest.raises(RunError, match="cannot write") as refused:
        export_tensorboard(run, tmp_path / "out")
    assert "\n" not in str(refused.value)


def test_the_command_takes_runs_and_folders_of_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        make_run(tmp_path / "runs" / f"seed{seed}", seed=seed, steps=2, blocks=1)
    command = ["export", str(tmp_path / "runs"), "--to", "tensorboard", "--out"]
    assert main([*command, str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [" of them new" in line for line in lines] == [True, True]
    assert read(tmp_path / "out" / "seed1") == expected(tmp_path / "runs" / "seed1")
    assert main([*command, str(tmp_path / "out"), "--project", "mine"]) == 2
    assert "--project is trackio's" in capsys.readouterr().err


def test_without_tensorboard_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    run = make_run(tmp_path / "run", steps=2, blocks=1)
    with pytest.raises(MissingExtraError, match=r"pip install 'bvit_analysis\[trackers\]'"):
        export_tensorboard(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
