"""Runs laid over each other in one panel: how each looks, and what it is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bvit_analysis.plots import style
from bvit_analysis.records import Run
from bvit_analysis.tables import recipe_of


@dataclass(frozen=True)
class Look:
    """How one of several runs is drawn."""

    colour: str
    line: Any
    marker: str
    name: str


def looks(runs: Sequence[Run]) -> list[Look]:
    """Return colour, dashes, marker and name of each run: the recipe's, dashed where a recipe repeats.

    Args:
        runs: Runs that share a panel.
    """
    recipes = [recipe_of(run) for run in runs]
    labels = [style.clip(run.label, 30) for run in runs]
    colours, markers = style.colours(recipes), style.markers(recipes)
    found: list[Look] = []
    for position, (run, recipe) in enumerate(zip(runs, recipes, strict=True)):
        again = recipes[:position].count(recipe)
        label = labels[position]
        name = label if labels.count(label) == 1 else f"{label} ({style.clip(run.run_id, 24)})"
        dashes = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (4, 2, 1, 2)))[again % 4]
        found.append(Look(colours[recipe], dashes, markers[recipe], name))
    return found
