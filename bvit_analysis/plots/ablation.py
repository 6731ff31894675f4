"""Figures of the ablation: recipes side by side, paired differences, and accuracy against evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bvit_analysis import tables
from bvit_analysis.plots import style

PANELS = ("test_accuracy", "late_flip_rate", "bimodality_coefficient", "sign_entropy_bits")
"Accuracy, and one piece of evidence each on oscillation, bimodality and activation information."

_NO_RUNS = "No finished binary run is among these, so there is nothing to compare."


@style.bvit()
def plot_ablation(
    data: tables.Runs | pd.DataFrame, *, metrics: Sequence[str] = PANELS, level: float = 0.95
) -> Figure:
    """Draw every recipe's accuracy beside its evidence: one point a seed, mean, interval over seeds.

    Args:
        data: Runs, or their run_table.
        metrics: Keys of tables.METRICS or the runs' own measures, one panel each.
        level: Coverage of Student's interval, drawn from three seeds on.

    Returns:
        A figure of ``len(metrics)`` panels.

    Raises:
        ConfigError: If a metric is unknown.
    """
    table = data if isinstance(data, pd.DataFrame) else tables.run_table(data)
    found = [tables.ablation_table(table, name, level=level) for name in metrics]
    recipes = [r for r in found[0]["recipe"] if r != tables.FLOAT] if found else []
    height = 1.6 + 0.55 * max(3, len(recipes))
    canvas, grid = style.panels(1, max(1, len(found)), width=3.3, height=height, sharey=True)
    for position, (ax, name, one) in enumerate(zip(grid[0], metrics, found, strict=False)):
        known = tables.metric(name, table)
        levels = tables.levels_sentence(table, measure=known.measure.name)
        if not recipes or not (one["n"] > 0).any():
            lacking = levels or f"{name} is not recorded in these runs."
            style.nothing(ax, _NO_RUNS if not recipes else lacking)
            continue
        _strip(ax, one, recipes, known)
        _notes(ax, table, known)
        if position == 0:
            style.category_ticks(ax, recipes)
            ax.set_ylim(len(recipes) - 0.5, -0.5)
    return canvas


def _strip(ax: Axes, one: pd.DataFrame, recipes: list[str], known: tables.Metric) -> None:
    colours, markers = style.colours(recipes), style.markers(recipes)
    words = []
    for position, recipe in enumerate(recipes):
        row = one[one["recipe"] == recipe].iloc[0]
        values = list(row["values"])
        spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(len(values))
        (points,) = ax.plot(
            values,
            position + 0.18 + spread,
            linestyle="none",
            marker=markers[recipe],
            markersize=4.5,
            color=colours[recipe],
            alpha=0.75,
            label=style.clip(recipe, 30),
        )
        style.hold(points, y=float(position))
        _interval(ax, position, -0.12, row["mean"], row["low"], row["high"], colours[recipe])
        words.append(f"{recipe} {row['mean']:{known.form}} (n={row['n']})")
    teacher = one[one["recipe"] == tables.FLOAT]
    if len(teacher) and teacher["n"].iloc[0] > 0:
        value = float(teacher["mean"].iloc[0])
        label = f"float teacher: {value:{known.form}}"
        style.null_line(ax, value, label, vertical=True)
        entry = [style.key(label, line=(0, (4, 3)), width=1.2)]
        ax.legend(handles=entry, loc="lower right", bbox_to_anchor=(1.03, 1.0), borderaxespad=0.1)
        words.append(label)
    first, _, rest = known.label.partition(" (")
    ax.set_xlabel(f"{first}\n({rest}" if rest else first)
    ax.locator_params(axis="x", nbins=4)
    ax.grid(visible=False, axis="y")
    style.literal(ax)
    style.describe(ax, f"{known.label}, mean over seeds: {', '.join(words)}.")


def _interval(
    ax: Axes, position: int, aside: float, mean: float, low: float, high: float, colour: Any
) -> None:
    if math.isnan(mean):
        return
    y = position + aside
    drawn = ax.plot([mean], [y], marker="|", markersize=11, markeredgewidth=2.2, color=colour)
    if math.isfinite(low) and math.isfinite(high):
        drawn += ax.plot([low, high], [y, y], color=colour, linewidth=1.8, solid_capstyle="butt")
    for line in drawn:
        style.hold(line, y=float(position))


@style.bvit()
def plot_differences(
    data: tables.Runs | pd.DataFrame,
    name: str = "test_accuracy",
    *,
    ax: Axes | None = None,
    baseline: str = "baseline",
    level: float = 0.95,
) -> Axes:
    """Draw each recipe's difference to the baseline, paired by seed, with its interval and zero.

    Args:
        data: Runs, or their run_table.
        name: A key of tables.METRICS, or one of the runs' own measures.
        ax: Where to draw; None makes a figure.
        baseline: The recipe that the others are compared with.
        level: Coverage of Student's interval, drawn from three common seeds on.

    Returns:
        The axes.

    Raises:
        ConfigError: If there is no metric of that name.
    """
    known = tables.metric(name, data)
    runs = data if isinstance(data, pd.DataFrame) else tables.run_table(data)
    table = tables.ablation_table(runs, name, baseline=baseline, level=level)
    rows = table[table["common_seeds"] > 0]
    ax = style.axes(ax, height=1.6 + 0.5 * max(2, len(rows)))
    if rows.empty:
        levels = tables.levels_sentence(runs, measure=known.measure.name)
        nothing = f"No seed has been run with both {baseline} and another recipe."
        return style.nothing(ax, levels or nothing)
    colours, markers = style.colours(rows["recipe"]), style.markers(rows["recipe"])
    style.null_line(ax, 0.0, "no difference", vertical=True)
    for position, row in enumerate(rows.to_dict("records")):
        recipe = row["recipe"]
        points = [own - reference for own, reference in row["pairs"]]
        (marks,) = ax.plot(
            points,
            np.full(len(points), position + 0.15),
            linestyle="none",
            marker=markers[recipe],
            markersize=5,
            color=colours[recipe],
            alpha=0.75,
            label=f"{style.clip(recipe, 30)} (n={len(points)})",
        )
        style.hold(marks, y=float(position))
        ends = (row["difference_low"], row["difference_high"])
        _interval(ax, position, -0.15, row["difference"], *ends, colours[recipe])
    style.category_ticks(ax, rows["recipe"].tolist())
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    style.titles(ax, title=f"Difference to {baseline}, paired by seed", x=known.label)
    style.legend(ax)
    means = zip(rows["recipe"], rows["difference"], strict=True)
    text = ", ".join(f"{recipe} {value:+{known.form}}" for recipe, value in means)
    style.describe(ax, f"Mean paired difference to {baseline} in {known.label}: {text}.")
    return _notes(ax, runs, known)


@style.bvit()
def plot_evidence(
    data: tables.Runs | pd.DataFrame,
    x: str = "late_flip_rate",
    y: str = "test_accuracy",
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw one figure against another, a point a finished binary run.

    Args:
        data: Runs, or their run_table.
        x: A key of tables.METRICS, or one of the runs' own measures.
        y: A key of tables.METRICS, or one of the runs' own measures.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        ConfigError: If there is no metric of a name.
    """
    across, up = tables.metric(x, data), tables.metric(y, data)
    table = data if isinstance(data, pd.DataFrame) else tables.run_table(data)
    rows = table[(table["recipe"] != tables.FLOAT) & (table["state"] == "finished")]
    rows = rows.dropna(subset=[x, y])
    ax = style.axes(ax)
    if rows.empty:
        levels = [tables.levels_sentence(table, measure=one.measure.name) for one in (across, up)]
        return style.nothing(ax, max(levels) or _NO_RUNS)
    colours, markers = style.colours(rows["recipe"]), style.markers(rows["recipe"])
    for recipe in tables.ordered(rows["recipe"]):
        one = rows[rows["recipe"] == recipe]
        ax.plot(
            one[x],
            one[y],
            linestyle="none",
            marker=markers[recipe],
            markersize=7,
            color=colours[recipe],
            alpha=0.85,
            label=f"{style.clip(recipe, 30)} (n={len(one)})",
        )
    style.titles(ax, title="A point a run", x=across.label, y=up.label)
    style.legend(ax)
    style.describe(ax, f"{up.label} against {across.label} for {len(rows)} runs.")
    _notes(ax, rows, across)
    return _notes(ax, rows, up)


def _notes(ax: Axes, table: pd.DataFrame, known: tables.Metric) -> Axes:
    """Say under the figure which runs have no flips, and which sites that it is of are unverified."""
    style.note(ax, tables.levels_sentence(table, measure=known.measure.name))
    return style.note(ax, tables.unverified_sentence(table, kind=known.measure.kind))
