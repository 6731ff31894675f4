"""`bvit notebooks` over folders in which something is bad: it is named, the rest is done, and the exit code says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bvit_analysis.cli import main
from bvit_analysis.suite import batch
from bvit_analysis.suite.execution import record
from bvit_analysis.suite.jobs import JobStatus, NotebookJob, new_status
from tests.support.notebooks import write_notebook
from tests.support.synthetic_run import make_run


class AtOnce:
    """A place where every notebook has succeeded as soon as it is begun; no kernel is started."""

    begun: list[NotebookJob]

    def __init__(self, out: Path, *_: object, **__: object) -> None:
        self.out, self.ended = out, list[JobStatus]()

    def has_room(self) -> bool:
        return True

    def start(self, job: NotebookJob, identity: str) -> None:
        self.begun.append(job)
        folder = self.out / job.name
        folder.mkdir(exist_ok=True)
        (folder / "notebook.ipynb").write_text("{}")
        status = new_status(job, state="succeeded", identity=identity, seconds=1.0)
        self.ended.append(record(folder, status))

    def poll(self) -> list[JobStatus]:
        ended, self.ended = self.ended, []
        return ended

    def places(self) -> list[str]:
        return []

    def stop(self, reason: str) -> list[JobStatus]:
        return [replace(status, error=reason) for status in self.ended]

    def close(self) -> None:
        pass


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[NotebookJob]:
    """Notebooks that were begun, in place of kernels."""
    AtOnce.begun = []
    monkeypatch.setattr(batch, "LocalRunner", AtOnce)
    return AtOnce.begun


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """Two notebooks, two good runs and a damaged one."""
    write_notebook(tmp_path / "books" / "03_look.ipynb", "1", parameters="runs: list[str] = []")
    write_notebook(tmp_path / "books" / "07_costs.ipynb", "1", parameters="model: str = 'x'")
    for name in ("a", "b", "broken"):
        make_run(tmp_path / "runs" / name, steps=1, blocks=1)
    (tmp_path / "runs" / "broken" / "run.json").write_text("{")
    return tmp_path


def bvit(
    lab: Path, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, list[str], str]:
    given = ["notebooks", *map(str, arguments), "--notebooks", str(lab / "books"), "--quiet"]
    code = main([*given, "--out", str(lab / "out")])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


def test_each_run_of_a_folder_is_executed_but_the_damaged_one(
    lab: Path, begun: list[NotebookJob], capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, _ = bvit(lab, capsys, lab / "runs", "--each-run")
    assert code == 1
    assert [job.name.rpartition("-")[0] for job in begun] == ["03_look--a", "03_look--b", ""]
    (failed,) = [line for line in lines if not line.startswith("succeeded")]
    assert failed.startswith("failed")
    assert "03_look--broken-" in failed
    assert "cannot read run" in failed
    assert len(lines) == 4
    # Again: what succeeded is kept, whichever runs come with it, and the damaged one is named again.
    begun.clear()
    code, lines, _ = bvit(lab, capsys, lab / "runs", "--each-run")
    assert (code, begun, len(lines)) == (1, [], 4)
    code, _, _ = bvit(lab, capsys, lab / "runs" / "b", "--each-run")
    assert (code, begun) == (0, [])
    # Repaired, it is the only one that is executed.
    fine = (
        (lab / "runs" / "a" / "run.json").read_text().replace('"run_id": "a"', '"run_id": "broken"')
    )
    (lab / "runs" / "broken" / "run.json").write_text(fine)
    code, _, _ = bvit(lab, capsys, lab / "runs", "--each-run")
    assert code == 0
    assert [job.name.rpartition("-")[0] for job in begun] == ["03_look--broken"]


def test_two_runs_of_one_name_keep_their_own_results(
    lab: Path, begun: list[NotebookJob], capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_run(lab / "other" / "a", steps=2, blocks=1)
    assert bvit(lab, capsys, lab / "runs" / "a", "--each-run")[0] == 0
    assert bvit(lab, capsys, other, "--each-run")[0] == 0
    looks = [job.name for job in begun if job.name.startswith("03")]
    assert len(set(looks)) == 2
    begun.clear()
    assert bvit(lab, capsys, lab / "runs" / "a", other, "--each-run")[0] == 0
    assert begun == []


def test_one_execution_over_all_runs_leaves_the_damaged_one_out(
    lab: Path, begun: list[NotebookJob], capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, said = bvit(lab, capsys, lab / "runs")
    assert code == 1
    assert [line.split()[0] for line in lines] == ["succeeded", "succeeded"]
    assert said.count("left out a run: cannot read run") == 1
    assert begun[0].parameters == {"runs": [str(lab / "runs" / name) for name in ("a", "b")]}
    # It is in the status and in the summary, and said again where the result is kept.
    status = json.loads((lab / "out" / "03_look" / "status.json").read_text())
    assert "broken" in status["left_out"][0]
    assert json.loads((lab / "out" / "summary.json").read_text())["exit_code"] == 1
    code, _, said = bvit(lab, capsys, lab / "runs")
    assert (code, said.count("left out a run")) == (1, 1)
    assert len(begun) == 2


def test_one_damaged_notebook_does_not_stop_the_others(
    lab: Path, begun: list[NotebookJob], capsys: pytest.CaptureFixture[str]
) -> None:
    (lab / "books" / "05_half.ipynb").write_text('{"cells": [')
    code, lines, _ = bvit(lab, capsys, lab / "runs" / "a")
    assert code == 1
    assert [job.name for job in begun] == ["03_look", "07_costs"]
    assert any(line.startswith("failed") and "05_half" in line for line in lines)


def test_a_dry_run_says_what_would_be_refused(
    lab: Path, begun: list[NotebookJob], capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, _ = bvit(lab, capsys, lab / "runs", "--each-run", "--dry-run")
    assert code == 1
    assert [line.split()[0] for line in lines[:4]] == ["execute", "execute", "execute", "refuse"]
    code, lines, _ = bvit(lab, capsys, lab / "runs", "--dry-run", "--json")
    assert code == 1
    assert "broken" in json.loads("\n".join(lines))["left_out"][0]
    assert not (lab / "out").exists()
    assert begun == []


def test_nothing_that_can_be_read_is_a_mistake(
    lab: Path, begun: list[NotebookJob], capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, said = bvit(lab, capsys, lab / "runs" / "broken", "--each-run")
    assert (code, lines, begun) == (2, [], [])
    assert said.count("\n") == 1
    assert "cannot read run" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["~nosuchuser/x"], "'~nosuchuser/x' is no path here"),
        (["x\0y"], "no run folder at"),
        (["x" * 5000], "is no path here"),
        (["runz"], "no run folder at"),
        (["--plan", "~nosuchuser/x.toml"], "no plan can be read"),
    ],
)
def test_a_path_that_cannot_be_is_one_line(
    lab: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    extra = [] if "--plan" in arguments else ["--notebooks", str(lab / "books")]
    assert main(["notebooks", *arguments, *extra, "--dry-run"]) in (1, 2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert words in said


@pytest.mark.parametrize("out", ["/proc", "/proc/nowhere/x", "file/x", "file", "a\0b"])
def test_a_folder_that_cannot_be_written_is_one_line(
    lab: Path, begun: list[NotebookJob], capsys: pytest.CaptureFixture[str], out: str
) -> None:
    (lab / "file").write_text("x")
    place = out if out.startswith("/") else str(lab / out)
    given = ["--notebooks", str(lab / "books"), str(lab / "runs" / "a"), "--quiet"]
    assert main(["notebooks", *given, "--out", place]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("error: cannot")
    assert begun == []


@pytest.mark.parametrize("name", ["plan.toml", "plan.json"])
def test_a_plan_may_begin_with_a_byte_order_mark(
    lab: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    text = '[[jobs]]\nnotebooks = "books/07*"\n'
    if name.endswith("json"):
        text = json.dumps({"jobs": [{"notebooks": "books/07*"}]})
    (lab / name).write_text(text, encoding="utf-8-sig")
    assert main(["notebooks", "--plan", str(lab / name), "--dry-run"]) == 0
    assert "07_costs" in capsys.readouterr().out
