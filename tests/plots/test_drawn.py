"""The numbers of a figure are what runs recorded, cell by cell, zeros and all: no floor, no clip, no nudge is among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from bvit_analysis import plots, tables
from bvit_analysis.plots.drawn import drawn_numbers
from bvit_analysis.records import Run, load_run
from tests.support.synthetic_run import make_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two recipes x three seeds in which a third of all figures of sites are zero."""
    root = tmp_path_factory.mktemp("zeros")
    found = []
    for recipe in ("baseline", "grs"):
        for seed in range(3):
            run = load_run(make_run(root / f"{recipe}-s{seed}", recipe=recipe, seed=seed, steps=20))
            sites = run.sites.copy()
            chosen = np.random.default_rng(seed).random(len(sites)) < 1 / 3
            chosen |= sites["step"].to_numpy() == 10  # means of it are zero as well
            measures = [name for name in run.measures if name in sites]
            for name in measures:
                sites[name] = sites[name].where(~chosen | sites[name].isna(), 0.0)
            run.sites = sites  # type: ignore[misc]
            found.append(run)
    return found


def numbers(figure: Any) -> pd.DataFrame:
    owner = figure if isinstance(figure, Figure) else figure.get_figure(root=True)
    return drawn_numbers(owner)


def weighted(run: Run, name: str, kind: str) -> dict[int, float]:
    """Return the mean over sites by step, retyped: weight sites in proportion to their weights."""
    table = run.site_table.set_index("site")["n_weights"]
    rows = run.sites[(run.sites["kind"] == kind) & run.sites[name].notna()]
    found = {}
    for step in sorted(set(rows["step"])):
        now = rows[rows["step"] == step]
        weights = [max(1, int(table[site])) for site in now["site"]]
        values = now[name].tolist()
        found[int(step)] = float(
            sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        )
    return found


def line(frame: pd.DataFrame, series: int) -> dict[int, float]:
    rows = frame[(frame["kind"] == "line") & (frame["series"] == series)]
    return dict(zip(rows["x"].astype(int), rows["y"], strict=True))


@pytest.mark.parametrize(
    ("draw", "name", "kind"),
    [
        (plots.plot_flip_rate, "flip_rate", "weight"),
    ],
)
def test_lines_of_sites_are_means_of_what_was_recorded(
    runs: list[Run], draw: Callable[..., Any], name: str, kind: str
) -> None:
    frame = numbers(draw(runs, by="run"))
    for series, run in enumerate(runs):
        wanted = weighted(run, name, kind)
        assert line(frame, series) == pytest.approx(wanted, rel=1e-12)
        assert 0.0 in wanted.values()
    frame = numbers(draw(runs))
    for series in range(2):
        own = [weighted(run, name, kind) for run in runs[3 * series : 3 * series + 3]]
        wanted = {step: sum(one[step] for one in own) / 3 for step in own[0]}
        lines = frame[(frame["kind"] == "line") & (frame["x"].notna())]["series"].unique()
        assert line(frame, lines[series]) == pytest.approx(wanted, rel=1e-12)
        band = frame[frame["kind"] == "band"]
        parts = [part for _, part in band.groupby("series")]
        low = dict(zip(parts[series]["x"].astype(int), parts[series]["y"], strict=True))
        assert low == pytest.approx(
            {step: min(one[step] for one in own) for step in own[0]}, abs=1e-12
        )


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (plots.plot_sign_entropy, "sign_entropy_bits"),
        (plots.plot_near_constant, "near_constant_share"),
        (plots.plot_binarization_error, "binarization_error"),
        (plots.plot_twin_agreement, "twin_agreement"),
    ],
)
def test_lines_of_activations_are_means_of_what_was_recorded(
    runs: list[Run], draw: Callable[..., Any], name: str
) -> None:
    frame = numbers(draw(runs, over="steps"))
    lines = frame[(frame["kind"] == "line") & frame["x"].notna()]
    found = [line(frame, series) for series in lines["series"].unique()]
    for number in range(2):
        own = [weighted(run, name, "activation") for run in runs[3 * number : 3 * number + 3]]
        wanted = {step: sum(one[step] for one in own) / 3 for step in own[0]}
        assert 0.0 in wanted.values()
        assert any(one == pytest.approx(wanted, abs=1e-12) for one in found)


def test_lines_by_site_have_the_zeros_of_the_record(runs: list[Run]) -> None:
    frame = numbers(plots.plot_flip_rate(runs[0], by="site"))
    rows = runs[0].sites.dropna(subset=["flip_rate"])
    for site, own in rows[rows["kind"] == "weight"].groupby("site"):
        drawn = frame[(frame["kind"] == "line") & (frame["label"] == site)]
        np.testing.assert_array_equal(drawn["x"], own["step"])
        np.testing.assert_array_equal(drawn["y"], own["flip_rate"])
        assert (drawn["y"] == 0).any()


@pytest.mark.parametrize("metric", list(tables.ATLAS_METRICS))
@pytest.mark.parametrize("limits", [None, (1e-3, 1e-2)])
def test_cells_of_an_atlas_are_the_record(
    runs: list[Run], metric: str, limits: tuple[float, float] | None
) -> None:
    run = runs[0]
    if run.sites[metric].isna().all():
        pytest.skip(f"{metric} is not in this run")
    frame = numbers(plots.plot_flip_atlas(run, metric=metric, limits=limits))
    rows = run.sites[(run.sites["kind"] == "weight") & run.sites[metric].notna()]
    rows = rows[rows["step"] > 0]
    wanted = {(str(r.site), float(r.step)): getattr(r, metric) for r in rows.itertuples()}
    cells = frame[(frame["kind"] == "mesh") & frame["value"].notna()]
    sites = list(dict.fromkeys(run.site_table.loc[run.site_table["kind"] == "weight", "site"]))
    found = {
        (sites[round((cell.y + cell.y2) / 2)], cell.x2): cell.value for cell in cells.itertuples()
    }
    assert found == wanted
    assert 0.0 in found.values()


def test_curves_of_compared_runs_are_the_record(runs: list[Run]) -> None:
    frame = numbers(plots.plot_compared(runs, "flip_rate"))
    for series, run in enumerate(runs):
        assert line(frame, series) == pytest.approx(weighted(run, "flip_rate", "weight"), abs=1e-15)
    frame = numbers(plots.plot_accuracy(runs, by="run"))
    for series, run in enumerate(runs):
        rows = run.scalars.dropna(subset=["accuracy"])
        assert line(frame, series) == dict(zip(rows["step"], rows["accuracy"], strict=True))
    frame = numbers(plots.plot_loss(runs, by="run", window=1))
    for series, run in enumerate(runs):
        wanted = dict(zip(run.scalars["step"], run.scalars["loss"], strict=True))
        assert line(frame, series) == pytest.approx(wanted, rel=1e-12)


def test_points_of_an_ablation_stand_on_their_recipe(runs: list[Run]) -> None:
    table = tables.run_table(runs)
    frame = numbers(plots.plot_ablation(table))
    assert set(frame["y"].dropna()) == {0.0, 1.0}  # no nudge
    for panel, name in enumerate(plots.ablation.PANELS):
        own = frame[frame["panel"] == panel]
        for place, recipe in enumerate(("baseline", "grs")):
            points = own[own["label"] == recipe]
            assert points["x"].tolist() == table.loc[table["recipe"] == recipe, name].tolist()
            assert set(points["y"]) == {float(place)}
    differences = numbers(plots.plot_differences(table, "late_flip_rate"))
    wide = table.pivot(index="seed", columns="recipe", values="late_flip_rate")
    points = differences[differences["label"] == "grs (n=3)"]
    assert points["x"].tolist() == (wide["grs"] - wide["baseline"]).tolist()
    assert set(points["y_name"]) == {"grs"}
    for draw in (plots.plot_evidence, plots.plot_run_scatter):
        both = numbers(draw(table, "late_flip_rate", "test_accuracy")).dropna(subset=["x", "y"])
        pairs = set(zip(both["x"], both["y"], strict=True))
        assert pairs == set(zip(table["late_flip_rate"], table["test_accuracy"], strict=True))


def test_statistics_beyond_the_scale_keep_their_place(runs: list[Run]) -> None:
    frame = numbers(plots.plot_bimodality_nulls(runs[0], step=10))
    wanted = tables.bimodality_at(runs[0], step=10)
    drawn = frame[frame["label"] == "baseline, seed 0"]
    np.testing.assert_allclose(drawn["x"], wanted["towards"])
    assert (wanted["towards"] < -0.6).any()
    assert drawn["y"].tolist() == list(range(len(wanted)))


def test_shares_of_a_distribution_are_counts(runs: list[Run]) -> None:
    frame = numbers(plots.plot_flip_distribution(runs[:1], null="none"))
    gross = np.concatenate([c["gross"].ravel() for c in tables.flip_counts(runs[0]).values()])
    steps = frame[frame["kind"] == "steps"]
    wanted = [float((gross == round(x + 0.5)).mean()) for x in steps["x"]]
    assert steps["y2"].tolist() == pytest.approx(wanted)
