"""The oscillation atlas: what its controls draw equals the records, and nothing else is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bvit_analysis import tables
from bvit_analysis.records import Run, load_run
from bvit_analysis.widgets.oscillation import NONE, OscillationExplorer
from tests.support.synthetic_run import make_run

SITE = "blocks.1.attn.proj"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("oscillation")
    for recipe in ("baseline", "grs"):
        for seed in (0, 1):
            make_run(root / f"{recipe}-seed{seed}", recipe=recipe, seed=seed, steps=60)
    make_run(root / "short", recipe="asm", steps=20, blocks=1)
    make_run(root / "teacher", kind="float", steps=20)
    return root


@pytest.fixture
def explorer(folder: Path) -> OscillationExplorer:
    return OscillationExplorer(folder)


def maps(explorer: OscillationExplorer) -> list:
    return [ax for ax in explorer.figure("atlas").axes if ax.get_title(loc="left").strip()]


def shown(explorer: OscillationExplorer) -> dict[str, str]:
    return {name: panel.shown for name, panel in explorer.panels.items()}


def changed(explorer: OscillationExplorer, **values: object) -> set[str]:
    before = shown(explorer)
    explorer.set(**values)
    return {name for name, key in shown(explorer).items() if key != before[name]}


@pytest.mark.slow
def test_opens_with_a_baseline_its_grs_partner_and_a_telling_site(
    explorer: OscillationExplorer,
) -> None:
    assert list(explorer.runs) == [
        *("baseline-seed0", "baseline-seed1", "grs-seed0", "grs-seed1", "short")
    ]
    assert (explorer.value("run"), explorer.value("beside")) == ("baseline-seed0", "grs-seed0")
    assert explorer.value("metric") == "flip_rate"
    assert explorer.value("window") == (6, 60)
    run = explorer.runs["baseline-seed0"]
    frame = tables.site_frame(run, ["flip_rate"], kind="weight")
    late = frame[frame["step"] > 30].groupby("site")["flip_rate"].mean()
    sites = late.sort_values(ascending=False).index
    flips = {site: tables.flip_ranking(run, site, (6, 60))["flips"].max() for site in sites}
    telling = next((site for site in sites if flips[site] >= 6), max(flips, key=flips.__getitem__))
    assert explorer.value("site") == telling
    top = tables.flip_ranking(run, telling, (6, 60)).iloc[0]
    assert explorer.value("weight") == top["index"]
    words = explorer.say()
    assert telling in words
    assert f"{late[telling]:.2g} in baseline, seed 0" in words
    assert f"flips {int(top['flips'])} times in steps 6 to 60" in words


@pytest.mark.slow
def test_the_two_atlases_are_the_recorded_rates(explorer: OscillationExplorer) -> None:
    for ax, name in zip(maps(explorer), ("baseline-seed0", "grs-seed0"), strict=True):
        run = explorer.runs[name]
        rows = run.sites.query("kind == 'weight'").dropna(subset=["flip_rate"])
        expected = rows.pivot(index="site", columns="step", values="flip_rate")
        cells = ax.collections[0].get_array()
        order = tables.weight_sites(run)
        np.testing.assert_allclose(cells, expected.loc[order].to_numpy(float), rtol=1e-6)
        assert run.label in ax.get_title(loc="left")
    limits = [ax.collections[0].get_clim() for ax in maps(explorer)]
    assert limits[0] == limits[1], "one scale for both"


@pytest.mark.slow
def test_the_window_and_the_site_are_marked(explorer: OscillationExplorer) -> None:
    explorer.set(site=SITE, window=(20, 40))
    for ax in maps(explorer):
        box = ax.patches[0]
        row = tables.weight_sites(explorer.runs["baseline-seed0"]).index(SITE)
        assert (box.get_x(), box.get_width()) == (20, 20)
        assert (box.get_y(), box.get_height()) == (row - 0.5, 1)
        assert [line.get_xdata()[0] for line in ax.lines] == [20, 40]


@pytest.mark.slow
def test_each_control_changes_its_pictures_and_no_others(explorer: OscillationExplorer) -> None:
    explorer.set(site=SITE)
    weights = [value for _, value in explorer.controls["weight"].options]
    assert changed(explorer, weight=weights[3]) == {"trajectory"}
    assert changed(explorer, metric="oscillating_flips") == {"atlas"}
    assert changed(explorer, window=(10, 30)) == {"atlas", "ranking", "trajectory"}
    assert changed(explorer, beside="grs-seed1") == {"atlas", "ranks", "trajectory"}
    assert changed(explorer, site="blocks.0.mlp.fc1") == set(explorer.panels)
    assert changed(explorer, run="baseline-seed1") == set(explorer.panels)


@pytest.mark.slow
def test_every_change_reaches_the_drawn_data(explorer: OscillationExplorer) -> None:
    images = {name: panel.image.value for name, panel in explorer.panels.items()}
    explorer.set(run="grs-seed1", beside=NONE, site=SITE, metric="mass_near_zero_010")
    assert all(panel.image.value != images[name] for name, panel in explorer.panels.items())
    (ax,) = maps(explorer)
    rows = explorer.runs["grs-seed1"].sites.query("site == @SITE and step > 0")
    expected = rows["mass_near_zero_010"].dropna().to_numpy()
    row = tables.weight_sites(explorer.runs["grs-seed1"]).index(SITE)
    cells = ax.collections[0].get_array()[row]
    np.testing.assert_allclose(cells, np.maximum(expected, ax.collections[0].norm.vmin), rtol=1e-6)


@pytest.mark.slow
def test_ranking_is_that_of_the_records(explorer: OscillationExplorer) -> None:
    explorer.set(site=SITE, window=(15, 45))
    rows = explorer.runs["baseline-seed0"].trajectories
    rows = rows[rows["site"] == SITE]
    counted = {}
    for index, one in rows.groupby("index"):
        signs, steps = one["sign"].tolist(), one["step"].tolist()
        counted[index] = sum(
            signs[i] != signs[i - 1] and 15 <= steps[i] <= 45 for i in range(1, len(signs))
        )
    (ax,) = explorer.figure("ranking").axes
    assert [bar.get_width() for bar in ax.patches] == sorted(counted.values(), reverse=True)
    labels = [text.get_text() for text in ax.get_yticklabels()]
    for label, (shown_as, index) in zip(labels, explorer.controls["weight"].options, strict=True):
        assert label == f"[{index // 32}, {index % 32}]"
        assert shown_as == f"{label}  flips: {counted[index]}"


@pytest.mark.slow
def test_whole_run_ranks_are_the_stored_counts(explorer: OscillationExplorer) -> None:
    explorer.set(site=SITE)
    (ax,) = explorer.figure("ranks").axes
    for line, name in zip(ax.lines[:2], ("baseline-seed0", "grs-seed0"), strict=True):
        gross = sorted(explorer.runs[name].counts(SITE)["gross"].ravel().tolist(), reverse=True)
        ranks = line.get_xdata()
        assert (ranks[0], ranks[-1]) == (1, 1024)
        assert line.get_ydata().tolist() == [gross[rank - 1] for rank in ranks]


@pytest.mark.slow
def test_the_trajectory_is_the_recorded_one(explorer: OscillationExplorer) -> None:
    explorer.set(beside=NONE, site=SITE, window=(11, 50))
    index = explorer.value("weight")
    rows = explorer.runs["baseline-seed0"].trajectories
    rows = rows[(rows["site"] == SITE) & (rows["index"] == index)]
    inside = rows[(rows["step"] >= 11) & (rows["step"] <= 50)]
    figure = explorer.figure("trajectory")
    for ax, column in zip(figure.axes, ("latent", "gradient", "sign"), strict=True):
        line = next(one for one in ax.lines if len(one.get_xdata()) == 40)
        assert line.get_xdata().tolist() == list(range(11, 51))
        np.testing.assert_allclose(line.get_ydata(), inside[column])
    dots = next(one for one in figure.axes[0].lines if one.get_linestyle() == "None")
    turned = (rows["sign"] != rows["sign"].shift()).to_numpy().copy()
    turned[0] = False
    expected = rows.loc[turned & rows["step"].between(11, 50).to_numpy(), "step"]
    assert dots.get_xdata().tolist() == expected.tolist()


@pytest.mark.slow
def test_the_same_weight_of_the_other_run_lies_beneath(explorer: OscillationExplorer) -> None:
    explorer.set(site=SITE)
    index = explorer.value("weight")
    latent = explorer.figure("trajectory").axes[0]
    labels = [text.get_text() for text in latent.get_legend().get_texts()]
    assert labels == ["baseline, seed 0", "grs, seed 0"]
    other = tables.followed(explorer.runs["grs-seed0"], SITE)
    other = other[(other["index"] == index) & (other["step"] >= 6)]
    curves = {line.get_label(): line for line in latent.lines}
    np.testing.assert_allclose(curves["grs, seed 0"].get_ydata(), other["latent"])


@pytest.mark.slow
def test_a_change_of_run_keeps_site_weight_and_window_if_they_exist(
    explorer: OscillationExplorer,
) -> None:
    explorer.set(site=SITE, window=(20, 40))
    weight = explorer.controls["weight"].options[2][1]
    explorer.set(weight=weight)
    explorer.set(run="grs-seed0")
    assert (explorer.value("site"), explorer.value("weight")) == (SITE, weight)
    assert explorer.value("window") == (20, 40)
    explorer.set(run="short")
    assert explorer.value("site") in tables.weight_sites(explorer.runs["short"])
    assert explorer.controls["window"].max == 20
    assert explorer.value("window")[1] <= 20
    ranked = tables.flip_ranking(
        explorer.runs["short"], explorer.value("site"), explorer.value("window")
    )
    assert explorer.value("weight") == ranked["index"].iloc[0]
    explorer.set(run="baseline-seed0")
    assert explorer.controls["window"].max == 60


@pytest.mark.slow
def test_frames_go_through_runs_and_sites(explorer: OscillationExplorer) -> None:
    frames = explorer.frames(limit=6)
    assert [control["name"] for control in frames["controls"]] == ["run", "site"]
    assert 1 < len(frames["findings"]) <= 6
    start = [control["start"] for control in frames["controls"]]
    at = start[0] * len(frames["controls"][1]["options"]) + start[1]
    assert frames["findings"][at] == explorer.say()
    assert {panel["name"] for panel in frames["panels"]} == set(explorer.panels)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["none", "float", "bare", "running"])
def test_what_is_missing_is_said(what: str, folder: Path, tmp_path: Path) -> None:
    runs: list[Run] = []
    if what == "float":
        runs = [load_run(folder / "teacher")]
    if what in ("bare", "running"):
        path = make_run(tmp_path / "r", steps=20, blocks=1, state="running")
        if what == "bare":
            for kind in ("trajectories", "sites"):
                for part in (path / kind).glob("part-*"):
                    part.unlink()
        runs = [load_run(path)]
    explorer = OscillationExplorer(runs)
    assert explorer.say()
    data, metadata = explorer._repr_mimebundle_()
    assert data["image/png"]
    assert len(metadata["image/png"]["alt"]) > 40
    frames = explorer.frames(limit=4)
    assert len(frames["findings"]) >= 1
    if what in ("none", "float"):
        assert explorer.say() == "No run that binarizes is given, so there is nothing to explore."
    if what == "bare":
        assert "No single weight of this site was followed." in explorer.say()
        assert not explorer.figure("trajectory").axes[0].axison


@pytest.mark.slow
def test_one_run_alone_is_drawn_wide(folder: Path) -> None:
    explorer = OscillationExplorer(folder / "grs-seed1")
    assert explorer.value("beside") == NONE
    assert len(maps(explorer)) == 1


def test_names_of_a_stranger_are_text(tmp_path: Path) -> None:
    path = make_run(tmp_path / "x", steps=20, blocks=1)
    info = json.loads((path / "run.json").read_text())
    info["config"]["recipe"]["name"] = "$x_{ <script>alert(1)</script>\n{y}"
    for site in info["sites"]:
        site["site"] = site["site"].replace("blocks", "$bl_{ocks<b>\n")
    (path / "run.json").write_text(json.dumps(info))
    explorer = OscillationExplorer(path)
    assert "<script>" not in explorer.finding.value
    assert "&lt;script&gt;" in explorer.finding.value
    assert "<b>" not in explorer.finding.value
    assert all("\n" not in label for label, _ in explorer.controls["site"].options)
    for name in explorer.panels:
        assert explorer.picture(name).png.startswith(b"\x89PNG")


@pytest.mark.slow
def test_runs_of_one_name_under_two_roots_are_both_offered(folder: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "baseline-seed0", steps=20, blocks=1)
    explorer = OscillationExplorer([folder, tmp_path / "baseline-seed0"])
    assert {"baseline-seed0", "baseline-seed0 (2)"} <= set(explorer.runs)
