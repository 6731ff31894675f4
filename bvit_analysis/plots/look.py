"""The house look: colours of recipes, the style sheet, and a figure as PNG bytes."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from bvit_analysis.config import FLOAT, RECIPE_ORDER

_LOOKS = {
    "baseline": ("#444444", "o"),
    "grs": ("#D55E00", "s"),
    "asm": ("#0072B2", "^"),
    "binaryvit": ("#009E73", "D"),
    FLOAT: ("#CC79A7", "*"),
}

RECIPE_COLOURS: dict[str, str] = {name: _LOOKS[name][0] for name in RECIPE_ORDER}
"Okabe and Ito's palette, which colour-blind readers can tell apart; one colour a recipe, everywhere."

RECIPE_MARKERS: dict[str, str] = {name: _LOOKS[name][1] for name in RECIPE_ORDER}
"A second code beside colour, for print and for readers who see no colour."


OTHER_COLOURS = ("#56B4E9", "#E69F00", "#882255", "#117733", "#999933", "#332288")
OTHER_MARKERS = ("v", "P", "X", "<", ">", "p")
OTHER_DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)), (0, (6, 2, 1, 2, 1, 2)))
"The first for each colour's first use; where colours repeat, dashes tell them apart."

CONTRAST = 4.5
"Least contrast of text and its background, as WCAG 2 asks of text."


def more_colours(count: int) -> list[str]:
    """Return colours for things without order or recipe: a palette, then hues between, no two alike.

    Args:
        count: How many; none is as pale as its paper.
    """
    found = list(OTHER_COLOURS[:count])
    golden = 0.618033988749895  # steps that never come back to the same place
    for i in range(count - len(found)):
        hue, turn = (0.08 + golden * i) % 1.0, (i // 5) % 3
        found.append(
            to_hex(colorsys.hsv_to_rgb(hue, (0.9, 0.55, 0.75)[turn], (0.72, 0.55, 0.4)[turn]))
        )
    return found


def luminance(colour: Any) -> float:
    """Return the relative luminance of a colour, 0 (black) to 1 (white), as WCAG 2 has it."""
    rgb = np.asarray(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast(one: Any, other: Any) -> float:
    """Return the contrast of two colours, 1 to 21: (L1 + 0.05) / (L2 + 0.05), the lighter first.

    Example:
        >>> contrast("white", "black")
        21.0
    """
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def readable(colour: Any, ground: Any) -> str:
    """Return a colour as text can have it on a ground: the same, or mixed with black or white until it can be read."""
    end = 0.0 if contrast("black", ground) >= contrast("white", ground) else 1.0
    rgb = np.array(to_rgb(colour))
    for part in np.linspace(0.0, 1.0, 41):
        red, green, blue = ((1 - part) * one + part * end for one in rgb)
        mixed = str(to_hex((red, green, blue)))
        if contrast(mixed, ground) >= CONTRAST:
            return mixed
    return "black" if end == 0 else "white"


_STYLE: Any = {
    "figure.figsize": (7.2, 4.0),
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titlepad": 8,
    "axes.labelsize": 10,
    "axes.prop_cycle": cycler(color=[*RECIPE_COLOURS.values(), *OTHER_COLOURS]),
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "font.size": 10,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "legend.fontsize": 9,
    "legend.title_fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "svg.hashsalt": "bvit_analysis",
}


_DRAWN = (
    *("axes", "boxplot", "contour", "errorbar", "figure", "font", "grid", "hatch", "hist", "image"),
    *("legend", "lines", "markers", "mathtext", "patch", "path", "savefig", "scatter", "text"),
    *("xtick", "ytick"),
)
_PLACES = ("savefig.directory", "figure.raise_window", "figure.max_open_warning", "figure.hooks")
_PLAIN: Any = {
    name: value
    for name, value in matplotlib.rcParamsDefault.items()
    if name.partition(".")[0] in _DRAWN and name not in _PLACES
}
"What a user's style sheet may have set otherwise, such as white text."


@contextmanager
def bvit() -> Iterator[None]:
    """Draw in the house style alone inside a ``with`` block, and leave the global settings as they were."""
    with matplotlib.rc_context(_PLAIN | _STYLE):
        yield


def to_png(drawing: Axes | Figure) -> bytes:
    """Return the figure as PNG bytes; equal figures give equal bytes."""
    owner = drawing if isinstance(drawing, Figure) else drawing.get_figure(root=True)
    if owner is None:
        raise ValueError("the axes belong to no figure")
    buffer = io.BytesIO()
    with bvit():
        owner.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()
