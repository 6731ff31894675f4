"""A measure over training: one line a recipe, with the range of its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bvit_analysis import tables
from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.extras import missing_extra
from bvit_analysis.plots import style
from bvit_analysis.records import Run
from bvit_analysis.tables.seeds import diverged_runs, in_common, without_diverged

Data: TypeAlias = tables.Runs | pd.DataFrame
"A run, a list of runs, or the frame that the plot's own table function makes of them."

By: TypeAlias = Literal["recipe", "run"]
STEP = style.STEP
MOST_PLAIN = 6
"With more recipes than this, dashes tell apart what colours alone do not."
MOST_DOTS = 12
"Where a line has no more points than this, each is marked."


def site_data(data: Data, metrics: Sequence[str], *, kind: str) -> pd.DataFrame:
    """Return the rows to draw: a given frame as it is, runs by tables.site_frame.

    Raises:
        ConfigError: If a given frame lacks a column that is drawn.
    """
    if not isinstance(data, pd.DataFrame):
        return tables.site_frame(data, metrics, kind=kind)
    for column in ("run", "label", "recipe", "step", "site", "n_weights", *metrics):
        if column not in data.columns:
            raise ConfigError(unknown_name("column needed here", column, map(str, data.columns)))
    return data


def one_run(run: Run | None) -> Run | None:
    """Return the one run to draw, or None to say that there is none.

    Raises:
        ConfigError: If several runs are given.
    """
    if run is not None and not isinstance(run, Run):
        raise ConfigError("expected one run, got several; choose one, for example runs[0]")
    return run


def over_steps(ax: Axes, frame: pd.DataFrame, name: str, *, by: By = "recipe") -> None:
    """Draw a measure over steps: the mean over the seeds of a recipe and their full range, or each run.

    The mean is of the steps that all seeds recorded. A run that diverged is not in it: it has a dotted line and a
    name of its own.

    Args:
        ax: Where to draw.
        frame: Columns run, label, recipe, step and the measure, one row a run and step.
        name: The measure.
        by: 'recipe' draws a line a recipe with a band from the lowest to the highest seed; 'run' a
            line a run.

    Raises:
        ConfigError: If ``by`` is unknown.
        MissingExtraError: If seaborn is not installed.
    """
    if by not in ("recipe", "run"):
        raise ConfigError(unknown_name("value of by", by, ("recipe", "run")))
    try:
        import seaborn
    except ImportError as error:
        raise missing_extra("a figure of series", ["seaborn"], "notebooks") from error
    colours, lines = style.colours(frame["recipe"]), style.dashes(frame["recipe"])
    already = list(ax.get_legend_handles_labels()[0])
    dots = "o" if frame["step"].nunique() <= MOST_DOTS else ""
    handles = []
    if by == "recipe":
        recipes = tables.ordered(frame["recipe"])
        shared, counts = in_common(frame, name)
        several: dict[str, Any] = {}
        if len(recipes) > MOST_PLAIN:
            patterns = [_cycle(lines[recipe]) for recipe in recipes]
            several = {"style": "recipe", "style_order": recipes, "dashes": patterns}
        if len(shared):
            seaborn.lineplot(
                data=shared,
                x="step",
                y=name,
                hue="recipe",
                hue_order=recipes,
                palette=colours,
                **several,
                errorbar=("pi", 100) if shared["run"].nunique() > len(recipes) else None,
                legend=False,
                marker=dots or None,
                markersize=4,
                ax=ax,
            )
        for recipe in recipes:
            text = f"{style.clip(recipe, 30)} ({counts[recipe]})"
            handles.append(style.key(text, colours[recipe], line=lines[recipe]))
        _draw_alone(ax, frame[~frame["recipe"].isin(shared["recipe"])], name, colours)
        handles += _draw_diverged(ax, frame, name, colours)
    else:
        repeats: dict[str, int] = {}
        for _, rows in frame.groupby("run", sort=True):
            recipe = str(rows["recipe"].iloc[0])
            dashes = ("-", "--", ":", "-.")[repeats.get(recipe, 0) % 4]
            repeats[recipe] = repeats.get(recipe, 0) + 1
            label = style.clip(str(rows["label"].iloc[0]), 30)
            ax.plot(
                rows["step"],
                rows[name],
                color=colours[recipe],
                linestyle=dashes,
                marker=dots,
                markersize=4,
                label=label,
            )
            handles.append(style.key(label, colours[recipe], line=dashes))
    style.titles(ax, x=STEP)
    style.legend(ax, handles=[*handles, *already])


def _cycle(line: Any) -> Any:
    """Return dashes as seaborn takes them: the pattern alone, '' for none."""
    return "" if line == "-" else line[1]


def _draw_alone(ax: Axes, frame: pd.DataFrame, name: str, colours: Mapping[str, Any]) -> None:
    """Draw each run of recipes without a mean, faintly."""
    for _, rows in without_diverged(frame).groupby("run"):
        colour = colours[str(rows["recipe"].iloc[0])]
        ax.plot(rows["step"], rows[name], color=colour, linewidth=0.8, alpha=0.4)


def _draw_diverged(
    ax: Axes, frame: pd.DataFrame, name: str, colours: Mapping[str, Any]
) -> list[Line2D]:
    """Draw each run that diverged, as far as it came, and return its entry of the legend."""
    handles = []
    for run, step in diverged_runs(frame).items():
        rows = frame[frame["run"] == run]
        colour = colours[str(rows["recipe"].iloc[0])]
        ax.plot(rows["step"], rows[name], color=colour, linestyle=":", linewidth=1.0)
        label = style.clip(str(rows["label"].iloc[0]), 30)
        handles.append(style.key(f"{label}: diverged at step {step}", colour, line=":", width=1.0))
    return handles


def last_values(frame: pd.DataFrame, name: str) -> str:
    """Return 'baseline 0.012, grs 0.009' of the last step in common, for alt texts; who diverged is named."""
    parts = []
    shared, _ = in_common(frame, name)
    for recipe in tables.ordered(frame["recipe"]):
        rows = shared[shared["recipe"] == recipe]
        last = rows[rows["step"] == rows["step"].max()]
        parts.append(f"{recipe} {last[name].mean():.3g}" if len(last) else f"{recipe} none")
    for run, step in diverged_runs(frame).items():
        label = frame.loc[frame["run"] == run, "label"].iloc[0]
        parts.append(f"left out {style.clip(str(label), 30)}, which diverged at step {step}")
    return ", ".join(parts)
