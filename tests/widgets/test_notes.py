"""Explorers name unverified sites and speak of level changes where weights have several levels."""

from __future__ import annotations

import pytest

from bvit_analysis import widgets
from bvit_analysis.plots import style
from bvit_analysis.records import Run, load_run
from bvit_analysis.widgets.base import Explorer
from tests.support.foreign_run import watched_model
from tests.support.noted_run import noted
from tests.support.synthetic_run import make_run

pytestmark = pytest.mark.slow

LEVELS = "The weights of tern (foreign, seed 0) have 3 levels: level changes are recorded in place"
DOUBT = "unseen (foreign, seed 0: no product with the weight was seen in its forward pass)"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(watched_model(tmp_path_factory.mktemp("mixed") / "mixed"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(watched_model(tmp_path_factory.mktemp("alone") / "alone", binary=False))


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(make_run(tmp_path_factory.mktemp("old") / "old", steps=20))


def under(explorer: Explorer, panel: str) -> str:
    return " ".join(explorer.figure(panel).get_supxlabel().split())


def described(explorer: Explorer, panel: str) -> str:
    return style.alt_text(explorer.figure(panel))


def test_the_atlas_opens_on_what_a_run_of_several_levels_has(alone: Run) -> None:
    explorer = widgets.OscillationExplorer(alone)
    offered = explorer.controls["metric"].options
    assert {"level_change_rate", "level_reversal_rate"} <= set(offered)
    assert "flip_rate" not in offered
    assert explorer.value("metric") == "level_change_rate"
    said = explorer.say()
    assert "level changes per weight and step: " in said
    assert LEVELS in said
    assert "flips per" not in said
    assert "flips:" not in str(explorer.controls["weight"].options)
    assert explorer.figure("atlas").axes[1].get_ylim() == (0.5, -0.5), "one site, one row"
    assert LEVELS in described(explorer, "ranks")
    assert "Sign changes of 8 followed weights" in described(explorer, "ranking")
    explorer.frames(3)


def test_the_atlas_of_a_run_with_both(mixed: Run, old: Run) -> None:
    explorer = widgets.OscillationExplorer([mixed, old])
    explorer.set(run="mixed", beside="none", metric="flip_rate", site="unseen")
    assert DOUBT in explorer.say()
    for panel in ("atlas", "ranking", "ranks", "trajectory"):
        assert under(explorer, panel).count(DOUBT) == 1, panel
        assert DOUBT in described(explorer, panel)
    assert LEVELS in under(explorer, "atlas")
    explorer.set(metric="bimodality_coefficient", site="qkv")
    assert DOUBT in under(explorer, "atlas")
    for panel in ("ranking", "ranks", "trajectory"):
        assert under(explorer, panel) == "", panel
    explorer.set(site="tern")
    assert "level changes per weight" in explorer.say()
    assert DOUBT not in explorer.say()
    explorer.set(run="old", metric="flip_rate")
    assert under(explorer, "atlas") == ""
    assert explorer.say().startswith("At blocks.")
    explorer.set(metric="level_change_rate")
    assert "No level_change_rate of weight sites" in described(explorer, "atlas")
    explorer.set(run="mixed", beside="old", metric="flip_rate", site="unseen")
    assert under(explorer, "atlas").count(DOUBT) == 1
    _, left, right = explorer.figure("atlas").axes
    assert left.get_position().y0 == pytest.approx(right.get_position().y0)


def test_distributions_change_their_note_with_the_site(mixed: Run, old: Run) -> None:
    explorer = widgets.BimodalityExplorer([mixed, old])
    explorer.set(run="mixed", beside="")
    for panel in ("histogram", "statistics", "ridges"):
        assert DOUBT in under(explorer, panel)
    assert DOUBT in explorer.say()
    explorer.set(site="qkv")
    assert under(explorer, "histogram") == under(explorer, "statistics") == ""
    assert DOUBT in under(explorer, "ridges"), "which show every site"
    explorer.set(site="unseen")
    assert DOUBT in under(explorer, "statistics")
    explorer.set(run="old", site="")
    for panel in ("histogram", "statistics", "ridges"):
        assert under(explorer, panel) == ""
    assert "erified" not in explorer.say()


def test_channels_of_a_site_without_a_shape(mixed: Run) -> None:
    explorer = widgets.InformationExplorer(mixed)
    assert explorer.value("site") == "sign"
    assert "16 channels below half a bit" in explorer.say()
    assert len(explorer.figure("channels").axes[0].lines[0].get_xdata()) == 16
    explorer.frames(2)


def test_an_unverified_activation_is_named(tmp_path) -> None:
    site, maps = "blocks.0.attn.q_sign", "blocks.1.attn.probabilities"
    found = {"verified": False, "unverified": "no forward pass was seen"}
    run = noted(make_run(tmp_path / "run", steps=20), {site: found, maps: found})
    explorer = widgets.InformationExplorer(run)
    explorer.set(site=site)
    assert f"{site} (baseline, seed 0: no forward pass" in under(explorer, "channels")
    explorer.set(block=1)
    assert maps in under(explorer, "attention")
    assert maps in explorer.say()
    explorer.set(block=0, site="blocks.0.attn.k_sign")
    assert under(explorer, "attention") == under(explorer, "channels") == ""
    assert "erified" not in explorer.say()


def test_runs_compared(mixed: Run, alone: Run, old: Run) -> None:
    explorer = widgets.RunComparer([mixed, alone, old])
    assert LEVELS in explorer.say()
    assert DOUBT in explorer.say()
    assert LEVELS in under(explorer, "flips")
    for panel in ("flips", "bimodality"):
        assert DOUBT in under(explorer, panel)
        assert DOUBT in described(explorer, panel)
    assert under(explorer, "entropy") == under(explorer, "accuracy") == ""
    assert "unverified" in explorer.table_html()
    assert explorer.to_csv().splitlines()[0].endswith(',"unverified"')
    explorer.set(runs=("old",))
    assert "erified" not in explorer.say()
    assert "levels" not in explorer.say()
    plain = widgets.RunComparer(old)
    assert "unverified" not in plain.table_html() + plain.to_csv()
    lone = widgets.RunComparer(alone)
    assert LEVELS in described(lone, "flips")
    assert LEVELS in described(lone, "scatter")


def test_a_live_run(mixed: Run, alone: Run, old: Run) -> None:
    assert DOUBT in widgets.LiveRun(mixed.path).text.value
    assert "erified" not in widgets.LiveRun(old.path).text.value
    figure = widgets.LiveRun(alone.path).figure()
    assert LEVELS in style.alt_text(figure)
    assert style.noted(figure) == ""
