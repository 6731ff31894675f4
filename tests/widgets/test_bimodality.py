"""Bimodality explorer outside a kernel: what a control changes, what an empty or hostile run shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import StepPatch
from matplotlib.text import Text

from bvit_analysis.errors import ConfigError
from bvit_analysis.records import Run, load_run
from bvit_analysis.tables.chance import GAUSSIAN_NULLS
from bvit_analysis.widgets.bimodality import ALL, BimodalityExplorer
from tests.support.synthetic_run import make_run

SITE = "blocks.1.mlp.fc1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for recipe, seed in (("baseline", 0), ("baseline", 1), ("grs", 1), ("asm", 0)):
        make_run(root / f"{recipe}-s{seed}", recipe=recipe, seed=seed, steps=40)
    make_run(root / "teacher", kind="float", steps=40)
    return root


@pytest.fixture
def explorer(folder: Path) -> BimodalityExplorer:
    return BimodalityExplorer(folder)


def counts_of(run: Run, site: str | None, step: int) -> np.ndarray:
    rows = run.histograms
    rows = rows[(rows["kind"] == "latent_normalised") & (rows["step"] == step)]
    rows = rows if site is None else rows[rows["site"] == site]
    return np.sum(list(rows["counts"]), axis=0)


def outlines(explorer: BimodalityExplorer) -> list[np.ndarray]:
    """Return the drawn densities, the filled one left out."""
    (ax,) = explorer.figure("histogram").axes
    steps = [patch for patch in ax.patches if isinstance(patch, StepPatch) and not patch.get_fill()]
    return [patch.get_data().values for patch in steps]


@pytest.mark.slow
def test_opens_on_baseline_and_grs_of_one_seed_at_the_end(explorer: BimodalityExplorer) -> None:
    values = {name: explorer.value(name) for name in explorer.controls}
    assert values == {"run": "baseline-s1", "beside": "grs-s1", "site": ALL, "step": 40}
    assert "teacher" not in explorer.runs
    assert "grs, seed 1: all 5 statistics lie towards two modes" in explorer.say()
    assert explorer.say().split(".")[0] in explorer.finding.value
    for name, run in (("baseline, seed 1", "baseline-s1"), ("grs, seed 1", "grs-s1")):
        row = explorer.runs[run].sites.query("kind == 'weight' and step == 40")
        weight = row["site"].map(explorer.runs[run].site_table.set_index("site")["n_weights"])
        mean = np.average(row["bimodality_coefficient"].astype(float), weights=weight.astype(float))
        assert f"{name} has a bimodality coefficient of {mean:.2f}" in explorer.say()


@pytest.mark.slow
def test_step_and_site_choose_the_histogram(explorer: BimodalityExplorer) -> None:
    for site, step in ((ALL, 40), (ALL, 10), (SITE, 10), (SITE, 0)):
        explorer.set(site=site, step=step)
        for drawn, name in zip(outlines(explorer), ("baseline-s1", "grs-s1"), strict=True):
            counts = counts_of(explorer.runs[name], site or None, step)
            np.testing.assert_allclose(drawn, counts / counts.sum() / (8 / 81))


@pytest.mark.slow
def test_run_and_beside_choose_whose(explorer: BimodalityExplorer) -> None:
    before = outlines(explorer)
    explorer.set(beside="asm-s0")
    counts = counts_of(explorer.runs["asm-s0"], None, 40)
    np.testing.assert_allclose(outlines(explorer)[1], counts / counts.sum() / (8 / 81))
    explorer.set(beside=ALL)
    np.testing.assert_array_equal(outlines(explorer), before[:1])
    explorer.set(beside="baseline-s1")
    assert len(outlines(explorer)) == 1, "a run beside itself is drawn once"


@pytest.mark.slow
def test_the_slider_moves_no_axis(explorer: BimodalityExplorer) -> None:
    limits = set()
    for step in explorer.controls["step"].options:
        explorer.set(step=step)
        (ax,) = explorer.figure("histogram").axes
        limits.add((ax.get_xlim(), ax.get_ylim()))
        assert max(drawn.max() for drawn in outlines(explorer)) <= ax.get_ylim()[1]
    assert len(limits) == 1


@pytest.mark.slow
def test_a_ridge_a_site_and_the_chosen_one_stands_out(explorer: BimodalityExplorer) -> None:
    (ax,) = explorer.figure("ridges").axes
    sites = [label.get_text() for label in ax.get_yticklabels()]
    assert sites == explorer.runs["grs-s1"].site_table.query("kind == 'weight'")["site"].tolist()
    assert [len(one.get_paths()) for one in ax.collections] == [len(sites)] * 2
    explorer.set(site=SITE, step=20)
    (ax,) = explorer.figure("ridges").axes
    filled, outline = ax.collections
    widths = np.asarray(filled.get_linewidth())
    assert np.argmax(widths) == sites.index(SITE)
    assert (widths == widths.max()).sum() == 1
    assert np.asarray(outline.get_facecolor())[:, 3].max() == 0
    # heights of one ridge are in proportion to the counts
    counts = counts_of(explorer.runs["baseline-s1"], SITE, 20)
    place = sites.index(SITE)
    vertices = filled.get_paths()[place].vertices
    drawn = place - vertices[:, 1]
    middle = drawn[np.searchsorted(vertices[:, 0], 0.0)]
    assert drawn.max() / middle == pytest.approx(counts[15:66].max() / counts[40])


def test_statistics_lie_between_gaussian_and_two_points(explorer: BimodalityExplorer) -> None:
    explorer.set(site=SITE, step=30)
    (ax,) = explorer.figure("statistics").axes
    marks = [line for line in ax.lines if line.get_linestyle() == "None"]
    texts = [text.get_text() for text in ax.texts]
    for line, name in zip(marks, ("baseline-s1", "grs-s1"), strict=True):
        rows = explorer.runs[name].sites.query("site == @SITE and step == 30").iloc[0]
        points = {"mass_near_zero_010": 0.0}
        order = ("bimodality_coefficient", "otsu_ratio", "kurtosis", "mass_near_zero_010")
        expected = []
        for statistic in (*order, "valley_depth"):
            null, end = GAUSSIAN_NULLS[statistic], points.get(statistic, 1.0)
            expected.append((float(rows[statistic]) - null) / (end - null))
            assert any(text.startswith(f"{rows[statistic]:.3g}") for text in texts)
        np.testing.assert_allclose(line.get_xdata(), np.clip(expected, -0.57, 1.09))
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[0] == "bimodality coefficient\nGaussian 0.333"
    assert labels[2] == "kurtosis\nGaussian 3"


@pytest.mark.slow
def test_a_picture_does_not_depend_on_the_way_to_it(folder: Path) -> None:
    wanderer, fresh = BimodalityExplorer(folder), BimodalityExplorer(folder)
    wanderer.set(step=0).set(site="blocks.0.attn.qkv").set(run="asm-s0", beside=ALL)
    wanderer.set(run="baseline-s0", beside="grs-s1", site=SITE, step=20)
    fresh.set(run="baseline-s0", beside="grs-s1", site=SITE, step=20)
    for name in fresh.panels:
        assert wanderer.picture(name) == fresh.picture(name), name


@pytest.mark.slow
def test_each_control_changes_a_picture(explorer: BimodalityExplorer) -> None:
    start = {name: explorer.value(name) for name in explorer.controls}
    for turned in ({"run": "asm-s0"}, {"beside": ALL}, {"site": SITE}, {"step": 10}):
        before = {name: panel.image.value for name, panel in explorer.panels.items()}
        explorer.set(**turned)
        for name, panel in explorer.panels.items():
            assert panel.image.value != before[name], (turned, name)
        explorer.set(**start)
    with pytest.raises(ConfigError, match="does not take"):
        explorer.set(site="blocks.9")


@pytest.mark.slow
def test_frames_hold_every_setting_of_the_story(explorer: BimodalityExplorer) -> None:
    frames = explorer.frames(6)
    names = [control["name"] for control in frames["controls"]]
    assert names == ["step", "site"]
    total = np.prod([len(control["options"]) for control in frames["controls"]])
    assert total <= 6
    assert frames["controls"][0]["options"][frames["controls"][0]["start"]] == "40"
    assert frames["controls"][1]["options"][0] == "all sites"
    assert [panel["name"] for panel in frames["panels"]] == ["histogram", "statistics", "ridges"]
    assert all(len(panel["frames"]) == total for panel in frames["panels"])
    assert len(frames["findings"]) == total
    assert explorer.value("step") == 40


@pytest.mark.parametrize("which", ["none", "float", "few columns"])
def test_shows_a_sentence_where_nothing_is_recorded(which: str, folder: Path) -> None:
    runs = {
        "none": [],
        "float": [folder / "teacher"],
        "few columns": [load_run(folder / "asm-s0", columns=["flip_rate"])],
    }[which]
    explorer = BimodalityExplorer(runs)
    assert "No distribution of latent weights" in explorer.say()
    if which == "few columns":
        assert len(outlines(explorer)) == 1, "histograms are there, statistics are not"
        assert not explorer.figure("statistics").axes[0].axison
        return
    for name in explorer.panels:
        assert not explorer.figure(name).axes[0].axison
    assert explorer.frames(2)["findings"]
    assert explorer._repr_mimebundle_()[0]["image/png"]


def test_one_run_stands_alone(folder: Path) -> None:
    explorer = BimodalityExplorer(load_run(folder / "grs-s1"))
    assert (explorer.value("run"), explorer.value("beside")) == ("grs-s1", ALL)
    assert len(outlines(explorer)) == 1


@pytest.mark.slow
def test_runs_of_other_lengths_show_their_nearest_step(folder: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "short", recipe="grs", seed=0, steps=20, blocks=1)
    explorer = BimodalityExplorer([folder / "baseline-s0", tmp_path / "short"])
    assert explorer.value("step") == 40
    (ax,) = explorer.figure("histogram").axes
    assert ax.get_title(loc="left") == "all weight sites, steps 40 and 20"
    assert "grs, seed 0 (at its step 20) has" in explorer.say()
    explorer.set(site=SITE)  # of a block that the short run lacks
    assert len(outlines(explorer)) == 1
    assert "grs" not in explorer.say()


@pytest.mark.slow
def test_statistics_that_disagree_are_warned_of(folder: Path) -> None:
    run = load_run(folder / "grs-s1")
    assert "Careful" not in BimodalityExplorer(run).say()
    run.sites.loc[run.sites["valley_depth"].notna(), "valley_depth"] = 0.0
    explorer = BimodalityExplorer(run)
    assert "Careful, grs, seed 1: the statistics disagree: " in explorer.say()
    assert "valley depth not" in explorer.say()
    assert "disagree" in explorer.finding.value
    assert "the statistics disagree" in explorer.picture("statistics").alt


@pytest.mark.slow
def test_strings_of_a_stranger_stay_text(tmp_path: Path) -> None:
    path = make_run(tmp_path / "x", steps=20)
    info = json.loads((path / "run.json").read_text())
    info["config"]["recipe"]["name"] = "$x_{ <script>alert(1)</script>\n{y}"
    for site in info["sites"]:
        site["site"] = site["site"].replace("blocks", "$bl_{ocks<b>")
    (path / "run.json").write_text(json.dumps(info))
    explorer = BimodalityExplorer([path])
    site = explorer.controls["site"].options[1][1]
    explorer.set(site=site)
    assert "<script>" not in explorer.finding.value
    assert "&lt;script&gt;" in explorer.finding.value
    assert "<b>" not in explorer.finding.value
    assert "\n" not in explorer.say()
    for name in explorer.panels:
        figure = explorer.figure(name)
        for text in figure.findobj(Text):
            assert not (text.get_parse_math() and "$" in text.get_text())
    assert explorer._repr_mimebundle_()[0]["image/png"]
