"""`bvit export`: a run's figures for other people's trackers."""

from __future__ import annotations

import argparse
from pathlib import Path

from bvit_analysis.cli.command import Commands, command
from bvit_analysis.errors import ConfigError


def add_commands(commands: Commands) -> None:
    """Add `export`."""
    export = command(
        commands, "export", _export, "copy the figures of runs to TensorBoard or trackio"
    )
    export.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or of several"
    )
    export.add_argument(
        "--to", required=True, choices=("tensorboard", "trackio"), help="what shall read them"
    )
    export.add_argument(
        "--out",
        type=Path,
        default=Path("exported"),
        help="folder for TensorBoard's --logdir, or for trackio's TRACKIO_DIR (default: exported); exported again, a"
        " run gets what was recorded since",
    )
    export.add_argument("--project", help="trackio's project (default: bvit)")


def _export(options: argparse.Namespace) -> int:
    from bvit_analysis.adapters import export_tensorboard, export_trackio
    from bvit_analysis.tables import load_runs

    if options.project is not None and options.to != "trackio":
        raise ConfigError("--project is trackio's; leave it out, or use --to trackio")
    for run in load_runs(options.runs):
        if options.to == "tensorboard":
            print(export_tensorboard(run, options.out))
        else:
            print(export_trackio(run, options.out, project=options.project or "bvit"))
    return 0
