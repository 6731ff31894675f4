"""A measure of every weight site over training, as a grid of sites x steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bvit_analysis.records import MEASURES, Measure, Run
from bvit_analysis.tables.frames import site_frame
from bvit_analysis.tables.metrics import Source, measure_of, own_measures
from bvit_analysis.tables.selection import Runs, as_runs

AtlasMetric = Measure
"What an atlas needs to know of a measure: its label and its scale."

ATLAS_METRICS: dict[str, Measure] = {
    name: one for name, one in MEASURES.items() if one.kind == "weight" and one.in_atlas
}
"The catalogue's measures that are offered for an atlas; others of ``run.sites`` can be drawn as well."


def atlas_choices(data: Source) -> dict[str, Measure]:
    """Return the measures offered for an atlas of these runs: the catalogue's, then those of their own.

    Args:
        data: Runs, or a site_frame of them.

    Returns:
        By name, those that are recorded at some site; all of them where none is (yet).
    """
    own = {
        name: one
        for name, one in own_measures(data).items()
        if one.kind == "weight" and one.in_atlas
    }
    known = ATLAS_METRICS | own
    frames = (
        [data] if isinstance(data, pd.DataFrame) else [run.sites for run in as_runs(data or [])]
    )
    held = {
        name: one
        for name, one in known.items()
        if any(name in frame.columns and frame[name].notna().any() for frame in frames)
    }
    return held or known


def atlas_metric(name: str, data: Source = None) -> Measure:
    """Return how a measure is shown in an atlas.

    Args:
        name: A weight column of ``run.sites``.
        data: Runs, or a site_frame of them, whose own measures count too.

    Raises:
        ConfigError: If there is no measure of that name.
    """
    return measure_of(name, data)


@dataclass(frozen=True)
class Atlas:
    """A measure of one run by site and time."""

    sites: tuple[str, ...]
    "Rows, in model order."
    edges: np.ndarray
    "Steps at which columns begin and end, (columns + 1,)."
    grid: np.ndarray
    "Mean of the measure in each cell, (sites, columns), NaN where nothing was recorded."


def site_atlas(run: Run | None, metric: str = "flip_rate", *, columns: int = 120) -> Atlas:
    """Return a measure of every weight site of a run over its training.

    Args:
        run: The run; None gives an atlas without cells.
        metric: A weight column of ``run.sites``.
        columns: At most so many columns; each is the mean of the steps in it.

    Raises:
        ConfigError: If there is no measure of that name.
    """
    frame = site_frame([run] if run else [], [metric], kind="weight").dropna(subset=[metric])
    # what was recorded at step 0 spans no steps
    frame = frame[frame["step"] > 0] if (frame["step"] > 0).any() else frame
    sites = frame.drop_duplicates("site").sort_values("order")["site"].tolist()
    steps = np.sort(frame["step"].unique()).astype(np.int64)
    if not sites:
        return Atlas((), np.zeros(1), np.zeros((0, 0)))
    groups = np.array_split(steps, min(columns, len(steps)))
    column = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    at = column[np.searchsorted(steps, frame["step"].to_numpy())]
    row = frame["site"].map({site: i for i, site in enumerate(sites)}).to_numpy(np.int64)
    shape = (len(sites), len(groups))
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (row, at), frame[metric].to_numpy(float))
    np.add.at(counts, (row, at), 1)
    grid = np.divide(sums, counts, out=np.full(shape, np.nan), where=counts > 0)
    edges = np.array([0, *(group[-1] for group in groups)])
    return Atlas(tuple(map(str, sites)), edges, grid)


def colour_limits(data: Runs | pd.DataFrame, metric: str = "flip_rate") -> tuple[float, float]:
    """Return ends of a colour scale that fits all these runs: a logarithmic one spans at most three decades.

    Args:
        data: Runs, or their site_frame.
        metric: A weight column of ``run.sites``.

    Raises:
        ConfigError: If there is no measure of that name.
    """
    scale = atlas_metric(metric, data).scale
    if not isinstance(data, pd.DataFrame):
        data = site_frame(data, [metric], kind="weight")
    values = data[metric].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    if scale == "linear":
        low, high = np.quantile(values, (0.01, 0.99)) if values.size else (0.0, 1.0)
        return (float(low), float(high)) if low < high else (float(low), float(low) + 1e-6)
    values = values[values > 0]
    if not values.size:
        return 1e-4, 1e-1
    high = float(np.quantile(values, 0.998))
    low = max(float(np.quantile(values, 0.02)), high / 1000)
    return (float(low), high) if low < high else (high / 10, high)
