"""A figure as files to take away: the picture, the drawing, and the numbers that it shows.

Text in the SVG stays text, so it can be searched, read aloud and edited; no font is embedded. The numbers are
read from the finished figure, so they are those of all that a reader sees; they are what was recorded, without what a picture
does to them (plots/drawn.py).
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from bvit_analysis.outputs import FIGURES_VARIABLE, STEM_KEY, figure_stem, stem_parts
from bvit_analysis.plots.drawn import drawn_numbers
from bvit_analysis.plots.look import bvit, to_png
from bvit_analysis.tables.spreadsheet import without_formulas

__all__ = ["drawn_numbers", "save_figure", "save_shown", "to_csv", "to_svg"]

_MANY_CELLS = 2_000  # a mesh of more is a picture within the SVG, not that many paths


def save_figure(
    figure: Figure, folder: Path, stem: str, *, png: bytes | None = None
) -> dict[str, Path]:
    """Write a figure as PNG and SVG, and its numbers as CSV; equal figures give equal bytes.

    Args:
        figure: What to save.
        folder: Made if missing.
        stem: File name without its ending.
        png: The picture, if it has been drawn already.

    Returns:
        Paths by ending: ``png``, ``svg``, ``csv``.
    """
    contents = {
        "png": png or to_png(figure),
        "svg": to_svg(figure),
        "csv": to_csv(drawn_numbers(figure)),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {ending: folder / f"{stem}.{ending}" for ending in contents}
    for ending, content in contents.items():
        paths[ending].write_bytes(content)
    return paths


def to_svg(figure: Figure) -> bytes:
    """Return the figure as SVG with text as text; no date, no address, the same bytes each time."""
    buffer = io.BytesIO()
    with bvit(), matplotlib.rc_context({"svg.fonttype": "none"}), _flat_meshes(figure):
        empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", dpi=200, metadata=empty)
    # The document type names an address at w3.org that no browser needs.
    return re.sub(rb"<!DOCTYPE[^>]*>\n?", b"", buffer.getvalue(), count=1)


def to_csv(numbers: pd.DataFrame) -> bytes:
    """Return a table as CSV in UTF-8; floats are written so that reading them gives them back."""
    return str(without_formulas(numbers).to_csv(index=False, lineterminator="\n")).encode()


def save_shown(
    figures: Mapping[str, Callable[[], Figure]], *, png: bytes | None = None
) -> dict[str, Any]:
    """Save figures that are being shown in a notebook, if BVIT_FIGURES asks for it.

    Args:
        figures: Name of each picture of one output, empty for the only one, to what draws it.
        png: The picture that is shown, where there is one; drawn again it can differ by a hair.

    Returns:
        What belongs into the metadata of the picture: the stem, or the stems; empty if nothing was saved.
    """
    place = os.environ.get(FIGURES_VARIABLE, "")
    if not place or not figures:
        return {}
    folder = Path(place)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = [stem_parts(path.stem) for path in folder.iterdir()]
        number = 1 + max((parts[0] for parts in found if parts), default=0)
        stems = []
        for name, draw in figures.items():
            stems.append(figure_stem(number, name))
            save_figure(draw(), folder, stems[-1], png=png)
    except OSError as error:
        # A picture that cannot be kept is still shown.
        warnings.warn(f"the figure is not saved in {place!r}: {error}", stacklevel=2)
        return {}
    return {STEM_KEY: stems[0] if len(stems) == 1 else stems}


@contextlib.contextmanager
def _flat_meshes(figure: Figure) -> Iterator[None]:
    meshes = [
        artist
        for ax in figure.axes
        for artist in ax.collections
        if isinstance(artist, QuadMesh)
        and np.size(np.asarray(artist.get_coordinates())) > 2 * _MANY_CELLS
        and not artist.get_rasterized()
    ]
    for mesh in meshes:
        mesh.set_rasterized(True)
    try:
        yield
    finally:
        for mesh in meshes:
            mesh.set_rasterized(False)
