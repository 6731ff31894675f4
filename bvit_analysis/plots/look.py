"""The house look: colours of recipes, the style sheet, and a figure as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
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


@contextmanager
def bvit() -> Iterator[None]:
    """Draw in the house style inside a ``with`` block, and leave the global settings as they were."""
    with matplotlib.rc_context(_STYLE):
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
