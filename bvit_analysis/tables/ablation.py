"""Recipes compared: intervals over seeds, differences paired by seed, verdicts, and what weakens them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bvit_analysis.records import Measure
from bvit_analysis.records.info import shown
from bvit_analysis.tables import chance
from bvit_analysis.tables.evidence import run_table
from bvit_analysis.tables.frames import flat
from bvit_analysis.tables.levels import levels_sentence
from bvit_analysis.tables.metrics import FLOAT, Metric, metric, metrics_of, ordered
from bvit_analysis.tables.selection import Runs, binary_runs, preset_parts, recipe_of
from bvit_analysis.tables.verification import unverified_sentence


def ablation_table(
    runs: Runs | pd.DataFrame,
    name: str = "test_accuracy",
    *,
    baseline: str = "baseline",
    level: float = 0.95,
    margin: float | None = None,
) -> pd.DataFrame:
    """Compare recipes on one figure, with intervals over seeds and differences paired by seed.

    With n < 3 seeds there are only points; from 3 on there is Student's interval and a verdict that
    at most "suggests"; from 6 on also the sign-flip p, adjusted by Holm over the recipes
    compared, and the interval excludes zero only where both agree.

    Args:
        runs: Runs to read, or their run_table.
        name: A key of METRICS, or a measure that the runs declare of their own.
        baseline: The recipe that the others are compared with.
        level: Coverage of the intervals, 0..1.
        margin: Differences within +-margin are "no difference"; None takes the metric's own.

    Returns:
        One row a recipe, the teacher's (recipe 'float') last and uncompared. Columns recipe, n,
        mean, low, high, values (by seed), seeds, common_seeds, difference, difference_low,
        difference_high, p, p_holm, verdict, notes, null (the figure at chance, NaN where that is no one
        number). ``attrs["notes"]`` lists what makes the runs less than comparable.

    Raises:
        ConfigError: If there is no metric of that name, or the level is not between 0 and 1.
    """
    table = runs if isinstance(runs, pd.DataFrame) else run_table(runs)
    known = metric(name, table)
    bound = known.margin if margin is None else margin
    recorded = table.attrs.get("parts", {})
    notes = [] if isinstance(runs, pd.DataFrame) else comparability(runs)
    series, row_notes = _by_seed(table, name)
    reference = series.get(baseline, {})
    rows = [_row(recipe, values, reference, level) for recipe, values in series.items()]
    compared = [row for row in rows if row["recipe"] not in (baseline, FLOAT)]
    for row, p in zip(compared, chance.holm([row["p"] for row in compared]), strict=True):
        row["p_holm"] = p
        recipe = row["recipe"]
        parts = recorded[recipe] if recipe in recorded else preset_parts(recipe)
        row["verdict"] = _verdict(row, known, bound, frozenset(parts))
    for row in rows:
        row["null"] = math.nan if known.measure.null is None else known.measure.null
        row["notes"] = "; ".join(row_notes.get(row["recipe"], []))
    columns = [
        *("recipe", "n", "mean", "low", "high", "values", "seeds", "common_seeds", "difference"),
        *("difference_low", "difference_high", "p", "p_holm", "verdict", "notes", "null"),
    ]
    frame = pd.DataFrame(rows, columns=columns)
    frame.attrs["notes"] = notes
    return frame


def _by_seed(
    table: pd.DataFrame, name: str
) -> tuple[dict[str, dict[Any, float]], dict[str, list[str]]]:
    """Collect recipe -> seed -> value from finished runs, teacher last, and say what was left out."""
    notes: dict[str, list[str]] = {}
    series: dict[str, dict[Any, float]] = {}
    for recipe in sorted(ordered(table["recipe"]), key=lambda recipe: recipe == FLOAT):
        rows = table[table["recipe"] == recipe]
        unfinished = int((rows["state"] != "finished").sum())
        if unfinished:
            notes.setdefault(recipe, []).append(f"{unfinished} run(s) not finished, left out")
        rows = rows[rows["state"] == "finished"]
        lacking = int(rows[name].isna().sum())
        if lacking and recipe != FLOAT:
            notes.setdefault(recipe, []).append(f"{lacking} run(s) without {name}, left out")
        rows = rows[rows[name].notna()]
        seeds = rows["seed"].dropna()
        repeated = seeds[seeds.duplicated()].unique()
        if len(repeated):
            listed = ", ".join(str(seed) for seed in sorted(repeated))
            notes.setdefault(recipe, []).append(
                f"several runs of seed {listed}: their mean is used"
            )
        # somebody else's training has no seed we know of: each such run counts, and pairs with none
        keys = rows["seed"].astype(object).where(rows["seed"].notna(), rows["run_id"])
        series[recipe] = rows.groupby(keys, sort=False)[name].mean().to_dict()
    if name == "test_accuracy" and not series.get(FLOAT):
        teachers = table[table["teacher_test_accuracy"].notna()]
        if len(teachers):
            by_seed = teachers.groupby("seed")["teacher_test_accuracy"].first()
            series[FLOAT] = by_seed.to_dict()
    return series, notes


def _row(
    recipe: str, values: Mapping[Any, float], reference: Mapping[Any, float], level: float
) -> dict[str, Any]:
    data = list(values.values())
    low, high = chance.t_interval(data, level=level)
    row: dict[str, Any] = {
        "recipe": recipe,
        "n": len(data),
        "mean": float(np.mean(data)) if data else math.nan,
        "low": low,
        "high": high,
        "values": data,
        "seeds": list(values),
        "common_seeds": 0,
        "verdict": "",
    }
    names = ("difference", "difference_low", "difference_high", "p", "p_holm")
    row |= dict.fromkeys(names, math.nan)
    if recipe == FLOAT or values is reference:
        return row
    paired = [value - reference[seed] for seed, value in values.items() if seed in reference]
    row["common_seeds"] = len(paired)
    if paired:
        row["difference"] = float(np.mean(paired))
        row["difference_low"], row["difference_high"] = chance.t_interval(paired, level=level)
    if len(paired) >= 6:
        row["p"] = chance.sign_flip_p(paired)
    return row


def _verdict(row: Mapping[str, Any], known: Metric, margin: float, parts: frozenset[str]) -> str:
    """Judge one paired difference in the vocabulary of docs/reliability.md, never more strongly."""
    if not known.better or not known.moved_by & parts:
        return "no claim"
    if row["common_seeds"] < 3:
        return f"points only ({row['common_seeds']} common seed(s), 3 are needed)"
    low, high = row["difference_low"], row["difference_high"]
    excludes = low > 0 or high < 0
    if row["common_seeds"] >= 6:
        excludes = excludes and row["p_holm"] <= 0.05
    if not excludes and -margin <= low and high <= margin:
        text = f"no difference larger than {margin:g} detected at this scale"
    elif row["difference"] * known.better <= 0:
        text = "opposite direction" + ("" if excludes else ", inconclusive")
    else:
        text = "same direction, " + ("interval excludes zero" if excludes else "inconclusive")
    return text if row["common_seeds"] >= 6 else f"suggests: {text}"


def comparability(runs: Runs) -> list[str]:
    """List in plain sentences what differs between binary runs beside recipe and seed.

    Args:
        runs: Runs to compare; float runs are left out, for nothing is compared with them.

    Returns:
        One sentence a difference in versions, hardware, data, model, training or watching; empty
        where all are equal.
    """
    facts: dict[str, dict[str, list[str]]] = {}
    recipes: dict[str, set[str]] = {}
    for run in binary_runs(runs):
        config = run.config if isinstance(run.config, dict) else {}
        recipes.setdefault(recipe_of(run), set()).add(str(config.get("recipe")))
        settings = flat({k: v for k, v in config.items() if k not in ("recipe", "seed", "scale")})
        settings |= flat(run.info.get("versions") or {}, "versions")
        hardware = run.info.get("hardware") or {}
        settings |= {
            f"hardware.{k}": hardware[k] for k in ("cpu", "threads", "device") if k in hardware
        }
        settings["steps recorded"] = run.step
        for key, value in settings.items():
            facts.setdefault(shown(key), {}).setdefault(shown(value), []).append(run.run_id)
    notes = []
    for key, values in facts.items():
        if len(values) > 1:
            listed = ", ".join(f"{value} ({len(ids)} run(s))" for value, ids in values.items())
            notes.append(f"runs differ in {key}: {listed}")
    meanings: dict[str, set[Measure]] = {}
    for run in binary_runs(runs):
        for name, one in run.own_measures.items():
            meanings.setdefault(name, set()).add(one)
    for name, several in meanings.items():
        if len(several) > 1:
            notes.append(f"runs declare {len(several)} different measures named {name}")
    for recipe, variants in recipes.items():
        if len(variants) > 1:
            notes.append(f"runs named {recipe} have {len(variants)} different recipes")
    return notes


def finding(runs: Runs | pd.DataFrame, name: str, *, baseline: str = "baseline") -> str:
    """Say what was measured of one figure, recipe by recipe, as lines of plain text.

    Args:
        runs: Runs to read, or their run_table.
        name: A key of METRICS.
        baseline: The recipe that the others are compared with.
    """
    given = runs if isinstance(runs, pd.DataFrame) else run_table(runs)
    known = metric(name, given)
    table = ablation_table(given, name, baseline=baseline)
    rows = table[(table["n"] > 0) & table["mean"].notna()]
    levels = levels_sentence(given, measure=known.measure.name)
    if rows.empty:
        return f"{known.label}: not recorded in a finished run here. {levels}".rstrip()
    lines = [f"{known.label}, mean over seeds:"]
    for row in rows.to_dict("records"):
        text = f"  {row['recipe']}: {row['mean']:{known.form}} (n={row['n']})"
        if row["common_seeds"]:
            text += f"; paired difference to {baseline} {row['difference']:+{known.form}}"
        if row["common_seeds"] >= 3:
            ends = f"{row['difference_low']:+{known.form}}, {row['difference_high']:+{known.form}}"
            text += f" [{ends}]"
        lines.append(text + (f"; {row['verdict']}" if row["verdict"] else ""))
    about = unverified_sentence(given, kind=known.measure.kind)
    return "\n".join([*lines, *filter(None, (levels, about))])


def verdict_table(
    runs: Runs | pd.DataFrame, names: Sequence[str] | None = None, *, baseline: str = "baseline"
) -> pd.DataFrame:
    """Return every paired comparison of several figures, one row a figure and recipe.

    Args:
        runs: Runs to read, or their run_table.
        names: Keys of METRICS, or measures that the runs declare; None takes all of them.
        baseline: The recipe that the others are compared with.

    Returns:
        Columns metric, recipe, common_seeds, baseline_mean, mean, difference, difference_low,
        difference_high, p_holm, null, verdict.
    """
    columns = ["metric", "recipe", "common_seeds", "baseline_mean", "mean", "difference"]
    columns += ["difference_low", "difference_high", "p_holm", "null", "verdict"]
    table = runs if isinstance(runs, pd.DataFrame) else run_table(runs)
    parts = []
    for name in metrics_of(table) if names is None else names:
        one = ablation_table(table, name, baseline=baseline)
        own = one.loc[one["recipe"] == baseline, "mean"]
        mean = float(own.iloc[0]) if len(own) else math.nan
        parts.append(one[one["common_seeds"] > 0].assign(metric=name, baseline_mean=mean))
    rows = [part for part in parts if not part.empty]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


_PAPER = {
    "data set": "ImageNet-1k",
    "training images": "1,281,167",
    "image side (pixels)": "224 (DeiT-S)",
    "model": "DeiT-S among others",
    "optimizer steps": "unknown",
    "batch size": "unknown",
    "peak learning rate": "unknown",
    "float teacher": "unknown",
    "seeds a recipe": "unknown",
    "code": "none public",
}


def scale_table(runs: Runs) -> pd.DataFrame:
    """Return the scale of the paper's experiment beside that of these runs, so that no verdict travels.

    Args:
        runs: Runs to read; float runs are left out.

    Returns:
        Index: the quantity; columns paper (2305.14730, what its abstracts say) and here.
    """
    here: dict[str, dict[str, None]] = {name: {} for name in _PAPER}
    seeds: dict[str, set[Any]] = {}
    for run in binary_runs(runs):
        config = run.config if isinstance(run.config, dict) else {}
        data, model, training = (
            part if isinstance(part := config.get(name), dict) else {}
            for name in ("data", "model", "training")
        )
        sizes = ", ".join(
            f"{name} {model[name]}"
            for name in ("embed_dim", "depth", "num_heads", "patch_size")
            if model.get(name)
        )
        facts = {
            "data set": data.get("name"),
            "training images": data.get("train_limit") or "all",
            "image side (pixels)": data.get("img_size"),
            "model": f"{model.get('name')} ({sizes})" if sizes else model.get("name"),
            "optimizer steps": run.step,
            "batch size": training.get("batch_size"),
            "peak learning rate": training.get("learning_rate"),
            "float teacher": "none" if config.get("teacher") is None else "trained here",
            "code": "bvit_analysis, a reconstruction",
        }
        for name, value in facts.items():
            here[name]["unknown" if value is None else str(value)] = None
        seeds.setdefault(recipe_of(run), set()).add(run.info.get("seed"))
    here["seeds a recipe"] = {str(len(found)): None for found in seeds.values()}
    rows = {name: (paper, ", ".join(here[name]) or "no run") for name, paper in _PAPER.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["paper", "here"])
