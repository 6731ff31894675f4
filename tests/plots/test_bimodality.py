"""Figures of latent weights: what is drawn equals the histograms and the tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bvit_analysis import plots, tables
from bvit_analysis.plots.bimodality import gaussian_density, histogram_table
from bvit_analysis.records import Run


def test_histograms_are_summed_over_sites_of_their_kind(runs: list[Run]) -> None:
    table = histogram_table(runs[0], kind="latent_normalised")
    weights = runs[0].site_table["n_weights"].sum()
    assert table["step"].tolist() == [0, 10, 20, 30, 40]
    assert all(counts.sum() == weights for counts in table["counts"])
    channels = histogram_table(runs[0], kind="channel_entropy")
    activation = runs[0].site_table.query("kind == 'activation'")["shape"]
    assert channels["counts"].iloc[0].sum() == sum(shape[0] for shape in activation)


def test_heat_shows_densities(runs: list[Run]) -> None:
    site = "blocks.0.mlp.fc1"
    ax = plots.plot_latent_histogram(runs[0], site=site, highest=0.7)
    mesh = ax.collections[0]
    table = histogram_table(runs[0], site=site, kind="latent_normalised")
    counts = np.stack(list(table["counts"]))
    expected = counts / counts.sum(axis=1, keepdims=True) / (8 / 81)
    np.testing.assert_allclose(mesh.get_array(), expected.T)
    assert mesh.get_clim() == (0, 0.7)
    assert ax.get_title(loc="left") == "Latent weights, blocks.0.mlp.fc1: baseline, seed 0"


def test_two_maps_can_share_a_scale(runs: list[Run]) -> None:
    alone = [plots.density_limit(run) for run in (runs[0], runs[2])]
    assert plots.density_limit([runs[0], runs[2]]) == max(alone) > 0
    assert plots.plot_latent_histogram(runs[0]).collections[0].get_clim()[1] == alone[0]
    assert plots.density_limit([]) == 1.0


def test_ridge_has_a_step_a_ridge_over_the_gaussian(runs: list[Run]) -> None:
    ax = plots.plot_latent_histogram(runs[0], kind="ridge", ridges=3)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["step 0", "step 20", "step 40"]
    assert len(ax.collections) == 3
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["Gaussian weights"]
    u = np.linspace(-12, 12, 20001)
    density = gaussian_density(u)
    assert np.trapezoid(density, u) == pytest.approx(1)
    assert np.trapezoid(np.abs(u) * density, u) == pytest.approx(1), "u has mean |u| of 1"


@pytest.mark.parametrize(
    ("metric", "null"),
    [
        ("bimodality_coefficient", 1 / 3),
        ("otsu_ratio", 2 / math.pi),
        ("kurtosis", 3.0),
        ("valley_depth", 0.0),
    ],
)
def test_statistics_with_their_gaussian_value(metric: str, null: float, runs: list[Run]) -> None:
    ax = plots.plot_bimodality(runs, metric=metric)
    frame = tables.site_frame(runs, [metric], kind="weight")
    means = tables.mean_over_sites(frame, metric)
    expected = means[means["recipe"] == "binaryvit"].groupby("step")[metric].mean()
    lines = [one for one in ax.get_lines() if len(one.get_xdata()) == len(expected)]
    np.testing.assert_allclose(lines[-1].get_ydata(), expected)
    flat = next(one for one in ax.get_lines() if one.get_label() == "Gaussian weights")
    assert flat.get_ydata()[0] == pytest.approx(null)
    assert "Gaussian weights" in [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize(("delta", "name"), [(0.05, "005"), (0.1, "010"), (0.2, "020")])
def test_near_zero_draws_the_column_of_its_delta(delta: float, name: str, runs: list[Run]) -> None:
    ax = plots.plot_near_zero(runs[:1], delta=delta)
    column = f"mass_near_zero_{name}"
    frame = tables.site_frame(runs[:1], [column], kind="weight")
    expected = tables.mean_over_sites(frame, column)[column]
    np.testing.assert_allclose(ax.get_lines()[1].get_ydata(), expected)
    assert ax.get_ylabel() == f"share of weights with |u| < {delta:g}"
