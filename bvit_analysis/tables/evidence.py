"""One row a run: what it is, how accurate it is, and what it shows on the claims of 2305.14730."""

from __future__ import annotations

import math

import pandas as pd

from bvit_analysis.records import Run
from bvit_analysis.tables.frames import (
    LAST_HALF,
    RUN_COLUMNS,
    flip_totals,
    identity,
    late_rows,
    mean_over_sites,
    site_frame,
)
from bvit_analysis.tables.metrics import FLOAT, METRICS
from bvit_analysis.tables.selection import Runs, as_runs, recipe_of

_WEIGHT_MEANS = (
    "flip_rate",
    "frequent_share",
    "bimodality_coefficient",
    "otsu_ratio",
    "mass_near_zero_010",
)

_ACTIVATION_MEANS = (
    "sign_entropy_bits",
    "near_constant_share",
    "binarization_error",
    "twin_agreement",
)


def run_table(runs: Runs) -> pd.DataFrame:
    """Return one row a run: what it is, how accurate, and its evidence on the paper's two claims.

    Late figures are means over the last tenth of the recorded steps, flip-back over the last half. Totals of flips are over the
    whole run, so compare them between runs of equal length only.

    Args:
        runs: Runs to read; float runs have NaN where nothing is binarized.

    Returns:
        Columns run_id, label, recipe, seed, scale, state, steps, test_accuracy,
        test_half_width (95%, over test images, not over seeds), validation_accuracy,
        teacher_test_accuracy, and the other keys of METRICS.
    """
    rows = []
    for run in as_runs(runs):
        config = run.config if isinstance(run.config, dict) else {}
        result = run.result or {}
        row = {key: value for key, value in identity(0, run).items() if key != "run"}
        row |= {"scale": config.get("scale", ""), "state": run.state, "steps": run.step}
        for name in ("test_accuracy", "validation_accuracy", "teacher_test_accuracy"):
            row[name] = _number(result.get(name))
        row["test_half_width"] = _image_half_width(row["test_accuracy"], result.get("test_count"))
        row |= _evidence(run) if recipe_of(run) != FLOAT else {}
        rows.append(row)
    columns = [
        *RUN_COLUMNS[1:],
        *("scale", "state", "steps", "test_accuracy", "test_half_width"),
        *("validation_accuracy", "teacher_test_accuracy"),
        *(name for name in METRICS if name not in ("test_accuracy", "validation_accuracy")),
    ]
    return pd.DataFrame(rows, columns=columns)


def _evidence(run: Run) -> dict[str, float]:
    frames = {
        "weight": site_frame(run, [*_WEIGHT_MEANS, "flip_back_10"], kind="weight"),
        "activation": site_frame(run, _ACTIVATION_MEANS, kind="activation"),
    }
    row: dict[str, float] = {}
    for kind, names in (("weight", _WEIGHT_MEANS), ("activation", _ACTIVATION_MEANS)):
        for name in names:
            recorded = frames[kind].dropna(subset=[name])
            means = mean_over_sites(late_rows(recorded), name)[name]
            row[name] = float(means.mean()) if len(means) else math.nan
    row["late_flip_rate"] = row.pop("flip_rate")
    late = late_rows(frames["weight"].dropna(subset=["flip_back_10"]), share=LAST_HALF)
    flips = late["flip_rate"] * late["n_weights"]
    row["flip_back_10"] = (
        float((late["flip_back_10"] * flips).sum() / flips.sum()) if flips.sum() > 0 else math.nan
    )
    gross, net, weights = flip_totals(run)
    if weights:
        row["oscillating_flips_per_weight"] = (gross - net) / weights
        row["flip_flop_ratio"] = gross / max(1, net)
    return row


def _number(value: object) -> float:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if ok else math.nan  # type: ignore[arg-type]


def _image_half_width(accuracy: float, count: object) -> float:
    images = _number(count)
    if not images > 0 or math.isnan(accuracy):
        return math.nan
    return 1.96 * math.sqrt(max(0.0, accuracy * (1.0 - accuracy)) / images)
