"""Figures as pixels for the screen, quickly, since somebody waits for each."""

from __future__ import annotations

import io
from collections.abc import Sequence

import ipywidgets as W
import traitlets
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from bvit_analysis.plots import style


class ScreenImage(W.Image):  # type: ignore[misc]
    """A picture whose tooltip the front end can show.

    ipywidgets 8 asks for the description of whatever has a tooltip, and its Image has none: without this trait the
    picture is replaced by a JavaScript error.
    """

    description = traitlets.Unicode("").tag(sync=True)

    def __init__(self, **options: object) -> None:
        super().__init__(format="png", **options)


class Ground:
    """A figure whose axes are drawn once, while the marks on it are drawn anew in a few milliseconds.

    Axes, ticks and labels cost most of a figure's time and seldom change. A panel keeps its figure,
    moves the marks in `draw` and returns the figure; quick_png() then draws the marks only.
    """

    def __init__(self, figure: Figure, marks: Sequence[Artist]) -> None:
        self.figure = figure
        self.marks = list(marks)
        for mark in self.marks:
            mark.set_animated(True)  # left out where the axes are drawn, kept where they are saved
        self._canvas = FigureCanvasAgg(figure)
        self._known: tuple[object, object] | None = None
        figure.bvit_ground = self  # type: ignore[attr-defined]

    def forget(self) -> None:
        """Draw what stays anew next time, since it has changed."""
        self._known = None

    def canvas(self) -> FigureCanvasAgg:
        """Return the drawn canvas, marks where they are now."""
        self.figure.set_canvas(self._canvas)
        renderer = self._canvas.get_renderer()
        if self._known is None or self._known[0] is not renderer:
            self._canvas.draw()
            self.figure.set_layout_engine(None)  # axes that moved would leave the marks behind
            renderer = self._canvas.get_renderer()
            self._known = renderer, self._canvas.copy_from_bbox(self.figure.bbox)
        else:
            self._canvas.restore_region(self._known[1])
        for mark in self.marks:
            mark.draw(renderer)
        return self._canvas


def quick_png(figure: Figure) -> bytes:
    """Return a figure as PNG for the screen: drawn once and packed lightly, since somebody waits for it."""
    ground = getattr(figure, "bvit_ground", None)
    with style.bvit():
        if isinstance(ground, Ground):
            canvas = ground.canvas()
        else:
            # a figure that comes again keeps its canvas, which remembers how texts were laid out
            known = figure.canvas
            canvas = known if isinstance(known, FigureCanvasAgg) else FigureCanvasAgg(figure)
            canvas.draw()
        pixels = canvas.buffer_rgba()
        image = Image.frombuffer("RGBA", canvas.get_width_height(), pixels, "raw", "RGBA", 0, 1)
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "PNG", compress_level=2)
    return buffer.getvalue()


def arranged(rows: Sequence[Sequence[bytes]]) -> bytes:
    """Return rows of PNG pictures as one, each row from left to right, on white."""
    if len(rows) == 1 and len(rows[0]) == 1:
        return rows[0][0]
    images = [[Image.open(io.BytesIO(one)).convert("RGB") for one in row] for row in rows if row]
    width = max(sum(image.width for image in row) for row in images)
    height = sum(max(image.height for image in row) for row in images)
    whole = Image.new("RGB", (width, height), "white")
    top = 0
    for row in images:
        left = 0
        for image in row:
            whole.paste(image, (left, top))
            left += image.width
        top += max(image.height for image in row)
    buffer = io.BytesIO()
    whole.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def fixed(
    width: float,
    height: float,
    *,
    rows: int = 1,
    left: float = 0.6,
    right: float = 0.15,
    top: float = 0.35,
    bottom: float = 0.5,
    heights: Sequence[float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """Return a figure of rows of axes with margins in inches, which need no layout at each drawing.

    Args:
        width: Of the figure, inches.
        height: Of the figure, inches.
        rows: Axes one below the other, with one time axis between them.
        left: Margin, inches.
        right: Margin, inches.
        top: Margin, inches.
        bottom: Margin, inches.
        heights: Relative heights of the rows.
    """
    with style.bvit():
        figure = style.figure(width, height)
        figure.set_layout_engine(None)
        axes = figure.subplots(
            rows, 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        figure.subplots_adjust(
            left=left / width,
            right=1 - right / width,
            top=1 - top / height,
            bottom=bottom / height,
            hspace=0.12,
        )
    return figure, list(axes)


def wiped(axes: Sequence[Axes]) -> Sequence[Axes]:
    """Return axes without what was drawn on them: making new ones takes longer than most drawings."""
    for canvas in {ax.get_figure(root=True) for ax in axes}:
        if canvas is not None:
            style.forget_notes(canvas)
    for ax in axes:
        for artist in [*ax.lines, *ax.patches, *ax.collections, *ax.texts]:
            artist.remove()
        ax.containers.clear()
        legend = ax.get_legend()
        if legend is not None:
            legend.remove()
        ax.set_axis_on()
        ax.relim()
        ax.autoscale(enable=True)
    return axes


def lighter(png: bytes) -> bytes:
    """Return a PNG in at most 128 colours, about a third of the size, for pages that store many."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    buffer = io.BytesIO()
    few = image.quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(buffer, "PNG", compress_level=6)
    return min(buffer.getvalue(), png, key=len)
