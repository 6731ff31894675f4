"""The statistics of bimodality of a site at one step, beside their Gaussian values, and whether they agree."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.records import MEASURES, Run
from bvit_analysis.tables.chance import GAUSSIAN_NULLS
from bvit_analysis.tables.choices import step_at

_TWO_POINTS = {
    "bimodality_coefficient": 1.0,
    "otsu_ratio": 1.0,
    "kurtosis": 1.0,
    "mass_near_zero_010": 0.0,
    "valley_depth": 1.0,
}

STATISTICS: dict[str, tuple[str, float]] = {
    name: (MEASURES[name].words, points) for name, points in _TWO_POINTS.items()
}
"Words for each statistic, and its value for two sharp points at u = +1 and u = -1."

TOWARDS = 0.1
"A statistic lies towards two modes above this part of the way from a Gaussian to two points."
AWAY = 0.02
"Below this part of the way it does not; between the two it says neither."


def distribution_steps(run: Run, site: str | None = None) -> list[int]:
    """Return the steps at which the distribution of latent weights was recorded.

    Args:
        run: The run.
        site: One weight site; None takes all.
    """
    rows = _rows(run, site)
    return sorted({int(step) for step in rows["step"]})


def bimodality_at(run: Run, *, site: str | None = None, step: int | None = None) -> pd.DataFrame:
    """Return the statistics of bimodality of one site at one step, beside their Gaussian values.

    towards = (value - gaussian) / (points - gaussian): 0 for Gaussian weights, 1 for two sharp points.

    Args:
        run: The run.
        site: One weight site; None takes the mean over all, in proportion to their weights.
        step: The last recorded step at or before this one; None takes the last.

    Returns:
        One row a statistic: statistic, label, value, gaussian, points, towards; empty where nothing is
        recorded. ``attrs["step"]`` is the step they were recorded at.

    Raises:
        ConfigError: If the run has no weight site of that name.
    """
    rows = _rows(run, site)
    taken = step_at(rows["step"], step)
    columns = ["statistic", "label", "value", "gaussian", "points", "towards"]
    if taken is None:
        return pd.DataFrame(columns=columns)
    rows = rows[rows["step"] == taken]
    sizes = run.site_table.set_index("site")["n_weights"].reindex(rows["site"])
    weight = np.maximum(sizes.to_numpy(dtype=float, na_value=0.0), 1.0)
    data = []
    for name, (label, points) in STATISTICS.items():
        values = rows[name].to_numpy(dtype=float)
        there = ~np.isnan(values)
        value = float(np.average(values[there], weights=weight[there])) if there.any() else np.nan
        gaussian = GAUSSIAN_NULLS[name]
        towards = (value - gaussian) / (points - gaussian)
        data.append((name, label, value, gaussian, points, towards))
    frame = pd.DataFrame(data, columns=columns)
    frame.attrs["step"] = taken
    return frame


def _rows(run: Run, site: str | None) -> pd.DataFrame:
    frame = run.sites
    if any(name not in frame.columns for name in STATISTICS):  # a run opened with few columns
        return pd.DataFrame(columns=["step", "site", *STATISTICS])
    if site is not None:
        known = run.site_table.loc[run.site_table["kind"] == "weight", "site"].tolist()
        if site not in known:
            raise ConfigError(unknown_name(f"weight site of run {run.run_id}", site, known))
    # numbers first: there are thousands of rows of other measures, and comparing names is slow
    there = np.zeros(len(frame), dtype=bool)
    for name in STATISTICS:
        there |= ~np.isnan(frame[name].to_numpy(dtype=float))
    rows = frame.loc[there, ["step", "site", "kind", *STATISTICS]]
    rows = rows[rows["kind"] == "weight"]
    return rows if site is None else rows[rows["site"] == site]


def statistics_disagree(table: pd.DataFrame) -> bool:
    """Say whether some statistics lie towards two modes while others do not.

    Args:
        table: As from bimodality_at.
    """
    towards = table["towards"].dropna()
    return bool((towards > TOWARDS).any() and (towards < AWAY).any())


def bimodality_verdict(table: pd.DataFrame) -> str:
    """Say in words what the statistics together allow to be said, a part of a sentence.

    No single one shows two modes: light tails raise the coefficient and lower the kurtosis, and a third peak at
    zero does too, so a claim needs all of them.

    Args:
        table: As from bimodality_at.
    """
    rows = table.dropna(subset=["towards"])
    if rows.empty:
        return "no statistic is recorded"
    up = rows.loc[rows["towards"] > TOWARDS, "label"].tolist()
    down = rows.loc[rows["towards"] < AWAY, "label"].tolist()
    if not up:
        return "no statistic lies towards two modes"
    if len(up) == len(rows):
        return f"all {len(rows)} statistics lie towards two modes"
    if down:
        verb = "lies" if len(up) == 1 else "lie"
        return (
            f"the statistics disagree: {' and '.join(up)} {verb} towards two modes, "
            f"{' and '.join(down)} not; chance in a small site, "
            "light tails, skew or a third peak can do that, so look at the histogram"
        )
    return f"{len(up)} of {len(rows)} statistics lie clearly towards two modes, the others a little"
