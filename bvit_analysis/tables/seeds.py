"""Runs of one recipe taken together: at the steps that all of them recorded, without those that diverged."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from bvit_analysis.records import Run

DIVERGED = "diverged"
"Key of a frame's attrs: position of a run that diverged to its last step with a finite loss."

_FEWEST_WITHOUT = 2


def diverged_at(run: Run) -> int | None:
    """Return the last step with a finite loss of a run whose loss stopped being finite, None of any other.

    A run has diverged where it failed with a loss or gradient that is not finite, or where every row up to some step
    has a loss and at least two rows after it have none.
    """
    scalars = run.scalars
    finite = scalars["loss"].map(math.isfinite) if len(scalars) else pd.Series(dtype=bool)
    last = int(scalars.loc[finite, "step"].max()) if finite.any() else 0
    error = run.status.get("error")
    if run.state == "failed" and isinstance(error, str) and _is_of_numbers(error):
        return last
    after = int((scalars["step"] > last).sum()) if last else 0
    whole = bool(finite[scalars["step"] <= last].all()) if last else False
    return last if whole and after >= _FEWEST_WITHOUT else None


def _is_of_numbers(error: str) -> bool:
    words = error[:2000].lower().replace(",", " ").replace(".", " ").split()
    said = " ".join(words)
    return (
        "not finite" in said or "non-finite" in said or not {"nan", "inf", "-inf"}.isdisjoint(words)
    )


def mark_diverged(frame: pd.DataFrame, runs: Iterable[Run]) -> pd.DataFrame:
    """Return a frame of runs that remembers which of them diverged."""
    found = {position: diverged_at(run) for position, run in enumerate(runs)}
    marked = {position: step for position, step in found.items() if step is not None}
    if marked:
        frame.attrs[DIVERGED] = marked
    return frame


def diverged_runs(frame: pd.DataFrame) -> dict[int, int]:
    """Return the runs of a frame that diverged, by position, with their last step of a finite loss."""
    found = frame.attrs.get(DIVERGED, {})
    return {run: found[run] for run in frame["run"].unique() if run in found}


def without_diverged(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of runs that did not diverge."""
    return frame[~frame["run"].isin(list(diverged_runs(frame)))]


def at_one_length(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows of runs of which late means may be averaged, and why others are left out.

    Late is the end of a run, so a run that was stopped earlier has another one. Of each recipe the longest are kept.

    Args:
        frame: Columns run, label, recipe and step.
    """
    said = []
    last = frame.groupby("run")["step"].max()
    labels = frame.drop_duplicates("run").set_index("run")[["label", "recipe"]]
    left = diverged_runs(frame)
    for run, step in left.items():
        said.append(f"{labels.at[run, 'label']}, which diverged at step {step}")
    sound = [run for run in labels.index if run not in left]
    longest = last[sound].groupby(labels.loc[sound, "recipe"]).max()
    kept = []
    for run in sound:
        full = longest[labels.at[run, "recipe"]]
        if last[run] == full:
            kept.append(run)
        else:
            said.append(
                f"{labels.at[run, 'label']}, recorded to step {last[run]}, others to {full}"
            )
    return frame[frame["run"].isin(kept)], said


def in_common(frame: pd.DataFrame, name: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return what a mean over seeds may be taken of, and how many runs are in it.

    A mean over some seeds here and over others there jumps from one to the other, whatever was measured. So of each
    recipe only the steps are kept that all its runs have, without runs that diverged.

    Args:
        frame: Columns run, recipe, step and the measure.
        name: The measure.

    Returns:
        The rows, and by recipe words such as 'n=3' or 'n=2, 8 of 12 steps in common'.
    """
    rows = without_diverged(frame.dropna(subset=[name]))
    parts, words = [], {}
    for recipe, own in frame.groupby("recipe", sort=False):
        mine = rows[rows["recipe"] == recipe]
        steps = [set(one["step"]) for _, one in mine.groupby("run")]
        every: set[int] = set().union(*steps)
        common = set.intersection(*steps) if steps else set()
        n = len(steps) if common else 0
        words[str(recipe)] = f"n={n}"
        if common < every:
            words[str(recipe)] += f", {len(common)} of {len(every)} steps in common"
        elif not steps and len(own):
            words[str(recipe)] += ", none without divergence"
        parts.append(mine[mine["step"].isin(common)])
    kept = pd.concat(parts).sort_index() if parts else rows
    return kept, words


def counted(frame: pd.DataFrame, by: str) -> str:
    """Return how many runs are in the mean at each value of a column: 'n=3', or 'n=1 to 3' where that differs."""
    counts = frame.groupby(by)["run"].nunique()
    if counts.empty:
        return "n=0"
    low, high = int(counts.min()), int(counts.max())
    return f"n={low}" if low == high else f"n={low} to {high}"
