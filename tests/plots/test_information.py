"""Figures of activation information: what is drawn equals the tables."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from bvit_analysis import plots, tables
from bvit_analysis.plots import style
from bvit_analysis.plots.bimodality import histogram_table
from bvit_analysis.records import Run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "column", "null"),
    [
        (plots.plot_sign_entropy, "sign_entropy_bits", None),
        (plots.plot_binarization_error, "binarization_error", 0.3634),
        (plots.plot_twin_agreement, "twin_agreement", 0.5),
    ],
)
def test_sites_in_model_order_with_late_means(draw, column, null, runs: list[Run]) -> None:
    ax = draw(runs)
    sites = runs[0].site_table.query("kind == 'activation'")["site"].tolist()
    assert [label.get_text() for label in ax.get_yticklabels()] == sites
    late = runs[2].sites.query("kind == 'activation' and step > 36").set_index("site")[column]
    other = runs[3].sites.query("kind == 'activation' and step > 36").set_index("site")[column]
    marks = next(one for one in ax.get_lines() if one.get_label() == "binaryvit (n=2)")
    drawn = dict(zip(np.round(marks.get_ydata()).astype(int), marks.get_xdata(), strict=True))
    for position, site in enumerate(sites):
        assert drawn[position] == pytest.approx((late[site] + other[site]) / 2, rel=1e-5)
    if null is not None:
        assert ax.get_lines()[0].get_xdata()[0] == pytest.approx(null, abs=1e-4)


def test_over_steps_is_the_mean_over_sites(runs: list[Run]) -> None:
    ax = plots.plot_sign_entropy(runs[:1], over="steps", corrected=False)
    frame = tables.site_frame(runs[:1], ["sign_entropy_plugin_bits"], kind="activation")
    expected = frame.groupby("step")["sign_entropy_plugin_bits"].mean()
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), expected, rtol=1e-6)


def test_attention_sites_are_apart(runs: list[Run]) -> None:
    ax = plots.plot_sign_entropy(runs, kind="attention")
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["blocks.0.attn.probabilities", "blocks.1.attn.probabilities"]


def test_channel_curve_is_the_cumulated_histogram(runs: list[Run]) -> None:
    ax = plots.plot_channel_entropy(runs, site="blocks.0.mlp.fc2.sign")
    counts = sum(
        histogram_table(run, site="blocks.0.mlp.fc2.sign", kind="channel_entropy")["counts"].iloc[
            -1
        ]
        for run in runs[:2]
    )
    curve = next(one for one in ax.get_lines() if one.get_label() == "baseline")
    np.testing.assert_allclose(curve.get_ydata(), [0, *np.cumsum(counts) / counts.sum()])
    np.testing.assert_allclose(curve.get_xdata(), np.linspace(0, 1, 21))
    assert "near-constant" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_channels_are_sorted_and_the_near_constant_ones_marked(runs: list[Run]) -> None:
    site = "blocks.0.mlp.fc2.sign"
    ax = plots.plot_channels([runs[0], runs[2]], site=site, step=25)
    for run in (runs[0], runs[2]):
        row = run.channels.query("site == @site and step == 20").iloc[0]
        share = row["counts"] / row["n"]
        bits = scipy.stats.entropy([share, 1 - share], base=2)
        bits = np.sort(bits + ((share > 0) & (share < 1)) / (2 * row["n"] * np.log(2)))
        line = next(one for one in ax.get_lines() if one.get_label() == run.label)
        np.testing.assert_allclose(line.get_ydata(), bits)
        assert line.get_xdata().tolist() == list(range(1, len(bits) + 1))
        marks = [one for one in ax.get_lines() if one.get_color() == line.get_color()][1:]
        assert [one.get_marker() for one in marks] == ["^", "v"]
        assert sum(len(one.get_xdata()) for one in marks) == (bits < 0.5).sum()
    assert ax.get_title(loc="left") == "blocks.0.mlp.fc2.sign, step 20"
    assert f"{(bits < 0.5).sum()} of 128 near-constant" in style.alt_text(ax)


def test_marks_point_to_the_sign_that_prevails(runs: list[Run]) -> None:
    site = "blocks.0.mlp.fc2.sign"
    ax = plots.plot_channels(runs[0], site=site)
    table = tables.channel_entropy(runs[0], site)
    marks = {one.get_marker(): one for one in ax.get_lines() if one.get_marker() in "^v"}
    for marker, high in (("^", True), ("v", False)):
        chosen = table[table["near_constant"] & ((table["positive_share"] > 0.5) == high)]
        assert len(chosen) > 0
        np.testing.assert_allclose(
            sorted(marks[marker].get_ydata()), sorted(chosen["entropy_bits"])
        )


def test_channels_of_a_site_that_was_not_counted(runs: list[Run]) -> None:
    assert not plots.plot_channels(runs[0], site="blocks.0.mlp.fc1").axison
    assert plots.plot_channels(runs[0]).get_title(loc="left").startswith("blocks.0.attn.qkv.sign")
