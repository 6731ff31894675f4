"""Recipes compared: intervals over seeds, differences paired by seed, and verdicts for the whole family of comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.tables import chance
from bvit_analysis.tables.evidence import run_table
from bvit_analysis.tables.groups import comparability, in_settings, split_name
from bvit_analysis.tables.levels import levels_sentence
from bvit_analysis.tables.metrics import FLOAT, RECIPE_ORDER, Metric, metric, metrics_of, ordered
from bvit_analysis.tables.selection import Runs, preset_parts
from bvit_analysis.tables.significance import (
    FEWEST,
    check_level,
    flips_from,
    holm,
    sign_flip_ps,
    smallest_p,
    student_p,
)
from bvit_analysis.tables.verification import unverified_sentence

_COLUMNS = (
    *("recipe", "n", "mean", "low", "high", "values", "seeds", "common_seeds", "difference"),
    *("difference_low", "difference_high", "p", "p_family", "p_smallest", "compared"),
    *("verdict", "notes", "null", "pairs"),
)


def ablation_table(
    runs: Runs | pd.DataFrame,
    name: str = "test_accuracy",
    *,
    baseline: str = "baseline",
    level: float = 0.95,
    margin: float | None = None,
) -> pd.DataFrame:
    """Compare recipes on one figure, with intervals over seeds and differences paired by seed.

    With fewer than three common seeds there are only points. From three on there is Student's interval and a verdict that
    at most "suggests"; as soon as sign flips can reach p <= 1 - level (six seeds for 0.95) they are asked too, and zero is
    excluded only where both say so, adjusted for all recipes compared. A recipe under other settings than the
    baseline is compared with the baseline of its own settings, or not at all.

    Args:
        runs: Runs to read, or their run_table.
        name: A key of METRICS, or a measure that the runs declare of their own.
        baseline: The recipe that the others are compared with, under any settings, or one group of it.
        level: Coverage of the intervals, and 1 - level the most that false verdicts of this table may come to; 0..1.
        margin: Differences within +-margin are "no difference"; None takes the metric's own.

    Returns:
        One row a recipe, the teacher's (recipe 'float') last and uncompared. Columns recipe, n,
        mean, low, high, values (by seed), seeds, common_seeds, difference, difference_low,
        difference_high, p, p_family (adjusted for the recipes compared), p_smallest (that p_family can reach with so
        many seeds; 0 where Student's law is asked alone), compared (comparisons in the family), verdict, notes,
        null (the figure at chance, NaN where that is no one number), pairs (own value and the baseline's, by common
        seed). ``attrs["notes"]`` lists what makes the runs less
        than comparable. Runs that diverged or are not finished are left out and named in notes.

    Raises:
        ConfigError: If there is no metric or recipe of a name, or the level is not between 0 and 1.
    """
    table = runs if isinstance(runs, pd.DataFrame) else run_table(runs)
    frame = _compared(table, [name], baseline, level, margin)
    frame = frame[list(_COLUMNS)]
    frame.attrs["notes"] = [] if isinstance(runs, pd.DataFrame) else comparability(runs)
    return frame


def _compared(
    table: pd.DataFrame, names: Sequence[str], baseline: str, level: float, margin: float | None
) -> pd.DataFrame:
    """Return the rows of all figures, one family: columns metric, baseline_mean and those of ablation_table."""
    check_level(level)
    known = {name: metric(name, table) for name in names}
    check_baseline(table, baseline)
    recorded = table.attrs.get("parts", {})
    rows: list[dict[str, Any]] = []
    for name in names:
        series, notes = _by_seed(table, name)
        for recipe, values in series.items():
            reference = baseline_of(recipe, baseline, series)
            row = _row(recipe, values, series.get(reference, {}), level)
            row |= {"metric": name, "notes": "; ".join(notes.get(recipe, []))}
            row["is_reference"] = recipe in (reference, FLOAT)
            row["baseline_mean"] = _mean(list(series.get(reference, {}).values()))
            null = known[name].measure.null
            row["null"] = math.nan if null is None else null
            row |= {"reference": reference, "baseline": baseline}
            rows.append(row)
    family = [row for row in rows if row["common_seeds"] >= FEWEST]
    _adjust(family, level)
    for row in rows:
        row["compared"] = len(family)
        if not row["is_reference"]:
            recipe, one = row["recipe"], known[row["metric"]]
            parts = recorded[recipe] if recipe in recorded else preset_parts(recipe)
            bound = one.margin if margin is None else margin
            row["verdict"] = _verdict(row, one, bound, frozenset(parts), level)
    columns = ["metric", "baseline_mean", *_COLUMNS]
    return pd.DataFrame([{key: row[key] for key in columns} for row in rows], columns=columns)


def check_baseline(table: pd.DataFrame, baseline: str) -> None:
    """Refuse a baseline that is no recipe, before it is taken for one without runs.

    Args:
        table: A run_table.
        baseline: A recipe under any settings, or one group.

    Raises:
        ConfigError: If it is neither a preset nor a recipe or group of the table.
    """
    groups = [str(name) for name in table["recipe"].unique()]
    known = ordered([*RECIPE_ORDER, *groups, *(split_name(name)[0] for name in groups)])
    known = [name for name in known if name != FLOAT]
    if baseline not in known:
        raise ConfigError(unknown_name("baseline", baseline, known))


def baseline_of(group: str, baseline: str, groups: Mapping[str, Any]) -> str:
    """Return the group that a group is compared with: the baseline under the same settings, '' where there is none.

    Args:
        group: Name of a group.
        baseline: A recipe, or a group; then groups under other settings are compared with nothing.
        groups: All there are.
    """
    settings = split_name(group)[1]
    wanted = baseline if split_name(baseline)[1] else in_settings(baseline, settings)
    same = group == FLOAT or split_name(wanted)[1] == settings
    return wanted if same and wanted in groups else ""


def _by_seed(
    table: pd.DataFrame, name: str
) -> tuple[dict[str, dict[Any, float]], dict[str, list[str]]]:
    """Collect recipe -> seed -> value from finished runs, teacher last, and say what was left out."""
    notes: dict[str, list[str]] = {}
    series: dict[str, dict[Any, float]] = {}
    for recipe in ordered(table["recipe"]):
        if recipe == FLOAT:
            continue
        rows = table[table["recipe"] == recipe]
        said: list[str] = []
        unfinished = int((rows["state"] != "finished").sum())
        if unfinished:
            said.append(f"{unfinished} run(s) not finished, left out")
        if "diverged" in rows:
            parted = rows[rows["diverged"].notna()]
            if len(parted):
                listed = ", ".join(
                    f"{run} at step {step:.0f}"
                    for run, step in zip(parted["run_id"], parted["diverged"], strict=True)
                )
                said.append(f"{len(parted)} run(s) diverged, left out: {listed}")
            rows = rows[rows["diverged"].isna()]
        rows = rows[rows["state"] == "finished"]
        if "steps" in rows and rows["steps"].nunique() > 1:
            shorter = rows[rows["steps"] < rows["steps"].max()]
            listed = ", ".join(
                f"{run} with {steps}"
                for run, steps in zip(shorter["run_id"], shorter["steps"], strict=True)
            )
            said.append(
                f"{len(shorter)} run(s) of fewer steps than {rows['steps'].max()}, left out: {listed}"
            )
            rows = rows.drop(shorter.index)
        lacking = int(rows[name].isna().sum())
        if lacking:
            said.append(f"{lacking} run(s) without {name}, left out")
        rows = rows[rows[name].notna()]
        seeds = rows["seed"].dropna()
        repeated = seeds[seeds.duplicated()].unique()
        if len(repeated):
            listed = ", ".join(str(seed) for seed in sorted(repeated))
            said.append(f"several runs of seed {listed}: their mean is used")
        # somebody else's training has no seed we know of: each such run counts, and pairs with none
        keys = rows["seed"].astype(object).where(rows["seed"].notna(), rows["run_id"])
        series[recipe] = rows.groupby(keys, sort=False)[name].mean().to_dict()
        if said:
            notes[recipe] = said
    teachers = _teachers(table, name)
    if teachers or (table["recipe"] == FLOAT).any():
        series[FLOAT] = teachers
    return series, notes


def _teachers(table: pd.DataFrame, name: str) -> dict[Any, float]:
    """Collect teacher -> value, each teacher once, however many students name it."""
    own = table[(table["recipe"] == FLOAT) & (table["state"] == "finished")]
    own = own[own[name].notna()]
    found = dict(zip(own["run_id"], own[name].astype(float), strict=True))
    if name != "test_accuracy":
        return found
    students = table[(table["recipe"] != FLOAT) & table["teacher_test_accuracy"].notna()]
    names = students["teacher"] if "teacher" in students else pd.Series("", index=students.index)
    for teacher, value in zip(names, students["teacher_test_accuracy"].astype(float), strict=True):
        # Students that name no teacher have those that are here, or one for each figure; of one name and two figures
        # there are two.
        known = found.get(teacher) if teacher else None
        if known == value or (not teacher and (len(own) or value in found.values())):
            continue
        found[teacher if teacher and known is None else f"{teacher} {value:g}".strip()] = value
    return found


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _row(
    recipe: str, values: Mapping[Any, float], reference: Mapping[Any, float], level: float
) -> dict[str, Any]:
    data = list(values.values())
    low, high = chance.t_interval(data, level=level)
    row: dict[str, Any] = {
        "recipe": recipe,
        "n": len(data),
        "mean": _mean(data),
        "low": low,
        "high": high,
        "values": data,
        "seeds": list(values),
        "common_seeds": 0,
        "verdict": "",
        "paired": {},
        "pairs": [],
    }
    names = ("difference", "difference_low", "difference_high", "p", "p_family", "p_smallest")
    row |= dict.fromkeys(names, math.nan)
    if recipe == FLOAT or values is reference:
        return row
    paired = {seed: value - reference[seed] for seed, value in values.items() if seed in reference}
    row["paired"], row["common_seeds"] = paired, len(paired)
    row["pairs"] = [(value, reference[seed]) for seed, value in values.items() if seed in reference]
    if paired:
        differences = list(paired.values())
        row["difference"] = _mean(differences)
        row["difference_low"], row["difference_high"] = chance.t_interval(differences, level=level)
    return row


def _adjust(family: Sequence[dict[str, Any]], level: float) -> None:
    """Fill in p of comparisons: of Student's law, and of sign flips where they can reach the threshold; the larger."""
    flips = [row for row in family if row["common_seeds"] >= flips_from(level)]
    alone = [student_p(list(row["paired"].values())) for row in family]
    for row, p, adjusted in zip(family, alone, holm(alone), strict=True):
        row["p"], row["p_family"], row["p_smallest"] = p, adjusted, 0.0
    seeds = list(dict.fromkeys(seed for row in flips for seed in row["paired"]))
    joint = [[row["paired"].get(seed, math.nan) for seed in seeds] for row in flips]
    for row, own, adjusted in zip(flips, *sign_flip_ps(joint), strict=True):
        row["p"], row["p_family"] = max(row["p"], own), max(row["p_family"], adjusted)
        row["p_smallest"] = smallest_p(row["common_seeds"])


def _verdict(
    row: Mapping[str, Any], known: Metric, margin: float, parts: frozenset[str], level: float
) -> str:
    """Judge one paired difference in a fixed vocabulary, never more strongly; docs/decisions.md has the rule."""
    if not row["n"]:
        return ""
    if not row["reference"]:
        return f"not compared: no run of {row['baseline']} under the same settings"
    if not known.better or not known.moved_by & parts:
        return "no claim"
    if row["common_seeds"] < FEWEST:
        return f"points only ({row['common_seeds']} common seed(s), {FEWEST} are needed)"
    low, high = row["difference_low"], row["difference_high"]
    excludes = row["p_family"] <= 1.0 - level and not low <= 0.0 <= high
    if not excludes and -margin <= low and high <= margin:
        text = f"no difference larger than {margin:g} detected at this scale"
    elif row["difference"] * known.better <= 0:
        text = "opposite direction" + ("" if excludes else ", inconclusive")
    else:
        text = "same direction, " + ("interval excludes zero" if excludes else "inconclusive")
    return text if row["common_seeds"] >= flips_from(level) else f"suggests: {text}"


def finding(
    runs: Runs | pd.DataFrame, name: str, *, baseline: str = "baseline", level: float = 0.95
) -> str:
    """Say what was measured of one figure, recipe by recipe, as lines of plain text.

    Args:
        runs: Runs to read, or their run_table.
        name: A key of METRICS.
        baseline: The recipe that the others are compared with.
        level: Coverage of the intervals, 0..1.

    Raises:
        ConfigError: If there is no metric or recipe of a name, or the level is not between 0 and 1.
    """
    given = runs if isinstance(runs, pd.DataFrame) else run_table(runs)
    known = metric(name, given)
    table = ablation_table(given, name, baseline=baseline, level=level)
    measured = (table["n"] > 0) & table["mean"].notna()
    rows = table[measured | (measured.any() & (table["notes"] != ""))]
    levels = levels_sentence(given, measure=known.measure.name)
    if rows.empty:
        return f"{known.label}: not recorded in a finished run here. {levels}".rstrip()
    lines = [f"{known.label}, mean over seeds:"]
    for row in rows.to_dict("records"):
        text = f"  {row['recipe']}: " + (
            f"{row['mean']:{known.form}} (n={row['n']})" if row["n"] else "no run counts"
        )
        if row["common_seeds"]:
            text += f"; paired difference to {baseline} {row['difference']:+{known.form}}"
        if row["common_seeds"] >= FEWEST:
            ends = f"{row['difference_low']:+{known.form}}, {row['difference_high']:+{known.form}}"
            text += f" [{ends}]"
        text += f"; {row['verdict']}" if row["verdict"] else ""
        text += reach(row) if row["verdict"] != "no claim" else ""
        lines.append(text + (f"; {row['notes']}" if row["notes"] else ""))
    about = unverified_sentence(given, kind=known.measure.kind)
    return "\n".join([*lines, *filter(None, (levels, about))])


def reach(row: Mapping[str, Any]) -> str:
    """Return p of a comparison and the smallest that it can reach with so many seeds, '' where there is no p.

    Args:
        row: Of ablation_table.
    """
    if math.isnan(row["p_family"]):
        return ""
    text = f" (p {row['p_family']:.2g} in a family of {row['compared']}, smallest reachable "
    if row["p_smallest"] > 0:
        return f"{text}{row['p_smallest']:.2g})"
    flips = smallest_p(row["common_seeds"])
    return f"{text}0: Student's law alone, sign flips reach {flips:.2g} at best)"


def verdict_table(
    runs: Runs | pd.DataFrame,
    names: Sequence[str] | None = None,
    *,
    baseline: str = "baseline",
    level: float = 0.95,
) -> pd.DataFrame:
    """Return every paired comparison of several figures, one row a figure and recipe; all of them are one family.

    Args:
        runs: Runs to read, or their run_table.
        names: Keys of METRICS, or measures that the runs declare; None takes all of them.
        baseline: The recipe that the others are compared with.
        level: Coverage of the intervals, and 1 - level the most that false verdicts of this table may come to; 0..1.

    Returns:
        Columns metric, recipe, common_seeds, baseline_mean, mean, difference, difference_low,
        difference_high, p_family, p_smallest, null, verdict.

    Raises:
        ConfigError: If there is no metric or recipe of a name, or the level is not between 0 and 1.
    """
    columns = ["metric", "recipe", "common_seeds", "baseline_mean", "mean", "difference"]
    columns += ["difference_low", "difference_high", "p_family", "p_smallest", "null", "verdict"]
    table = runs if isinstance(runs, pd.DataFrame) else run_table(runs)
    listed = list(metrics_of(table) if names is None else names)
    found = _compared(table, listed, baseline, level, None)
    return found.loc[found["common_seeds"] > 0, columns].reset_index(drop=True)
