"""Figures of latent weights: what is drawn equals the histograms and the tables."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from bvit_analysis import plots, tables
from bvit_analysis.plots import style
from bvit_analysis.plots.bimodality import gaussian_density, histogram_table
from bvit_analysis.plots.distribution import density_at, ridge_limit
from bvit_analysis.records import Run, load_run


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


def test_density_at_a_step_is_filled_for_the_first_run_only(runs: list[Run]) -> None:
    pair = [runs[0], runs[2]]
    ax = plots.plot_latent_density(pair, site="blocks.0.mlp.fc2", step=29, highest=0.5)
    filled = [patch.get_fill() for patch in ax.patches]
    assert filled == [True, False, False]
    for patch, run in zip(ax.patches[1:], pair, strict=True):
        rows = run.histograms.query("site == 'blocks.0.mlp.fc2' and step == 20")
        counts = rows["counts"].iloc[0]
        np.testing.assert_allclose(patch.get_data().values, counts / counts.sum() / (8 / 81))
    gaussian = next(one for one in ax.get_lines() if one.get_label() == "Gaussian weights")
    assert gaussian.get_ydata().max() == pytest.approx(1 / math.pi)
    assert ax.get_ylim() == pytest.approx((0, 0.525))
    assert ax.get_title(loc="left") == "blocks.0.mlp.fc2, step 20"
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["baseline, seed 0", "binaryvit, seed 0", "Gaussian weights"]


def test_densities_of_all_sites_are_pooled(runs: list[Run]) -> None:
    found = density_at(runs[0])
    assert found is not None
    step, edges, density = found
    table = histogram_table(runs[0], kind="latent_normalised", step=40)
    counts = table["counts"].iloc[0]
    assert step == 40
    np.testing.assert_allclose(density, counts / counts.sum() / (8 / 81))
    assert (density * np.diff(edges)).sum() == pytest.approx(1)
    assert density_at(runs[0], site="blocks.9.x") is None
    assert density_at(runs[-1]) is None, "a float run"


def test_runs_of_one_recipe_differ_by_their_dashes(runs: list[Run]) -> None:
    ax = plots.plot_latent_density(runs[:2])
    assert len({str(patch.get_linestyle()) for patch in ax.patches[1:]}) == 2
    assert len({patch.get_edgecolor() for patch in ax.patches[1:]}) == 1


def test_ridges_are_densities_on_a_row_a_site(runs: list[Run]) -> None:
    ax = plots.plot_latent_ridges(runs[2], step=20, highest=2.0)
    sites = tables.weight_sites(runs[2])
    assert [label.get_text() for label in ax.get_yticklabels()] == sites
    (ridges,) = ax.collections
    rows = runs[2].histograms.query("kind == 'latent_normalised' and step == 20")
    counts = rows.set_index("site")["counts"]
    for place, (site, path) in enumerate(zip(sites, ridges.get_paths(), strict=True)):
        x, y = path.vertices.T
        for u in (-1.0, 0.0, 0.7):
            drawn = (place - y[np.searchsorted(x, u)]) / (1.4 / 2.0)
            density = counts[site][int((u + 4) * 81 / 8)] / counts[site].sum() / (8 / 81)
            assert drawn == pytest.approx(density), (site, u)
    limit = max(c.max() / c.sum() / (8 / 81) for c in runs[2].histograms["counts"] if len(c) == 81)
    assert ridge_limit(runs[2]) == pytest.approx(limit)
    assert ridge_limit(runs[-1]) == 0


def test_nulls_put_every_run_on_one_scale(runs: list[Run]) -> None:
    ax = plots.plot_bimodality_nulls(runs, step=30)
    marks = [line for line in ax.get_lines() if line.get_linestyle() == "None"]
    assert len(marks) == 4, "the float run is left out"
    assert not ax.texts, "four runs leave no room for numbers"
    frame = tables.bimodality_at(runs[2], step=30)
    np.testing.assert_allclose(marks[2].get_xdata(), frame["towards"].clip(-0.57, 1.09), rtol=1e-12)
    assert ax.get_lines()[0].get_xdata()[0] == 0, "the Gaussian"
    assert "binaryvit, seed 0: all 5 statistics" in style.alt_text(ax)


def test_what_lies_beyond_the_scale_is_said(run_folder: Path) -> None:
    run = load_run(run_folder / "baseline-s0")
    run.sites.loc[run.sites["kurtosis"].notna(), "kurtosis"] = 9.0
    ax = plots.plot_bimodality_nulls(run)
    assert "9 (beyond the scale)" in [text.get_text() for text in ax.texts]
