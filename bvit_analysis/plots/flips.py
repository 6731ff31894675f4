"""Figures of weight flips: how many, where, which weights, and how soon they return."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

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
from bvit_analysis.records import FLIP_BACK_STEPS, MEASURES, Run
from bvit_analysis.records.columns import FLIP_MEASURES
from bvit_analysis.tables import colour_limits as colour_limits
from bvit_analysis.tables import textbook_laws
from bvit_analysis.tables.seeds import counted, without_diverged

_NO_FLIPS = "No weight flips are recorded in these runs (yet)."
NO_COUNTS = "No per-weight flip counts are stored: they are written when a run stops."
_MOST_BINS = 45


@style.bvit()
def plot_flip_rate(
    data: Data, *, ax: Axes | None = None, by: By | Literal["site"] = "recipe"
) -> Axes:
    """Draw flips per weight and step over training, on a logarithmic axis.

    Args:
        data: Run, runs, or a site_frame with flip_rate.
        ax: Where to draw; None makes a figure.
        by: 'recipe' averages seeds, 'run' keeps them apart (both over all weight sites), 'site'
            draws each site of one run, colour by block and line by layer.

    Returns:
        The axes.

    Raises:
        ConfigError: If ``by`` is unknown, or 'site' is asked of several runs.
    """
    frame = site_data(data, ["flip_rate"], kind="weight").dropna(subset=["flip_rate"])
    ax = style.axes(ax)
    levels = tables.levels_sentence(frame)
    if frame.empty:
        return style.nothing(ax, levels or _NO_FLIPS)
    if by == "site":
        _lines_by_site(ax, frame)
        drawn = frame
    else:
        drawn = tables.mean_over_sites(frame, "flip_rate")
        over_steps(ax, drawn, "flip_rate", by=by)
    style.log_limits(ax, drawn["flip_rate"], fallback=(1e-4, 1e-1))
    known = MEASURES["flip_rate"]
    unit = known.unit + (" (marks below: none)" if style.mark_zeros(ax) else "")
    style.titles(ax, title=known.title, x=STEP, y=unit)
    style.describe(
        ax,
        f"Flip rate over training, logarithmic. At the last step: {last_values(frame, 'flip_rate')}.",
    )
    style.note(ax, levels)
    return style.note(ax, tables.unverified_sentence(frame, kind="weight"))


def _lines_by_site(ax: Axes, frame: pd.DataFrame) -> None:
    if frame["run"].nunique() > 1:
        raise ConfigError("by='site' needs one run, got several; choose one, for example runs[0]")
    blocks, layers = sorted(frame["block"].unique()), list(dict.fromkeys(frame["layer"]))
    colours = dict(zip(blocks, style.shades(len(blocks)), strict=True))
    dashes = dict(zip(layers, ("-", "--", ":", "-.") * len(layers), strict=False))
    for _, rows in frame.groupby("order", sort=True):
        block, layer, site = (rows[name].iloc[0] for name in ("block", "layer", "site"))
        ax.plot(
            rows["step"],
            rows["flip_rate"],
            color=colours[block],
            linestyle=dashes[layer],
            linewidth=1.1,
            label=str(site),
        )
    shown = [*blocks[:1], *blocks[1:-1][:: max(1, len(blocks) // 6)], *blocks[1:][-1:]]
    handles = [style.key(f"block {block}", colours[block]) for block in shown]
    handles += [style.key(style.clip(x, 24), "#333333", line=dashes[x]) for x in layers[:8]]
    style.legend(ax, handles=handles)


@style.bvit()
def plot_flip_atlas(
    run: Run | None,
    *,
    ax: Axes | None = None,
    metric: str = "flip_rate",
    limits: tuple[float, float] | None = None,
    columns: int = 120,
    bar: Axes | Literal["beside", "none"] = "beside",
) -> Axes:
    """Draw a measure of every weight site over training as a map of sites x steps.

    Args:
        run: One run; None draws a sentence.
        ax: Where to draw; None makes a figure.
        metric: A weight column of ``run.sites``, of the catalogue or the run's own; its scale says
            whether colours are linear or logarithmic.
        limits: Ends of the colour scale, so that two maps can share it.
        columns: At most so many columns; each is the mean of the steps in it.
        bar: Where the colour bar goes: beside the map, nowhere, or on axes of its own.

    Returns:
        The axes; the colour bar is the last axes of its figure.

    Raises:
        ConfigError: If several runs are given, or there is no measure of that name.
    """
    run = one_run(run)
    found = tables.site_atlas(run, metric, columns=columns)
    ax = style.axes(ax, height=min(9.0, 1.6 + 0.2 * max(8, len(found.sites))))
    if run is None or not found.sites:
        return style.nothing(ax, atlas_gap(run, metric))
    known = tables.atlas_metric(metric, run)
    low, high = limits or tables.colour_limits(run, metric)
    extremes = {"under": style.ZERO} if known.scale == "log" else {}
    mesh = ax.pcolormesh(
        found.edges,
        np.arange(len(found.sites) + 1) - 0.5,
        atlas_cells(found),
        norm=style.LogColours(low, high) if known.scale == "log" else Normalize(low, high),
        cmap=matplotlib.colormaps[style.SEQUENTIAL].with_extremes(**extremes),
        rasterized=True,
    )
    ax.grid(visible=False)
    ax.invert_yaxis()
    _site_ticks(ax, found.sites)
    owner = ax.get_figure(root=True)
    if owner is not None and bar != "none":
        place = {"ax": ax, "pad": 0.01} if bar == "beside" else {"cax": bar}
        zeros = known.scale == "log" and bool((found.grid == 0).any())
        drawn = owner.colorbar(
            mesh, label=known.label + (" (grey: none)" if zeros else ""), **place
        )
        drawn.ax.minorticks_off()
        if known.scale == "log":
            style.plain_log_ticks(drawn.ax.yaxis)
        style.literal(drawn.ax)
    style.titles(ax, title=atlas_title(run, metric), x=STEP)
    style.describe(ax, atlas_text(run, metric, found))
    for sentence in atlas_notes(run, metric, found):
        style.note(ax, sentence)
    return ax


def atlas_gap(run: Run | None, metric: str) -> str:
    """Return why an atlas of a run has no cells: its weights have no flips, or nothing is recorded."""
    levels = tables.levels_sentence(run, measure=metric)
    if levels or metric in FLIP_MEASURES or run is None:
        return levels or _NO_FLIPS
    return f"No {metric} of weight sites is recorded in this run (yet)."


def atlas_notes(run: Run, metric: str, found: tables.Atlas) -> list[str]:
    """Return the sentences under a run's atlas: sites that have no flips, and those that are unverified."""
    sentences = (
        tables.levels_sentence(run, measure=metric),
        tables.unverified_sentence(run, kind="weight", sites=found.sites),
    )
    return [sentence for sentence in sentences if sentence]


def atlas_cells(found: tables.Atlas) -> np.ma.MaskedArray[Any, Any]:
    """Return the cells of an atlas as they were recorded, masked where nothing was."""
    return np.ma.masked_invalid(found.grid)


def atlas_title(run: Run, metric: str) -> str:
    """Return the title of a run's atlas."""
    return f"{metric} by site: {run.label}"


def atlas_text(run: Run, metric: str, found: tables.Atlas) -> str:
    """Return the description of a run's atlas, for readers who do not see it."""
    rows = np.isfinite(found.grid).any(axis=1)
    means = [
        float(np.nanmean(row)) if some else -1.0 for row, some in zip(found.grid, rows, strict=True)
    ]
    text = (
        f"Map of {metric} for {len(found.sites)} weight sites over {found.edges[-1]} steps of "
        f"{run.label}; highest on average at {found.sites[int(np.argmax(means))]}."
    )
    return " ".join([text, *atlas_notes(run, metric, found)])


def _site_ticks(ax: Axes, sites: Sequence[str]) -> None:
    """Name the rows, in small print and thinned where the axes are low."""
    owner = ax.get_figure(root=True)
    inches = 4.0 if owner is None else 0.9 * ax.get_position().height * owner.get_size_inches()[1]
    size = min(9.0, max(6.0, 0.8 * 72 * inches / len(sites)))
    stride = max(1, math.ceil(1.1 * size * len(sites) / (72 * inches + size)))
    chosen = list(range(0, len(sites), stride))
    ax.set_yticks(chosen, [style.clip(sites[i], 32) for i in chosen], fontsize=size)


@style.bvit()
def plot_flip_distribution(
    data: tables.Runs,
    *,
    ax: Axes | None = None,
    site: str | None = None,
    null: Literal["both", "poisson", "ar1", "none"] = "both",
) -> Axes:
    """Draw how many weights flipped how often in the whole run, against equally restless weights.

    Two nulls have the mean of the data and no memory of which weight is which: Poisson (each step
    is a fresh chance) and Gaussian AR(1) (a latent weight that wanders), simulated with its own
    fixed seed. A longer tail than both says that flips gather in few weights.

    Args:
        data: Run or runs that have stopped; seeds of a recipe are pooled.
        ax: Where to draw; None makes a figure.
        site: One weight site; None takes all.
        null: Which nulls to draw for the first recipe.

    Returns:
        The axes.

    Raises:
        ConfigError: If ``null`` is unknown.
    """
    if null not in ("both", "poisson", "ar1", "none"):
        raise ConfigError(unknown_name("null", null, ("both", "poisson", "ar1", "none")))
    runs = tables.binary_runs(data)
    tables.check_site(runs, site)
    pooled: dict[str, list[np.ndarray]] = {}
    length: dict[str, int] = {}
    for run, group in zip(runs, tables.group_names(runs), strict=True):
        for counts in tables.flip_counts(run, site=site).values():
            pooled.setdefault(group, []).append(counts["gross"].ravel())
            length[group] = int(counts["steps"])
    ax = style.axes(ax)
    sites = None if site is None else [site]
    levels = tables.levels_sentence(tables.binary_runs(data), sites=sites)
    if not pooled:
        return style.nothing(ax, levels or NO_COUNTS)
    gross = {recipe: np.concatenate(parts) for recipe, parts in pooled.items()}
    top = max(int(values.max()) for values in gross.values())
    width = max(1, math.ceil((top + 1) / _MOST_BINS))
    edges = np.arange(0, top + 1 + width, width)
    centres = edges[:-1] + (width - 1) / 2
    colours = style.colours(gross)
    for recipe in tables.ordered(gross):
        shares = np.histogram(gross[recipe], edges)[0] / gross[recipe].size
        ax.stairs(
            shares, edges - 0.5, color=colours[recipe], linewidth=1.5, label=style.clip(recipe)
        )
    first = tables.ordered(gross)[0]
    mean = float(gross[first].mean())
    if null in ("both", "poisson"):
        law = np.add.reduceat(textbook_laws.poisson_shares(mean, int(edges[-1]) - 1), edges[:-1])
        label = f"textbook Poisson, mean of {style.clip(first, 20)}"
        ax.plot(centres, law, color=style.NULL_COLOUR, linestyle="--", linewidth=1.2, label=label)
    if null in ("both", "ar1") and length[first]:
        many = min(20_000, 20_000_000 // length[first] + 500)
        walk = textbook_laws.ar1_flip_counts(mean / length[first], length[first], weights=many)
        law = np.histogram(walk, edges)[0] / walk.size
        law[law == 0] = np.nan  # beyond what the simulation resolves
        label = f"textbook AR(1), mean of {style.clip(first, 20)}"
        ax.plot(centres, law, color=style.NULL_COLOUR, linestyle=":", linewidth=1.6, label=label)
    smallest = min(1 / values.size for values in gross.values())
    ax.set_yscale("log")
    ax.set_ylim(0.6 * smallest, 1.5)
    style.plain_log_ticks(ax.yaxis)
    unit = "flips of a weight in the whole run" + (f" (bins of {width})" if width > 1 else "")
    where = "all weight sites" if site is None else site
    style.titles(ax, title=f"Who flips: {where}", x=unit, y="share of weights")
    style.legend(ax)
    means = ", ".join(f"{recipe} {gross[recipe].mean():.3g}" for recipe in tables.ordered(gross))
    style.describe(
        ax,
        f"Histogram of flips per weight with logarithmic shares. Mean flips: {means}; most of one "
        f"weight: {top}.",
    )
    style.note(ax, levels)
    doubt = tables.unverified_sentence(tables.binary_runs(data), kind="weight", sites=sites)
    return style.note(ax, doubt)


@style.bvit()
def plot_flip_back(data: Data, *, ax: Axes | None = None, null: bool = True) -> Axes:
    """Draw how likely a flip is undone within k steps, as recorded in the last half of training.

    What is recorded looks backward: the share of flips that came at most k steps after the last flip
    of the same weight. In a stationary process that equals flipping again within k steps.

    Args:
        data: Run, runs, or a site_frame with the flip_back columns and flip_rate.
        ax: Where to draw; None makes a figure.
        null: Also draw the Gaussian AR(1) weight of the first recipe's flip rate, and fair coins.

    Returns:
        The axes.
    """
    names = [f"flip_back_{k}" for k in FLIP_BACK_STEPS]
    frame = site_data(data, [*names, "flip_rate"], kind="weight")
    curves = flip_back_table(without_diverged(frame))
    ax = style.axes(ax)
    levels = tables.levels_sentence(frame)
    if curves.empty:
        nothing = "No flip was followed long enough to say whether it flipped back."
        return style.nothing(ax, levels or nothing)
    colours, markers = style.colours(curves["recipe"]), style.markers(curves["recipe"])
    for recipe in tables.ordered(curves["recipe"]):
        rows = curves[curves["recipe"] == recipe]
        values = rows.groupby("k")["flip_back"].mean()
        for _, seed in rows.groupby("run"):
            ax.plot(seed["k"], seed["flip_back"], color=colours[recipe], alpha=0.25, linewidth=0.8)
        ax.plot(
            values.index,
            values.to_numpy(),
            color=colours[recipe],
            marker=markers[recipe],
            label=f"{style.clip(recipe, 30)} ({counted(rows, 'k')})",
        )
    if null:
        _draw_flip_back_nulls(ax, curves)
    ax.set_xscale("log")
    style.plain_log_ticks(ax.xaxis)
    ax.set_xticks(FLIP_BACK_STEPS, [str(k) for k in FLIP_BACK_STEPS])
    ax.set_ylim(0, 1.02)
    style.titles(
        ax,
        title="Flip-back, last half of training",
        x="within k steps",
        y=MEASURES["flip_back_10"].unit,
    )
    style.legend(ax)
    ten = curves[curves["k"] == 10].groupby("recipe")["flip_back"].mean()
    text = ", ".join(f"{recipe} {ten[recipe]:.2f}" for recipe in tables.ordered(ten.index))
    style.describe(ax, f"Probability of flipping back within k steps. Within 10: {text}.")
    style.note(ax, levels)
    shown = frame.dropna(subset=["flip_rate"])
    return style.note(ax, tables.unverified_sentence(shown, kind="weight"))


def flip_back_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return each run's flip-back probability over the last half of its steps, sites weighted by flips.

    Args:
        frame: A site_frame with the flip_back columns and flip_rate.

    Returns:
        Columns run, recipe, k, flip_back, flip_rate (mean over the same steps).
    """
    parts = []
    late = tables.late_rows(frame.dropna(subset=["flip_rate"]), share=tables.LAST_HALF)
    for run, rows in late.groupby("run"):
        rate = float(np.average(rows["flip_rate"], weights=rows["n_weights"]))
        for k in FLIP_BACK_STEPS:
            known = rows.dropna(subset=[f"flip_back_{k}"])
            flips = known["flip_rate"] * known["n_weights"]
            if flips.sum() > 0:
                value = float((known[f"flip_back_{k}"] * flips).sum() / flips.sum())
                parts.append((run, rows["recipe"].iloc[0], k, value, rate))
    return pd.DataFrame(parts, columns=["run", "recipe", "k", "flip_back", "flip_rate"])


def _draw_flip_back_nulls(ax: Axes, curves: pd.DataFrame) -> None:
    first = tables.ordered(curves["recipe"])[0]
    rate = float(curves.loc[curves["recipe"] == first, "flip_rate"].mean())
    wandering = textbook_laws.ar1_flip_back(rate, FLIP_BACK_STEPS)
    if np.isfinite(wandering).all():
        label = f"textbook AR(1), rate of {style.clip(first, 20)}"
        ax.plot(FLIP_BACK_STEPS, wandering, color=style.NULL_COLOUR, linestyle="--", label=label)
    coins = textbook_laws.coin_flip_back(FLIP_BACK_STEPS)
    ax.plot(
        FLIP_BACK_STEPS, coins, color=style.NULL_COLOUR, linestyle=":", label="textbook: fair coins"
    )
