"""The sandbox outside a kernel: what a control changes in the data that are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bvit_analysis import toys
from bvit_analysis.errors import ConfigError
from bvit_analysis.outputs import FRAMES_MIME
from bvit_analysis.widgets.sandbox import LESSONS, BinarizationSandbox


def drawn(sandbox: BinarizationSandbox, panel: str) -> Any:
    return sandbox.figure(panel).axes[0]


def line(ax: Any, place: int) -> np.ndarray:
    return np.asarray(ax.get_lines()[place].get_ydata(), dtype=float)


def point(ax: Any) -> list[float]:
    (dot,) = [one for one in ax.get_lines() if one.get_marker() == "o"]
    return [float(dot.get_xdata()[0]), float(dot.get_ydata()[0])]


def test_it_opens_with_a_finding() -> None:
    sandbox = BinarizationSandbox()
    assert "The step is flat there" in sandbox.finding.value
    assert all(bytes(panel.image.value).startswith(b"\x89PNG") for panel in sandbox.panels.values())


@pytest.mark.slow
def test_dragging_moves_the_point_along_the_curve_and_what_passes() -> None:
    sandbox = BinarizationSandbox()
    assert sandbox.controls["point"].continuous_update
    for name in toys.ESTIMATORS:
        sandbox.set(estimator=name)
        one = toys.estimator(name)
        for x in (-1.5, 0.0, 0.65):
            sandbox.set(point=x)
            at = np.asarray(x)
            assert point(drawn(sandbox, "main")) == [x, float(one.forward(at))]
            assert point(drawn(sandbox, "detail")) == [x, float(one.slope(at))]


def test_a_dragged_point_changes_the_picture_that_is_shown() -> None:
    sandbox = BinarizationSandbox()
    before = sandbox.panels["detail"].image.value
    sandbox.set(point=1.2)
    assert sandbox.panels["detail"].image.value != before
    assert "x cannot learn" in sandbox.finding.value
    assert "passes 0" not in sandbox.panels["detail"].image.tooltip
    assert "a gradient of 1 becomes 0" in sandbox.panels["detail"].image.tooltip


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS)
def test_controls_of_other_lessons_are_hidden_and_disabled(lesson: str) -> None:
    sandbox = BinarizationSandbox()
    sandbox.set(lesson=lesson)
    shown = {n for n, c in sandbox.controls.items() if c.layout.display != "none"}
    enabled = {n for n, c in sandbox.controls.items() if not c.disabled}
    assert enabled == shown - {"kind"}  # which term it is does not show while its strength is 0
    sandbox.set(strength=2.0)
    enabled = {n for n, c in sandbox.controls.items() if not c.disabled}
    assert enabled == shown
    assert "lesson" in shown
    assert ("point" in shown) == (lesson == "curve")
    assert ("target" in shown) == (lesson == "weight")
    assert ("momentum" in shown) == (lesson in ("weight", "layers"))
    assert ("word_a" in shown) == (lesson == "words")


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        {"strength": 2.0},
        {"target": -0.4},
        {"learning_rate": 0.02},
        {"momentum": 0.5},
        {"clip": 0.2},
        {"noise": 0.6},
        {"start": -0.5},
        {"estimator": "polynomial"},
    ],
)
def test_every_control_of_one_weight_changes_its_path(setting: dict[str, Any]) -> None:
    sandbox = BinarizationSandbox("weight")
    before = line(drawn(sandbox, "main"), 1)
    sandbox.set(**setting)
    after = line(drawn(sandbox, "main"), 1)
    assert after.shape == before.shape == (201,)
    assert (after != before).any()
    names = {"estimator": "estimator_name"}
    expected = toys.train_one_weight(
        **({"learning_rate": 0.1} | {names.get(k, k): v for k, v in setting.items()})
    )
    np.testing.assert_array_equal(after, expected.latent)
    assert expected.verdict in sandbox.finding.value


@pytest.mark.slow
def test_the_gradient_term_settles_the_weight_and_its_kind_matters() -> None:
    sandbox = BinarizationSandbox("weight")
    assert "oscillating" in sandbox.say()
    flips = len(drawn(sandbox, "main").get_lines()[2].get_xdata())
    assert flips == toys.train_one_weight(learning_rate=0.1).flips.sum() > 100
    sandbox.set(strength=4.0)
    assert "settled" in sandbox.say()
    assert "nearer value" in sandbox.say()
    assert len(drawn(sandbox, "main").get_lines()[2].get_xdata()) == 0
    assert "held on +1 only" in drawn(sandbox, "detail").get_title(loc="left")
    sandbox.set(kind="double_well")
    assert "oscillating" in sandbox.say()
    sandbox.set(kind="resilient", strength=6.0, start=-0.5)
    assert "farther value" in sandbox.say()
    sandbox.set(target=1.2)
    assert "one sign is best" in sandbox.say()


def test_two_layers_draw_loss_and_flips() -> None:
    sandbox = BinarizationSandbox("layers")
    before = line(drawn(sandbox, "main"), 0)
    np.testing.assert_array_equal(before, toys.train_two_layers(estimator_name="clipped").loss)
    sandbox.set(strength=6.0, estimator="polynomial")
    run = toys.train_two_layers(strength=6.0)
    np.testing.assert_array_equal(line(drawn(sandbox, "main"), 0), run.loss)
    stairs = sandbox.figure("main").axes[1].patches[0]
    np.testing.assert_array_equal(stairs.get_data().values, run.flips)
    weights = drawn(sandbox, "detail").get_lines()
    np.testing.assert_array_equal(weights[3].get_ydata(), run.latent[:, 3])
    assert f"{run.flips.sum()} flips" in sandbox.say()


def test_words_are_multiplied_by_hand() -> None:
    sandbox = BinarizationSandbox("words")
    sandbox.set(word_a=0b11110000, word_b=0b11001100)
    ax = drawn(sandbox, "main")
    assert [text.get_text()[0] for text in ax.texts[16:24]] == list("11000011")
    assert "2 x 4 - 8 = 0" in ax.get_xlabel()
    bars = drawn(sandbox, "detail").patches
    assert sum(bar.get_height() for bar in bars) == 0
    assert "2 x 4 - 8 = 0" in sandbox.say()


def test_estimators_of_levels_0_and_1_belong_to_the_curve() -> None:
    sandbox = BinarizationSandbox()
    sandbox.set(estimator="elastic")
    sandbox.set(lesson="weight")
    assert sandbox.value("estimator") == "clipped"
    with pytest.raises(ConfigError, match="does not take 'elastic'"):
        sandbox.set(estimator="elastic")
    sandbox.set(lesson="curve", estimator="elastic")
    with pytest.raises(ConfigError, match="did you mean 'weight'"):
        BinarizationSandbox("weigth")


@pytest.mark.slow
def test_frames_for_a_page_without_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = BinarizationSandbox("weight")
    frames = sandbox.frames()
    sizes = [len(control["options"]) for control in frames["controls"]]
    assert [control["name"] for control in frames["controls"]] == [
        "lesson",
        "estimator",
        "strength",
    ]
    assert np.prod(sizes) == len(frames["findings"]) <= 24
    assert frames["controls"][0]["start"] == 1
    assert {len(panel["frames"]) for panel in frames["panels"]} == {24}
    assert all(picture["alt"] for picture in frames["pictures"])
    assert sandbox.value("lesson") == "weight"
    data, metadata = sandbox._repr_mimebundle_()
    assert FRAMES_MIME not in data
    assert "oscillating" in data["text/plain"]
    assert metadata["image/png"]["alt"]
    monkeypatch.setenv("BVIT_FRAMES", "4")
    assert len(sandbox._repr_mimebundle_()[0][FRAMES_MIME]["findings"]) <= 4
