"""The look of every figure: one style, fixed recipe colours, literal text, alt text, and PNG bytes.

Figures are plain object-oriented matplotlib: nothing here or above touches pyplot, so no figure is
kept alive by a global list and drawing works in threads, widgets and batch jobs alike.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from bvit_analysis.outputs import ALT_KEY
from bvit_analysis.plots.drawn import for_the_eye
from bvit_analysis.plots.drawn import hold as hold
from bvit_analysis.plots.export import save_shown
from bvit_analysis.plots.look import CONTRAST as CONTRAST
from bvit_analysis.plots.look import (
    OTHER_COLOURS,
    OTHER_DASHES,
    OTHER_MARKERS,
    contrast,
    more_colours,
    readable,
)
from bvit_analysis.plots.look import RECIPE_COLOURS as RECIPE_COLOURS
from bvit_analysis.plots.look import RECIPE_MARKERS as RECIPE_MARKERS
from bvit_analysis.plots.look import bvit as bvit
from bvit_analysis.plots.look import to_png as to_png
from bvit_analysis.tables import ordered
from bvit_analysis.tables.site_names import clip as clip

STEP = "applied optimizer step"
NULL_COLOUR = "#707070"
SEQUENTIAL = "cividis"
NARROW = 3.6
"Inches below which a figure, such as a column of a paper, has small print, and its legend below the data."
ZERO = "#C8C8C8"
"Of cells that are zero where colours are logarithmic; what was not recorded is left white."


class Picture(Figure):
    """A figure that shows itself in a notebook as PNG with its alt text, without pyplot or a backend."""

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        text = alt_text(self)
        png = to_png(self)
        saved = save_shown({"": lambda: self}, png=png)
        shown = base64.b64encode(png).decode("ascii")
        return {"image/png": shown, "text/plain": text}, {"image/png": {ALT_KEY: text, **saved}}


def figure(width: float = 7.2, height: float = 4.0) -> Picture:
    """Return an empty figure of a size in inches."""
    return Picture(figsize=(width, height), dpi=100, layout="constrained")


def panels(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = 5.2,
    height: float = 3.8,
    **options: Any,
) -> tuple[Picture, np.ndarray[Any, np.dtype[Any]]]:
    """Return a figure and its axes as an array of shape (rows, columns), in the house style.

    Args:
        rows: Rows of axes.
        columns: Columns of axes.
        width: Of one panel, inches.
        height: Of one panel, inches.
        options: Passed to matplotlib's ``Figure.subplots``, for example ``sharey=True``.
    """
    with bvit():
        canvas = figure(width * columns, height * rows)
        return canvas, canvas.subplots(rows, columns, squeeze=False, **options)


def axes(ax: Axes | None, *, width: float = 7.2, height: float = 4.0) -> Axes:
    """Return the axes to draw on: the given ones, or those of a new figure of a size in inches."""
    if ax is not None:
        return ax
    return figure(width, height).subplots()


def colours(recipes: Iterable[str]) -> dict[str, str]:
    """Return a colour for each recipe: the fixed one, or for other names one by order of name, no two alike."""
    names = ordered(recipes)
    others = [name for name in names if name not in RECIPE_COLOURS]
    spare = dict(zip(others, more_colours(len(others)), strict=True))
    return {name: RECIPE_COLOURS.get(name) or spare[name] for name in names}


def markers(recipes: Iterable[str]) -> dict[str, str]:
    """Return a marker for each recipe, in step with colours()."""
    names = ordered(recipes)
    others = [name for name in names if name not in RECIPE_MARKERS]
    spare = {name: OTHER_MARKERS[i % len(OTHER_MARKERS)] for i, name in enumerate(others)}
    return {name: RECIPE_MARKERS.get(name) or spare[name] for name in names}


def dashes(recipes: Iterable[str]) -> dict[str, Any]:
    """Return dashes for each recipe, in step with colours(): plain for as many as there is a palette of colours for."""
    names = ordered(recipes)
    others = [name for name in names if name not in RECIPE_COLOURS]
    turns = {name: i // len(OTHER_COLOURS) for i, name in enumerate(others)}
    return {name: OTHER_DASHES[turns.get(name, 0) % len(OTHER_DASHES)] for name in names}


def shades(count: int) -> list[tuple[float, float, float, float]]:
    """Return colours for something ordered, such as depth or time, dark first, none too pale for white."""
    colormap = matplotlib.colormaps["viridis"]
    return [colormap(0.9 * i / max(1, count - 1)) for i in range(count)]


def distinct(count: int) -> list[str]:
    """Return colours for things without order or recipe, no two alike."""
    known = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"][:count]
    return known + more_colours(count - len(known))


def density_colours() -> Colormap:
    """Return white to dark blue, for shares where nothing must look like nothing."""
    return LinearSegmentedColormap.from_list("bvit", ["#FFFFFF", "#9EC9E2", "#2A6FA8", "#0B2545"])


def legend(ax: Axes, *, title: str = "", handles: Sequence[Artist] | None = None) -> None:
    """Put a legend to the right of the data, where it hides nothing; no entries, no legend."""
    if handles is None:
        handles = ax.get_legend_handles_labels()[0]
    if handles:
        look: dict[str, Any] = {"title": title, "borderaxespad": 0.0, "alignment": "left"}
        if _narrow(ax):  # beside the data it would take half of the picture
            below = -(0.62 + 0.2 * ax.get_xlabel().count("\n")) / _inches(ax)[1]
            look |= {"loc": "upper left", "bbox_to_anchor": (0.0, below), "fontsize": 7}
            look |= {"title_fontsize": 7, "handlelength": 1.6}
        else:
            look |= {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
        drawn = ax.legend(handles=list(handles), **look)
        for text in drawn.get_texts() if _narrow(ax) else ():
            text.set_text(_folded(text.get_text(), 26))
    literal(ax)
    legible(ax)


def _inches(ax: Axes) -> tuple[float, float]:
    """Return width and height of axes; never quite none."""
    owner = ax.get_figure(root=True)
    width, height = (7.2, 4.0) if owner is None else owner.get_size_inches()
    box = ax.get_position()
    return max(0.3, float(box.width * width)), max(0.3, float(box.height * height))


def _narrow(ax: Axes) -> bool:
    owner = ax.get_figure(root=True)
    return owner is not None and float(owner.get_size_inches()[0]) < NARROW


def key(label: str, colour: Any = NULL_COLOUR, *, line: Any = "-", width: float = 1.6) -> Line2D:
    """Return a legend entry that is not tied to one drawn line."""
    return Line2D([], [], color=colour, linestyle=line, linewidth=width, label=label)


def null_line(
    ax: Axes, value: float, label: str, *, vertical: bool = False, number: str = ""
) -> None:
    """Draw the value that chance gives as a dashed line, its number on it and its name in the legend."""
    draw = ax.axvline if vertical else ax.axhline
    draw(value, color=NULL_COLOUR, linestyle=(0, (4, 3)), linewidth=1.2, label=label, zorder=1.5)
    if number and not vertical:
        ax.text(
            1.0,
            value,
            number,
            transform=ax.get_yaxis_transform(),
            ha="right",
            va="bottom",
            fontsize=8,
            color=NULL_COLOUR,
            parse_math=False,
        )


def one_legend(canvas: Figure) -> Figure:
    """Replace the legends of all panels by one beside them, each entry once.

    Args:
        canvas: A figure whose panels share the meaning of their colours.

    Returns:
        The same figure.
    """
    entries: dict[str, Artist] = {}
    for ax in canvas.axes:
        own = ax.get_legend()
        if own is not None:
            for handle, text in zip(own.legend_handles, own.get_texts(), strict=True):
                if handle is not None:
                    entries.setdefault(text.get_text(), handle)
            own.remove()
    if entries:
        with bvit():
            joint = canvas.legend(
                list(entries.values()), list(entries), loc="outside right upper", alignment="left"
            )
        for text in joint.findobj(Text):
            text.set_parse_math(False)  # type: ignore[attr-defined]
    return canvas


def titles(ax: Axes, *, title: str = "", x: str = "", y: str = "") -> None:
    """Set title and axis labels as literal text: strings from a run folder are never read as math."""
    title = clip(title, 90)
    if _narrow(ax):
        _fit_narrow(ax)
        width, height = _inches(ax)
        title, x, y = (
            _folded(text, int(letters))
            for text, letters in ((title, 8 * width), (x, 9 * width), (y, 14 * height))
        )
    ax.set_title(title)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if x.replace("\n", " ") == STEP:
        ax.xaxis.set_major_locator(
            MaxNLocator(nbins=4 if _narrow(ax) else 8, steps=[1, 2, 5, 10], integer=True)
        )
    literal(ax)


def _folded(text: str, width: int) -> str:
    return "\n".join(_wrapped(text, max(12, width)))


def _fit_narrow(ax: Axes) -> None:
    """Give a narrow figure small print, and a figure of the user's own without a layout room for its texts."""
    for text, size in ((ax.title, 9), (ax.xaxis.label, 8), (ax.yaxis.label, 8)):
        text.set_fontsize(size)
    ax.tick_params(labelsize=7)
    owner = ax.get_figure(root=True)
    if owner is not None and not isinstance(owner, Picture) and owner.get_layout_engine() is None:
        owner.set_layout_engine("constrained")


def legible(ax: Axes) -> None:
    """Give every text of the axes a colour that can be read on its ground, whatever style made figure and axes."""
    owner = ax.get_figure(root=True)
    paper = _ground("white", None if owner is None else owner.patch)
    inside = _ground(paper, ax.patch)
    legend = ax.get_legend()
    framed = legend is not None and legend.get_frame_on()
    of_legend = set() if legend is None else set(legend.findobj(Text))
    outer = {ax.title, ax.xaxis.label, ax.yaxis.label}
    outer |= {one for one in ax.get_children() if isinstance(one, Text) and one not in ax.texts}
    for axis in (ax.xaxis, ax.yaxis):
        outer |= {axis.get_offset_text(), *axis.get_ticklabels(), *axis.get_ticklabels(minor=True)}
        for which in ("major", "minor"):  # ticks that come later
            known = axis.get_tick_params(which=which).get("labelcolor")
            if known is not None:
                axis.set_tick_params(which=which, labelcolor=readable(known, paper))
    for text in ax.findobj(Text):
        ground = paper if text in outer or text in of_legend else inside
        if text in of_legend and framed and legend is not None:
            ground = _ground(paper, legend.get_frame())
        box = text.get_bbox_patch()
        ground = ground if box is None else _ground(ground, box)
        if contrast(text.get_color(), ground) < CONTRAST:
            text.set_color(readable(text.get_color(), ground))


def _ground(below: Any, patch: Any) -> Any:
    """Return the colour of a patch on what is below it."""
    if patch is None or not patch.get_visible() or not patch.get_fill():
        return below
    red, green, blue, alpha = to_rgba(patch.get_facecolor())
    lower = to_rgba(below)
    return tuple(
        alpha * a + (1 - alpha) * b for a, b in zip((red, green, blue), lower, strict=False)
    )


def literal(ax: Axes) -> None:
    """Switch math parsing off in every text of the axes, its legend and its ticks included."""
    for text in ax.findobj(Text):
        text.set_parse_math(False)  # type: ignore[attr-defined]


def nothing(ax: Axes, sentence: str) -> Axes:
    """Say in the empty axes why there is nothing to draw, instead of failing or drawing a blank."""
    ax.set_axis_off()
    owner = ax.get_figure(root=True)
    width = 7.2
    if owner is not None:
        if isinstance(owner, Picture) and owner.axes == [ax]:
            owner.set_size_inches(width, 1.2)
        width = float(ax.get_position().width * owner.get_size_inches()[0])
    ax.text(
        0.5,
        0.5,
        "\n".join(_wrapped(sentence, max(16, int(9 * width)))),
        transform=ax.transAxes,
        ha="center",
        va="center",
        color="#555555",
        parse_math=False,
    )
    describe(ax, sentence)
    return ax


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if len(joined) <= width or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines


def describe(ax: Axes, text: str) -> Axes:
    """Attach a sentence that says what the axes show, for readers who do not see the picture.

    Args:
        ax: The axes that were drawn on.
        text: One or two sentences with the numbers that matter.

    Returns:
        The same axes; ``alt_text(ax)`` gives the sentence back.
    """
    ax.bvit_alt_text = " ".join(str(text).split())  # type: ignore[attr-defined]
    legible(ax)
    return ax


def note(ax: Axes, sentence: str) -> Axes:
    """Write a sentence in small print under the whole figure, once, and add it to the description of the axes.

    A figure whose layout is fixed grows by the lines that it takes, its axes keep their size.

    Args:
        ax: The axes that were drawn on and described.
        sentence: What must be known of what is shown; empty changes nothing.

    Returns:
        The same axes; ``noted(ax.figure)`` gives back what stands under the figure.
    """
    owner = ax.get_figure(root=True)
    if not sentence or owner is None:
        return ax
    said = alt_text(ax)
    if sentence not in said:
        describe(ax, f"{said} {sentence}")
    sentences: list[str] = getattr(owner, "bvit_notes", [])
    if sentence not in sentences:
        _write_notes(owner, [*sentences, sentence])
    return ax


def noted(canvas: Figure) -> str:
    """Return what note() wrote under a figure, empty if nothing."""
    return " ".join(getattr(canvas, "bvit_notes", []))


def forget_notes(canvas: Figure) -> None:
    """Take away what note() wrote under a figure that is drawn on again."""
    if noted(canvas):
        _write_notes(canvas, [])


def _write_notes(owner: Figure, sentences: list[str]) -> None:
    width, height = owner.get_size_inches()
    lines = [line for one in sentences for line in _wrapped(one, max(24, int(19 * width)))]
    owner.bvit_notes = sentences  # type: ignore[attr-defined]
    if owner.get_layout_engine() is None:
        taken: float = getattr(owner, "bvit_note_inches", 0.0)
        more = max(0.0, 0.125 * len(lines) + 0.05 - taken) if lines else 0.0
        if more:
            places = [(one, one.get_position()) for one in owner.axes]
            owner.set_size_inches(width, height + more)
            for one, box in places:
                bottom, tall = box.y0 * height + more, box.height * height
                total = height + more
                one.set_position((box.x0, bottom / total, box.width, tall / total))
            owner.bvit_note_inches = taken + more  # type: ignore[attr-defined]
    place: dict[str, Any] = {"x": 0.01, "ha": "left", "va": "bottom", "fontsize": 7.5}
    if owner.get_layout_engine() is None:
        place["y"] = 0.04 / owner.get_size_inches()[1]
    text = owner.supxlabel("\n".join(lines), **place)
    text.set_color("#8A3B00")
    text.set_linespacing(1.15)
    text.set_parse_math(False)


def alt_text(drawing: Axes | Figure) -> str:
    """Return the description of axes, or of all the axes of a figure one after another."""
    if isinstance(drawing, Figure):
        parts = [str(getattr(ax, "bvit_alt_text", "")) for ax in drawing.axes]
        return " ".join(part for part in parts if part) or "A figure without a description."
    return str(getattr(drawing, "bvit_alt_text", ""))


def log_limits(ax: Axes, values: Iterable[float], *, fallback: tuple[float, float]) -> None:
    """Make y logarithmic between round numbers around the positive values, never an empty range."""
    positive = [float(v) for v in values if math.isfinite(v) and v > 0]
    low, high = (min(positive), max(positive)) if positive else fallback
    ax.set_yscale("log", nonpositive="mask")
    ax.set_ylim(_round_down(low / 1.05), 1 / _round_down(1 / (high * 1.05)))
    plain_log_ticks(ax.yaxis)


class LogColours(LogNorm):
    """A logarithmic scale of colours on which zero is below all: it has the colour map's colour for under."""

    def __call__(self, value: Any, clip: bool | None = None) -> Any:
        given: Any = np.ma.asarray(value, dtype=float)
        low = float(self.vmin) if self.vmin is not None else 1.0
        found = super().__call__(np.ma.where(given < low, low, given), clip)
        return np.ma.where(given <= 0, -1.0, found)


def mark_zeros(ax: Axes) -> bool:
    """Draw a mark on a logarithmic axis' border where a line is zero, which has no logarithm; return whether one is."""
    found = False
    for line in list(ax.get_lines()):
        x, y = (np.asarray(values, dtype=float) for values in line.get_data())
        zero = y == 0
        if zero.any() and line.get_transform() == ax.transData:
            found = True
            (marks,) = ax.plot(
                x[zero],
                np.zeros(zero.sum()),
                transform=ax.get_xaxis_transform(),
                linestyle="none",
                marker="v",
                markersize=4,
                clip_on=False,
                color=line.get_color(),
            )
            for_the_eye(marks)
    return found


def _round_down(value: float) -> float:
    decade: float = 10.0 ** math.floor(math.log10(value))
    return max(step * decade for step in (1, 2, 5) if step * decade <= value * (1 + 1e-9))


def plain_log_ticks(axis: Axis) -> None:
    """Write ticks as 0.001 or 1e-05: literal() would show matplotlib's own math markup as it stands."""
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low) if low > 0 else 9.0
    steps: tuple[float, ...] = (1.0,) if decades > 3 else (1.0, 2.0, 5.0)
    if decades < 0.5:
        steps = tuple(float(i) for i in range(1, 10)) if decades > 0.2 else ()
    if steps:
        axis.set_major_locator(LogLocator(base=10, subs=steps))
    else:
        axis.set_major_locator(MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.set_minor_formatter(NullFormatter())


def category_ticks(ax: Axes, names: Sequence[Hashable], *, axis: str = "y") -> None:
    """Label positions 0, 1, ... of an axis with names, literally, thinned where they would overlap."""
    most = 40
    stride = max(1, math.ceil(len(names) / most))
    chosen = list(range(0, len(names), stride))
    labels = [clip(str(names[i]), 32) for i in chosen]
    (ax.set_yticks if axis == "y" else ax.set_xticks)(chosen, labels)
    literal(ax)
