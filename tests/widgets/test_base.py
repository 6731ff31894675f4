"""What all explorers share: controls, pictures that follow them, frames, and the picture without widgets."""

from __future__ import annotations

import base64
import io
from typing import Any

import ipywidgets as W
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from bvit_analysis.errors import ConfigError
from bvit_analysis.outputs import FRAMES_MIME, FRAMES_VARIABLE
from bvit_analysis.plots import style
from bvit_analysis.widgets.base import Explorer, run_names, safe, thinned
from bvit_analysis.widgets.screen import Ground, arranged, lighter, quick_png


class Small(Explorer):
    """Two pictures: a line of a slope to a height, and a bar of the height alone."""

    def __init__(self, reads: tuple[str, ...] = ("slope", "height")) -> None:
        super().__init__("Small <explorer>")
        self.drawn: list[str] = []
        self.control("kind", W.Dropdown(options=["low", "high"], description="kind"))
        self.control("height", W.Select(options=[("one", 1), ("two", 2)]))
        self.control("slope", W.IntSlider(value=1, min=0, max=5, description="slope"))
        self.line = self.panel("line", self._line, reads)
        self.bar = self.panel("bar", self._bar, ["height"])
        self.children = [*self.controls.values(), self.line, self.bar]
        self.begin()

    def adapt(self, name: str) -> None:
        if name == "kind":
            height, kept = self.controls["height"], self.value("height")
            tall = self.value("kind") == "high"
            height.options = [("ten", 10), ("two", 2)] if tall else [("one", 1), ("two", 2)]
            height.value = kept if kept == 2 else height.options[0][1]

    def _line(self) -> Figure:
        self.drawn.append("line")
        figure = style.figure(1.5, 1.0)
        ax = figure.subplots()
        ax.plot([0, self.value("height")], [0, self.value("slope")])
        style.describe(ax, f"A slope of {self.value('slope')}.")
        return figure

    def _bar(self) -> Figure:
        self.drawn.append("bar")
        figure = style.figure(1.0, 1.0)
        ax = figure.subplots()
        ax.bar([0], [self.value("height")])
        style.describe(ax, f"A bar of {self.value('height')}.")
        return figure

    def say(self) -> str:
        return f"slope {self.value('slope')} & height {self.value('height')}"

    def story(self) -> dict[str, list[Any]]:
        return {"kind": ["low", "high"], "slope": [0, 1, 2, 3, 4]}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_everything_is_drawn_once_at_first() -> None:
    small = Small()
    assert small.drawn == ["line", "bar"]
    assert small.line.value == small.picture("line").png
    assert small.line.tooltip == "A slope of 1."
    assert small.finding.value == "<p>slope 1 &amp; height 1</p>"
    assert "bvit-panel-line" in small.line._dom_classes
    assert "bvit-slope" in small.controls["slope"]._dom_classes


def test_only_pictures_that_read_a_control_are_drawn() -> None:
    small = Small()
    before = small.line.value, small.bar.value
    small.drawn.clear()
    small.controls["slope"].value = 4
    assert small.drawn == ["line"]
    assert small.line.value != before[0]
    assert small.bar.value == before[1]
    assert small.figure("line").axes[0].lines[0].get_ydata().tolist() == [0, 4]


def test_a_setting_seen_before_is_not_drawn_again() -> None:
    small = Small()
    first = small.line.value
    small.set(slope=2)
    small.drawn.clear()
    small.set(slope=1)
    assert small.drawn == []
    assert small.line.value == first


def test_several_controls_are_drawn_at_the_end_once() -> None:
    small = Small()
    small.drawn.clear()
    assert small.set(slope=3, height=2) is small
    assert small.drawn == ["line", "bar"]
    small.drawn.clear()
    with small.quiet(), small.quiet():
        small.controls["slope"].value = 5
        small.controls["height"].value = 1
        assert small.drawn == []
    assert small.drawn == ["line"], "the bar of height 1 is known"
    assert small.finding.value == "<p>slope 5 &amp; height 1</p>"


def test_other_controls_adapt_before_anything_is_drawn() -> None:
    small = Small()
    small.drawn.clear()
    small.controls["kind"].value = "high"
    assert small.value("height") == 10
    assert small.drawn == ["line", "bar"]
    small.set(kind="low", height=2)
    small.set(kind="high", slope=2)
    assert small.value("height") == 2, "what still exists is kept"
    small.set(kind="low").set(kind="high", height=10)
    assert small.value("height") == 10, "in one call the new options are there for the next control"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"slop": 1}, "did you mean 'slope'"),
        ({"slope": "steep"}, "control 'slope' does not take 'steep'"),
        ({"height": 3}, "control 'height' does not take 3"),
    ],
)
def test_what_cannot_be_set_is_named(values: dict[str, Any], text: str) -> None:
    small = Small()
    with pytest.raises(ConfigError, match=text):
        small.set(**values)
    assert small.say() == "slope 1 & height 1"


def test_unknown_names_are_mistakes() -> None:
    with pytest.raises(ConfigError, match="unknown control of panel 'line' 'slopes'"):
        Small(reads=("slopes",))
    with pytest.raises(ConfigError, match="unknown panel 'lime'; .* did you mean 'line'"):
        Small().figure("lime")


def test_frames_hold_every_combination_and_leave_the_explorer_as_it_was() -> None:
    small = Small().set(slope=2, height=2)
    shown = small.line.value
    frames = small.frames()
    assert (small.value("slope"), small.value("height"), small.value("kind")) == (2, 2, "low")
    assert small.line.value == shown
    assert frames["version"] == 1
    assert frames["title"] == "Small <explorer>"
    assert [control["name"] for control in frames["controls"]] == ["kind", "slope"]
    assert frames["controls"][1]["options"] == ["0", "1", "2", "3", "4"]
    assert [control["start"] for control in frames["controls"]] == [0, 2]
    assert frames["findings"][2] == "slope 2 & height 2"
    assert len(frames["findings"]) == 10
    by_name = {panel["name"]: panel["frames"] for panel in frames["panels"]}
    assert list(by_name) == ["line", "bar"]
    assert by_name["line"] == [0, 2, 3, 4, 5] * 2, "the last control is the fastest"
    assert set(by_name["bar"]) == {1}, "equal pictures are stored once"
    assert [picture["alt"] for picture in frames["pictures"]][:2] == [
        "A slope of 0.",
        "A bar of 2.",
    ]
    stored = base64.b64decode(frames["pictures"][3]["png"])
    drawn = small.picture("line").png
    assert len(stored) <= len(drawn)
    assert np.abs(pixels(stored).astype(int) - pixels(drawn)).max() < 64


@pytest.mark.slow
def test_a_frame_does_not_depend_on_the_one_before() -> None:
    small = Small().set(kind="high", height=2)
    findings = small.frames()["findings"]
    assert all(finding.endswith("height 2") for finding in findings)
    assert small.set(kind="high", height=10).frames()["findings"][0] == "slope 0 & height 1"
    assert small.value("height") == 10


def test_frames_are_limited() -> None:
    frames = Small().set(slope=3).frames(limit=4)
    assert len(frames["findings"]) <= 4
    slopes = frames["controls"][1]
    assert slopes["options"][slopes["start"]] == "3"
    assert Small().frames(limit=1)["findings"] == ["slope 1 & height 1"]


@given(
    lengths=st.lists(st.integers(1, 30), min_size=0, max_size=4),
    at=st.lists(st.integers(0, 29), min_size=4, max_size=4),
    limit=st.integers(1, 60),
)
def test_thinning_keeps_the_present_and_the_ends(
    lengths: list[int], at: list[int], limit: int
) -> None:
    story = {f"c{i}": list(range(length)) for i, length in enumerate(lengths)}
    present = {name: values[at[i] % len(values)] for i, (name, values) in enumerate(story.items())}
    kept = thinned(story, present, limit)
    total = 1
    for name, values in kept.items():
        total *= len(values)
        assert present[name] in values
        assert values == sorted(set(values)), "in order, each once"
        if len(values) >= 3:
            assert {story[name][0], story[name][-1]} <= set(values)
    assert total <= limit
    if all(len(values) == len(story[name]) for name, values in kept.items()):
        assert kept == story


def test_thinning_adds_a_present_value_that_the_story_lacks() -> None:
    assert thinned({"a": [1, 2, 2]}, {"a": 7}, 24) == {"a": [7, 1, 2]}


def test_a_picture_stands_where_widgets_are_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FRAMES_VARIABLE, raising=False)
    small = Small()
    data, metadata = small._repr_mimebundle_()
    assert data["text/plain"] == "Small <explorer>. slope 1 & height 1"
    assert metadata["image/png"]["alt"] == "slope 1 & height 1 A slope of 1. A bar of 1."
    assert pixels(base64.b64decode(data["image/png"])).shape == (200, 150, 3)
    assert "application/vnd.jupyter.widget-view+json" in data
    assert FRAMES_MIME not in data
    monkeypatch.setenv(FRAMES_VARIABLE, "3")
    data, _ = small._repr_mimebundle_()
    assert 1 <= len(data[FRAMES_MIME]["findings"]) <= 3
    monkeypatch.setenv(FRAMES_VARIABLE, "0")
    assert FRAMES_MIME not in small._repr_mimebundle_()[0]


def test_values_are_written_as_their_control_shows_them() -> None:
    small = Small()
    small.control("range", W.IntRangeSlider(value=(1, 3), min=0, max=9))
    small.control("share", W.FloatSlider(value=0.25))
    small.control("many", W.SelectMultiple(options=["a", "b"]))
    assert small.option_text("height", 2) == "two"
    assert small.option_text("range", (1, 3)) == "1 to 3"
    assert small.option_text("share", 1 / 3) == "0.3333"
    assert small.option_text("many", ("a", "b")) == "a, b"
    assert small.option_text("many", ()) == "none"


def colour_png(colour: str, width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_pictures_are_laid_out_on_white() -> None:
    red, blue = colour_png("red", 4, 2), colour_png("blue", 2, 3)
    assert arranged([[red]]) is red
    tall = pixels(arranged([[red], [blue]]))
    assert tall.shape == (5, 4, 3)
    assert tall[0, 0].tolist() == [255, 0, 0]
    assert tall[2, 0].tolist() == [0, 0, 255]
    assert tall[4, 3].tolist() == [255, 255, 255]
    wide = pixels(arranged([[red, blue], [red]]))
    assert wide.shape == (5, 6, 3)
    assert wide[2, 5].tolist() == [0, 0, 255]
    assert wide[2, 0].tolist() == [255, 255, 255]
    assert wide[4, 0].tolist() == [255, 0, 0]


def test_a_picture_of_few_colours_loses_nothing() -> None:
    red = colour_png("red", 90, 90)
    np.testing.assert_array_equal(pixels(lighter(red)), pixels(red))


def test_marks_move_over_a_ground_as_if_all_were_drawn_anew() -> None:
    def make(y: float, *, ground: bool) -> Figure:
        figure = style.figure(2.0, 1.5)
        ax = figure.subplots()
        ax.set_ylim(0, 1)
        (line,) = ax.plot([0, 1], [0.2, 0.2] if ground else [y, y], color="red", zorder=3)
        if ground:
            Ground(figure, [line])
            quick_png(figure)
            line.set_ydata([y, y])
        return figure

    moved, fresh = make(0.8, ground=True), make(0.8, ground=False)
    shown = pixels(quick_png(moved))
    np.testing.assert_array_equal(shown, pixels(quick_png(fresh)))
    assert (pixels(style.to_png(moved)) == [255, 0, 0]).all(axis=2).any(), "marks are saved too"
    np.testing.assert_array_equal(pixels(quick_png(moved)), shown)


class Named:
    def __init__(self, run_id: str) -> None:
        self.run_id = run_id


def test_runs_of_one_name_are_told_apart() -> None:
    runs = [Named("a"), Named("a"), Named("b"), Named("a")]
    names = run_names(runs)  # type: ignore[arg-type]
    assert list(names) == ["a", "a (2)", "b", "a (3)"]
    assert list(names.values()) == runs


def test_text_of_a_stranger_is_escaped_for_html() -> None:
    assert safe("<script>\n{x}") == "&lt;script&gt; {x}"
    assert len(safe("a" * 200)) == 80
