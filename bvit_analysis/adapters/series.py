"""The figures of a run as a tracker knows them: one number a step and tag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bvit_analysis.errors import RunError
from bvit_analysis.records import Run

Points = dict[int, dict[str, float]]
"Step -> tag -> value, without what was not measured."

_KEYS = ("step", "site", "kind")


@dataclass(frozen=True)
class Export:
    """What an export left where the tracker reads it."""

    run_id: str
    "The run, under whose id the tracker has it."
    place: Path
    "File or folder that the tracker reads."
    figures: int
    "Numbers of the run that are there now."
    added: int
    "Those of them that this export added."

    def __str__(self) -> str:
        if not self.figures:
            return f"{self.run_id}: no figures recorded yet, nothing written to {self.place}"
        return f"{self.run_id}: {self.figures} figures in {self.place}, {self.added} of them new"


def points(run: Run) -> Points:
    """Return every scalar, timing and measure of a site that a run recorded, in the order of steps.

    Tags are ``scalars/loss``, ``timings/images_per_s`` and ``flip_rate/blocks.0.attn.qkv``: the measure, then the
    site, so that a tracker shows all sites of one measure together. A value that was not taken (NaN) has no point.

    Args:
        run: What load_run returned.

    Returns:
        Step -> tag -> value, each in the unit that the catalogue of records.columns gives.
    """
    found: Points = {}
    for kind, frame in (("scalars", run.scalars), ("timings", run.timings)):
        for column in frame.columns.drop("step"):
            _add(found, f"{kind}/{column}", frame["step"], frame[column])
    measures = [column for column in run.sites.columns if column not in _KEYS]
    for site, rows in run.sites.groupby("site", sort=False, observed=True):
        for measure in measures:
            _add(found, f"{measure}/{site}", rows["step"], rows[measure])
    return dict(sorted(found.items()))


def missing(wanted: Points, kept: Points, place: Path) -> Points:
    """Return what a tracker lacks of a run.

    Args:
        wanted: The points of the run.
        kept: Those that the tracker has of it.
        place: Where the tracker has them, for the error.

    Raises:
        RunError: If the tracker has another value at the same step and tag, or a step that the run lacks: it is of
            another run of that name, or the run was begun again since.
    """
    for step, values in kept.items():
        for tag, value in values.items():
            now = wanted.get(step, {}).get(tag)
            if now != value:
                has = "no value" if now is None else f"{now:.9g}"
                raise RunError(
                    f"{place} already holds a run of this name with {tag} = {value:.9g} at step {step}, where this one"
                    f" has {has}; remove it, or choose another folder"
                )
    lacking = {step: _without(values, kept.get(step, {})) for step, values in wanted.items()}
    return {step: values for step, values in lacking.items() if values}


def number_of(some: Points) -> int:
    """Return how many points there are."""
    return sum(map(len, some.values()))


def _add(found: Points, tag: str, steps: pd.Series, values: pd.Series) -> None:
    taken = values.notna()
    for step, value in zip(steps[taken].tolist(), values[taken].tolist(), strict=True):
        found.setdefault(step, {})[tag] = float(value)


def _without(values: Mapping[str, float], kept: Mapping[str, float]) -> dict[str, float]:
    return {tag: value for tag, value in values.items() if tag not in kept}
