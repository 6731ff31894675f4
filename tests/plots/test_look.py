"""Figures can be read: in any style a user sets, in a column of a paper, and with a dozen recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from bvit_analysis import plots
from bvit_analysis.plots import style
from bvit_analysis.plots.look import contrast, luminance, readable
from bvit_analysis.records import Run, load_run
from tests.support.synthetic_run import make_run

DARK = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), "white"),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "black"),
    "axes.edgecolor": "white",
}
"What plt.style.use('dark_background') sets."

LOUD = {
    "text.color": "yellow",
    "axes.labelcolor": "#ffffcc",
    "legend.labelcolor": "white",
    "font.size": 30,
}

DRAWINGS: dict[str, Callable[..., Any]] = {
    name: getattr(plots, name)
    for name in (
        *(
            "plot_flip_rate",
            "plot_accuracy",
            "plot_loss",
            "plot_sign_entropy",
            "plot_near_constant",
        ),
        *("plot_flip_back", "plot_flip_distribution", "plot_evidence", "plot_differences"),
        *("plot_compared", "plot_bimodality_nulls", "plot_binarization_error", "plot_near_zero"),
    )
}


@pytest.fixture(params=["plain", "dark", "loud"])
def user_style(request: pytest.FixtureRequest) -> Iterator[str]:
    chosen: dict[str, Any] = {"plain": {}, "dark": DARK, "loud": LOUD}[request.param]
    with matplotlib.rc_context(chosen):
        yield request.param


def over(paper: Any, patch: Any) -> tuple[float, ...]:
    """Return the colour of a patch on paper, retyped."""
    *rgb, alpha = patch.get_facecolor()
    below = matplotlib.colors.to_rgb(paper)
    return tuple(alpha * a + (1 - alpha) * b for a, b in zip(rgb, below, strict=True))


def unreadable(figure: Figure) -> list[str]:
    """Return every text of a drawn figure whose contrast is too small for the ground it lies on."""
    FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    paper = figure.get_facecolor()
    found = []
    for text in figure.findobj(Text):
        if not text.get_text().strip() or not text.get_visible():
            continue
        middle = np.mean(text.get_window_extent(renderer).get_points(), axis=0)
        ground = matplotlib.colors.to_rgb(paper)
        for ax in figure.axes:
            if ax.patch.get_visible() and ax.axison and ax.bbox.contains(*middle):
                ground = over(paper, ax.patch)
        box = text.get_bbox_patch()
        ground = ground if box is None else over(ground, box)
        if contrast(text.get_color(), ground) < style.CONTRAST:
            found.append(f"{text.get_text()!r}: {contrast(text.get_color(), ground):.2f}")
    return found


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("white", "black") == pytest.approx(21.0)
    assert contrast("#777777", "white") == pytest.approx(4.48, abs=0.005)  # a known near miss
    assert luminance("#FF0000") == pytest.approx(0.2126)
    for colour in ("#56B4E9", "#E69F00", "white", "black", "#707070"):
        for ground in ("white", "black", "#808080", "#222222"):
            assert contrast(readable(colour, ground), ground) >= 4.5
    assert readable("#444444", "white") == "#444444"


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DRAWINGS))
def test_every_text_can_be_read_whatever_style_is_set(
    name: str, user_style: str, runs: list[Run]
) -> None:
    figure = DRAWINGS[name](runs).get_figure(root=True)
    assert unreadable(figure) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DRAWINGS))
def test_every_text_can_be_read_in_the_users_own_axes(name: str, runs: list[Run]) -> None:
    with matplotlib.rc_context(DARK):
        ax = Figure(figsize=(7, 4), layout="constrained").subplots()
    DRAWINGS[name](runs, ax=ax)
    with matplotlib.rc_context(DARK):
        assert unreadable(ax.get_figure(root=True)) == []


@pytest.mark.slow
def test_maps_panels_and_sentences_can_be_read(user_style: str, runs: list[Run]) -> None:
    drawn = [plots.plot_flip_atlas(runs[0]), plots.plot_ablation(runs), plots.plot_flip_rate([])]
    drawn += [plots.plot_latent_density(runs[0]), plots.plot_channels(runs[0])]
    for one in drawn:
        figure = one if isinstance(one, Figure) else one.get_figure(root=True)
        assert unreadable(figure) == []


@pytest.mark.slow
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("name", list(DRAWINGS))
def test_a_figure_of_one_column_is_whole_and_its_legend_leaves_room(
    name: str, own: bool, runs: list[Run]
) -> None:
    figure: Any = style.figure(3.3, 3.6) if own else Figure(figsize=(3.3, 3.6))
    ax: Axes = figure.subplots()
    DRAWINGS[name](runs, ax=ax)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    canvas.draw()
    renderer = canvas.get_renderer()
    width, height = figure.bbox.width, figure.bbox.height
    whole = figure.get_tightbbox(renderer)  # of all that is drawn, in inches
    assert whole.x0 >= -0.02
    assert whole.y0 >= -0.02
    assert whole.x1 <= 3.32
    assert whole.y1 <= 3.62
    legend = ax.get_legend()
    assert legend is not None or name == "plot_compared"  # its explorer has one
    if legend is not None:
        box = legend.get_window_extent(renderer)
        assert box.x0 < ax.bbox.x1 - 1 or box.width <= width / 2
        assert not box.overlaps(ax.bbox)
    assert ax.bbox.width >= width / 2
    assert ax.bbox.height >= height / 5


@pytest.mark.parametrize("count", [7, 12, 30])
def test_recipes_are_told_apart_however_many_there_are(count: int) -> None:
    names = ["baseline", "grs", "asm", "binaryvit", *(f"mine {i:02d}" for i in range(count - 4))]
    colours = style.colours(names)
    assert len(set(colours.values())) == count
    looks = {(colours[name], str(style.dashes(names)[name])) for name in names}
    assert len(looks) == count
    assert all(contrast(colour, "white") >= 1.9 for colour in colours.values())
    assert len(set(style.distinct(count))) == count
    assert {name: colours[name] for name in style.RECIPE_COLOURS if name in colours} == {
        name: colour for name, colour in style.RECIPE_COLOURS.items() if name in colours
    }


@pytest.mark.slow
def test_twelve_recipes_are_twelve_lines(tmp_path: Path) -> None:
    import json

    runs = []
    for number in range(12):
        path = make_run(tmp_path / f"r{number:02d}", recipe="grs", steps=4, blocks=1)
        info = json.loads((path / "run.json").read_text())
        info["config"]["recipe"]["name"] = f"mine {number:02d}"
        (path / "run.json").write_text(json.dumps(info))
        runs.append(load_run(path))
    ax = plots.plot_accuracy(runs)
    handles = ax.get_legend().legend_handles
    looks = {(one.get_color(), str(one.get_linestyle())) for one in handles}
    assert len(looks) == 12
    assert len({str(line.get_linestyle()) for line in handles}) > 1
    drawn = {line.get_color() for line in ax.get_lines()}
    assert drawn == {one.get_color() for one in handles}
