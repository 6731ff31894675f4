"""Compiled graphs that were made before there was anything to hear in them."""

from __future__ import annotations

import sys


def is_compiled() -> bool:
    """Return whether torch has compiled anything in this process; its compiler is loaded by optimizers, too."""
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo is not None and bool(dynamo.utils.counters["stats"].get("unique_graphs", 0))


def forget_compiled() -> None:
    """Let torch compile anew what it compiled before, so that taps come into the graphs.

    A graph holds the hooks that were there when it was made, and does not look for later ones. Where nothing was
    compiled yet, nothing is done.
    """
    if is_compiled():
        sys.modules["torch._dynamo"].reset()
