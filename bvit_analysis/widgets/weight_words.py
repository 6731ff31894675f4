"""One followed weight in words: how often its sign changed in a window of steps, and how soon it came back."""

from __future__ import annotations

from typing import Any

import pandas as pd


def row_of(ranked: pd.DataFrame | None, index: int | None) -> dict[str, Any]:
    """Return a weight's row of a flip_ranking, empty where it has none."""
    rows = [] if ranked is None else ranked[ranked["index"] == index].to_dict("records")
    return rows[0] if rows else {}


def weight_text(row: dict[str, Any], window: tuple[int, int], *, flips: bool) -> str:
    """Return a sentence on a weight.

    Args:
        row: As from row_of; empty says that no weight was followed.
        window: First and last step.
        flips: Whether a change of its sign is a flip, as that of a binary weight.
    """
    if not row:
        return "No single weight of this site was followed."
    count = row["flips"]
    times = {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")
    does = "flips" if flips else "changes its sign"
    text = f"Weight [{row['output']}, {row['input']}] {does} {times} in steps {window[0]} to {window[1]}"
    if count > 1 and flips:
        text += f"; the median step from a flip to the flip back is {row['return_steps']:g}"
    return f"{text}."
