"""Saved figures: the numbers are those drawn, known here beforehand; files are whole, inert and the same each time."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from bvit_analysis import plots
from bvit_analysis.plots import style
from bvit_analysis.plots.drawn import COLUMNS
from bvit_analysis.plots.export import drawn_numbers, save_figure, save_shown, to_csv, to_svg
from bvit_analysis.records import Run
from bvit_analysis.report.svg import is_inert_svg


def only(figure: Figure, kind: str) -> pd.DataFrame:
    frame = drawn_numbers(figure)
    assert list(frame.columns) == list(COLUMNS)
    return frame[frame["kind"] == kind].reset_index(drop=True)


def test_lines_give_their_points_and_a_line_across_has_no_x() -> None:
    ax = style.axes(None)
    x, y = np.linspace(0, 1, 7), np.random.default_rng(0).normal(size=7)
    ax.plot(x, y, color="#d55e00", label="grs")
    ax.axhline(0.25, label="_nolegend_")
    ax.axvline(3.0, visible=False)
    style.titles(ax, title="A title", x="step", y="two\nlines")
    frame = only(ax.figure, "line")
    first = frame[frame["series"] == 0]
    np.testing.assert_array_equal(first["x"], x)
    np.testing.assert_array_equal(first["y"], y)
    assert set(first["label"]) == {"grs"}
    assert set(first["colour"]) == {"#d55e00"}
    assert set(frame["title"]) == {"A title"}
    assert set(frame["y_axis"]) == {"two lines"}
    across = frame[frame["series"] == 1]
    assert across["x"].isna().all()
    assert across["y"].tolist() == [0.25, 0.25]
    assert set(across["label"]) == {""}
    assert set(frame["series"]) == {0, 1}


@pytest.mark.parametrize("upright", [True, False])
def test_bars_give_their_corners_and_the_names_of_their_places(upright: bool) -> None:
    ax = style.axes(None)
    values, errors = [3.0, -1.0, 2.0], [0.5, 0.25, 0.125]
    if upright:
        ax.bar([0, 1, 2], values, bottom=1.0, width=0.5, yerr=errors, label="counts")
    else:
        ax.barh([0, 1, 2], values, left=1.0, height=0.5, xerr=errors, label="counts")
    style.category_ticks(ax, ["a", "b", "0.5"], axis="x" if upright else "y")
    place, size = ("x", "y") if upright else ("y", "x")
    bars = only(ax.figure, "bar")
    np.testing.assert_allclose(bars[place], [-0.25, 0.75, 1.75])
    np.testing.assert_allclose(bars[f"{place}2"], [0.25, 1.25, 2.25])
    np.testing.assert_allclose(bars[f"{size}2"] - bars[size], values)
    assert bars[f"{place}_name"].tolist() == ["a", "b", ""]  # a number is no name
    assert set(bars["label"]) == {"counts"}
    limits = only(ax.figure, "segment")
    np.testing.assert_allclose(limits[f"{size}2"] - limits[size], 2 * np.array(errors))
    np.testing.assert_allclose(limits[place], [0, 1, 2])


def test_a_mesh_gives_each_cell_with_its_value() -> None:
    fig, grid = style.panels(1, 2)
    edges = [np.array([0.0, 1.0, 4.0, 5.0]), np.array([-0.5, 0.5, 1.5])]
    values = np.array([[1.0, np.nan, 3.0], [4.0, 5.0, 6.0]])
    mesh = grid[0, 1].pcolormesh(*edges, np.ma.masked_invalid(values))
    style.category_ticks(grid[0, 1], ["top", "bottom"])
    fig.colorbar(mesh, ax=grid[0, 1])
    frame = only(fig, "mesh")
    assert len(frame) == values.size  # the colour bar's own mesh is not data
    for number, row in frame.iterrows():
        i, j = divmod(int(str(number)), 3)
        assert row["panel"] == 1
        assert (row["x"], row["x2"]) == (edges[0][j], edges[0][j + 1])
        assert (row["y"], row["y2"]) == (edges[1][i], edges[1][i + 1])
        assert row["y_name"] == ("top", "bottom")[i]
        np.testing.assert_equal(row["value"], values[i, j])


@pytest.mark.parametrize("origin", ["upper", "lower"])
def test_an_image_gives_each_pixel_where_it_is_drawn(origin: Any) -> None:
    values = np.arange(6.0).reshape(2, 3)
    ax = style.axes(None)
    ax.imshow(values, origin=origin, extent=(10, 40, 0, 8))
    frame = only(ax.figure, "image")
    by_place = {
        ((r.x + r.x2) / 2, (r.y + r.y2) / 2): r.value for r in frame.itertuples(index=False)
    }
    rows = [6.0, 2.0] if origin == "upper" else [2.0, 6.0]
    expected = {(10 * j + 15.0, rows[i]): values[i, j] for i in range(2) for j in range(3)}
    assert by_place == expected


def test_an_image_in_colour_gives_its_channels() -> None:
    ax = style.axes(None)
    ax.imshow(np.array([[[0.1, 0.2, 0.3]]]))
    frame = drawn_numbers(ax.figure)
    assert frame["kind"].tolist() == ["image red", "image green", "image blue"]
    assert frame["value"].tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_points_bands_steps_and_outlines() -> None:
    ax = style.axes(None)
    x = np.array([0.0, 1.0, 2.0, 4.0])
    low, high = np.array([1.0, 2.0, 0.0, 1.0]), np.array([3.0, 2.5, 4.0, 2.0])
    ax.scatter(x, low, c=high, label="dots")
    ax.fill_between(x, low, high, label="band")
    ax.fill_betweenx(x, low, high)
    ax.stairs([2.0, 3.0], [0.0, 1.0, 5.0], baseline=1.0, label="steps")
    ax.fill([0, 1, 1], [0, 0, 2])
    ax.axvspan(0.25, 0.75)
    dots = only(ax.figure, "points")
    np.testing.assert_array_equal(dots[["x", "y", "value"]].to_numpy().T, [x, low, high])
    bands = only(ax.figure, "band")
    first, second = bands[: len(x)], bands[len(x) :]
    np.testing.assert_array_equal(first[["x", "y", "y2"]].to_numpy().T, [x, low, high])
    np.testing.assert_array_equal(second[["y", "x", "x2"]].to_numpy().T, [x, low, high])
    steps = only(ax.figure, "steps")
    assert steps[["x", "x2", "y", "y2"]].to_numpy().tolist() == [[0, 1, 1, 2], [1, 5, 1, 3]]
    outline = only(ax.figure, "outline")
    assert outline[["x", "y"]].to_numpy()[:3].tolist() == [[0, 0], [1, 0], [1, 2]]
    span = only(ax.figure, "span")
    assert span[["x", "x2"]].to_numpy().tolist() == [[0.25, 0.75]]
    assert span[["y", "y2"]].isna().all(axis=None)


def test_a_band_with_a_gap_gives_both_parts() -> None:
    ax = style.axes(None)
    x = np.arange(6.0)
    ax.fill_between(x, x, x + 1, where=x != 2)
    bands = only(ax.figure, "band")
    assert bands["x"].tolist() == [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(bands["y2"] - bands["y"], 1)


def test_an_empty_figure_gives_an_empty_table_and_still_files(tmp_path: Path) -> None:
    assert drawn_numbers(Figure()).empty
    ax = style.nothing(style.axes(None), "There is nothing.")
    paths = save_figure(ax.figure, tmp_path / "new", "figure-01")
    assert paths["csv"].read_text() == ",".join(COLUMNS) + "\n"


@pytest.mark.slow
def test_files_of_real_figures_hold_what_the_figure_shows(
    runs: list[Run], hostile: Run, tmp_path: Path
) -> None:
    drawings = {
        "atlas": plots.plot_flip_atlas(runs[0]),
        "rate": plots.plot_flip_rate(runs[:4]),
        "hostile": plots.plot_flip_rate([hostile], by="site"),
        "spread": plots.plot_flip_distribution(runs[:4]),
    }
    for name, ax in drawings.items():
        figure = ax.get_figure(root=True)
        assert figure is not None
        paths = save_figure(figure, tmp_path, name)
        assert [path.name for path in paths.values()] == [f"{name}.{end}" for end in paths]
        assert paths["png"].read_bytes().startswith(b"\x89PNG")
        svg = paths["svg"].read_bytes()
        assert is_inert_svg(svg)
        words = " ".join(ElementTree.fromstring(svg).itertext())
        assert " ".join(ax.get_title().split()) in " ".join(words.split())
        again = pd.read_csv(io.BytesIO(paths["csv"].read_bytes()), keep_default_na=False)
        frame = drawn_numbers(figure)
        assert len(again) == len(frame) > 0
        for column in ("x", "y", "value"):
            read = pd.to_numeric(again[column], errors="coerce").to_numpy(float)
            np.testing.assert_array_equal(read, frame[column].to_numpy(float))
    rate = pd.read_csv(tmp_path / "rate.csv")
    drawn = [line for line in drawings["rate"].lines if len(line.get_xdata())]
    for series, line in enumerate(drawn):
        part = rate[(rate["kind"] == "line") & (rate["series"] == series)]
        np.testing.assert_array_equal(part["y"], line.get_ydata())


@pytest.mark.processes
def test_equal_figures_give_equal_files_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bvit_analysis.plots import style\n"
        "from bvit_analysis.plots.export import save_figure\n"
        "ax = style.axes(None); ax.plot([1, 2, 3], label='a $x_{'); style.legend(ax)\n"
        "ax.pcolormesh([[1, 2], [3, 4]])\n"
        "save_figure(ax.figure, Path(sys.argv[1]), 'figure-01')\n"
    )
    for name in ("a", "b"):
        environment = {**os.environ, "PYTHONHASHSEED": name == "a" and "1" or "2"}
        command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / name)]
        subprocess.run(command, check=True, env=environment)
    for end in ("png", "svg", "csv"):
        one, other = ((tmp_path / name / f"figure-01.{end}").read_bytes() for name in "ab")
        assert one == other


def test_a_large_mesh_is_a_picture_in_the_drawing() -> None:
    ax = style.axes(None)
    mesh = ax.pcolormesh(np.random.default_rng(0).normal(size=(60, 60)))
    svg = to_svg(ax.figure)
    assert svg.count(b"<image") == 1
    assert b"w3.org/Graphics" not in svg
    assert len(svg) < 100_000
    assert not mesh.get_rasterized()


def test_a_spreadsheet_reads_no_formula() -> None:
    ax = style.axes(None)
    ax.plot([-1.0], [2.0], label='=HYPERLINK("x")')
    ax.set_title("+1 is a formula to some")
    text = to_csv(drawn_numbers(ax.figure)).decode()
    assert "'=HYPERLINK" in text
    assert "'+1 is" in text
    assert ",-1.0,2.0," in text


@pytest.mark.slow
def test_a_shown_figure_is_saved_where_the_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ax = style.describe(style.axes(None), "A line.")
    ax.plot([1, 2])
    assert ax.figure._repr_mimebundle_()[1] == {"image/png": {"alt": "A line."}}
    monkeypatch.setenv("BVIT_FIGURES", str(tmp_path / "figures"))
    for number in (1, 2):
        data, metadata = ax.figure._repr_mimebundle_()
        stem = f"figure-{number:02d}"
        assert metadata == {"image/png": {"alt": "A line.", "bvit_figure": stem}}
        saved = (tmp_path / "figures" / f"{stem}.png").read_bytes()
        assert base64.b64decode(data["image/png"]) == saved
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        f"figure-{number:02d}.{end}" for number in (1, 2) for end in ("csv", "png", "svg")
    ]
    several = save_shown({"Map <1>": lambda: ax.figure, "ranking": lambda: ax.figure})
    assert several == {"bvit_figure": ["figure-03-map-1", "figure-03-ranking"]}
    assert (tmp_path / "figures" / "figure-03-map-1.csv").is_file()
    assert save_shown({}) == {}
    json.dumps(several)


def test_a_figure_that_cannot_be_saved_is_still_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BVIT_FIGURES", str(tmp_path / "file" / "figures"))
    ax = style.axes(None)
    with pytest.warns(UserWarning, match="not saved"):
        data, metadata = ax.figure._repr_mimebundle_()
    assert data["image/png"]
    assert "bvit_figure" not in metadata["image/png"]
