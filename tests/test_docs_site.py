"""The API pages: a part of the package, a page; a quantizer, a curve that is the function's own; nothing from outside."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bvit_analysis import quantizers
from scripts import docs_site

ROOT = Path(docs_site.__file__).parents[1]


def at(x: float) -> int:
    """Where a value stands on the grid of the curves."""
    index = int((docs_site.GRID - x).abs().argmin())
    assert docs_site.GRID[index] == pytest.approx(x, abs=1e-12)
    return index


def test_every_folder_and_module_has_a_page() -> None:
    package = ROOT / "bvit_analysis"
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert set(docs_site.parts()) == folders | modules
    for name in docs_site.parts():
        assert f"::: bvit_analysis.{name}" in docs_site.page(name)


def test_every_step_with_a_gradient_of_its_own_has_a_curve() -> None:
    drawn = {function.__name__ for function in docs_site.curves(quantizers)}
    steps = {
        name
        for name, value in vars(quantizers).items()
        if isinstance(value, type) and issubclass(value, torch.autograd.Function)
    }
    assert len(steps) == 4
    # Each public function that applies one of them, and the bare sign.
    applying = {
        name
        for name, value in vars(quantizers).items()
        if callable(value)
        and set(getattr(getattr(value, "__code__", None), "co_names", ())) & steps
    }
    assert drawn == applying | {"sign"}
    page = docs_site.page("quantizers")
    for name in drawn:
        assert f"({name}.svg)" in page


@pytest.mark.parametrize(
    ("name", "x", "value", "slope"),
    [
        ("sign", 0.0, 1.0, 0.0),
        ("polynomial_sign", 0.25, 1.0, 1.5),  # 2 - 2|x|
        ("polynomial_sign", -0.75, -1.0, 0.5),
        ("polynomial_sign", 1.5, 1.0, 0.0),
        ("clipped_sign", -1.0, -1.0, 1.0),
        ("clipped_sign", -1.25, -1.0, 0.0),
        ("elastic_levels", 0.5, 1.0, 1.0),
        ("elastic_levels", 1.25, 1.0, 0.0),
        ("boolean_levels", -0.5, 0.0, 1.0),
    ],
)
def test_a_curve_is_the_function_and_its_gradient(
    name: str, x: float, value: float, slope: float
) -> None:
    values, slopes = docs_site.trace(getattr(quantizers, name))
    assert values[at(x)] == value
    assert slopes["x"][at(x)] == pytest.approx(slope)


def test_the_gradient_of_a_learned_scale_is_drawn_too() -> None:
    _, slopes = docs_site.trace(quantizers.elastic_levels)
    assert list(slopes) == ["x", "scale"]
    assert slopes["scale"][at(0.5)] == pytest.approx(-0.5)  # -x / a^2 inside, a = 1
    assert slopes["scale"][at(1.5)] == 0


def test_the_shift_moves_the_step_of_a_drawn_layer() -> None:
    values, slopes = docs_site.trace(docs_site.drawn_layers()["BinarySign"])
    assert (values[at(-0.5)], values[at(-0.5025)]) == (1.0, -1.0)
    assert slopes["x"].argmax() == at(-0.5)


def test_a_jump_is_a_gap_and_equal_figures_give_equal_bytes() -> None:
    figure = docs_site.plot_curve(quantizers.clipped_sign)
    left, right = figure.axes
    assert torch.tensor(left.lines[0].get_ydata()).isnan().sum() == 1
    assert torch.tensor(right.lines[0].get_ydata()).isnan().sum() == 2
    assert docs_site.svg(figure) == docs_site.svg(docs_site.plot_curve(quantizers.clipped_sign))


def test_links_out_of_the_pages_become_names() -> None:
    text = "see [an example](../notebooks/plans/x.toml) and [costs](costs.md)"
    shown = docs_site.on_page_markdown(text)
    assert shown == "see an example (`notebooks/plans/x.toml`) and [costs](costs.md)"


@pytest.mark.slow
@pytest.mark.processes
def test_the_site_is_built_without_a_warning_and_asks_no_other_host(tmp_path: Path) -> None:
    """The build itself finds every way to a network closed."""
    site = tmp_path / "site"
    closed = "import socket, sys; from mkdocs.__main__ import cli\n"
    closed += "def refuse(*_, **__): raise OSError('no network here')\n"
    closed += "socket.socket.connect = socket.getaddrinfo = refuse\n"
    closed += f"sys.argv = ['mkdocs', 'build', '--strict', '-d', {str(site)!r}]; cli()"
    done = subprocess.run(
        [sys.executable, "-c", closed], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    for name in docs_site.parts():
        assert "doc-heading" in (site / "api" / f"{name}.html").read_text(), name
    loaded = re.compile(r"(?:src|srcset|@import|url\()\s*=?\s*[\"'(]?\s*(?:https?:)?//", re.I)
    asked = re.compile(r"<(?:link|script|img|iframe)\b[^>]*(?:https?:)?//[^>]*>", re.I)
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text()
        assert not loaded.search(text), path
        assert not asked.search(text), path
