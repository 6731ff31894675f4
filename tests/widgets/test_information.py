"""Information explorer outside a kernel: channels and attention follow the controls, older runs say so."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text

from bvit_analysis.records import Run, load_run
from bvit_analysis.widgets.information import NONE, InformationExplorer, dullest_site
from tests.support.synthetic_run import make_run

SITE = "blocks.1.mlp.fc1.sign"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for recipe, seed in (("baseline", 0), ("baseline", 1), ("asm", 1)):
        make_run(root / f"{recipe}-s{seed}", recipe=recipe, seed=seed, steps=40)
    make_run(root / "cut", recipe="grs", steps=20, blocks=1, state="interrupted")
    make_run(root / "teacher", kind="float", steps=40)
    return root


@pytest.fixture
def explorer(folder: Path) -> InformationExplorer:
    return InformationExplorer(folder)


def entropies(run: Run, site: str, step: int) -> list[float]:
    """Return each channel's corrected entropy in bits, written out once more."""
    row = run.channels.query("site == @site and step == @step").iloc[0]
    n, bits = int(row["n"]), []
    for positive in row["counts"]:
        shares = [int(positive) / n, 1 - int(positive) / n]
        plugin = -sum(share * math.log2(share) for share in shares if share > 0)
        seen = sum(share > 0 for share in shares)
        bits.append(plugin + (seen - 1) / (2 * n * math.log(2)))
    return sorted(bits)


def curves(explorer: InformationExplorer) -> dict[str, np.ndarray]:
    (ax,) = explorer.figure("channels").axes
    lines = [line for line in ax.lines if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): np.asarray(line.get_ydata(), float) for line in lines}


@pytest.mark.slow
def test_opens_on_baseline_and_asm_where_most_channels_are_constant(
    explorer: InformationExplorer,
) -> None:
    assert (explorer.value("run"), explorer.value("beside")) == ("baseline-s1", "asm-s1")
    assert explorer.value("step") == 40
    run = explorer.runs["baseline-s1"]
    sites = run.site_table.query("kind == 'activation'")["site"].tolist()
    shares = {site: np.mean(np.array(entropies(run, site, 40)) < 0.5) for site in sites}
    assert shares[explorer.value("site")] == max(shares.values()) > 0
    assert explorer.value("site") == dullest_site(run)
    assert [value for _, value in explorer.controls["site"].options] == sites
    assert explorer.value("block") == 1, "the last block"


@pytest.mark.slow
def test_site_step_and_run_choose_the_channels(explorer: InformationExplorer) -> None:
    for site, step in ((SITE, 40), (SITE, 10), ("blocks.0.mlp.fc2.sign", 0)):
        explorer.set(site=site, step=step)
        drawn = curves(explorer)
        assert list(drawn) == ["baseline, seed 1", "asm, seed 1"]
        for values, name in zip(drawn.values(), ("baseline-s1", "asm-s1"), strict=True):
            np.testing.assert_allclose(values, entropies(explorer.runs[name], site, step))
    explorer.set(run="baseline-s0", beside=NONE)
    assert list(curves(explorer)) == ["baseline, seed 0"]


@pytest.mark.slow
def test_near_constant_channels_are_marked_and_counted(explorer: InformationExplorer) -> None:
    explorer.set(site=SITE, beside=NONE)
    bits = np.array(entropies(explorer.runs["baseline-s1"], SITE, 40))
    (ax,) = explorer.figure("channels").axes
    marked = [y for line in ax.lines if line.get_marker() in "^v" for y in line.get_ydata()]
    np.testing.assert_allclose(sorted(marked), bits[bits < 0.5])
    assert len(marked) > 0
    assert f"{len(marked)} of 32 channels below half a bit" in explorer.say()
    assert f"{bits.mean():.2f} bits on average" in explorer.say()


@pytest.mark.slow
def test_image_block_and_token_choose_the_maps(explorer: InformationExplorer) -> None:
    examples = explorer.runs["baseline-s1"].attention
    assert examples is not None
    for image, block, token in ((0, 1, 0), (2, 1, 0), (2, 0, 0), (2, 0, 6)):
        explorer.set(image=image, block=block, token=token)
        figure = explorer.figure("attention")
        picture, *maps = figure.axes
        np.testing.assert_array_equal(picture.images[0].get_array(), examples.images[image, 0])
        kinds = (examples.teacher, examples.scores, examples.bits)
        for ax, values in zip(maps, kinds, strict=True):
            drawn = np.asarray(ax.collections[0].get_array().compressed(), dtype=float)
            expected = values[image, block, :, token].astype(float)
            assert sorted(drawn) == pytest.approx(sorted(expected.ravel()))
        text = " ".join(one.get_text() for one in figure.texts)
        assert examples.sites[block] in text
        right = "right" if examples.predictions[image] == examples.labels[image] else "wrong"
        assert f"true class {examples.labels[image]}" in text
        assert f", {right}; float teacher" in text


@pytest.mark.slow
def test_each_control_changes_a_picture(explorer: InformationExplorer) -> None:
    start = {name: explorer.value(name) for name in explorer.controls}
    expected = {
        "run": ("baseline-s0", {"channels", "attention"}),
        "beside": (NONE, {"channels"}),
        "site": ("blocks.0.attn.v_sign", {"channels"}),
        "step": (10, {"channels"}),
        "image": (1, {"attention"}),
        "block": (0, {"attention"}),
        "token": (3, {"attention"}),
    }
    assert set(expected) == set(explorer.controls)
    for name, (value, follow) in expected.items():
        before = {panel: one.image.value for panel, one in explorer.panels.items()}
        explorer.set(**{name: value})
        changed = {p for p, one in explorer.panels.items() if one.image.value != before[p]}
        assert changed == follow, name
        explorer.set(**start)


@pytest.mark.slow
def test_the_query_is_put_into_words(explorer: InformationExplorer) -> None:
    assert "the class token attends to" in explorer.say()
    explorer.set(token=6)
    assert "the patch in row 2, column 2 attends to" in explorer.say()
    examples = explorer.runs["baseline-s1"].attention
    assert examples is not None
    bits = examples.bits[0, 1, :, 6]
    teacher = examples.teacher[0, 1, :, 6]
    held = (
        f"attends to {bits.mean():.0%} of the tokens, which hold {(bits * teacher).sum() / 2:.0%}"
    )
    assert held in explorer.say()


@pytest.mark.slow
def test_a_run_without_attention_keeps_its_channels(explorer: InformationExplorer) -> None:
    explorer.set(image=2, token=5)
    explorer.set(run="cut", beside=NONE, site="blocks.0.mlp.fc1.sign")
    assert not explorer.figure("attention").axes[0].axison
    assert explorer.controls["image"].options == (("no image", 0),)
    assert list(curves(explorer)) == ["grs, seed 0"]
    assert "No attention of single images" in explorer.say()
    explorer.set(site=SITE)  # of a block it lacks
    assert not explorer.figure("channels").axes[0].axison
    explorer.set(run="baseline-s0")
    assert explorer.value("image") == 0
    assert len(explorer.controls["image"].options) == 3
    assert explorer.controls["token"].max == 16
    assert explorer.figure("attention").axes[0].images


@pytest.mark.slow
def test_a_choice_outlives_a_change_of_run(explorer: InformationExplorer) -> None:
    explorer.set(image=2, block=0, token=5)
    explorer.set(run="asm-s1")
    assert [explorer.value(name) for name in ("image", "block", "token")] == [2, 0, 5]


@pytest.mark.parametrize("which", ["none", "float"])
def test_shows_a_sentence_where_nothing_is_recorded(which: str, folder: Path) -> None:
    explorer = InformationExplorer([] if which == "none" else [folder / "teacher"])
    for name in explorer.panels:
        assert not explorer.figure(name).axes[0].axison
    assert "not recorded" in explorer.say()
    assert explorer.frames(2)["findings"]
    assert explorer._repr_mimebundle_()[0]["image/png"]


def test_older_runs_without_the_new_records(tmp_path: Path) -> None:
    import shutil

    path = make_run(tmp_path / "old", steps=20)
    shutil.rmtree(path / "channels")
    shutil.rmtree(path / "examples")
    explorer = InformationExplorer(path)
    assert explorer.value("step") == 0
    assert not explorer.figure("channels").axes[0].axison
    assert not explorer.figure("attention").axes[0].axison


@pytest.mark.slow
def test_frames_hold_every_setting_of_the_story(explorer: InformationExplorer) -> None:
    frames = explorer.frames(24)
    assert [control["name"] for control in frames["controls"]] == ["site", "image", "block"]
    total = math.prod(len(control["options"]) for control in frames["controls"])
    assert 8 <= total <= 24
    assert all(len(panel["frames"]) == total for panel in frames["panels"])
    shown = {panel["name"]: len(set(panel["frames"])) for panel in frames["panels"]}
    sites, images, blocks = (len(control["options"]) for control in frames["controls"])
    assert shown == {"channels": sites, "attention": images * blocks}


@pytest.mark.slow
def test_strings_of_a_stranger_stay_text(tmp_path: Path) -> None:
    path = make_run(tmp_path / "x", steps=20)
    info = json.loads((path / "run.json").read_text())
    info["config"]["recipe"]["name"] = "$x_{ <script>alert(1)</script>\n{y}"
    for site in info["sites"]:
        site["site"] = site["site"].replace("blocks", "$bl_{ocks<b>")
    (path / "run.json").write_text(json.dumps(info))
    explorer = InformationExplorer(load_run(path))
    assert "&lt;script&gt;" in explorer.finding.value
    assert "<script>" not in explorer.finding.value
    assert "<b>" not in explorer.finding.value
    assert "\n" not in explorer.say()
    for name in explorer.panels:
        for text in explorer.figure(name).findobj(Text):
            assert not (text.get_parse_math() and "$" in text.get_text())
    assert explorer._repr_mimebundle_()[0]["image/png"]
