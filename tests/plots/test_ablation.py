"""Figures of the ablation: what is drawn equals the ablation table."""

from __future__ import annotations

import pandas as pd
import pytest

from bvit_analysis import plots, tables
from bvit_analysis.plots import style
from bvit_analysis.records import Run


@pytest.fixture
def table(runs: list[Run]) -> pd.DataFrame:
    """The two recipes with a third seed, whose figures are those of the first plus a little."""
    table = tables.run_table(runs)
    third = table[table["seed"] == 0].copy()
    third = third[third["recipe"] != "float"]
    numbers = third.select_dtypes("float").columns
    third[numbers] = third[numbers] * 1.01
    third["seed"] = 2
    return pd.concat([table, third], ignore_index=True)


@pytest.mark.slow
def test_panels_show_seeds_means_and_intervals(table: pd.DataFrame) -> None:
    fig = plots.plot_ablation(table)
    assert len(fig.axes) == 4
    labels = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    assert labels == ["baseline", "binaryvit"]
    for ax, name in zip(fig.axes, plots.ablation.PANELS, strict=True):
        expected = tables.ablation_table(table, name).set_index("recipe")
        for recipe in ("baseline", "binaryvit"):
            points = next(one for one in ax.get_lines() if one.get_label() == recipe)
            assert points.get_xdata() == pytest.approx(expected.loc[recipe, "values"])
        ends = [list(one.get_xdata()) for one in ax.get_lines() if one.get_linewidth() == 1.8]
        assert [expected.loc["baseline", "low"], expected.loc["baseline", "high"]] in ends
    assert "float teacher: " in style.alt_text(fig)


def test_no_interval_below_three_seeds(runs: list[Run]) -> None:
    fig = plots.plot_ablation(runs)
    assert not any(one.get_linewidth() == 1.8 for ax in fig.axes for one in ax.get_lines())


@pytest.mark.slow
def test_differences_are_paired(table: pd.DataFrame) -> None:
    ax = plots.plot_differences(table, "late_flip_rate")
    wide = table[table["recipe"] != "float"].pivot(
        index="seed", columns="recipe", values="late_flip_rate"
    )
    expected = (wide["binaryvit"] - wide["baseline"]).tolist()
    points = next(one for one in ax.get_lines() if one.get_label() == "binaryvit (n=3)")
    assert points.get_xdata() == pytest.approx(expected)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["binaryvit"]
    assert not plots.plot_differences(table, baseline="grs").axison


def test_evidence_has_a_point_a_finished_binary_run(table: pd.DataFrame) -> None:
    table.loc[0, "state"] = "running"
    ax = plots.plot_evidence(table, "bimodality_coefficient", "late_flip_rate")
    assert sorted(len(one.get_xdata()) for one in ax.get_lines()) == [2, 3]
    assert ax.get_xlabel() == tables.metric("bimodality_coefficient").label


def test_nothing_to_compare_is_said(runs: list[Run]) -> None:
    fig = plots.plot_ablation([runs[-1]])
    assert not any(ax.axison for ax in fig.axes)
    assert "nothing to compare" in style.alt_text(fig)
