"""Binarized attention of one image, head by head, against the softmax of the student and of its float teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bvit_analysis import tables
from bvit_analysis.plots import style
from bvit_analysis.records import AttentionExamples

QUERY = "#D55E00"
_GAP = 0.6  # between maps and between a map and its class token, in patches
_NONE = "No attention of single images is recorded in this run."
_BITS = ListedColormap(["#F1F1F1", "#0B2545"])

Array = np.ndarray[Any, np.dtype[Any]]


def verdict_of(label: int, prediction: int | None, names: Sequence[str] = ()) -> str:
    """Return '9 ankle boot, right' of a prediction, or 'none' where there is none."""
    if prediction is None:
        return "none"
    return f"{class_text(prediction, names)}, {'right' if prediction == label else 'wrong'}"


def class_text(label: int, names: Sequence[str] = ()) -> str:
    """Return a class as its number and, where it is known, its name."""
    return f"{label} {names[label]}" if 0 <= label < len(names) else str(label)


@style.bvit()
def plot_attention(
    examples: AttentionExamples | None,
    *,
    image: int = 0,
    block: int = 0,
    token: int = 0,
    names: Sequence[str] = (),
) -> Figure:
    """Draw where one query token looks: the image, and for each head the teacher, the student and its bits.

    Rows: softmax of the float teacher, softmax of the student before binarization, and the bits that the student
    attends with. Columns: heads. A map lies as the patches lie on the image, with the class token above it.

    Args:
        examples: As from ``run.attention``; None says that there are none.
        image: Position of the image.
        block: Position of the attention site.
        token: The query token, marked in every picture; 0 is the class token where the model has one.
        names: Names of the classes.

    Returns:
        The figure: axes of the image, then of one row each.

    Raises:
        ConfigError: If image, block or token is out of range.
    """
    if examples is None:
        return _picture(style.nothing(style.figure().subplots(), _NONE))
    table = tables.attention_table(examples, image=image, block=block, token=token)
    heads, tokens = examples.bits.shape[2], examples.bits.shape[3]
    height, width = examples.images.shape[2:]
    grid = tables.token_grid(tokens, height, width)
    rows: list[tuple[str, Array, Any]] = []
    for name, maps in (
        ("float teacher\nsoftmax", examples.teacher),
        ("student\nsoftmax", examples.scores),
    ):
        if maps is not None:
            rows.append((name, maps[image, block, :, token], style.density_colours()))
    rows.append(("student bits", examples.bits[image, block, :, token], _BITS))

    canvas, axes = _layout(len(rows), heads, grid)
    names = tuple(names)
    _draw_image(axes[0], examples, image, token, grid, names)
    for ax, (name, values, colours) in zip(axes[1:], rows, strict=True):
        _draw_maps(ax, name, values.astype(np.float64), colours, token, grid)
    _write_numbers(axes[-1], table, grid)
    for head in range(heads):
        _above(axes[1], f"head {head}", head, grid)
    if (
        grid[0] == 1
        and grid[2] * axes[1].get_position().width * canvas.get_figwidth() > 3.0 * heads
    ):
        axes[1].text(1.25, 0.5, "class token", va="center", fontsize=7.5, color="#555555")
    teacher = examples.teacher_predictions
    label = int(examples.labels[image])
    said = verdict_of(label, int(examples.predictions[image]), names)
    taught = verdict_of(label, None if teacher is None else int(teacher[image]), names)
    canvas.text(
        0.01,
        1 - 0.05 / canvas.get_figheight(),
        style.clip(
            f"{examples.sites[block]}: image {image}, true class {class_text(label, names)}", 90
        )
        + f"\nstudent says {style.clip(said, 40)}; float teacher says {style.clip(taught, 40)}",
        ha="left",
        va="top",
        fontsize=10,
        parse_math=False,
    )
    style.describe(
        axes[0],
        f"Image {image}, class {class_text(label, names)}; query: {token_text(token, grid)}.",
    )
    style.describe(axes[-1], f"Attention at {examples.sites[block]}. {heads_text(table)}")
    return canvas


def heads_text(table: Any) -> str:
    """Return one sentence on the heads of an attention_table."""
    parts = []
    for row in table.itertuples():
        text = f"head {row.head} sets {row.share_of_ones:.0%} of its bits"
        if not np.isnan(row.teacher_mass):
            text += f" on {row.teacher_mass:.0%} of the teacher's attention (at best {row.best_mass:.0%})"
        parts.append(text)
    return f"{'; '.join(parts)}."


def token_text(token: int, grid: tuple[int, int, int]) -> str:
    """Return what a token is: the class token, or the row and column of its patch, from 1."""
    before, rows, columns = grid
    if token < before:
        return "class token" if before == 1 else f"special token {token}"
    if rows == 1:
        return f"token {token}"
    row, column = divmod(token - before, columns)
    return f"patch in row {row + 1}, column {column + 1}"


def _picture(ax: Axes) -> Figure:
    owner = ax.get_figure(root=True)
    assert owner is not None
    return owner


def _size(grid: tuple[int, int, int]) -> tuple[float, float]:
    """Return width and height of one map in patches, its class token included."""
    before, rows, columns = grid
    return float(columns), rows + (1 + _GAP if before else 0.0)


def _layout(rows: int, heads: int, grid: tuple[int, int, int]) -> tuple[Figure, list[Axes]]:
    wide, high = _size(grid)
    left, top, bottom, between = 3.1, 0.8, 0.62, 0.12
    patch = min(1.45 / high, 4.9 / (heads * (wide + _GAP)))
    if grid[1] == 1:
        patch = 4.9 / (heads * (wide + _GAP))
    across, tall = heads * (wide + _GAP) * patch, high * patch
    width = max(left + across + 0.1, 6.2)
    height = top + rows * tall + (rows - 1) * between + bottom
    height = max(height, top + 1.9)
    canvas = style.Picture(figsize=(width, height), dpi=100)
    side = 1.5
    first = canvas.add_axes((0.15 / width, 1 - (top + side) / height, side / width, side / height))
    axes = [first]
    for row in range(rows):
        below = height - top - (row + 1) * tall - row * between
        axes.append(canvas.add_axes((left / width, below / height, across / width, tall / height)))
    return canvas, axes


def _draw_image(
    ax: Axes,
    examples: AttentionExamples,
    image: int,
    token: int,
    grid: tuple[int, int, int],
    names: Sequence[str],
) -> None:
    pixels = examples.images[image]
    channels, height, width = pixels.shape
    shown = pixels.transpose(1, 2, 0) if channels == 3 else pixels[0]
    ax.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    before, rows, columns = grid
    high, wide = height / rows, width / columns
    if token < before:
        corner, size = (-0.5, -0.5), (float(width), float(height))
    else:
        row, column = divmod(token - before, columns)
        corner, size = (column * wide - 0.5, row * high - 0.5), (wide, high)
    ax.add_patch(
        Rectangle(corner, *size, fill=False, edgecolor=QUERY, linewidth=2.2, clip_on=False)
    )
    ax.set_axis_off()
    style.titles(ax)
    ax.text(
        0.0,
        -0.05,
        f"query:\n{token_text(token, grid)}",
        transform=ax.transAxes,
        va="top",
        fontsize=9,
        color=QUERY,
        parse_math=False,
    )


def _edges(grid: tuple[int, int, int], heads: int) -> tuple[Array, Array]:
    """Return the borders of cells: columns of all heads with gaps between, rows with the class token on top."""
    before, rows, columns = grid
    starts = np.arange(heads) * (columns + _GAP)
    x = (starts[:, None] + np.arange(columns + 1)).ravel()
    y = np.arange(rows + 1) + (1 + _GAP if before else 0.0)
    return x, np.concatenate([[0.0, 1.0], y]) if before else y


def _draw_maps(
    ax: Axes, name: str, values: Array, colours: Any, token: int, grid: tuple[int, int, int]
) -> None:
    before, rows, columns = grid
    heads = len(values)
    top = 2 if before else 0
    cells = np.full((rows + top, heads * (columns + 1) - 1), np.nan)
    for head in range(heads):
        at = head * (columns + 1)
        cells[top:, at : at + columns] = values[head, before:].reshape(rows, columns)
        cells[0, at : at + min(before, columns)] = values[head, : min(before, columns)]
    x, y = _edges(grid, heads)
    bits = isinstance(colours, ListedColormap)
    highest = 1.0 if bits else float(values.max()) or 1.0
    ax.pcolormesh(
        x, y, np.ma.masked_invalid(cells), cmap=colours, vmin=0.0, vmax=highest, edgecolors="none"
    )
    wide, high = _size(grid)
    starts = np.arange(heads) * (columns + _GAP)
    frames, marks = [], []
    for start in starts:
        frames.append(_box(start, high - rows, columns, rows))
        if before:
            frames.append(_box(start, 0.0, min(before, columns), 1.0))
        if token < before:
            marks.append(_box(start + min(token, columns - 1), 0.0, 1.0, 1.0))
        else:
            row, column = divmod(token - before, columns)
            marks.append(_box(start + column, high - rows + row, 1.0, 1.0))
    ax.add_collection(LineCollection(frames, colors="#AAAAAA", linewidths=0.7), autolim=False)
    ax.add_collection(LineCollection(marks, colors=QUERY, linewidths=1.4, zorder=4), autolim=False)
    ax.set_xlim(-0.1, starts[-1] + wide + 0.1)
    ax.set_ylim(high + 0.1, -0.1)
    ax.set_axis_off()
    scale = "dark = attended to" if bits else f"white 0, dark {highest:.2g}"
    ax.text(
        -0.012,
        0.5,
        f"{name}\n{scale}",
        transform=ax.transAxes,
        ha="right",
        va="center",
        fontsize=8,
        parse_math=False,
    )


def _box(x: float, y: float, width: float, height: float) -> list[tuple[float, float]]:
    right, low = x + width, y + height
    return [(x, y), (right, y), (right, low), (x, low), (x, y)]


def _above(ax: Axes, text: str, head: int, grid: tuple[int, int, int]) -> None:
    wide, _ = _size(grid)
    middle = head * (wide + _GAP) + wide / 2
    ax.text(middle, -0.25, text, ha="center", va="bottom", fontsize=8.5, parse_math=False)


def _write_numbers(ax: Axes, table: Any, grid: tuple[int, int, int]) -> None:
    """Write under each head's bits what they hold, and at the left what the numbers are."""
    wide, high = _size(grid)
    taught = bool(table["teacher_mass"].notna().any())
    lines = ["ones"]
    if taught:
        lines += ["teacher's attention on them", "most that as many could hold"]
    ax.text(
        -0.012, -0.05, "\n".join(lines), transform=ax.transAxes, ha="right", va="top", fontsize=8
    )
    for row in table.itertuples():
        numbers = [row.share_of_ones]
        if taught:
            numbers += [row.teacher_mass, row.best_mass]
        ax.text(
            (row.head * (wide + _GAP) + wide / 2 + 0.1) / (len(table) * (wide + _GAP) - _GAP + 0.2),
            -0.05,
            "\n".join(f"{number:.0%}" for number in numbers),
            transform=ax.transAxes,
            ha="center",
            va="top",
            fontsize=8,
        )
