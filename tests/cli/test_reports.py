"""`bvit report` over results in which something is bad: pages are written, it is named, and the exit code is 1."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bvit_analysis.cli import main
from tests.support.executed import new, put
from tests.support.synthetic_run import make_run


@pytest.fixture
def executed(tmp_path: Path) -> Path:
    run = make_run(tmp_path / "runs" / "a", steps=1, blocks=1)
    put(
        tmp_path / "executed",
        "one",
        [new.new_markdown_cell("# One")],
        parameters={"runs": [str(run)]},
    )
    return tmp_path / "executed"


def report(
    executed: Path, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    out = ["--out", str(executed.parent / "report")] if "--out" not in arguments else []
    code = main(["report", str(executed), *out, *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_all_well_is_exit_code_0_and_silence(
    executed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = report(executed, capsys)
    assert (code, err) == (0, "")
    assert out == f"{executed.parent / 'report' / 'index.html'}\n"


def test_what_is_left_out_is_named_and_the_pages_are_written(
    executed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = executed / os.fsdecode(b"two-\xff")
    folder.mkdir()
    (folder / "status.json").write_text("{")
    (executed.parent / "runs" / "a" / "run.json").write_text("[]")
    code, _, err = report(executed, capsys)
    assert code == 1
    assert len(err.splitlines()) == 2
    assert all(line.startswith("left out of the report: ") for line in err.splitlines())
    assert "its status.json is not valid JSON" in err
    assert "cannot read run" in err
    pages = sorted(path.name for path in (executed.parent / "report").glob("*.html"))
    assert pages == ["index.html", "one.html", "two.html"]
    assert "cannot read run" in (executed.parent / "report" / "index.html").read_text()


def test_a_folder_of_runs_without_any_does_not_stop_the_others(
    executed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = executed.parent / "runs"
    (executed.parent / "empty").mkdir()
    code, _, err = report(executed, capsys, "--runs", runs, executed.parent / "empty")
    assert code == 1
    assert "no run folder at" in err
    code, _, err = report(executed, capsys, "--runs", executed.parent / "empty")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize("out", ["/proc", "file/x", "file", "a\0b"])
def test_a_folder_that_cannot_be_written_is_one_line(
    executed: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    (executed.parent / "file").write_text("x")
    place = out if out.startswith("/") else str(executed.parent / out)
    code, _, err = report(executed, capsys, "--out", place)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: cannot")
