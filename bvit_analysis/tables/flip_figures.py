"""What the weights of a run did, by the measures that chance is compared in; of recorded and simulated rows alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from bvit_analysis.measures.shares import share
from bvit_analysis.records import FLIP_BACK_STEPS, Run
from bvit_analysis.records.columns import NEAR_ZERO
from bvit_analysis.tables.chance_inputs import late_after
from bvit_analysis.tables.frames import flip_counts, weight_sites

TAIL = 12
"Flips from which on a weight belongs to the tail."

_LAST = (
    "gross_flips",
    "net_flips",
    "oscillating_flips",
    "flip_flop_ratio",
    "frequent_share",
    "concentration",
    "bimodality_coefficient",
    "kurtosis",
    "otsu_ratio",
    *(f"mass_near_zero_{name}" for name in NEAR_ZERO),
)
_BACK = tuple(f"flip_back_{k}" for k in FLIP_BACK_STEPS)
EXCESS_MEASURES = (*_LAST, *_BACK, "tail_share", "late_flip_rate")
"What is compared with chance, of the whole run; tail_share is P(12 flips or more), late_flip_rate per weight and step."


def observed_of(run: Run) -> pd.DataFrame:
    """Return what the weights of a run did, by the measures that chance is compared in.

    Args:
        run: The run.

    Returns:
        One row a weight site with flips on record: site, n_weights, EXCESS_MEASURES; NaN where one is not recorded.
    """
    counts = flip_counts(run)
    sizes = run.site_table.set_index("site")["n_weights"]
    rows = run.sites[run.sites["kind"] == "weight"]
    found = []
    for site in weight_sites(run):
        own = rows[rows["site"] == site]
        if own.empty or own["flip_rate"].isna().all():
            continue
        stored = counts.get(site)
        tail, late = math.nan, math.nan
        if stored is not None:
            steps = int(stored["steps"])
            known = bool((stored["late"] >= 0).all())
            after = late_after(run, steps) if known else steps
            tail, late = tail_share(stored["gross"]), late_rate(stored["late"], steps - after)
        found.append(figures_of(site, int(sizes[site]), own, tail, late))
    return pd.DataFrame(found, columns=["site", "n_weights", *EXCESS_MEASURES])


def over_sites(figures: pd.DataFrame) -> dict[str, float]:
    """Return figures of all sites together: of weights, but flip-back of flips and the flip-flop ratio of sums.

    Args:
        figures: As observed_of() or Chance.figures has them.
    """
    weights = figures["n_weights"].astype(float)
    flips = weights * figures["gross_flips"]
    together: dict[str, float] = {}
    for name in EXCESS_MEASURES:
        values = figures[name]
        size = (flips if name in _BACK or name == "concentration" else weights).where(
            values.notna()
        )
        total = float(size.sum())
        together[name] = float((size * values).sum()) / total if total > 0 else math.nan
    net = max(1.0, float((weights * figures["net_flips"]).sum()))
    together["flip_flop_ratio"] = float(flips.sum()) / net if len(figures) else math.nan
    return together


def figures_of(
    site: str, size: int, rows: pd.DataFrame, tail: float, late: float
) -> dict[str, Any]:
    """Return the figures of a site from its rows, recorded or simulated."""
    figures: dict[str, Any] = {"site": site, "n_weights": size}
    for name in _LAST:
        values = rows[name].dropna() if name in rows else pd.Series(dtype=float)
        figures[name] = float(values.iloc[-1]) if len(values) else math.nan
    windows = rows.dropna(subset=["flip_rate"])
    length = np.diff(windows["step"].to_numpy(), prepend=0)
    flips = windows["flip_rate"].to_numpy(float) * length
    for name in _BACK:
        back = windows[name].to_numpy(float) if name in windows else np.full(len(flips), np.nan)
        known = ~np.isnan(back)
        figures[name] = share(float((flips * back)[known].sum()), float(flips[known].sum()))
    return figures | {"tail_share": tail, "late_flip_rate": late}


def tail_share(gross: np.ndarray) -> float:
    """Return P(a weight flips TAIL times or more), of the flips of each weight."""
    return share(int((gross >= TAIL).sum()), gross.size)


def late_rate(late: np.ndarray, steps: int) -> float:
    """Return late flips per weight and step, NaN where no late step is known."""
    return share(int(late.sum()), late.size * steps) if steps > 0 else math.nan
