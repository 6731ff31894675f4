"""One row a run: what it is, how accurate it is, and what it shows on the claims of 2305.14730."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import pandas as pd

from bvit_analysis.errors import one_by_one
from bvit_analysis.records import Run, RunWarning
from bvit_analysis.records.info import shown
from bvit_analysis.tables.frames import (
    LAST_HALF,
    RUN_COLUMNS,
    flip_totals,
    identity,
    late_rows,
    mean_over_sites,
    site_frame,
)
from bvit_analysis.tables.groups import group_names, recipe_parts
from bvit_analysis.tables.levels import remember_levels
from bvit_analysis.tables.metrics import FLOAT, Metric, metrics_of, own_measures, remember
from bvit_analysis.tables.seeds import diverged_at
from bvit_analysis.tables.selection import Runs, as_runs, recipe_of
from bvit_analysis.tables.site_names import named
from bvit_analysis.tables.verification import remember_unverified, unverified


def run_table(runs: Runs) -> pd.DataFrame:
    """Return one row a run: what it is, how accurate, and its evidence on the paper's two claims.

    Late figures are means over the last tenth of the recorded steps, flip-back over the last half. Totals of flips are over the
    whole run, so compare them between runs of equal length only.

    Args:
        runs: Runs to read; float runs have NaN where nothing is binarized.

    Returns:
        Columns run_id, label, recipe (with the settings by which runs of one recipe differ), seed, scale, state, steps,
        diverged (the last step with a finite loss, NaN where all went well), teacher, test_accuracy,
        test_half_width (95%, over test images, not over seeds), validation_accuracy,
        teacher_test_accuracy, the other keys of METRICS, and the late mean of each measure that a run
        declares of its own; where a run has unverified sites, a column unverified that names them.
        ``attrs["parts"]`` has the parts of each recipe that claims are made for.
    """
    listed = as_runs(runs)
    known = metrics_of(listed)
    names = dict(zip(map(id, listed), group_names(listed), strict=True))

    def row_of(run: Run) -> dict[str, Any]:
        config = run.config if isinstance(run.config, dict) else {}
        result = run.result or {}
        row = identity(0, run, names[id(run)])
        row |= {"scale": config.get("scale", ""), "state": run.state, "steps": run.step}
        row |= {"diverged": _number(diverged_at(run)), "teacher": _teacher(run)}
        for name in ("test_accuracy", "validation_accuracy", "teacher_test_accuracy"):
            row[name] = _number(result.get(name))
        row["test_half_width"] = _image_half_width(row["test_accuracy"], result.get("test_count"))
        row |= _evidence(run, known) if recipe_of(run) != FLOAT else {}
        return row

    # Damage is left out as a run is read; what is found out now concerns one run alone as well.
    done, left_out = one_by_one(listed, row_of)
    rows = [row for _, row in done]
    for run, why in left_out:
        text = f"left out of the table, run {run.run_id}: {why}"
        warnings.warn(text, RunWarning, stacklevel=2)
    columns = [
        *RUN_COLUMNS[1:],
        *("scale", "state", "steps", "diverged", "teacher", "test_accuracy", "test_half_width"),
        *("validation_accuracy", "teacher_test_accuracy"),
        *(name for name, one in known.items() if one.summary != "result"),
    ]
    table = pd.DataFrame(rows, columns=columns)
    if unverified(listed):
        table["unverified"] = [named(one.site for one in unverified(run)) for run, _ in done]
    table.attrs["parts"] = {name: sorted(parts) for name, parts in recipe_parts(listed).items()}
    table = remember(table, own_measures(listed).values())
    return remember_levels(remember_unverified(table, listed), listed)


def _evidence(run: Run, known: Mapping[str, Metric]) -> dict[str, float]:
    row: dict[str, float] = {}
    for kind in ("weight", "activation"):
        chosen = [
            one
            for one in known.values()
            if one.measure.kind == kind
            and one.summary in ("late", "by flips")
            and one.measure.name in run.measures
        ]
        frame = site_frame(run, [one.measure.name for one in chosen], kind=kind)
        for one in chosen:
            name = one.measure.name
            recorded = frame.dropna(subset=[name])
            if one.summary == "by flips":
                late = late_rows(recorded, share=LAST_HALF)
                flips = late["flip_rate"] * late["n_weights"]
                total = flips.sum()
                row[one.name] = float((late[name] * flips).sum() / total) if total > 0 else math.nan
            else:
                means = mean_over_sites(late_rows(recorded), name)[name]
                row[one.name] = float(means.mean()) if len(means) else math.nan
    totals = flip_totals(run)
    if totals is not None:
        gross, net, weights = totals
        row["oscillating_flips_per_weight"] = (gross - net) / weights
        row["flip_flop_ratio"] = gross / max(1, net)
    return row


def _teacher(run: Run) -> str:
    """Return what tells a run's teacher from others, '' where it has none; a float run's is itself."""
    if recipe_of(run) == FLOAT:
        return run.run_id
    told = run.info.get("teacher")
    name = told.get("teacher") if isinstance(told, dict) else told
    return shown(name) if name else ""


def _number(value: object) -> float:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if ok else math.nan  # type: ignore[arg-type]


def _image_half_width(accuracy: float, count: object) -> float:
    images = _number(count)
    if not images > 0 or math.isnan(accuracy):
        return math.nan
    return 1.96 * math.sqrt(max(0.0, accuracy * (1.0 - accuracy)) / images)
