"""``bvit notebooks``: its flags, and a few lines over the suite for each thing they ask for."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bvit_analysis.cli.command import Commands, command
from bvit_analysis.errors import SuiteError
from bvit_analysis.outputs import FRAMES

if TYPE_CHECKING:
    from bvit_analysis.suite.estimation import BatchEstimate, JobEstimate
    from bvit_analysis.suite.jobs import JobStatus, NotebookJob

_PLAN_SAYS = ("runs", "notebooks", "parameter", "grid", "each_run")


def add_commands(commands: Commands) -> None:
    """Add `notebooks`."""
    parser = command(
        commands, "notebooks", run, "execute the analysis notebooks over recorded runs"
    )
    parser.add_argument("runs", nargs="*", help="run folders, folders that hold some, or patterns")
    parser.add_argument(
        "--notebooks",
        action="append",
        default=[],
        metavar="PATH",
        help="a notebook, a folder of some, or a pattern; may be given again (default: notebooks)",
    )
    parameter_argument(parser)
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="NAME=V1,V2",
        help="values of a parameter, one execution for each; may be given again for all combinations",
    )
    parser.add_argument(
        "--each-run", action="store_true", help="one execution a run, not one over all runs"
    )
    parser.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="a .toml or .json file that says all of the above for many notebooks",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("executed"),
        help="folder for executed notebooks (default: executed)",
    )
    parser.add_argument(
        "--frames",
        type=int,
        metavar="N",
        help=f"pictures that an explorer draws ahead for the report (default: {FRAMES})",
    )
    parser.add_argument(
        "--at-once",
        type=int,
        metavar="N",
        help="notebooks at a time (default: 2; on a cluster one a thread of its workers)",
    )
    timeout_argument(parser)
    parser.add_argument(
        "--limit", type=int, default=1800, help="limit of one notebook, seconds (default: 1800)"
    )
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="execute on the workers of this Dask cluster, which share the file system, for example "
        "tcp://host:8786 (default: on this machine)",
    )
    parser.add_argument(
        "--resource",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="what each execution takes of the workers' resources, for example slot=1",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be executed, for how long and how much disk, and execute nothing",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def parameter_argument(parser: argparse.ArgumentParser) -> None:
    """Add --parameter, for every subcommand that executes notebooks."""
    parser.add_argument(
        "--parameter",
        "-p",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the notebooks, typed as they declare it; may be given again",
    )


def timeout_argument(parser: argparse.ArgumentParser) -> None:
    """Add --timeout, for every subcommand that executes notebooks."""
    parser.add_argument(
        "--timeout", type=int, default=600, help="limit of one cell, seconds (default: 600)"
    )


def run(options: argparse.Namespace) -> int:
    """Execute, or only tell what would be executed.

    Returns:
        0 if all is well, 1 if a notebook did not succeed or a run was left out, 2 if a dry run found the batch not to
        be possible.

    Raises:
        SuiteError: If something is wrong with what was asked for.
    """
    from bvit_analysis import suite
    from bvit_analysis.suite.planning import PlanError

    try:
        jobs = _jobs(options)
    except PlanError as error:
        if not options.dry_run:
            raise
        return _refuse(error.problems, as_json=options.json)
    resources = _resources(options.resource)
    if options.dry_run:
        return _dry_run(jobs, options)
    statuses = suite.execute(
        jobs,
        options.out,
        jobs_at_once=options.at_once,
        cell_timeout_s=options.timeout,
        limit_s=options.limit,
        progress=not options.quiet,
        cluster=options.cluster,
        resources=resources,
    )
    if options.json:
        print(json.dumps(suite.read_summary(options.out), indent=1))
    else:
        print_statuses(statuses)
    return suite.exit_code(statuses)


def print_statuses(statuses: Sequence[JobStatus]) -> None:
    """Print one line a notebook: state, seconds, name and what went wrong."""
    for status in statuses:
        line = f"{status.state:<12} {status.seconds:6.1f} s  {status.name}  {status.error or ''}"
        print(printable(line.rstrip()))
    _print_left_out(text for status in statuses for text in status.left_out)


def _print_left_out(texts: Iterable[str]) -> None:
    for text in dict.fromkeys(texts):
        print(printable(f"left out a run: {text}"), file=sys.stderr)


def _jobs(options: argparse.Namespace) -> list[NotebookJob]:
    from bvit_analysis import suite
    from bvit_analysis.suite.plan_file import find_notebooks, find_run_folders

    if options.plan is not None:
        also = [name for name in _PLAN_SAYS if getattr(options, name)]
        if also:
            raise SuiteError(
                f"--plan says which notebooks, runs and parameters; leave out {also[0]!r} beside it"
            )
        return suite.plan_from_file(options.plan, frames=options.frames)
    here = Path()
    return suite.plan(
        find_notebooks(options.notebooks or ["notebooks"], here),
        find_run_folders(options.runs, here),
        suite.parse_assignments(options.parameter),
        grid=_grid(options.grid),
        each_run=options.each_run,
        frames=FRAMES if options.frames is None else options.frames,
    )


def _grid(texts: Sequence[str]) -> dict[str, list[object]]:
    """Split ``NAME=V1,V2``; values that hold a comma are written as a JSON list."""
    from bvit_analysis import suite

    grid: dict[str, list[object]] = {}
    for name, text in suite.parse_assignments(texts).items():
        values: list[object] = [suite.ParameterText(value.strip()) for value in text.split(",")]
        if text.lstrip().startswith("["):
            try:
                values = list(json.loads(text))
            except ValueError as error:
                raise SuiteError(f"the grid {name}={text} is not a JSON list") from error
        grid[name] = values
    return grid


def _resources(texts: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError as error:
            raise SuiteError(
                f"expected a resource as name=number, for example slot=1, got {text!r}"
            ) from error
    return found


def _dry_run(jobs: Sequence[NotebookJob], options: argparse.Namespace) -> int:
    from bvit_analysis import suite

    at_once = 2 if options.at_once is None else options.at_once
    if at_once < 1:
        raise SuiteError(f"--at-once must be at least 1, got {at_once}")
    found = suite.estimate(jobs, options.out, jobs_at_once=at_once)
    problems = [] if found.fits else [_too_small(found, options.out)]
    refused = {job.name: job.refused for job in jobs if job.refused}
    left_out = list(dict.fromkeys(text for job in jobs for text in job.left_out))
    code = 2 if problems else int(bool(refused or left_out))
    if options.json:
        data = _as_data(found, problems) | {"refused": refused, "left_out": left_out}
        print(json.dumps(data, indent=1))
        return code
    for one in found.jobs:
        print(printable(_line(one)))
    for name, why in refused.items():
        print(printable(f"refuse                       {name}  {why}"))
    print(_totals(found))
    _print_left_out(left_out)
    return _refuse(problems, as_json=False) if problems else code


def _line(one: JobEstimate) -> str:
    if one.kept:
        return f"keep                         {one.job.name}"
    told = {name: value for name, value in one.job.parameters.items() if name != "runs"}
    runs = one.job.parameters.get("runs")
    words = [f"{len(runs)} runs"] if isinstance(runs, list) and len(runs) != 1 else []
    words += [f"{name}={json.dumps(value)}" for name, value in told.items()]
    mark = "~" if one.source == "assumed" else " "
    size = f"{one.bytes / 1e6:.1f} MB"
    return f"execute {mark}{one.seconds:6.1f} s {mark}{size:>9}  {one.job.name}  {' '.join(words)}".rstrip()


def _totals(found: BatchEstimate) -> str:
    from bvit_analysis.suite.estimation import ASSUMED_BYTES, ASSUMED_S
    from bvit_analysis.suite.progress import duration

    kept = len(found.jobs) - len(found.to_do)
    text = (
        f"{len(found.to_do)} to execute, {kept} kept: about {duration(found.seconds)} with "
        f"{found.at_once} at a time, {found.bytes / 1e6:.1f} MB of {found.free_bytes / 1e9:.1f} GB free"
    )
    assumed = sum(one.source == "assumed" for one in found.to_do)
    if assumed:
        text += (
            f"\n~ {assumed} never executed into this folder: {ASSUMED_S:.0f} s and "
            f"{ASSUMED_BYTES / 1e6:.0f} MB are assumed for each"
        )
    return f"{text}\nnothing was executed"


def _too_small(found: BatchEstimate, out: Path) -> str:
    return (
        f"the disk of {str(out)!r} has {found.free_bytes} bytes free and about {found.bytes} are "
        "needed; free some, or choose another folder with --out"
    )


def _as_data(found: BatchEstimate, problems: Sequence[str]) -> dict[str, Any]:
    jobs = [
        {
            "name": one.job.name,
            "notebook": str(one.job.notebook),
            "parameters": one.job.parameters,
            "frames": one.job.frames,
            "action": "keep" if one.kept else "execute",
            **{key: value for key, value in asdict(one).items() if key not in ("job", "kept")},
        }
        for one in found.jobs
    ]
    totals: Mapping[str, object] = {
        "execute": len(found.to_do),
        "keep": len(found.jobs) - len(found.to_do),
        "at_once": found.at_once,
        "seconds": found.seconds,
        "bytes": found.bytes,
        "free_bytes": found.free_bytes,
    }
    return {"valid": not problems, "problems": list(problems), **totals, "jobs": jobs}


def _refuse(problems: Sequence[str], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"valid": False, "problems": list(problems), "jobs": []}, indent=1))
    else:
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
    return 2


def printable(text: str) -> str:
    """Return a text that may be printed: names and errors come from notebooks and folders."""
    from bvit_analysis.suite.progress import printable as without_control

    return without_control(text)
