"""Figures of the latent weights' distribution: histograms over time, bimodality, mass near zero."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bvit_analysis import tables
from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.plots import style
from bvit_analysis.plots.series import (
    STEP,
    By,
    Data,
    last_values,
    one_run,
    over_steps,
    site_data,
)
from bvit_analysis.records import MEASURES, Run
from bvit_analysis.records.columns import NEAR_ZERO

BIMODALITY_LABELS = {
    name: MEASURES[name].label
    for name in ("bimodality_coefficient", "otsu_ratio", "kurtosis", "valley_depth")
}
NO_WEIGHTS = "No distribution of latent weights is recorded in these runs (yet)."
NORMALISED = "u = latent weight / mean |w| of its row"
REACH = 3.0


def histogram_table(
    run: Run | None, *, site: str | None = None, kind: str, step: int | None = None
) -> pd.DataFrame:
    """Return the recorded histograms of one kind, summed over sites.

    Args:
        run: One run; None gives nothing.
        site: One site; None takes all.
        kind: 'latent_normalised' (of weight sites) or 'channel_entropy' (of activation sites).
        step: One recorded step; None takes all.

    Returns:
        One row a step: step, lo, hi, counts (int64 array, shape (bins,)).

    Raises:
        ConfigError: If several runs are given.
    """
    run = one_run(run)
    if run is None:
        return pd.DataFrame(columns=["step", "lo", "hi", "counts"])
    rows = run.histograms
    if step is not None:
        rows = rows[rows["step"] == step]
    of_kind = run.site_table["kind"] == ("weight" if kind == "latent_normalised" else "activation")
    rows = rows[(rows["kind"] == kind) & rows["site"].isin(run.site_table.loc[of_kind, "site"])]
    rows = rows[rows["site"] == site] if site is not None else rows
    summed = []
    for step, same in rows.groupby("step", sort=True):
        first = same.iloc[0]
        # a foreign file may mix ranges in one step; only like bins can be added
        like = same[(same["lo"] == first["lo"]) & (same["hi"] == first["hi"])]
        arrays = [counts for counts in like["counts"] if len(counts) == len(first["counts"])]
        summed.append((step, first["lo"], first["hi"], np.sum(arrays, axis=0)))
    return pd.DataFrame(summed, columns=["step", "lo", "hi", "counts"])


def densities(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return bin edges, shape (bins + 1,), and densities per unit of u, shape (steps, bins)."""
    counts = np.stack([np.asarray(row, dtype=float) for row in table["counts"]])
    edges = np.linspace(table["lo"].iloc[0], table["hi"].iloc[0], counts.shape[1] + 1)
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    return edges, counts / total / (edges[1] - edges[0])


def density_limit(runs: tables.Runs, *, site: str | None = None) -> float:
    """Return the highest density of normalised latent weights in these runs, for a shared colour scale.

    Args:
        runs: Runs to draw side by side.
        site: One weight site; None takes all.
    """
    found = [
        histogram_table(run, site=site, kind="latent_normalised") for run in tables.as_runs(runs)
    ]
    return max((float(densities(one)[1].max()) for one in found if not one.empty), default=1.0)


def gaussian_density(u: np.ndarray) -> np.ndarray:
    """Return the density of u = w / E|w| for a centred Gaussian w, whose standard deviation is sqrt(pi/2)."""
    return np.exp(-u * u / math.pi) / math.pi


@style.bvit()
def plot_latent_histogram(
    run: Run | None,
    *,
    ax: Axes | None = None,
    site: str | None = None,
    kind: Literal["heat", "ridge"] = "heat",
    ridges: int = 6,
    highest: float | None = None,
) -> Axes:
    """Draw the distribution of normalised latent weights over training.

    u = w / mean|w| of its row, so that rows of unequal scale do not hide modes.

    Args:
        run: One run; None gives nothing.
        ax: Where to draw; None makes a figure.
        site: One weight site; None takes all.
        kind: 'heat' draws steps x u with the density as colour, 'ridge' a few steps one above
            another, each over the density of Gaussian weights.
        ridges: How many steps a ridge view shows.
        highest: Top of the colour scale, so that two maps can share it, in weights per unit of u.

    Returns:
        The axes.

    Raises:
        ConfigError: If several runs are given or ``kind`` is unknown.
    """
    if kind not in ("heat", "ridge"):
        raise ConfigError(unknown_name("kind", kind, ("heat", "ridge")))
    table = histogram_table(run, site=site, kind="latent_normalised")
    tables.check_site([run] if run else [], site)  # by now it is one run
    ax = style.axes(ax, height=4.0 if kind == "heat" else 4.8)
    if run is None or table.empty:
        return style.nothing(ax, NO_WEIGHTS)
    edges, density = densities(table)
    steps = table["step"].to_numpy(dtype=float)
    if kind == "heat":
        _heat(ax, steps, edges, density, highest)
    else:
        _ridges(ax, steps, edges, density, ridges)
    where = "all weight sites" if site is None else site
    ax.set_title(style.clip(f"Latent weights, {where}: {run.label}", 90))
    style.literal(ax)
    middle = density[-1][np.abs((edges[:-1] + edges[1:]) / 2) < 0.1].mean()
    style.describe(
        ax,
        f"Density of normalised latent weights of {run.label} at {len(steps)} steps. At the last "
        f"step the density at zero is {middle:.3g}, that of Gaussian weights {1 / math.pi:.3g}.",
    )
    sites = None if site is None else [site]
    return style.note(ax, tables.unverified_sentence(run, kind="weight", sites=sites))


def _heat(
    ax: Axes, steps: np.ndarray, edges: np.ndarray, density: np.ndarray, highest: float | None
) -> None:
    middle = (steps[1:] + steps[:-1]) / 2
    borders = np.concatenate([[max(0.0, steps[0] - 0.5)], middle, [steps[-1] + 0.5]])
    mesh = ax.pcolormesh(
        borders,
        edges,
        density.T,
        cmap=style.density_colours(),
        vmin=0.0,
        vmax=highest if highest is not None else float(density.max()),
        rasterized=True,
    )
    ax.axhline(0.0, color="#D55E00", linewidth=0.9)
    ax.grid(visible=False)
    ax.set_ylim(-REACH, REACH)
    style.titles(ax, x=STEP, y=NORMALISED)
    owner = ax.get_figure(root=True)
    if owner is not None:
        owner.colorbar(mesh, ax=ax, pad=0.01, label="share of weights per unit of u")


def _ridges(
    ax: Axes, steps: np.ndarray, edges: np.ndarray, density: np.ndarray, ridges: int
) -> None:
    chosen = np.unique(np.linspace(0, len(steps) - 1, max(1, ridges)).round().astype(int))
    u = (edges[:-1] + edges[1:]) / 2
    lift = 0.75 * float(density[chosen].max())
    for level, (row, colour) in enumerate(zip(chosen, style.shades(len(chosen)), strict=True)):
        base = level * lift
        depth = 10 - level
        ax.fill_between(u, base, base + density[row], color=colour, alpha=0.75, lw=0, zorder=depth)
        ax.plot(u, base + density[row], color="white", linewidth=0.8, zorder=depth + 0.1)
        ax.plot(u, base + gaussian_density(u), color="#333333", ls=":", lw=0.9, zorder=depth + 0.2)
    ax.set_yticks(lift * np.arange(len(chosen)), [f"step {int(steps[row])}" for row in chosen])
    ax.set_xlim(-REACH, REACH)
    ax.grid(visible=False)
    ax.axvline(0.0, color="#D55E00", linewidth=0.9)
    ax.set_xlabel(NORMALISED)
    ax.set_ylabel("density, each on its own base line")
    style.legend(ax, handles=[style.key("Gaussian weights", "#333333", line=":")])


@style.bvit()
def plot_bimodality(
    data: Data,
    *,
    ax: Axes | None = None,
    metric: Literal[
        "bimodality_coefficient", "otsu_ratio", "kurtosis", "valley_depth"
    ] = "bimodality_coefficient",
    by: By = "recipe",
) -> Axes:
    """Draw a statistic of bimodality over training, with its value for Gaussian weights.

    Args:
        data: Run, runs, or a site_frame with the metric.
        ax: Where to draw; None makes a figure.
        metric: A key of BIMODALITY_LABELS; all sites, in proportion to their weights.
        by: 'recipe' averages seeds, 'run' keeps them apart.

    Returns:
        The axes.

    Raises:
        ConfigError: If the metric or ``by`` is unknown.
    """
    if metric not in BIMODALITY_LABELS:
        raise ConfigError(unknown_name("metric", metric, BIMODALITY_LABELS))
    title = {"otsu_ratio": "Otsu ratio = 1 - binarization error of weights"}
    heading = title.get(metric, metric.replace("_", " ").capitalize())
    return _over_steps_with_null(data, ax, metric, by, heading, BIMODALITY_LABELS[metric])


@style.bvit()
def plot_near_zero(
    data: Data,
    *,
    ax: Axes | None = None,
    delta: float = 0.1,
    by: By = "recipe",
) -> Axes:
    """Draw the share of weights near the sign's boundary over training, with the Gaussian value.

    Args:
        data: Run, runs, or a site_frame with the column.
        ax: Where to draw; None makes a figure.
        delta: Near means |u| below this; 0.05, 0.1 and 0.2 are recorded.
        by: 'recipe' averages seeds, 'run' keeps them apart.

    Returns:
        The axes.

    Raises:
        ConfigError: If ``delta`` is not one that is recorded, or ``by`` is unknown.
    """
    if delta not in NEAR_ZERO.values():
        raise ConfigError(unknown_name("delta", delta, map(str, NEAR_ZERO.values())))
    suffix = next(suffix for suffix, bound in NEAR_ZERO.items() if bound == delta)
    name = f"mass_near_zero_{suffix}"
    return _over_steps_with_null(data, ax, name, by, "Mass near zero", MEASURES[name].unit)


def _over_steps_with_null(
    data: Data, ax: Axes | None, name: str, by: By, title: str, label: str
) -> Axes:
    frame = site_data(data, [name], kind="weight").dropna(subset=[name])
    ax = style.axes(ax)
    if frame.empty:
        return style.nothing(ax, NO_WEIGHTS)
    means = tables.mean_over_sites(frame, name)
    known = MEASURES[name]
    assert known.null is not None
    value = known.null
    style.null_line(ax, value, known.null_words, number=f"{value:.3g}")
    over_steps(ax, means, name, by=by)
    style.titles(ax, title=title, x=STEP, y=label)
    style.describe(
        ax,
        f"{title} over training. At the last step: {last_values(means, name)}; Gaussian {value:.3g}.",
    )
    return style.note(ax, tables.unverified_sentence(frame, kind="weight"))
