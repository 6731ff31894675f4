"""The command line: mistakes print one line, and every group of subcommands is a file beside this one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bvit_analysis.cli import config, costs, export, notebooks, packing, probe, reports, training
from bvit_analysis.errors import BvitError

_PAPER = (
    "Binary Vision Transformers, watched while they train. Reproduces the analyses of arXiv 2305.14730 (not the other"
    " BinaryViT, 2306.16678); GRS and ASM are reconstructions, as the paper's equations are not public."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; mistakes print one line and give exit code 2.

    Args:
        arguments: What follows ``bvit``; by default those of the process.

    Returns:
        0 if done, 1 if a notebook failed, 2 for a mistake or a fault, 130 and 143 after SIGINT and SIGTERM.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.function(options))
    except BvitError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bvit", description=_PAPER)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for group in (training, config, notebooks, reports, export, probe, costs, packing):
        group.add_commands(commands)
    return parser
