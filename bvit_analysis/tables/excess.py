"""Observed flips, those of chance, and the excess: what weights did beyond noise in the same optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.records import MEASURES, Run
from bvit_analysis.tables.chance import t_interval
from bvit_analysis.tables.chance_inputs import NoChanceError, pull_of
from bvit_analysis.tables.chance_line import NULLS, chance_of
from bvit_analysis.tables.flip_figures import EXCESS_MEASURES, TAIL, observed_of, over_sites
from bvit_analysis.tables.metrics import ordered
from bvit_analysis.tables.selection import Runs, binary_runs, recipe_of


def excess_by_site(
    run: Run, *, null: str | None = None, term: bool = False, keep: bool = True
) -> pd.DataFrame:
    """Return observed, chance and excess of each site of a run, and of all together.

    Args:
        run: The run.
        null: As for chance_of.
        term: As for chance_of.
        keep: As for chance_of.

    Returns:
        Columns site ('all' for all together), measure, observed, chance, excess = observed - chance, null, term.

    Raises:
        NoChanceError: If there is no chance line.
    """
    line = chance_of(run, null=null, term=term, keep=keep)
    seen = observed_of(run)
    seen = seen[seen["site"].isin(line.figures["site"])]
    tables = []
    for site in (*seen["site"], "all"):
        if site == "all":
            one, other = over_sites(seen), over_sites(line.figures)
        else:
            one = seen.set_index("site").loc[site].to_dict()
            other = line.figures.set_index("site").loc[site].to_dict()
        tables += [
            {
                "site": site,
                "measure": name,
                "observed": one[name],
                "chance": other[name],
                "excess": one[name] - other[name],
                "null": line.null,
                "term": term,
            }
            for name in EXCESS_MEASURES
        ]
    return pd.DataFrame(tables)


def excess_table(
    runs: Runs,
    *,
    null: str | None = None,
    measures: Sequence[str] = EXCESS_MEASURES,
    level: float = 0.95,
    keep: bool = True,
) -> pd.DataFrame:
    """Return observed, chance and excess of each recipe, with the interval of the excess over its runs.

    A recipe with a gradient term has rows with the term acting on the simulated weights and without; the difference
    is what the term does to any weights, learning or not.

    Args:
        runs: Runs to read.
        null: As for chance_of; None takes for each recipe the first that all its runs allow.
        measures: Some of EXCESS_MEASURES.
        level: Coverage of Student's interval over runs; it is NaN below three runs.
        keep: As for chance_of.

    Returns:
        Columns recipe, measure, null, term, runs (with a chance line), observed, chance, excess (means over these runs),
        low, high, note. A recipe without a chance line has one row a measure with NaN for chance, and the reason as its note.

    Raises:
        ConfigError: If a measure or the null is unknown.
    """
    for name in measures:
        if name not in EXCESS_MEASURES:
            raise ConfigError(unknown_name("measure that chance has", name, EXCESS_MEASURES))
    if null is not None and null not in NULLS:
        raise ConfigError(unknown_name("null", null, NULLS))
    groups: dict[str, list[Run]] = {}
    for run in binary_runs(runs):
        groups.setdefault(recipe_of(run), []).append(run)
    rows: list[dict[str, Any]] = []
    for recipe in ordered(groups):
        listed = groups[recipe]
        terms = (False, True) if any(pull_of(run) is not None for run in listed) else (False,)
        for term in terms:
            rows += _of_recipe(recipe, listed, null, term, measures, level, keep)
    return pd.DataFrame(rows, columns=[*_TABLE])


_OUTCOME = ("observed", "chance", "excess", "low", "high")
_TABLE = ("recipe", "measure", "null", "term", "runs", *_OUTCOME, "note")


def _of_recipe(
    recipe: str,
    runs: Sequence[Run],
    null: str | None,
    term: bool,
    measures: Sequence[str],
    level: float,
    keep: bool,
) -> list[dict[str, Any]]:
    lines: list[tuple[dict[str, float], dict[str, float]]] = []
    notes: dict[str, None] = {}
    reasons: dict[str, int] = {}
    used = null
    for one in NULLS if null is None else (null,):
        lines, used = [], one
        missing = 0
        for run in runs:
            try:
                line = chance_of(run, null=one, term=term, keep=keep)
            except NoChanceError as error:
                missing += 1
                reasons[str(error)] = reasons.get(str(error), 0) + 1
                continue
            seen = observed_of(run)
            seen = seen[seen["site"].isin(line.figures["site"])]
            lines.append((over_sites(seen), over_sites(line.figures)))
            notes |= dict.fromkeys(line.notes)
        if not missing:
            break  # all its runs allow this null; where some do not, the recipe has the next
    said = [f"{n} of {len(runs)} runs: {why}" for why, n in reasons.items()]
    note = "; ".join([*said, *notes])
    seen_alone = [] if lines else [over_sites(observed_of(run)) for run in runs]
    rows = []
    for name in measures:
        pairs = [(one[name], other[name]) for one, other in lines]
        pairs = [(a, b) for a, b in pairs if math.isfinite(a - b)]
        excess = [a - b for a, b in pairs]
        low, high = t_interval(excess, level=level)
        observed = [a for a, _ in pairs] or [one[name] for one in seen_alone]
        row = (
            recipe,
            name,
            used if lines else None,
            term,
            len(pairs),
            _mean(observed),
            _mean([b for _, b in pairs]),
            _mean(excess),
            low,
            high,
            note,
        )
        rows.append(dict(zip(_TABLE, row, strict=True)))
    return rows


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def excess_finding(table: pd.DataFrame, measure: str) -> str:
    """Say what was observed of a measure, what is chance and what is excess, recipe by recipe, as lines of plain text.

    Args:
        table: From excess_table().
        measure: One of its measures.

    Raises:
        ConfigError: If the table lacks the measure.
    """
    known = list(dict.fromkeys(table["measure"]))
    if len(table) and measure not in known:
        raise ConfigError(unknown_name("measure of the table", measure, known))
    rows = table[table["measure"] == measure]
    words = _WORDS.get(measure) or MEASURES[measure].words
    if rows.empty:
        return f"{words}: no binary runs here."
    lines = [f"{words}, mean over runs:"]
    for row in rows.to_dict("records"):
        who = f"  {row['recipe']}"
        if not row["runs"]:
            lines.append(f"{who}: observed {row['observed']:.3g}; {row['note']}")
            continue
        kind = "white noise" if row["null"] == "white" else "re-dealt gradients"
        kind += " under the gradient term" if row["term"] else ""
        text = f"{who}: observed {row['observed']:.3g}, chance {row['chance']:.3g} ({kind})"
        text += f", excess {row['excess']:+.2g}"
        if math.isfinite(row["low"]):
            beyond = "" if row["low"] * row["high"] > 0 else ", which holds 0"
            text += f" [{row['low']:+.2g}, {row['high']:+.2g}]{beyond}"
        lines.append(f"{text} ({row['runs']} run{'s' if row['runs'] > 1 else ''})")
    if (rows["runs"] < 3).any():
        lines.append("  an interval over runs needs three of a recipe")
    return "\n".join(lines)


_WORDS = {
    "tail_share": f"weights that flip {TAIL} times or more",
    "late_flip_rate": "late flip rate",
}
