"""`bvit probe`: what a trained model loses where chosen weights are used with the other sign."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bvit_analysis.cli.command import Commands, command
from bvit_analysis.errors import one_by_one


def add_commands(commands: Commands) -> None:
    """Add `probe`."""
    probe = command(
        commands, "probe", _probe, "measure whether restless weights matter, on finished runs"
    )
    probe.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or of several"
    )
    probe.add_argument(
        "--share",
        type=float,
        default=0.05,
        help="of each site's weights that are turned (default: 0.05)",
    )
    probe.add_argument(
        "--draws", type=int, default=5, help="of the groups that are drawn at random (default: 5)"
    )
    probe.add_argument("--again", action="store_true", help="measure anew what is stored already")
    probe.add_argument("--quiet", action="store_true", help="no progress bar")


def _probe(options: argparse.Namespace) -> int:
    from bvit_analysis.records import find_runs, load_run
    from bvit_analysis.tables import load_runs
    from bvit_analysis.tables.probes import probe_finding, probe_table
    from bvit_analysis.training.probes import probe_signs

    folders = [folder for path in options.runs for folder in (find_runs(path) or [path])]
    binary = [path for path in folders if load_run(path).info.get("config", {}).get("recipe")]
    done, left_out = one_by_one(
        binary or folders,
        lambda path: probe_signs(
            path,
            share=options.share,
            draws=options.draws,
            again=options.again,
            progress=not options.quiet,
        ),
    )
    if done:
        runs = load_runs([path for path, _ in done])
        print(probe_table(runs).to_string(index=False, float_format=lambda x: f"{x:.4f}"))
        print(probe_finding(runs))
    for path, reason in left_out:
        print(f"error: {path}: {reason}", file=sys.stderr)
    return 1 if left_out else 0
