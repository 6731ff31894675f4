"""Figures of how a training went: accuracy and loss over steps."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from bvit_analysis import tables
from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.plots import style
from bvit_analysis.plots.series import STEP, By, last_values, over_steps


def _scalars(data: tables.Runs | pd.DataFrame, name: str) -> pd.DataFrame:
    frame = data if isinstance(data, pd.DataFrame) else tables.scalar_frame(data)
    for column in ("run", "label", "recipe", "step", name):
        if column not in frame.columns:
            raise ConfigError(unknown_name("column needed here", column, map(str, frame.columns)))
    return frame.dropna(subset=[name])


@style.bvit()
def plot_accuracy(
    data: tables.Runs | pd.DataFrame, *, ax: Axes | None = None, by: By = "recipe"
) -> Axes:
    """Draw accuracy on the validation split over training.

    Args:
        data: Run, runs, or a scalar_frame.
        ax: Where to draw; None makes a figure.
        by: 'recipe' averages seeds, 'run' keeps them apart.

    Returns:
        The axes.

    Raises:
        ConfigError: If ``by`` is unknown or a given frame lacks a column.
    """
    frame = _scalars(data, "accuracy")
    ax = style.axes(ax)
    if frame.empty:
        return style.nothing(ax, "No validation accuracy is recorded in these runs (yet).")
    over_steps(ax, frame, "accuracy", by=by)
    style.titles(ax, title="Validation accuracy", x=STEP, y="accuracy (share of validation images)")
    text = last_values(frame, "accuracy")
    return style.describe(ax, f"Validation accuracy over training. At the last step: {text}.")


@style.bvit()
def plot_loss(
    data: tables.Runs | pd.DataFrame, *, ax: Axes | None = None, by: By = "recipe", window: int = 20
) -> Axes:
    """Draw the training loss over steps, smoothed by a running mean.

    Losses of runs with and without distillation are different quantities: compare their shape only.

    Args:
        data: Run, runs, or a scalar_frame.
        ax: Where to draw; None makes a figure.
        by: 'recipe' averages seeds, 'run' keeps them apart.
        window: Rows that the running mean covers.

    Returns:
        The axes.

    Raises:
        ConfigError: If ``by`` is unknown or a given frame lacks a column.
    """
    frame = _scalars(data, "loss")
    ax = style.axes(ax)
    if frame.empty:
        return style.nothing(ax, "No loss is recorded in these runs (yet).")
    smooth = frame.groupby("run")["loss"].transform(
        lambda loss: loss.rolling(max(1, window), min_periods=1).mean()
    )
    frame = frame.assign(loss=smooth)
    over_steps(ax, frame, "loss", by=by)
    style.titles(ax, title=f"Training loss, mean of {window} rows", x=STEP, y="loss (nats)")
    text = last_values(frame, "loss")
    return style.describe(ax, f"Training loss over steps. At the last step: {text}.")
