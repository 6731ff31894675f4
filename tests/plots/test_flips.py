"""Figures of flips: what is drawn equals the tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bvit_analysis import plots, tables
from bvit_analysis.errors import ConfigError
from bvit_analysis.plots.drawn import drawn_numbers
from bvit_analysis.plots.flips import flip_back_table
from bvit_analysis.plots.trajectories import most_flipping
from bvit_analysis.records import Run
from bvit_analysis.tables import textbook_laws
from bvit_analysis.tables.weights import poisson_ranks


def line(ax, label: str):
    return next(one for one in ax.get_lines() if one.get_label() == label)


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.slow
def test_flip_rate_line_is_the_mean_over_seeds(runs: list[Run]) -> None:
    ax = plots.plot_flip_rate(runs)
    frame = tables.site_frame(runs, ["flip_rate"], kind="weight")
    means = tables.mean_over_sites(frame, "flip_rate")
    expected = means[means["recipe"] == "baseline"].groupby("step")["flip_rate"].mean()
    drawn = ax.get_lines()[0]
    np.testing.assert_allclose(drawn.get_xdata(), expected.index)
    np.testing.assert_allclose(drawn.get_ydata(), expected)
    assert legend(ax) == ["baseline (n=2)", "binaryvit (n=2)"]
    assert ax.get_yscale() == "log"
    assert ax.get_ylabel() == "flips per weight and step"


def test_flip_rate_by_run_and_by_site(runs: list[Run]) -> None:
    by_run = plots.plot_flip_rate(runs, by="run")
    assert legend(by_run)[0] == "baseline, seed 0"
    assert len(by_run.get_lines()) == 4
    by_site = plots.plot_flip_rate(runs[0], by="site")
    rows = runs[0].sites.query("site == 'blocks.1.mlp.fc1'").dropna(subset=["flip_rate"])
    np.testing.assert_allclose(line(by_site, "blocks.1.mlp.fc1").get_ydata(), rows["flip_rate"])
    assert "block 1" in legend(by_site)
    with pytest.raises(ConfigError, match="needs one run"):
        plots.plot_flip_rate(runs, by="site")


def test_a_step_without_a_flip_is_a_gap_with_a_mark_and_a_zero_in_the_numbers(
    runs: list[Run],
) -> None:
    frame = tables.site_frame(runs[:1], ["flip_rate"], kind="weight")
    frame["flip_rate"] = frame["flip_rate"].where(frame["step"] != 20, 0.0)
    ax = plots.plot_flip_rate(frame)
    rates = dict(zip(*ax.get_lines()[0].get_data(), strict=True))
    assert rates[20] == 0.0
    assert ax.get_ylim()[0] > 0
    marks = ax.get_lines()[1]
    assert marks.get_marker() == "v"
    assert marks.get_xdata().tolist() == [20]
    assert ax.get_ylabel().endswith("(marks below: none)")
    numbers = drawn_numbers(ax.figure)
    assert numbers.loc[numbers["x"] == 20, "y"].tolist() == [0.0]


def test_atlas_cells_are_the_recorded_rates(runs: list[Run]) -> None:
    ax = plots.plot_flip_atlas(runs[0], limits=(1e-9, 1.0))
    cells = ax.collections[0].get_array()
    rows = runs[0].sites.query("kind == 'weight'").dropna(subset=["flip_rate"])
    sites = runs[0].site_table.query("kind == 'weight'")["site"].tolist()
    expected = rows.pivot(index="site", columns="step", values="flip_rate").loc[sites]
    np.testing.assert_allclose(cells, np.maximum(expected.to_numpy(float), 1e-9), rtol=1e-6)
    assert [label.get_text() for label in ax.get_yticklabels()] == sites
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "first block on top"


@pytest.mark.slow
def test_atlas_columns_are_limited_and_cover_all_steps(runs: list[Run]) -> None:
    ax = plots.plot_flip_atlas(runs[0], columns=5)
    assert ax.collections[0].get_array().shape == (8, 5)
    assert ax.get_xlim() == (0, 40)


def test_two_atlases_can_share_a_scale(runs: list[Run]) -> None:
    low, high = plots.colour_limits(runs)
    assert 0 < low < high
    for run in (runs[0], runs[2]):
        ax = plots.plot_flip_atlas(run, limits=(low, high))
        assert ax.collections[0].get_clim() == pytest.approx((low, high))
    assert plots.colour_limits([]) == (1e-4, 1e-1)


def test_distribution_is_that_of_the_stored_counts(runs: list[Run]) -> None:
    ax = plots.plot_flip_distribution(runs)
    gross = np.concatenate(
        [c["gross"].ravel() for run in runs[:2] for c in tables.flip_counts(run).values()]
    )
    stairs = next(patch for patch in ax.patches if patch.get_label() == "baseline")
    values, edges = stairs.get_data()[:2]
    counted = [(gross == flips).mean() for flips in np.arange(edges[0] + 0.5, edges[-1])]
    np.testing.assert_allclose(values, counted)
    poisson = line(ax, "textbook Poisson, mean of baseline")
    mean = gross.mean()
    law = textbook_laws.poisson_shares(mean, len(values) - 1)
    np.testing.assert_allclose(poisson.get_ydata(), law)
    assert "textbook AR(1), mean of baseline" in legend(ax)
    assert ax.get_yscale() == "log"


def test_distribution_of_one_site_without_nulls(runs: list[Run]) -> None:
    ax = plots.plot_flip_distribution(runs, site="blocks.0.attn.qkv", null="none")
    assert legend(ax) == ["baseline", "binaryvit"]
    assert ax.get_title(loc="left") == "Who flips: blocks.0.attn.qkv"
    with pytest.raises(ConfigError, match=r"unknown site .*did you mean 'blocks.0.attn.qkv'"):
        plots.plot_flip_distribution(runs, site="blocks.0.atn.qkv")


def test_flip_back_weighs_sites_by_their_flips() -> None:
    frame = pd.DataFrame(
        {
            "run": 0,
            "recipe": "grs",
            "step": 10,
            "flip_rate": [0.1, 0.3, 0.0],
            "n_weights": [30.0, 10.0, 10.0],
            **{f"flip_back_{k}": [0.2, 0.6, np.nan] for k in (1, 5, 10, 50, 100)},
        }
    )
    table = flip_back_table(frame)
    assert table["k"].tolist() == [1, 5, 10, 50, 100]
    assert table["flip_back"].tolist() == pytest.approx([0.4] * 5)
    assert table["flip_rate"].iloc[0] == pytest.approx(6 / 50)


def test_flip_back_shows_both_nulls(runs: list[Run]) -> None:
    ax = plots.plot_flip_back(runs)
    assert line(ax, "textbook: fair coins").get_ydata()[:2].tolist() == [0.5, 1 - 2**-5]
    wandering = line(ax, "textbook AR(1), rate of baseline").get_ydata()
    assert wandering[0] == pytest.approx(0.293, abs=0.005)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "5", "10", "50", "100"]
    assert len(plots.plot_flip_back(runs, null=False).get_lines()) == len(ax.get_lines()) - 2


def test_trajectories_mark_every_sign_change(runs: list[Run]) -> None:
    rows = runs[0].trajectories
    ranked = most_flipping(rows)
    ax = plots.plot_trajectories(runs[0], weights=2)
    curves = [one for one in ax.get_lines() if len(one.get_xdata()) == 40]
    dots = [one for one in ax.get_lines() if one.get_linestyle() == "None"]
    assert len(curves) == len(dots) == 2
    top = ranked.iloc[0]
    one = rows[(rows["site"] == top["site"]) & (rows["index"] == top["index"])]
    np.testing.assert_allclose(curves[0].get_ydata(), one["latent"])
    signs = one["sign"].to_numpy()
    changed = one["step"].to_numpy()[1:][signs[1:] != signs[:-1]]
    assert dots[0].get_xdata().tolist() == changed.tolist()
    assert len(changed) == top["flips"] == ranked["flips"].max()


def test_trajectories_of_a_site_in_a_window(runs: list[Run]) -> None:
    site = "blocks.1.attn.proj"
    ax = plots.plot_trajectories(runs[0], site=site, window=10, values="gradient")
    assert ax.get_ylabel() == "gradient of the loss"
    assert all(site in text for text in legend(ax))
    assert min(one.get_xdata()[0] for one in ax.get_lines()[:-1:2]) == 31


def test_atlas_without_a_bar_and_on_a_linear_scale(runs: list[Run]) -> None:
    ax = plots.plot_flip_atlas(runs[0], metric="bimodality_coefficient", bar="none")
    assert ax.figure.axes == [ax]
    found = tables.site_atlas(runs[0], "bimodality_coefficient")
    assert found.edges[0] == 0
    assert (np.diff(found.edges) > 0).all(), "what was recorded at step 0 spans no steps"
    mesh = ax.collections[0]
    np.testing.assert_allclose(mesh.get_array(), np.maximum(found.grid, mesh.norm.vmin))
    low, high = tables.colour_limits(runs, "bimodality_coefficient")
    values = tables.site_frame(runs, ["bimodality_coefficient"], kind="weight")
    inside = values["bimodality_coefficient"].dropna().between(low, high).mean()
    assert 0.97 < inside <= 0.99


def test_limits_of_a_frame_are_those_of_its_runs(runs: list[Run]) -> None:
    frame = tables.site_frame(runs, ["flip_rate"], kind="weight")
    assert tables.colour_limits(frame) == tables.colour_limits(runs) == plots.colour_limits(runs)


def test_followed_flips_are_sign_changes_of_one_weight() -> None:
    class Short:
        trajectories = pd.DataFrame(
            {
                "step": [1, 1, 2, 2, 4, 4],
                "site": pd.Categorical(["a"] * 6),
                "index": [5, 9] * 3,
                "latent": 0.0,
                "gradient": 0.0,
                "sign": np.array([1, -1, -1, -1, 1, 1], np.int8),
            }
        )
        site_table = pd.DataFrame({"site": ["a"], "shape": [(4, 4)]})
        info = {"sites": []}

        def trajectories_at(self, site: str) -> pd.DataFrame:
            return self.trajectories[self.trajectories["site"] == site]

    run = Short()
    rows = tables.followed(run, "a")
    assert rows["index"].tolist() == [5, 5, 5, 9, 9, 9]
    assert rows["flip"].tolist() == [False, True, True, False, False, True]
    ranked = tables.flip_ranking(run, "a")
    assert ranked[["index", "output", "input", "flips"]].to_numpy().tolist() == [
        [5, 1, 1, 2],
        [9, 2, 1, 1],
    ]
    assert ranked["return_steps"].tolist()[0] == 2
    assert np.isnan(ranked["return_steps"].iloc[1])
    late = tables.flip_ranking(run, "a", (3, 4))
    assert late["flips"].tolist() == [1, 1], "a flip counts though its step before is outside"
    assert tables.flip_ranking(run, "b").empty


def test_ranks_of_poisson_weights_are_its_quantiles() -> None:
    mean, weights = 1.3, 4096
    ranks = np.arange(1, weights + 1)
    drawn = np.sort(np.random.default_rng(0).poisson(mean, (200, weights)), axis=1)[:, ::-1]
    expected = poisson_ranks(mean, weights, ranks)
    assert (np.diff(expected) <= 0).all()
    assert expected.mean() == pytest.approx(mean, abs=0.01)
    assert (np.abs(np.median(drawn, axis=0) - expected) <= 1).all()
    assert (poisson_ranks(0.0, 10, np.array([1, 10])) == 0).all()


def test_ranking_of_the_most_flipping_site(runs: list[Run]) -> None:
    ax = plots.plot_flip_ranking(runs[0], window=(1, 20))
    site = most_flipping(runs[0].trajectories)["site"].iloc[0]
    ranked = tables.flip_ranking(runs[0], site, (1, 20))
    assert [bar.get_width() for bar in ax.patches] == ranked["flips"].tolist()
    assert ax.get_xlabel() == "flips in steps 1 to 20"
    assert site in ax.get_title(loc="left")


@pytest.mark.slow
def test_ranks_of_a_site_with_and_without_the_null(runs: list[Run]) -> None:
    ax = plots.plot_flip_ranks(runs[:2], site="blocks.0.mlp.fc2")
    assert legend(ax) == ["baseline, seed 0", "baseline, seed 1", "equally restless"]
    ranks = ax.get_lines()[1].get_xdata()
    gross = np.sort(runs[1].counts("blocks.0.mlp.fc2")["gross"], axis=None)[::-1]
    np.testing.assert_array_equal(ax.get_lines()[1].get_ydata(), gross[ranks - 1])
    assert ranks[-1] == gross.size
    assert len(plots.plot_flip_ranks(runs[:2], null=False).get_lines()) == 2


def test_one_weight_and_its_flips(runs: list[Run]) -> None:
    site = "blocks.0.attn.proj"
    rows = tables.followed(runs[0], site)
    index = int(rows["index"].iloc[-1])
    ax = plots.plot_weight(runs[0], site=site, index=index, values="sign", window=(5, 25))
    one = rows[(rows["index"] == index) & rows["step"].between(5, 25)]
    assert ax.get_lines()[0].get_ydata().tolist() == one["sign"].tolist()
    assert ax.get_xlim() == (5, 25)
    best = plots.plot_weight(rows)
    top = rows.groupby("index")["flip"].sum().idxmax()
    curve = best.get_lines()[1]
    np.testing.assert_allclose(curve.get_ydata(), rows.loc[rows["index"] == top, "latent"])
    assert not plots.plot_weight(runs[0], site=site, index=-1).axison
