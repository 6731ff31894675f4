"""What pairing by seed buys: how much runs of one seed have in common, and the width of intervals with and without it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bvit_analysis.tables.ablation import ablation_table
from bvit_analysis.tables.evidence import run_table
from bvit_analysis.tables.selection import Runs
from bvit_analysis.tables.significance import FEWEST, check_level


def pairing_table(
    runs: Runs | pd.DataFrame,
    name: str = "test_accuracy",
    *,
    baseline: str = "baseline",
    level: float = 0.95,
) -> pd.DataFrame:
    """Return how alike runs of one seed are, recipe by recipe.

    Args:
        runs: Runs to read, or their run_table.
        name: A key of METRICS, or a measure that the runs declare of their own.
        baseline: The recipe that the others are compared with.
        level: Coverage of the intervals, 0..1.

    Returns:
        One row a compared recipe: recipe, common_seeds, correlation with the baseline over seeds (-1..1, NaN below three
        seeds), correlation_low, correlation_high (Fisher's z, NaN below four), paired_width and unpaired_width of the
        interval of the difference (Student, and Welch; unit of the figure), and ratio = paired / unpaired: below 1 pairing
        buys something.

    Raises:
        ConfigError: If there is no metric or recipe of a name, or the level is not between 0 and 1.
    """
    check_level(level)
    table = runs if isinstance(runs, pd.DataFrame) else run_table(runs)
    compared = ablation_table(table, name, baseline=baseline, level=level)
    rows = []
    for row in compared[compared["common_seeds"] > 0].to_dict("records"):
        paired = np.array(row["pairs"])
        ours, theirs = paired[:, 0], paired[:, 1]
        r = correlation(ours, theirs)
        low, high = fisher_interval(r, len(ours), level=level)
        width = row["difference_high"] - row["difference_low"]
        apart = welch_width(ours, theirs, level=level)
        rows.append(
            {
                "recipe": row["recipe"],
                "common_seeds": len(ours),
                "correlation": r,
                "correlation_low": low,
                "correlation_high": high,
                "paired_width": width,
                "unpaired_width": apart,
                "ratio": width / apart if apart > 0 else math.nan,
            }
        )
    columns = ["recipe", "common_seeds", "correlation", "correlation_low", "correlation_high"]
    return pd.DataFrame(rows, columns=[*columns, "paired_width", "unpaired_width", "ratio"])


def correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Return Pearson's r, NaN for fewer than three points or where one side does not vary."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(a) < FEWEST or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def fisher_interval(r: float, count: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return an interval of a correlation: tanh(artanh r +- z / sqrt(n - 3)), NaN below four points.

    Args:
        r: Pearson's r, -1..1.
        count: Points n.
        level: Coverage under a normal law, 0..1.
    """
    from scipy.special import ndtri

    if count < 4 or math.isnan(r):
        return math.nan, math.nan
    if abs(r) >= 1.0:
        return r, r
    half = float(ndtri(0.5 + level / 2)) / math.sqrt(count - 3)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def welch_width(x: ArrayLike, y: ArrayLike, *, level: float = 0.95) -> float:
    """Return the width of Welch's interval of a difference of means, NaN below three values a side."""
    from scipy.special import stdtrit

    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if min(len(a), len(b)) < FEWEST:
        return math.nan
    parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    if not parts.sum() > 0:
        return 0.0
    freedom = parts.sum() ** 2 / (parts**2 / np.array([len(a) - 1, len(b) - 1])).sum()
    return 2 * float(stdtrit(freedom, 0.5 + level / 2)) * math.sqrt(float(parts.sum()))


def pairing_finding(
    runs: Runs | pd.DataFrame,
    name: str = "test_accuracy",
    *,
    baseline: str = "baseline",
    level: float = 0.95,
) -> str:
    """Say what pairing by seed buys in one figure, recipe by recipe, as lines of plain text.

    Args:
        runs: Runs to read, or their run_table.
        name: A key of METRICS.
        baseline: The recipe that the others are compared with.
        level: Coverage of the intervals, 0..1.

    Raises:
        ConfigError: If there is no metric or recipe of a name, or the level is not between 0 and 1.
    """
    table = pairing_table(runs, name, baseline=baseline, level=level)
    if table.empty:
        return f"What pairing by seed buys is unknown: no seed has been run with both {baseline} and another recipe."
    lines = [
        "What pairing by seed buys: correlation with the baseline over seeds, and widths of intervals."
    ]
    lines += [f"  {_sentence(row)}" for row in table.to_dict("records")]
    return "\n".join(lines)


def _sentence(row: dict[str, Any]) -> str:
    start = f"{row['recipe']} (n={row['common_seeds']}): "
    if row["common_seeds"] < FEWEST:
        return f"{start}unknown, {FEWEST} common seeds are needed."
    if math.isnan(row["correlation"]):
        return f"{start}unknown, one side does not vary over seeds."
    known = not math.isnan(row["correlation_low"])
    ends = f" [{row['correlation_low']:+.2f}, {row['correlation_high']:+.2f}]" if known else ""
    if known and row["correlation_low"] > 0:
        verdict = "seeds have something in common"
    elif known and row["correlation_high"] < 0:
        verdict = "seeds part the recipes, pairing costs"
    else:
        verdict = "not shown to buy anything"
    return (
        f"{start}{row['correlation']:+.2f}{ends}; the paired interval is {row['ratio']:.2f} times as wide as"
        f" the unpaired one; {verdict}."
    )
