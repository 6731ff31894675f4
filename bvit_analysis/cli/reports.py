"""`bvit report`, `bvit lessons` and `bvit reproduce`: pages for readers, and the whole path to them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bvit_analysis.cli.command import Commands, command
from bvit_analysis.cli.notebooks import (
    parameter_argument,
    print_statuses,
    printable,
    timeout_argument,
)
from bvit_analysis.cli.training import grid_arguments, print_results, run_grid, scale_arguments
from bvit_analysis.errors import RunError, SuiteError, one_by_one
from bvit_analysis.records import find_runs


def add_commands(commands: Commands) -> None:
    """Add `lessons`, `report` and `reproduce`."""
    lessons = command(
        commands,
        "lessons",
        _lessons,
        "write hand-outs and solutions of the lessons from their sources",
    )
    lessons.add_argument(
        "--notebooks",
        type=Path,
        default=Path("notebooks"),
        help="folder that holds lessons/NAME.ipynb (default: notebooks)",
    )
    lessons.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit code 1 where a file is out of step",
    )

    report = command(
        commands, "report", _report, "write one offline HTML gallery of executed notebooks"
    )
    report.add_argument("executed", type=Path, help="folder that 'bvit notebooks' wrote")
    report.add_argument(
        "--out", type=Path, default=Path("report"), help="folder for the report (default: report)"
    )
    report.add_argument(
        "--runs", nargs="*", type=Path, default=[], help="run folders for the table on top"
    )
    report.add_argument(
        "--pdf", action="store_true", help="print all pages into report.pdf too; needs Chromium"
    )

    reproduce = command(
        commands, "reproduce", _reproduce, "ablate, execute the notebooks, write the report"
    )
    grid_arguments(reproduce)
    _notebook_arguments(reproduce)
    scale_arguments(reproduce)


def _notebook_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--notebooks",
        type=Path,
        default=Path("notebooks"),
        help="folder of the notebooks, or one notebook (default: notebooks)",
    )
    parameter_argument(parser)
    parser.add_argument("--at-once", type=int, default=2, help="notebooks at a time (default: 2)")
    timeout_argument(parser)


def _lessons(options: argparse.Namespace) -> int:
    from bvit_analysis.suite.lessons import out_of_step, write_lessons

    if not options.check:
        for path in write_lessons(options.notebooks):
            print(f"wrote {path}")
        return 0
    wrong = out_of_step(options.notebooks)
    for path in wrong:
        print(f"out of step with its lesson: {path}; write it with 'bvit lessons'")
    return int(bool(wrong))


def _report(options: argparse.Namespace) -> int:
    from bvit_analysis.report.build import write_report

    runs, missing = _expand(options.runs)
    written = write_report(options.executed, options.out, runs=runs or None, pdf=options.pdf)
    print(printable(str(written.index)))
    if options.pdf:
        print(printable(str(written.index.with_name("report.pdf"))))
    return _say_left_out([*missing, *written.left_out])


def _say_left_out(texts: Sequence[str]) -> int:
    """Print what could not be shown, and return the exit code that says so."""
    for text in texts:
        print(printable(f"left out of the report: {text}"), file=sys.stderr)
    return int(bool(texts))


def _expand(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Turn folders of runs into their runs, and say which have none.

    Raises:
        RunError: If none has any.
    """
    done, missing = one_by_one(paths, _runs_at)
    if missing and not done:
        raise RunError(missing[0][1])
    return [run for _, runs in done for run in runs], [why for _, why in missing]


def _runs_at(path: Path) -> list[Path]:
    runs = [path] if (path / "run.json").exists() else find_runs(path)
    if not runs:
        raise RunError(
            f"no run folder at {path} or in it; 'bvit train' and 'bvit ablate' make some"
        )
    return runs


def _reproduce(options: argparse.Namespace) -> int:
    started = time.monotonic()
    if not options.notebooks.exists():
        raise SuiteError(
            f"no notebooks at {options.notebooks.absolute()}; run from the project's folder, or give --notebooks"
        )
    runs = run_grid(options)
    print_results(runs)
    out = options.out / options.scale
    code = _execute(options, runs, out / "notebooks")
    from bvit_analysis.report.build import write_report

    written = write_report(out / "notebooks", out / "report", runs=runs)
    index = printable(str(written.index.absolute()))
    print(f"done in {time.monotonic() - started:.0f} s; open the report:\n{index}")
    return max(code, _say_left_out(written.left_out))


def _execute(options: argparse.Namespace, runs: list[Path], out: Path) -> int:
    from bvit_analysis import suite
    from bvit_analysis.suite.parameters import parse_assignments

    found = (
        [options.notebooks]
        if options.notebooks.suffix == ".ipynb"
        else suite.discover_notebooks(options.notebooks)
    )
    jobs = suite.plan(found, runs, parse_assignments(options.parameter))
    statuses = suite.execute(
        jobs,
        out,
        jobs_at_once=options.at_once,
        cell_timeout_s=options.timeout,
        progress=not getattr(options, "quiet", False),
    )
    print_statuses(statuses)
    return suite.exit_code(statuses)
