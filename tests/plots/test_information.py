"""Figures of activation information: what is drawn equals the tables."""

from __future__ import annotations

import numpy as np
import pytest

from bvit_analysis import plots, tables
from bvit_analysis.plots.bimodality import histogram_table
from bvit_analysis.records import Run


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
