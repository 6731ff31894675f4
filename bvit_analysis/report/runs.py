"""The table of runs on top of a report, and what is damaged in them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bvit_analysis.errors import one_by_one
from bvit_analysis.records import SCHEMAS, Run, RunWarning, load_run
from bvit_analysis.records.info import shown
from bvit_analysis.suite.jobs import JobStatus
from bvit_analysis.tables.levels import levels_sentence
from bvit_analysis.tables.selection import recipe_of
from bvit_analysis.tables.verification import unverified_sentence

TONES = {"succeeded": "good", "finished": "good", "running": "warn", "interrupted": "warn"}
TONES |= {"silent": "warn"}
"How a state looks; all others are bad."
MOST_ROWS = 2000


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One line of the table of runs, as text."""

    run_id: str
    recipe: str
    seed: str
    state: str
    tone: str
    step: str
    accuracy: str
    count: str
    test_accuracy: float | None
    notes: tuple[str, ...] = ()
    "What must be known of its figures: weights of several levels, unverified sites."


def run_folders(statuses: Sequence[JobStatus]) -> list[Path]:
    """Return the run folders that notebooks were executed over, each once."""
    folders: dict[str, None] = {}
    for status in statuses:
        runs = status.parameters.get("runs", [])
        if isinstance(runs, list):
            folders.update(dict.fromkeys(run for run in runs if isinstance(run, str) and run))
    return [Path(folder) for folder in folders]


def run_rows(folders: Sequence[Path]) -> tuple[list[RunRow], list[str]]:
    """Return a row a run, unreadable ones included, and a line for each damaged part."""
    asked = list(dict.fromkeys(folders[:MOST_ROWS]))
    done, unread = one_by_one(asked, _run_row)
    found = dict(done)
    for folder, why in unread:
        nothing = {"recipe": "", "seed": "", "step": "", "accuracy": "", "count": ""}
        row = RunRow(
            run_id=folder.name,
            state="unreadable",
            tone="bad",
            test_accuracy=None,
            notes=(),
            **nothing,
        )
        found[folder] = (row, [why])
    damages = [text for folder in asked for text in found[folder][1]]
    if len(folders) > MOST_ROWS:
        damages.append(f"{len(folders)} runs are named, the table has the first {MOST_ROWS}")
    return [found[folder][0] for folder in asked], damages


def _run_row(folder: Path) -> tuple[RunRow, list[str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)  # they are shown on the page
        run = load_run(folder)
        for kind in SCHEMAS:
            getattr(run, kind)  # damage inside a part shows only when it is read
            run.__dict__.pop(kind)  # and of many runs not all are held in memory
        return _facts(run)


def _facts(run: Run) -> tuple[RunRow, list[str]]:
    config = run.config or {}
    result = run.result or {}
    accuracy = result.get("test_accuracy")
    if isinstance(accuracy, bool) or not isinstance(accuracy, int | float):
        accuracy = None
    row = RunRow(
        run_id=run.run_id,
        recipe=recipe_of(run),
        seed=shown(config.get("seed", run.info.get("seed", ""))),
        state=run.state,
        tone=TONES.get(run.state, "bad"),
        step=f"{run.step:,}",
        accuracy="" if accuracy is None else f"{accuracy:.2%}",
        count=shown(result.get("test_count", "")),
        test_accuracy=None if accuracy is None else float(accuracy),
        notes=tuple(filter(None, (levels_sentence(run), unverified_sentence(run)))),
    )
    return row, [f"{run.run_id}: {warning}" for warning in run.warnings]
