"""Explorers in a page: frames of unknown origin are checked, drawn as controls, and never carry markup."""

from __future__ import annotations

import base64
import copy
import html
import json
import re
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest

from bvit_analysis.report import render_notebook
from bvit_analysis.report.figure_files import copy_figures, remove_stale
from bvit_analysis.report.frames import Control, explorer_html, read_frames
from bvit_analysis.report.pdf import for_print
from bvit_analysis.report.pictures import png_size
from tests.support.executed import explorer_output, frames_json, grey, shown

HOSTILE = "</p><script>alert('{x}')</script>\n\"'&"
new = nbformat.v4


def test_frames_of_a_real_explorer_are_read() -> None:
    import ipywidgets as W

    from bvit_analysis.plots import style
    from bvit_analysis.widgets.base import Explorer

    class Tiny(Explorer):
        def __init__(self) -> None:
            super().__init__("Tiny")
            self.control("power", W.IntSlider(2, 1, 4, description="Power"))
            self.control("sign", W.Dropdown(options=[("plus", 1), ("minus", -1)]))
            self.children = [self.panel("curve", self.draw, ["power", "sign"])]
            self.begin()

        def draw(self) -> Any:
            ax = style.axes(None, width=2, height=1.5)
            ax.plot([self.value("sign") * x ** self.value("power") for x in range(4)])
            return style.describe(ax, f"Power {self.value('power')}.").figure

        def say(self) -> str:
            return f"The power is {self.value('power')}, times {self.value('sign')}."

        def story(self) -> dict[str, list[Any]]:
            return {"power": [1, 2, 3, 4], "sign": [1, -1]}

    explorer = Tiny()
    data = json.loads(json.dumps(explorer.frames(24)))
    frames = read_frames(data)
    assert frames is not None
    assert [control.options for control in frames.controls] == [list("1234"), ["plus", "minus"]]
    assert [control.ordered for control in frames.controls] == [True, False]
    assert frames.findings[frames.start] == explorer.say()
    shown = frames.pictures[frames.panels["curve"][frames.start]]
    assert png_size(shown.data) == png_size(explorer.picture("curve").png) == (200, 150)
    assert shown.alt == "Power 2."


def test_an_explorer_shows_its_start_and_every_picture_once_a_panel() -> None:
    frames = read_frames(frames_json())
    assert frames is not None
    assert frames.start == 6
    drawn = explorer_html(frames, "figure-3", '<p class="files"></p>')
    assert drawn.count("<img") == 12
    shown = [tag for tag in re.findall(r"<img[^>]*>", drawn) if not tag.endswith(" hidden>")]
    assert [re.search(r'alt="([^"]*)"', tag).group(1) for tag in shown] == [  # type: ignore[union-attr]
        "picture 6",
        "picture 10",
    ]
    assert all('width="50" height="30"' in tag for tag in shown)
    assert re.findall(r'data-frames="([^"]*)"', drawn) == ["0 1 2 3 4 5 6 7", "0 1 2 3 0 1 2 3"]
    finding = re.search(r'data-findings="([^"]*)">([^<]*)</p>', drawn)
    assert finding is not None
    assert json.loads(html.unescape(finding.group(1)))[6] == finding.group(2)
    assert finding.group(2) == "grs flips at step 100."
    assert 'aria-live="polite"' in drawn
    # Each control has a label that names it.
    for label, element in (("Run", "select"), ("Step", "input")):
        anchor = re.search(rf'<label for="([^"]*)">{label}</label><{element}[^>]*id="\1"', drawn)
        assert anchor is not None
    assert "<option selected>grs</option>" in drawn
    assert re.search(r'type="range"[^>]*max="3"[^>]*value="2" aria-valuetext="100"', drawn)
    assert "Shown: Run grs, Step 100." in drawn
    assert '<div class="controls" role="group" aria-label="Flips" hidden>' in drawn


def test_a_control_with_one_option_is_text() -> None:
    data = frames_json()
    data["controls"][0] |= {"options": ["grs"], "start": 0}
    data["findings"] = data["findings"][:4]
    for panel in data["panels"]:
        panel["frames"] = panel["frames"][:4]
    frames = read_frames(data)
    assert frames is not None
    drawn = explorer_html(frames, "f")
    assert drawn.count("<select") == 0
    assert "<output>grs</output>" in drawn


@pytest.mark.parametrize(
    ("options", "ordered"),
    [
        (["1", "2", "3", "4"], True),
        (["1", "2", "3"], False),  # quick to choose from a list
        (["-1", "-0.5", ".5", "1e3"], True),
        (["1,000", "500", "20", "1"], True),
        (["1", "3", "2", "4"], False),
        (["1", "1", "2", "3"], False),
        (["0 to 50", "0 to 100", "50 to 100", "100 to 200"], True),
        (["10 %", "20 %", "30 %", "40 %"], True),
        (["10 %", "20 steps", "30 %", "40 %"], False),
        (["blocks.0", "blocks.1", "blocks.2", "blocks.3"], False),
        (["1", "2", "3", "all"], False),
        (["nan", "1", "2", "3"], False),
    ],
)
def test_a_slider_is_for_numbers_in_order(options: list[str], ordered: bool) -> None:
    assert Control(label="", options=options, start=0).ordered is ordered


def broken(path: list[Any], value: Any) -> Any:
    data = copy.deepcopy(frames_json())
    if not path:
        return value
    place: Any = data
    for step in path[:-1]:
        place = place[step]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ([], None),
        ([], []),
        ([], "frames"),
        (["version"], 2),
        (["version"], True),
        (["version"], KeyError),
        (["title"], None),
        (["controls"], {}),
        (["controls"], [None]),
        (["controls"], [{}] * 13),
        (["controls", 0, "options"], []),
        (["controls", 0, "options"], ["a"]),
        (["controls", 0, "options", 0], 3),
        (["controls", 0, "options"], ["x"] * 1025),
        (["controls", 0, "start"], 2),
        (["controls", 0, "start"], -1),
        (["controls", 0, "start"], True),
        (["controls", 0, "start"], 0.0),
        (["controls", 0, "label"], None),
        (["panels"], []),
        (["panels", 0, "name"], "bars"),
        (["panels", 0, "frames"], [0]),
        (["panels", 0, "frames", 3], 12),
        (["panels", 0, "frames", 3], -1),
        (["panels", 0, "frames", 3], "0"),
        (["panels", 0, "frames", 3], True),
        (["findings"], ["one"]),
        (["findings", 2], None),
        (["pictures"], KeyError),
        (["pictures", 0], "png"),
        (["pictures", 0, "alt"], None),
        (["pictures", 0, "png"], None),
        (["pictures", 0, "png"], "!!!"),
        (["pictures", 0, "png"], "\u00e9"),
        (["pictures", 0, "png"], base64.b64encode(b"<svg onload=alert(1)>").decode()),
        (["pictures", 0, "png"], grey(1)[:60]),
        (["pictures", 0, "png"], base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()),
        (["pictures", 0, "png"], grey(1, 20_001, 1)),
    ],
)
def test_malformed_frames_are_refused_and_the_still_picture_is_shown(
    path: list[Any], value: Any
) -> None:
    data = broken(path, value)
    assert read_frames(data) is None
    rendered = render_notebook(new.new_notebook(cells=[explorer_output(data)]), name="x", pages={})
    assert '<figure id="figure-1"><div class="picture"><img' in rendered.body
    assert "explorer" not in re.sub(r"<details.*?</details>", "", rendered.body, flags=re.DOTALL)
    assert (len(rendered.figures), rendered.explorers) == (1, 0)


def test_deep_or_huge_frames_are_refused() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    assert read_frames(broken(["controls"], deep)) is None
    data = frames_json()
    data["controls"] = [
        {"name": "n", "label": "n", "options": ["x"] * 1000, "start": 0} for _ in range(12)
    ]
    assert read_frames(data) is None


def test_text_in_frames_is_never_markup() -> None:
    data = frames_json(title=HOSTILE, text=HOSTILE)
    rendered = render_notebook(new.new_notebook(cells=[explorer_output(data)]), name="x", pages={})
    assert rendered.explorers == 1
    assert "<script" not in rendered.body
    assert "&lt;script&gt;" in rendered.body
    # Every tag is one of ours: what was given did not end an attribute or an element early.
    names = set(re.findall(r"<([a-z]+)", rendered.body))
    ours = {"section", "details", "summary", "small", "pre", "span", "figure", "figcaption", "div"}
    assert names <= ours | {"label", "select", "option", "input", "output", "noscript", "p", "img"}


def test_links_below_a_figure_lead_to_the_files_that_are_there() -> None:
    files = {
        "figure-01-map": {"png": "figures/x/figure-01-map.png", "csv": "figures/x/a.csv"},
        "figure-01-bars": {"svg": "figures/x/figure-01-bars.svg"},
    }
    stems: Any = ["figure-01-map", "figure-01-bars", "figure-09", "../x", 3, None, {}]
    for cell in (
        explorer_output(frames_json(), **{"image/png": {"alt": "a", "bvit_figure": stems}}),
        new.new_code_cell(
            "x",
            outputs=[
                new.new_output(
                    "display_data",
                    data={"image/png": grey(3)},
                    metadata={"image/png": {"bvit_figure": stems}},
                )
            ],
        ),
    ):
        body = render_notebook(new.new_notebook(cells=[cell]), name="x", pages={}, files=files).body
        assert re.findall(r'<a href="([^"]*)"', body) == [
            "figures/x/figure-01-map.png",
            "figures/x/a.csv",
            "figures/x/figure-01-bars.svg",
        ]
        assert "<span>Figure 1, map: " in body
        assert 'aria-label="Figure 1, bars: SVG"' in body


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">%s</svg>'


def test_only_files_that_are_what_they_say_are_copied(tmp_path: Path) -> None:
    folder = tmp_path / "job" / "figures"
    folder.mkdir(parents=True)
    png = base64.b64decode(grey(1))
    (folder / "figure-01.png").write_bytes(png)
    (folder / "figure-01.svg").write_bytes(SVG % b"<script/>")
    (folder / "figure-01.csv").write_text("x,y\n1,2\n")
    (folder / "figure-02-map.svg").write_bytes(SVG % b"")
    (folder / "figure-03.png").write_bytes(b"<html>")
    (folder / "figure-04.csv").write_bytes(b"\xff\x00")
    (folder / "other.png").write_bytes(png)
    (folder / "figure-05.html").write_text("x")
    (folder / "figure-06.csv").symlink_to("/etc/hostname")
    (folder / "figure-07.png").mkdir()
    found, faults = copy_figures(tmp_path / "job", tmp_path / "out", "03_x")
    assert found == {
        "figure-01": {
            "csv": "figures/03_x/figure-01.csv",
            "png": "figures/03_x/figure-01.png",
        },
        "figure-02-map": {"svg": "figures/03_x/figure-02-map.svg"},
    }
    named = ["01.svg", "03.png", "04.csv", "06.csv", "07.png"]
    assert [name for name in named if any(f"figure-{name}: " in text for text in faults)] == named
    assert len(faults) == len(named)
    copied = sorted(path.name for path in (tmp_path / "out" / "figures" / "03_x").iterdir())
    assert copied == ["figure-01.csv", "figure-01.png", "figure-02-map.svg"]
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "figures").symlink_to(folder)
    found, faults = copy_figures(tmp_path / "linked", tmp_path / "out", "y")
    assert (found, len(faults)) == ({}, 1)
    assert copy_figures(tmp_path / "missing", tmp_path / "out", "y") == ({}, [])


@pytest.mark.parametrize("piece", ["x", "\r", "\x1b[0", "a\r", "\x1b[0;", "\r\n", " "])
def test_a_long_line_of_output_takes_time_in_proportion(piece: str) -> None:
    output = new.new_output("stream", name="stdout", text=piece * (2_000_000 // len(piece)))
    started = time.process_time()
    render_notebook(
        new.new_notebook(cells=[new.new_code_cell("1", outputs=[output])]), name="n", pages={}
    )
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("10%\r100%\nnext", "100%\nnext"),
        ("10%\r100%\r\nnext", "100%\nnext"),
        ("a\r\nb\r\n", "a\nb"),
        ("10%\r99%\r", "99%"),
    ],
)
def test_of_a_progress_bar_the_last_state_is_shown(text: str, left: str) -> None:
    output = new.new_output("stream", name="stdout", text=text)
    cell = new.new_code_cell("1", outputs=[output])
    body = render_notebook(new.new_notebook(cells=[cell]), name="n", pages={}).body
    assert f'<pre class="stdout" tabindex="0">{left}</pre>' in body


@pytest.mark.parametrize(
    "text", ["<div>" * 3000, "&" * 200_000, "<b>" * 1001 + "x", "x" * 5_000_000]
)
def test_html_that_would_take_long_is_shown_as_text(text: str) -> None:
    started = time.process_time()
    cell = shown({"text/html": text, "text/plain": "the <table>"})
    body = render_notebook(new.new_notebook(cells=[cell]), name="n", pages={}).body
    assert "too large or too deep" in body
    assert "the &lt;table&gt;" in body
    assert time.process_time() - started < 5


@pytest.mark.parametrize("text", ["$" * 400_000, "[" * 400_000, "> " * 200_000])
def test_markdown_that_would_take_long_is_shown_as_text(text: str) -> None:
    started = time.process_time()
    cells = [new.new_markdown_cell(text)]
    body = render_notebook(new.new_notebook(cells=cells), name="n", pages={}).body
    assert "400000 characters, shown as text" in body
    assert time.process_time() - started < 5


def test_only_files_that_a_report_wrote_are_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "figures" / "old").mkdir(parents=True)
    (out / "figures" / "kept").mkdir()
    (out / "sub").mkdir()
    for name in ("old.html", "new.html", "mine.html", "figures/old/figure-01.png", "report.pdf"):
        (out / name).write_text("x")
    for name in ("figures/kept/figure-01.csv", "figures/kept/mine.txt", "sub/a.html", "index.html"):
        (out / name).write_text("x")
    (tmp_path / "outside.html").write_text("x")
    (out / "link.html").symlink_to(tmp_path / "outside.html")
    listed = [
        *("old.html", "new.html", "figures/old/figure-01.png", "figures/kept/figure-01.csv"),
        *("figures/kept/mine.txt", "sub/a.html", "../outside.html", "link.html", "index.html"),
        *(str(tmp_path / "outside.html"), "figures/../mine.html", ".html", 3, None, "report.pdf"),
    ]
    (out / "manifest.json").write_text(json.dumps({"files": listed}))
    removed = remove_stale(out, ["new.html"])
    assert removed == [
        *("old.html", "figures/old/figure-01.png", "figures/kept/figure-01.csv", "report.pdf"),
    ]
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert left == [
        "out/figures/kept/mine.txt",
        "out/index.html",
        "out/link.html",
        "out/manifest.json",
        "out/mine.html",
        "out/new.html",
        "out/sub/a.html",
        "outside.html",
    ]
    assert not (out / "figures" / "old").exists()
    (out / "manifest.json").write_text("{")
    assert remove_stale(out, []) == []


def test_a_page_becomes_a_part_of_one_printed_document() -> None:
    frames = read_frames(frames_json())
    assert frames is not None
    body = (
        explorer_html(frames, "figure-1")
        + '<p id="stopped">id="x" &lt;img hidden&gt; <a href="#stopped">to</a>'
        + '<a href="04_x.html#a">next</a><a href="https://e.invalid/">out</a></p>'
    )
    printed = for_print(body, "page-03", {"04_x.html": "page-04"})
    assert printed.count("<img") == 2
    assert 'id="page-03-figure-1"' in printed
    assert 'id="page-03-stopped">id="x" &lt;img hidden&gt; <a href="#page-03-stopped">' in printed
    assert '<a href="#page-04">next</a><a href="https://e.invalid/">' in printed
    assert "<noscript" not in printed
    assert "Shown: Run grs, Step 100." in printed
    assert "JavaScript" not in printed
