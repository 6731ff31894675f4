"""What `mkdocs build` adds to docs/: one page a folder and module of the package, and the curves of its quantizers.

The pages hold no text of their own: mkdocstrings fills them from the docstrings. A curve is drawn from the function
itself, its gradient by autograd, so that a picture cannot differ from the code.
"""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import griffe
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mkdocs.structure.files import File, Files
from pygments.formatters import HtmlFormatter
from torch import Tensor, nn

from bvit_analysis import layers, quantizers
from bvit_analysis.plots import style

PACKAGE = Path(quantizers.__file__).parent
LATER = "extending.md"
"A page that is shown after science.md, once it is there."

CSS = """
.wy-nav-content { max-width: 1000px; }
.rst-content .doc-contents { margin-left: 1.5em; }
.rst-content h2, .rst-content h3, .rst-content h4, .rst-content h5 { overflow-wrap: anywhere; }
.rst-content img { max-width: 100%; }
"""
GRID = torch.arange(-800, 801, dtype=torch.float64) / 400
"Where curves are drawn; it has the thresholds -1, 0 and 1 themselves."

FORWARD, BACKWARD, OTHER = "#222222", "#D55E00", "#0072B2"


class Examples(griffe.Extension):
    """Show a docstring's ``Example:`` as code; Griffe knows the section by its plural alone."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section before the docstring is parsed."""
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)


def on_config(config: Any) -> Any:
    """List the generated pages below those of docs/."""
    nav = list(config["nav"])
    if (Path(config["docs_dir"]) / LATER).exists():
        nav.insert(nav.index("science.md") + 1, LATER)
    nav.append({"API": [{name: f"api/{name}.md"} for name in parts()]})
    config["nav"] = nav
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each part of the package, the pictures and the style sheet."""
    pages: dict[str, str | bytes] = {f"api/{name}.md": page(name) for name in parts()}
    for function in curves(quantizers):
        pages[f"api/{function.__name__}.svg"] = svg(plot_curve(function))
    for name, layer in drawn_layers().items():
        pages[f"api/{name}.svg"] = svg(plot_curve(layer, name=name))
    pages["css/site.css"] = CSS + HtmlFormatter(style="default").get_style_defs(".highlight")
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links to files of the repository that are no pages into their names."""
    return re.sub(r"\[([^]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", markdown)


def parts() -> list[str]:
    """Return the folders and modules of the package that have a page, in the order of the alphabet."""
    found = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    return sorted([*found, *(path.stem for path in PACKAGE.glob("[!_]*.py"))])


def page(name: str) -> str:
    """Return the source of a page: what mkdocstrings is to fill in, and the curves."""
    if name == "quantizers":
        return _page_with_curves(name, quantizers, curves(quantizers))
    lines = [f"# {name}", "", f"::: bvit_analysis.{name}"]
    if name == "layers":
        lines += ["", "## Curves", ""]
        lines += [line for curve in drawn_layers() for line in (_picture(curve), "")]
    return "\n".join(lines) + "\n"


def _page_with_curves(name: str, module: ModuleType, drawn: Iterable[Callable[..., Any]]) -> str:
    pictures = {function.__name__ for function in drawn}
    root = f"bvit_analysis.{name}"
    lines = [f"# {name}", "", f"::: {root}", "    options:", "      members: false", ""]
    for function in _public_functions(module):
        lines += [f"::: {root}.{function.__name__}", ""]
        if function.__name__ in pictures:
            lines += [_picture(function.__name__), ""]
    return "\n".join(lines)


def _picture(name: str) -> str:
    return f"![Forward value and gradient of {name}]({name}.svg)"


def curves(module: ModuleType) -> list[Callable[..., Tensor]]:
    """Return the functions of a module that act on each element: those that call it x."""
    return [
        function
        for function in _public_functions(module)
        if next(iter(inspect.signature(function).parameters), "") == "x"
    ]


def _public_functions(module: ModuleType) -> list[Callable[..., Any]]:
    return [
        value
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]


def drawn_layers() -> dict[str, nn.Module]:
    """Return layers of one channel whose curve says what they do, by the name to show."""
    shift = layers.StaticShift(1)
    nn.init.constant_(shift.bias, 0.5)
    sign = layers.BinarySign(shift, dim=1, gradient="polynomial")
    return {
        "RPReLU": layers.RPReLU(1).double(),
        "BinarySign": sign.double(),
    }


def trace(function: Callable[..., Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the value on GRID and, by autograd, its derivative for x and for each other argument, which is 1.

    Args:
        function: Acts on each element of its first argument.

    Returns:
        Values [1601], and derivatives [1601] by the name of the argument; zero where nothing passes.
    """
    x = GRID.clone().requires_grad_(True)
    names = list(inspect.signature(function).parameters)[1:]
    if isinstance(function, nn.Module):
        x, names = x.detach()[:, None].requires_grad_(True), []
    others = {name: torch.ones_like(x).requires_grad_(True) for name in names}
    value = function(x, *others.values())
    given = {"x": x, **others}
    if not value.requires_grad:
        return value.detach().flatten(), {name: torch.zeros_like(GRID) for name in given}
    slopes = torch.autograd.grad(value.sum(), list(given.values()), allow_unused=True)
    found = [torch.zeros_like(x) if slope is None else slope for slope in slopes]
    return value.detach().flatten(), {
        name: slope.flatten() for name, slope in zip(given, found, strict=True)
    }


def plot_curve(function: Callable[..., Tensor], *, name: str = "") -> Figure:
    """Draw the value of a function on the left and what passes backward on the right."""
    value, slopes = trace(function)
    figure, ((left, right),) = style.panels(1, 2, width=5.4, height=2.8)
    title = name or str(getattr(function, "__name__", ""))
    _line(left, value, FORWARD, "value")
    style.titles(left, title=f"{title}: forward", x="x", y="value")
    ones = "".join(f", {argument} = 1" for argument in list(slopes)[1:])
    for (argument, slope), colour in zip(slopes.items(), (BACKWARD, OTHER), strict=False):
        _line(right, slope, colour, f"d/d {argument}{ones}")
    passes = any(slope.any() for slope in slopes.values())
    title = "backward: what passes of a gradient of 1" if passes else "backward: nothing passes"
    style.titles(right, title=title, x="x", y="gradient")
    if len(slopes) > 1:
        right.legend(loc="best")
    low, high = right.get_ylim()
    right.set_ylim(min(low, -0.1), max(high, 0.1))
    return figure


def _line(ax: Axes, values: Tensor, colour: str, label: str) -> None:
    heights = values.numpy().copy()
    # A jump is drawn as a gap: there is no value between its two sides.
    jumps = abs(heights[1:] - heights[:-1]) > 0.1
    heights[1:][jumps] = float("nan")
    ax.plot(GRID.numpy(), heights, color=colour, label=label)


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG, the same bytes each time."""
    buffer = io.BytesIO()
    with style.bvit():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
