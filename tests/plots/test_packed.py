"""Figures of the benchmark: bars and points are those of the record."""

from __future__ import annotations

import pytest
from matplotlib.text import Text

from bvit_analysis import plots, tables
from bvit_analysis.plots import style
from bvit_analysis.plots.packed import RIVAL_COLOURS
from tests.support.packed_record import ACCOUNT, make_record


def test_savings_are_bars_from_one_to_the_ratio() -> None:
    savings = tables.packed_savings(tables.packed_benchmark(make_record()), "DeiT-S")
    ax = plots.plot_savings(savings)
    drawn = sorted(bar.get_x() + bar.get_width() for bar in ax.patches)
    assert drawn == pytest.approx(sorted(savings["ratio"]))
    assert all(bar.get_x() == 1 for bar in ax.patches)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(tables.SAVINGS)
    assert ax.get_xscale() == "log"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["vs FP32", "vs BF16", "vs INT8"]
    assert "latency 8.0x against FP32" in style.alt_text(ax)
    assert style.to_png(ax)


def test_a_loss_points_the_other_way() -> None:
    savings = tables.packed_savings(tables.packed_benchmark(make_record()), "DeiT-S")
    savings["ratio"] = 0.5
    ax = plots.plot_savings(savings)
    assert all(bar.get_width() == -0.5 for bar in ax.patches)
    assert ax.get_xlim()[0] < 0.5


def test_times_are_stacked_part_by_part() -> None:
    account = tables.packed_account(tables.packed_benchmark(make_record()), "DeiT-S")
    ax = plots.plot_time_by_part(account)
    rows = [bar.get_y() + bar.get_height() / 2 for bar in ax.patches]
    for place, way in enumerate(("FP32", "packed")):
        width = sum(
            bar.get_width()
            for bar, row in zip(ax.patches, rows, strict=True)
            if round(row) == place
        )
        assert width == pytest.approx(sum(ACCOUNT[way].values()))
    assert {"80 ms", "10 ms"} <= {text.get_text() for text in ax.texts}
    assert "packed 10 ms, most of it norms" in style.alt_text(ax)
    alone = plots.plot_time_by_part(account, ways=("packed",))
    assert [label.get_text() for label in alone.get_yticklabels()] == ["packed"]


@pytest.mark.slow
def test_speedups_show_every_place_and_rival() -> None:
    benchmark = tables.packed_benchmark(make_record())
    ax = plots.plot_speedups(benchmark.models)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["DeiT-S, batch 1, 1 thread", "DeiT-S, batch 32, 1 thread"]
    points = {c.get_label(): c.lines[0].get_xdata().tolist() for c in ax.containers}
    assert points["vs FP32"] == [8, 8]
    assert points["vs INT8"] == [2, 2]
    assert set(points) == {f"vs {way}" for way in RIVAL_COLOURS}
    assert len(set(RIVAL_COLOURS.values())) == len(RIVAL_COLOURS)


def test_empty_and_hostile_records() -> None:
    benchmark = tables.packed_benchmark(make_record("$x_{ <b>\n"))
    empty = tables.packed_savings(benchmark, "none")
    assert not plots.plot_savings(empty).axison
    assert not plots.plot_speedups(benchmark.models[:0]).axison
    assert not plots.plot_time_by_part(tables.packed_account(benchmark, "none")).axison
    ax = plots.plot_speedups(benchmark.models)
    assert style.to_png(ax)
    assert not any(t.get_parse_math() for t in ax.findobj(Text) if "$" in t.get_text())
