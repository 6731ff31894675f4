"""Figures of training: what is drawn equals the scalars."""

from __future__ import annotations

import numpy as np

from bvit_analysis import plots
from bvit_analysis.records import Run


def test_accuracy_skips_steps_without_an_evaluation(runs: list[Run]) -> None:
    ax = plots.plot_accuracy(runs)
    expected = runs[0].scalars.dropna(subset=["accuracy"])
    other = runs[1].scalars.dropna(subset=["accuracy"])
    drawn = ax.get_lines()[0]
    assert drawn.get_xdata().tolist() == expected["step"].tolist() == [20, 40]
    np.testing.assert_allclose(
        drawn.get_ydata(), (expected["accuracy"].to_numpy() + other["accuracy"].to_numpy()) / 2
    )
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["baseline (n=2)", "binaryvit (n=2)", "float (n=1)"]


def test_loss_is_smoothed_within_a_run(runs: list[Run]) -> None:
    ax = plots.plot_loss(runs[:2], by="run", window=5)
    expected = runs[1].scalars["loss"].rolling(5, min_periods=1).mean()
    np.testing.assert_allclose(ax.get_lines()[1].get_ydata(), expected)
