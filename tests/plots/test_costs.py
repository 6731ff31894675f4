"""Figures of a ledger: bars, numbers and the published line are those of the table."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from bvit_analysis import plots, tables
from bvit_analysis.plots import style
from bvit_analysis.plots.costs import PART_COLOURS
from bvit_analysis.records import Run
from bvit_analysis.tables.costs import OTHER, PARTS

SIZES = pd.DataFrame(
    [
        ("float", "head", "FP32", 2e6),
        ("float", "block linears", "FP32", 80e6),
        ("binary", "block linears", "1 bit", 2.5e6),
        ("binary", "head", "FP32", 2e6),
    ],
    columns=["model", "part", "form", "value"],
)


def test_bars_are_the_table_in_the_order_of_parts() -> None:
    ax = plots.plot_size_by_part(SIZES)
    drawn = [
        (bar.get_x(), bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in ax.patches
    ]
    assert drawn == [
        (0, pytest.approx(80), pytest.approx(0)),
        (80, pytest.approx(2), pytest.approx(0)),
        (0, pytest.approx(2.5), pytest.approx(1)),
        (2.5, pytest.approx(2), pytest.approx(1)),
    ]
    assert [bar.get_hatch() or "" for bar in ax.patches] == ["", "", "////", ""]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["float", "binary"]
    assert ax.yaxis_inverted()
    assert {"82 MB", "4.5 MB"} <= {text.get_text() for text in ax.texts}
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["block linears", "head", "1 bit"]
    assert "float 82 MB, binary 4.5 MB" in style.alt_text(ax)


def test_operations_hatch_what_is_binary_and_dot_what_is_elementwise() -> None:
    table = SIZES.assign(
        form=["element-wise", "float product", "1-bit product", "float product"],
        value=[1e9, 4e9, 0.1e9, 0.2e9],
    )
    ax = plots.plot_operations_by_part(table)
    assert [bar.get_hatch() or "" for bar in ax.patches] == ["", "....", "////", ""]
    assert sum(bar.get_width() for bar in ax.patches) == pytest.approx(5.3)
    assert "G OPs" in ax.get_xlabel()
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["block linears", "head", "1-bit product", "element-wise"]


def test_every_part_has_a_colour_of_its_own() -> None:
    assert list(PART_COLOURS) == [*PARTS, OTHER]
    assert len(set(PART_COLOURS.values())) == len(PART_COLOURS)
    ax = plots.plot_size_by_part(SIZES)
    assert to_hex(ax.patches[0].get_facecolor()).upper() == PART_COLOURS["block linears"].upper()


def test_ratios_stand_beside_the_published_one() -> None:
    figures = pd.DataFrame({"convention": ["a", "b", "c"], "ratio": [16.18, 13.0, 16.26]})
    ax = plots.plot_ratios(figures, 16.2)
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert lines["published: 16.2x"].get_xdata()[0] == 16.2
    assert lines["rounds to the published"].get_xdata().tolist() == [16.18]
    assert lines["does not round to it"].get_xdata().tolist() == [13.0, 16.26]
    assert lines["does not round to it"].get_ydata().tolist() == [1, 2]
    assert [text.get_text() for text in ax.texts] == ["16.18x", "13.00x", "16.26x"]
    assert "1 of 3 round to it" in style.alt_text(ax)


def test_ratios_without_a_claim_have_no_line() -> None:
    ax = plots.plot_ratios(pd.DataFrame({"convention": ["a"], "ratio": [3.0]}))
    assert [line.get_label() for line in ax.get_lines()] == ["ratio"]
    assert "ublished" not in style.alt_text(ax)


def test_empty_and_hostile_tables(runs: list[Run]) -> None:
    for draw in (plots.plot_size_by_part, plots.plot_operations_by_part):
        assert "No cost ledger" in style.alt_text(draw(SIZES[:0]))
        named = SIZES.assign(model="$x_{ <b>\n", part="$y")
        ax = draw(named)
        style.to_png(ax)
        assert "\n" not in ax.get_yticklabels()[0].get_text()
    assert "No cost ledger" in style.alt_text(
        plots.plot_ratios(pd.DataFrame({"convention": [], "ratio": []}), 16.2)
    )
    style.to_png(plots.plot_ratios(pd.DataFrame({"convention": ["$x_{"], "ratio": [2.0]}), 16.2))
    recorded = tables.size_by_part({run.label: run.costs for run in runs})
    assert (
        len(plots.plot_size_by_part(recorded).get_yticklabels()) == 4
    )  # a float run has no ledger


@pytest.mark.slow
def test_reconciliation_counts_every_combination_once() -> None:
    table = pd.DataFrame(
        {
            "ratio": [10.0, 12.0, 17.7, 40.0, 64.0],
            "agrees": [False, False, True, False, False],
            "as_built": [True, False, False, False, True],
        }
    )
    ax = plots.plot_reconciliation(table, 17.7)
    assert sum(bar.get_height() for bar in ax.patches) == 5
    assert ax.get_xscale() == "log"
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "this network as it is (2)" in legend
    assert "as if parts of it were otherwise (3)" in legend
    assert "published: 17.7x" in legend
    assert "5 combinations from 10.0x to 64.0x" in style.alt_text(ax)
    assert "1 round to it" in style.alt_text(ax)
    assert "ublished" not in style.alt_text(plots.plot_reconciliation(table))
    assert plots.plot_reconciliation(table[:3], 17.7).get_xscale() == "linear"
    assert "No cost ledger" in style.alt_text(plots.plot_reconciliation(table[:0], 17.7))
