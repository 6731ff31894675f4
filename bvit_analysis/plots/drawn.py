"""The numbers of a finished figure as a table: what was recorded of all that is drawn in it.

They are read from the figure. Where a picture moves a mark, to its border or beside another, the mark holds what it stands for
(hold), and that is given; what is there for the eye alone is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.category import StrCategoryLocator
from matplotlib.collections import (
    Collection,
    FillBetweenPolyCollection,
    LineCollection,
    PathCollection,
    QuadMesh,
)
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle, StepPatch
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import Transform

COLUMNS = (
    *("panel", "title", "x_axis", "y_axis", "kind", "series", "label", "colour"),
    *("x", "y", "x2", "y2", "value", "x_name", "y_name"),
)
Array = np.ndarray[Any, np.dtype[Any]]
Numbers = dict[str, Array]
"Columns of equal length, of one thing drawn."


def hold(artist: Artist, **numbers: Any) -> None:
    """Remember what an artist stands for, where it is drawn elsewhere than at its numbers.

    Args:
        artist: A line, points or cells.
        numbers: x, y, x2, y2 or value, each one number or as many as it has points.
    """
    artist.bvit_held = numbers  # type: ignore[attr-defined]


def for_the_eye(artist: Artist) -> None:
    """Mark an artist that repeats what another shows, so that its numbers are not given twice."""
    artist.bvit_for_the_eye = True  # type: ignore[attr-defined]


def drawn_numbers(figure: Figure) -> pd.DataFrame:
    """Return the numbers of everything drawn in a figure, one row a point, bar or cell.

    Args:
        figure: Any figure; colour bars and what is invisible are left out.

    Returns:
        Columns panel (from 0), title, x_axis, y_axis (labels), kind, series (from 0 in a panel), label and
        colour (hex) of the series, x, y, x2, y2, value, x_name, y_name (tick labels of categories). By kind:
        ``line`` a point (x, y); ``points`` a marker with the value that colours it; ``bar`` and ``span``
        corners (x, y) and (x2, y2); ``steps`` from x to x2, from base y to y2; ``band`` from y to y2 at x (or
        from x to x2 at y); ``segment`` from (x, y) to (x2, y2); ``outline`` a vertex; ``mesh`` and ``image``
        the value of the cell between two corners, an image in colour once a channel. NaN where something
        spans the panel.
    """
    scales = {
        artist.colorbar.ax
        for ax in figure.axes
        for artist in (*ax.collections, *ax.images)
        if artist.colorbar is not None
    }
    parts = []
    for panel, ax in enumerate(ax for ax in figure.axes if ax not in scales and ax.get_visible()):
        known = _container_labels(ax)
        drawn = [*ax.lines, *ax.patches, *ax.collections, *ax.images]
        series = 0
        for artist in drawn:
            if not artist.get_visible() or getattr(artist, "bvit_for_the_eye", False):
                continue
            label = known.get(artist, str(artist.get_label()))
            found = list(_numbers(artist, ax))
            for kind, numbers in found:
                part = pd.DataFrame({name: np.ravel(values) for name, values in numbers.items()})
                part = part.assign(**getattr(artist, "bvit_held", {}))
                part["panel"], part["title"] = panel, _title(ax)
                part["x_axis"], part["y_axis"] = _line(ax.get_xlabel()), _line(ax.get_ylabel())
                part["kind"], part["series"] = kind, series
                part["label"] = "" if label.startswith("_") else _line(label)
                part["colour"] = _colour(artist)
                part["x_name"] = _named(part, "x", _tick_names(ax.xaxis))
                part["y_name"] = _named(part, "y", _tick_names(ax.yaxis))
                parts.append(part)
            series += bool(found)
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat(parts, ignore_index=True).reindex(columns=list(COLUMNS))


def _numbers(artist: Artist, ax: Axes) -> Iterator[tuple[str, Numbers]]:
    if isinstance(artist, Line2D):
        yield from _of_line(artist, ax)
    elif isinstance(artist, Patch):
        yield from _of_patch(artist, ax)
    elif isinstance(artist, AxesImage):
        yield from _of_image(artist)
    elif isinstance(artist, QuadMesh):
        corners = np.asarray(artist.get_coordinates(), dtype=float)
        yield from _cells("mesh", corners[:-1, :-1], corners[1:, 1:], artist.get_array())
    elif isinstance(artist, Collection):
        yield from _of_collection(artist, ax)


def _of_line(line: Line2D, ax: Axes) -> Iterator[tuple[str, Numbers]]:
    x = np.asarray(line.get_xdata(orig=False), dtype=float)
    y = np.asarray(line.get_ydata(orig=False), dtype=float)
    x, y = _in_data(line.get_transform(), ax, x, y)
    if np.isfinite(x).any() or np.isfinite(y).any():
        yield "line", {"x": x, "y": y}


def _of_patch(patch: Patch, ax: Axes) -> Iterator[tuple[str, Numbers]]:
    where = patch.get_data_transform()
    if isinstance(patch, Rectangle):
        x, y = _in_data(
            where,
            ax,
            np.array([patch.get_x(), patch.get_x() + patch.get_width()]),
            np.array([patch.get_y(), patch.get_y() + patch.get_height()]),
        )
        if np.isnan(x).all() and np.isnan(y).all():
            return
        kind = "span" if np.isnan([*x, *y]).any() else "bar"
        yield kind, {"x": x[:1], "y": y[:1], "x2": x[1:], "y2": y[1:]}
    elif isinstance(patch, StepPatch):
        heights, edges, base = patch.get_data()
        heights = np.asarray(heights, dtype=float)
        bottom = np.broadcast_to(np.asarray(0.0 if base is None else base, float), heights.shape)
        along, across = ("x", "y") if patch.orientation == "vertical" else ("y", "x")
        yield (
            "steps",
            {along: edges[:-1], f"{along}2": edges[1:], across: bottom, f"{across}2": heights},
        )
    elif all(where.contains_branch_seperately(ax.transData)):
        path = patch.get_patch_transform().transform_path(patch.get_path())
        for part in path.to_polygons(closed_only=False):
            yield "outline", _columns(part)


def _of_image(image: AxesImage) -> Iterator[tuple[str, Numbers]]:
    values: Any = image.get_array()
    left, right, bottom, top = image.get_extent()
    rows, columns = values.shape[:2]
    first, last = (top, bottom) if image.origin == "upper" else (bottom, top)
    x, y = np.linspace(left, right, columns + 1), np.linspace(first, last, rows + 1)
    corners = np.stack(np.meshgrid(x, y), axis=-1)
    yield from _cells("image", corners[:-1, :-1], corners[1:, 1:], values)


def _of_collection(artist: Collection, ax: Axes) -> Iterator[tuple[str, Numbers]]:
    offsets: Array = np.ma.filled(np.ma.asarray(artist.get_offsets(), dtype=float), np.nan)
    if isinstance(artist, PathCollection):
        x, y = _in_data(artist.get_offset_transform(), ax, offsets[:, 0], offsets[:, 1])
        values = artist.get_array()
        points = {"x": x, "y": y}
        if values is not None and np.size(values) == len(offsets):
            points["value"] = np.ma.filled(np.ma.asarray(values, dtype=float).ravel(), np.nan)
        if len(offsets):
            yield "points", points
    elif isinstance(artist, LineCollection):
        for part in artist.get_segments():
            x, y = _in_data(artist.get_transform(), ax, part[:, 0], part[:, 1])
            if len(part) == 2:
                yield "segment", {"x": x[:1], "y": y[:1], "x2": x[1:], "y2": y[1:]}
            elif len(part):
                yield "line", {"x": x, "y": y}
    elif isinstance(artist, FillBetweenPolyCollection):
        upright = artist.t_direction == "x"  # type: ignore[attr-defined]
        along, across = ("x", "y") if upright else ("y", "x")
        column = 0 if along == "x" else 1
        for path in artist.get_paths():
            # One corner, the points of one edge, another corner, the other edge backwards, the first corner.
            vertices = np.asarray(path.vertices, dtype=float)
            count = (len(vertices) - 3) // 2
            low, high = vertices[1 : count + 1], vertices[-2 : -count - 2 : -1]
            yield (
                "band",
                {
                    along: low[:, column],
                    across: low[:, 1 - column],
                    f"{across}2": high[:, 1 - column],
                },
            )
    else:
        for path in artist.get_paths():
            if all(artist.get_transform().contains_branch_seperately(ax.transData)):
                for polygon in path.to_polygons(closed_only=False):
                    yield "outline", _columns(polygon)


def _cells(kind: str, one: Array, other: Array, values: Any) -> Iterator[tuple[str, Numbers]]:
    """Yield cells between two opposite corners, each of shape (rows, columns, 2)."""
    filled: Array = np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)
    where = {"x": one[..., 0], "y": one[..., 1], "x2": other[..., 0], "y2": other[..., 1]}
    if filled.ndim == 3 and filled.shape[-1] in (3, 4):
        for channel, name in enumerate(("red", "green", "blue", "alpha")[: filled.shape[-1]]):
            yield f"{kind} {name}", {**where, "value": filled[..., channel]}
    else:
        yield kind, {**where, "value": filled}


def _columns(vertices: Any) -> Numbers:
    points = np.asarray(vertices, dtype=float)
    return {"x": points[:, 0], "y": points[:, 1]}


def _in_data(where: Transform, ax: Axes, x: Array, y: Array) -> tuple[Array, Array]:
    """Return coordinates with NaN for those that are shares of the panel, as in a line across it."""
    has_x, has_y = where.contains_branch_seperately(ax.transData)
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    return (
        x if has_x else np.full(x.shape, np.nan),
        y if has_y else np.full(y.shape, np.nan),
    )


def _container_labels(ax: Axes) -> dict[Artist, str]:
    """Return the label of each bar and error bar, which only their container knows."""
    known: dict[Artist, str] = {}
    for container in ax.containers:
        label = str(container.get_label())
        for child in container.get_children():
            known[child] = label
    return known


def _tick_names(axis: Axis) -> dict[float, str]:
    """Return the names at positions of an axis of categories; none for an axis of numbers."""
    locator, formatter = axis.get_major_locator(), axis.get_major_formatter()
    if isinstance(locator, StrCategoryLocator):
        places = list(locator.tick_values(None, None))
    elif isinstance(locator, FixedLocator):
        places = [float(place) for place in locator.locs]  # type: ignore[attr-defined]
    else:
        return {}
    names = formatter.format_ticks(places)
    return {
        place: name for place, name in zip(places, names, strict=True) if name and not _number(name)
    }


def _named(part: pd.DataFrame, side: str, names: Mapping[float, str]) -> pd.Series | str:
    """Return the name of each row's category: that at its place, or at the middle of its extent."""
    if not names:
        return ""
    place = part[side] if side in part else pd.Series(np.nan, index=part.index)
    if f"{side}2" in part:
        place = (place + part[f"{side}2"].fillna(place)) / 2
    return place.round(9).map({round(at, 9): name for at, name in names.items()}).fillna("")


def _number(text: str) -> bool:
    try:
        float(text.replace("\u2212", "-"))
    except ValueError:
        return False
    return True


def _title(ax: Axes) -> str:
    places: tuple[Literal["left", "center", "right"], ...] = ("left", "center", "right")
    return _line(next((text for place in places if (text := ax.get_title(place))), ""))


def _line(text: str) -> str:
    return " ".join(text.split())


def _colour(artist: Any) -> str:
    """Return the colour of a series, empty where it has several."""
    if isinstance(artist, Line2D):
        colours: Any = [artist.get_color()]
    elif isinstance(artist, Patch):
        colours = [artist.get_facecolor() if artist.get_fill() else artist.get_edgecolor()]
    elif isinstance(artist, LineCollection):
        colours = artist.get_colors()
    elif isinstance(artist, Collection) and artist.get_array() is None:
        colours = artist.get_facecolor()
    else:
        return ""
    found = {to_hex(colour) for colour in colours}
    return found.pop() if len(found) == 1 else ""
