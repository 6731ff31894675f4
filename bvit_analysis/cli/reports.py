"""`bvit report`, `bvit lessons` and `bvit reproduce`: pages for readers, and the whole path to them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from bvit_analysis.cli.command import Commands, command
from bvit_analysis.cli.notebooks import parameter_argument, print_statuses, timeout_argument
from bvit_analysis.cli.training import grid_arguments, print_results, run_grid, scale_arguments
from bvit_analysis.errors import RunError, SuiteError
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
    from bvit_analysis.report import build_report

    runs = _expand(options.runs) or None
    path = build_report(options.executed, options.out, runs=runs, pdf=options.pdf)
    print(path)
    if options.pdf:
        print(path.with_name("report.pdf"))
    return 0


def _expand(paths: Sequence[Path]) -> list[Path]:
    """Turn folders of runs into their runs; a folder without any is a mistake."""
    found: list[Path] = []
    for path in paths:
        runs = [path] if (path / "run.json").exists() else find_runs(path)
        if not runs:
            raise RunError(
                f"no run folder at {path} or in it; 'bvit train' and 'bvit ablate' make some"
            )
        found += runs
    return found


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
    from bvit_analysis.report import build_report

    path = build_report(out / "notebooks", out / "report", runs=runs)
    print(f"done in {time.monotonic() - started:.0f} s; open the report:\n{path.absolute()}")
    return code


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
