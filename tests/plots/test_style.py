"""The look: colours, literal text, descriptions, PNG bytes, and what importing costs."""

from __future__ import annotations

import subprocess
import sys

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from bvit_analysis.plots import style


def test_style_leaves_the_settings_as_they_were() -> None:
    before = dict(matplotlib.rcParams)
    with style.bvit():
        assert matplotlib.rcParams["axes.titlelocation"] == "left"
    assert dict(matplotlib.rcParams) == before


def test_recipe_colours_are_fixed_whatever_else_is_drawn() -> None:
    alone = style.colours(["grs"])["grs"]
    among = style.colours(["zeta", "grs", "alpha", "baseline"])
    assert among["grs"] == alone == style.RECIPE_COLOURS["grs"]
    assert list(among) == ["baseline", "grs", "alpha", "zeta"]
    assert len(set(among.values())) == len(set(style.markers(among).values())) == 4


def test_text_from_outside_is_drawn_literally_and_on_one_line() -> None:
    ax = style.axes(None)
    ax.plot([1, 2], label="$x_{")
    style.titles(ax, title="<script>$x_{\n" + 200 * "y", x="$\\frac", y="%s{}")
    style.legend(ax, title="$")
    assert ax.get_title(loc="center").startswith("<script>$x_{ yyy")
    assert len(ax.get_title(loc="center")) == 90
    texts = [text for text in ax.findobj(Text) if "$" in text.get_text()]
    assert len(texts) == 4
    assert not any(text.get_parse_math() for text in texts)
    assert style.to_png(ax).startswith(b"\x89PNG")


def test_pictures_show_themselves_with_their_alt_text() -> None:
    fig, grid = style.panels(1, 2)
    assert grid.shape == (1, 2)
    style.describe(grid[0, 0], "First  panel.\n")
    style.nothing(grid[0, 1], "Nothing here.")
    data, metadata = fig._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == data["text/plain"] == "First panel. Nothing here."
    assert set(data) == {"image/png", "text/plain"}
    assert style.alt_text(Figure()) == "A figure without a description."


def test_equal_figures_give_equal_bytes() -> None:
    def draw() -> bytes:
        ax = style.axes(None)
        ax.plot([1, 2, 3])
        return style.to_png(ax)

    assert draw() == draw()


def test_one_legend_has_each_entry_once() -> None:
    fig, grid = style.panels(1, 2)
    for ax in grid[0]:
        ax.plot([1, 2], label="grs $x_{")
        style.legend(ax)
    style.one_legend(fig)
    assert [ax.get_legend() for ax in grid[0]] == [None, None]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["grs $x_{"]
    assert style.to_png(fig)


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([0.012, 0.3], (0.01, 0.5)),
        ([0.0, float("nan"), 3e-5], (2e-5, 5e-5)),
        ([], (1e-4, 0.2)),
    ],
)
def test_log_limits_are_round_and_never_empty(
    values: list[float], limits: tuple[float, float]
) -> None:
    ax = style.axes(None)
    style.log_limits(ax, values, fallback=(1.2e-4, 1.1e-1))
    assert ax.get_ylim() == pytest.approx(limits)
    assert not any("$" in label.get_text() for label in ax.get_yticklabels())


def test_many_categories_are_thinned() -> None:
    ax = style.axes(None)
    style.category_ticks(ax, [f"site {i}" for i in range(100)])
    assert [label.get_text() for label in ax.get_yticklabels()][:2] == ["site 0", "site 3"]


@pytest.mark.processes
def test_import_loads_neither_pyplot_nor_seaborn_nor_torch() -> None:
    code = (
        "import sys, bvit_analysis as bv; bv.plots.plot_flip_rate;"
        "bad = {'matplotlib.pyplot', 'seaborn', 'torch', 'timm', 'IPython'} & set(sys.modules);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.processes
def test_a_missing_matplotlib_names_the_line_that_installs_it() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import bvit_analysis as bv\n"
        "try:\n    bv.plots\n"
        "except bv.BvitError as error:\n"
        "    assert \"pip install 'bvit_analysis[notebooks]'\" in str(error), error\n"
        "    assert type(error).__name__ == 'MissingExtraError'\n"
        "else:\n    raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
