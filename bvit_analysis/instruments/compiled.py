"""Compiled graphs that were made before there was anything to hear in them."""

from __future__ import annotations

import sys


def forget_compiled() -> None:
    """Let torch compile anew what it compiled before, so that taps come into the graphs.

    A graph holds the hooks that were there when it was made, and does not look for later ones. Where nothing was
    compiled yet, nothing is done.
    """
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None and dynamo.utils.counters["stats"].get("unique_graphs", 0):
        dynamo.reset()
