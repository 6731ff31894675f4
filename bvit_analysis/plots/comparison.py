"""Figures of many runs at once: some in colour, the others in grey behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from bvit_analysis import tables
from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.plots import style
from bvit_analysis.plots.series import STEP, last_values
from bvit_analysis.records import MEASURES
from bvit_analysis.tables.metrics import own_measures

Hue: TypeAlias = Literal["recipe", "run", "seed"]
HUES: tuple[Hue, ...] = ("recipe", "run", "seed")

_GREY = "#C9C9C9"


def hue_colours(runs: pd.DataFrame, by: Hue = "recipe") -> dict[Any, Any]:
    """Return a colour for each run.

    Args:
        runs: Columns run, recipe, seed; rows of one run are alike.
        by: What shares a colour: runs of a recipe, of a seed, or none.

    Raises:
        ConfigError: If ``by`` is unknown.
    """
    if by not in HUES:
        raise ConfigError(unknown_name("value of by", by, HUES))
    known = runs.drop_duplicates("run")
    if by == "recipe":
        colours: dict[Any, Any] = dict(style.colours(known["recipe"]))
    else:
        values = sorted(known[by].unique(), key=str)
        colours = dict(zip(values, style.distinct(len(values)), strict=True))
    return {run: colours[value] for run, value in zip(known["run"], known[by], strict=True)}


def hue_legend(runs: pd.DataFrame, by: Hue = "recipe") -> list[Artist]:
    """Return legend entries for the colours of hue_colours, with the number of runs behind each."""
    known = runs.drop_duplicates("run")
    colours = hue_colours(known, by)
    entries: dict[Any, tuple[Any, int]] = {}
    for run, value in zip(known["run"], known[by], strict=True):
        entries[value] = (colours[run], entries.get(value, (None, 0))[1] + 1)
    names = tables.ordered(entries) if by == "recipe" else list(entries)
    texts = {"recipe": "{} (n={})", "run": "{}", "seed": "seed {} (n={})"}
    return [
        style.key(texts[by].format(style.clip(str(name), 26), entries[name][1]), entries[name][0])
        for name in names
    ]


def running_mean(values: NDArray[np.floating], rows: int) -> NDArray[np.float64]:
    """Return the mean over so many last rows, of fewer at the start: y_i = mean(x_(i-rows+1) .. x_i)."""
    values = np.asarray(values, np.float64)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - max(1, rows))
    return (sums[ends] - sums[starts]) / (ends - starts)


def compared_frame(data: tables.Runs | pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a measure of runs, one row a run and step; sites averaged, weight sites by their weights.

    Args:
        data: Runs, or a frame that has the columns.
        name: A column of ``run.scalars`` or ``run.sites``, of the catalogue or the runs' own.

    Returns:
        Columns run, label, recipe, seed, step and the measure, without missing values.

    Raises:
        ConfigError: If there is no measure of that name, or a given frame lacks a column.
    """
    if isinstance(data, pd.DataFrame):
        frame = data
    elif (kind := tables.measure_of(name, data).kind) in ("weight", "activation"):
        sites = tables.site_frame(data, [name], kind=kind)
        frame = tables.mean_over_sites(sites, name)
        frame.attrs |= sites.attrs
    else:
        frame = tables.scalar_frame(data)
    for column in ("run", "label", "recipe", "seed", "step", name):
        if column not in frame.columns:
            raise ConfigError(unknown_name("column needed here", column, map(str, frame.columns)))
    return frame.dropna(subset=[name])


@style.bvit()
def plot_compared(
    data: tables.Runs | pd.DataFrame,
    name: str = "accuracy",
    *,
    ax: Axes | None = None,
    by: Hue = "recipe",
    chosen: Mapping[Any, Any] | None = None,
    smooth: int = 1,
) -> Axes:
    """Draw a measure of every run over training, the chosen ones in colour before the others in grey.

    Args:
        data: Runs, or the frame of compared_frame.
        name: The measure.
        ax: Where to draw; None makes a figure.
        by: What shares a colour: 'recipe', 'seed', or 'run' for one each.
        chosen: Run to colour, of those in colour; None colours all ``by`` a rule.
        smooth: Recorded rows that the running mean covers.

    Returns:
        The axes, with one line a run whose gid is the run.

    Raises:
        ConfigError: If ``by`` is unknown or a given frame lacks a column.
    """
    frame = compared_frame(data, name)
    colours = hue_colours(frame, by)
    ax = style.axes(ax)
    levels = tables.levels_sentence(frame, measure=name)
    if frame.empty:
        return style.nothing(ax, levels or f"No {name} is recorded in these runs (yet).")
    for run, rows in frame.groupby("run", sort=False):
        ax.plot(
            rows["step"],
            running_mean(rows[name].to_numpy(), smooth),
            gid=str(run),
            label=style.clip(str(rows["label"].iloc[0]), 30),
        )
    lines = dict(zip(frame.groupby("run", sort=False).groups, ax.get_lines(), strict=True))
    dress(lines, colours if chosen is None else chosen)
    if name == "flip_rate":
        positive = frame.loc[frame[name] > 0, name]
        style.log_limits(ax, positive[positive > positive.max() / 3000], fallback=(1e-4, 1e-1))
    title, unit = _words(frame, name)
    style.titles(ax, title=title, x=STEP, y=unit)
    style.describe(ax, compared_text(frame, name, lines if chosen is None else chosen))
    style.note(ax, levels)
    return style.note(ax, _doubt(frame, name))


def compared_text(frame: pd.DataFrame, name: str, chosen: Mapping[Any, Any]) -> str:
    """Return the description of plot_compared: the last values of the chosen runs, by recipe."""
    title, _ = _words(frame, name)
    shown = frame[frame["run"].isin(list(chosen))]
    text = last_values(shown, name) if len(shown) else "nothing"
    count = shown["run"].nunique()
    text = f"{title} of {count} runs over training; at their last step in common {text}."
    notes = (tables.levels_sentence(frame, measure=name), _doubt(frame, name))
    return " ".join([text, *filter(None, notes)])


def _doubt(frame: pd.DataFrame, name: str) -> str:
    known = (own_measures(frame) | MEASURES).get(name)
    if known is None or known.kind not in ("weight", "activation"):
        return ""  # of whole models
    return tables.unverified_sentence(frame, kind=known.kind)


def _words(frame: pd.DataFrame, name: str) -> tuple[str, str]:
    """Return title and unit of a measure; a frame of somebody's own may have any column."""
    known = (own_measures(frame) | MEASURES).get(name)
    return (name, name) if known is None else (known.title, known.unit)


def dress(lines: Mapping[Any, Line2D], chosen: Mapping[Any, Any]) -> None:
    """Give the lines of chosen runs their colours and put them before the others, which become grey."""
    for run, line in lines.items():
        picked = run in chosen
        line.set_color(chosen[run] if picked else _GREY)
        line.set_linewidth(1.6 if picked else 0.9)
        line.set_zorder(3.0 if picked else 2.0)


@style.bvit()
def plot_run_scatter(
    data: tables.Runs | pd.DataFrame,
    x: str = "late_flip_rate",
    y: str = "test_accuracy",
    *,
    ax: Axes | None = None,
    by: Hue = "recipe",
    chosen: Mapping[Any, Any] | None = None,
) -> Axes:
    """Draw one figure of runs against another, a point a run, the chosen ones in colour.

    Args:
        data: Runs, or their run_table with a column run.
        x: A key of tables.METRICS, or one of the runs' own measures.
        y: A key of tables.METRICS, or one of the runs' own measures.
        ax: Where to draw; None makes a figure.
        by: What shares a colour: 'recipe', 'seed', or 'run' for one each.
        chosen: Run to colour, of those in colour; None colours all ``by`` a rule.

    Returns:
        The axes.

    Raises:
        ConfigError: If there is no metric of a name, or ``by`` is unknown.
    """
    across, up = tables.metric(x, data), tables.metric(y, data)
    table = data if isinstance(data, pd.DataFrame) else tables.run_table(data)
    if "run" not in table.columns:
        table = table.assign(run=range(len(table)))
    rows = table.dropna(subset=[x, y])
    rows = rows[rows["recipe"] != tables.FLOAT]
    colours = hue_colours(rows, by) if chosen is None else chosen
    ax = style.axes(ax)
    levels = [tables.levels_sentence(table, measure=one.measure.name) for one in (across, up)]
    if rows.empty:
        return style.nothing(ax, max(levels) or "No run here has both figures recorded.")
    markers = style.markers(rows["recipe"])
    for picked in (False, True):
        for row in rows.to_dict("records"):
            if (row["run"] in colours) == picked:
                ax.plot(
                    row[x],
                    row[y],
                    linestyle="none",
                    marker=markers[row["recipe"]],
                    markersize=7 if picked else 5,
                    color=colours[row["run"]] if picked else _GREY,
                    label=style.clip(row["label"], 30),
                )
    style.titles(ax, title="A point a run", x=across.label, y=up.label)
    shown = rows[[run in colours for run in rows["run"]]]
    r = _correlation(shown[x].to_numpy(float), shown[y].to_numpy(float))
    text = f"{up.label} against {across.label} for {len(shown)} chosen runs of {len(rows)}"
    style.describe(ax, text + ("." if math.isnan(r) else f"; correlation {r:+.2f}."))
    for one, sentence in zip((across, up), levels, strict=True):
        style.note(ax, sentence)
        style.note(ax, tables.unverified_sentence(rows, kind=one.measure.kind))
    return ax


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return Pearson's r, NaN for fewer than three points or where one side does not vary."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])
