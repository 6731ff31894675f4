"""Figures of a cost ledger: where the bytes are, where the operations are, and ratios beside a claimed one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from bvit_analysis.plots import style
from bvit_analysis.tables.costs import OTHER, PARTS, against_claim

# Neighbours in a bar differ in lightness as well as in hue, so that borders show in grey print.
_COLOURS = (
    "#0072B2",
    "#56B4E9",
    "#D55E00",
    "#E69F00",
    "#882255",
    "#CC79A7",
    "#117733",
    "#999933",
    "#332288",
    "#88CCEE",
    "#BBBBBB",
    "#DDDDDD",
)
PART_COLOURS: dict[str, str] = dict(zip((*PARTS, OTHER), _COLOURS, strict=True))
"One colour a part of the network, in every figure of costs."

_HATCHES = {"1 bit": "////", "1-bit product": "////", "element-wise": "...."}
_NO_LEDGER = "No cost ledger is at hand for these models."
_LABELLED = 0.07  # share of the axis from which a segment has room for its number


@style.bvit()
def plot_size_by_part(
    table: pd.DataFrame, *, ax: Axes | None = None, title: str = "Where the bytes are"
) -> Axes:
    """Draw the size of each model as a bar of its parts, in MB of 10^6 bytes; 1-bit weights are hatched.

    Args:
        table: As ``tables.size_by_part``: model, part, form, value in bytes.
        ax: Where to draw; None makes a figure.
        title: Of the axes.

    Returns:
        The axes, one bar a model, the first model on top.
    """
    return _stacked(table, ax, title, "stored size (MB, 10^6 bytes)", 1e6, "MB")


@style.bvit()
def plot_operations_by_part(
    table: pd.DataFrame, *, ax: Axes | None = None, title: str = "Where the operations are"
) -> Axes:
    """Draw the operations of one image as a bar of its parts; 1-bit products hatched, element-wise work dotted.

    Args:
        table: As ``tables.operations_by_part``: model, part, form, value in operations.
        ax: Where to draw; None makes a figure.
        title: Of the axes.

    Returns:
        The axes, one bar a model, the first model on top.
    """
    return _stacked(table, ax, title, "operations of one image (G OPs, 10^9)", 1e9, "G OPs")


@style.bvit()
def plot_ratios(
    figures: pd.DataFrame,
    claimed: float | None = None,
    *,
    ax: Axes | None = None,
    title: str = "Ratio to the float model",
) -> Axes:
    """Draw the ratio that each convention gives, beside the published one; those that agree are filled.

    Args:
        figures: One row a convention, with columns convention and ratio, as ``ModelCost.figures``.
        claimed: The published ratio, to one decimal; None draws no line.
        ax: Where to draw; None makes a figure.
        title: Of the axes.

    Returns:
        The axes, one row a convention, the first on top.
    """
    rows = figures[["convention", "ratio"]].reset_index(drop=True)
    ax = style.axes(ax, width=8.4, height=1.2 + 0.32 * max(1, len(rows)))
    if rows.empty:
        return style.nothing(ax, _NO_LEDGER)
    agrees = np.zeros(len(rows), dtype=bool)
    if claimed is not None:
        found = against_claim(rows, claimed)
        agrees = rows["convention"].isin(found.loc[found["agrees"], "convention"]).to_numpy()
        style.null_line(ax, claimed, f"published: {claimed:g}x", vertical=True)
    places = np.arange(len(rows))
    ratios = rows["ratio"].to_numpy(dtype=float)
    ax.hlines(places, 0, ratios, color="#BBBBBB", linewidth=1.2, zorder=1)
    for same, fill, label in (
        (agrees, style.RECIPE_COLOURS["binaryvit"], "rounds to the published"),
        (~agrees, "white", "does not round to it" if claimed is not None else "ratio"),
    ):
        if same.any():
            ax.plot(
                ratios[same],
                places[same],
                linestyle="none",
                marker="o",
                color=fill,
                markeredgecolor="#333333",
                label=label,
            )
    top = max([*ratios[np.isfinite(ratios)], claimed or 0.0, 1.0])
    for place, ratio in enumerate(ratios):
        # A box of the background keeps the number apart from the published line.
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        ax.text(
            ratio + 0.02 * top, place, f"{ratio:.2f}x", va="center", fontsize=8, bbox=box, zorder=3
        )
    ax.set_xlim(0, 1.13 * top)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    ax.set_yticks(places, [style.clip(str(name), 48) for name in rows["convention"]])
    style.titles(ax, title=title, x="times smaller, or fewer, than the float model")
    style.legend(ax)
    said = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in rows.itertuples(index=False))
    text = f"{title}: {said}."
    if claimed is not None:
        text += f" Published: {claimed:g}x; {int(agrees.sum())} of {len(rows)} round to it."
    return style.describe(ax, text)


@style.bvit()
def plot_reconciliation(
    table: pd.DataFrame,
    claimed: float | None = None,
    *,
    ax: Axes | None = None,
    title: str = "Every combination of documented switches",
) -> Axes:
    """Draw how many combinations give which ratio, those that count the network as it is apart.

    Args:
        table: As ``costs.reconcile``: ratio, agrees and as_built, one row a combination.
        claimed: The published ratio, drawn as a line; None draws none.
        ax: Where to draw; None makes a figure.
        title: Of the axes.

    Returns:
        The axes; where ratios span a factor of 5 they are on a logarithmic scale.
    """
    ax = style.axes(ax, width=8.4, height=3.4)
    if table.empty:
        return style.nothing(ax, _NO_LEDGER)
    ratios = table["ratio"].to_numpy(dtype=float)
    built = table["as_built"].to_numpy(dtype=bool)
    shown = [*ratios, *([] if claimed is None else [claimed])]
    low, high = 0.98 * min(shown), 1.02 * max(shown)
    wide = high > 5 * low
    edges = np.geomspace(low, high, 49) if wide else np.linspace(low, high, 49)
    style_of = (
        (built, style.RECIPE_COLOURS["binaryvit"], "this network as it is"),
        (~built, "#BBBBBB", "as if parts of it were otherwise"),
    )
    below = np.zeros(len(edges) - 1)
    for chosen, colour, label in style_of:
        counts, _ = np.histogram(ratios[chosen], bins=edges)
        ax.bar(
            edges[:-1], counts, np.diff(edges), below, align="edge", color=colour,
            edgecolor="white", linewidth=0.4, label=f"{label} ({int(chosen.sum())})",
        )  # fmt: skip
        below += counts
    ax.set_xlim(low, high)
    if wide:
        ax.set_xscale("log")
        style.plain_log_ticks(ax.xaxis)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    if claimed is not None:
        style.null_line(ax, claimed, f"published: {claimed:g}x", vertical=True)
    style.titles(
        ax, title=title, x="times smaller, or fewer, than the float model", y="combinations"
    )
    style.legend(ax)
    text = (
        f"{title}: {len(table)} combinations from {ratios.min():.1f}x to {ratios.max():.1f}x, {int(built.sum())} of them"
        " count the network as it is."
    )
    if claimed is not None:
        text += f" Published: {claimed:g}x; {int(table['agrees'].sum())} round to it."
    return style.describe(ax, text)


def _stacked(
    table: pd.DataFrame, ax: Axes | None, title: str, label: str, unit: float, word: str
) -> Axes:
    models = list(dict.fromkeys(table["model"]))
    ax = style.axes(ax, width=9.0, height=1.5 + 0.6 * max(1, len(models)))
    if not models:
        return style.nothing(ax, _NO_LEDGER)
    totals = table.groupby("model")["value"].sum()
    longest = float(totals.max()) / unit
    order = {part: i for i, part in enumerate(PART_COLOURS)}
    rows = table.sort_values("part", key=lambda parts: parts.map(order), kind="stable")
    said = []
    for place, model in enumerate(models):
        left = 0.0
        for segment in rows[rows["model"] == model].itertuples():
            width = segment.value / unit
            _segment(ax, place, left, width, str(segment.part), str(segment.form), longest)
            left += width
        ax.text(left + 0.01 * longest, place, f"{left:.3g} {word}", va="center", fontsize=9)
        said.append(f"{model} {left:.4g} {word}")
    ax.set_xlim(0, 1.14 * longest)
    ax.set_ylim(len(models) - 0.45, -0.55)
    ax.grid(visible=False, axis="y")
    ax.set_yticks(range(len(models)), [style.clip(str(model), 32) for model in models])
    style.titles(ax, title=title, x=label)
    style.legend(ax, handles=_handles(rows))
    most = table.sort_values("value").groupby("model", sort=False).tail(1).set_index("model")
    largest = ", ".join(f"{most.loc[model, 'part']} in {model}" for model in models)
    return style.describe(ax, f"{title}: {', '.join(said)}. Largest part: {largest}.")


def part_bar(
    ax: Axes, place: int, left: float, width: float, part: str, *, hatch: str = ""
) -> BarContainer:
    """Draw one part of the network as a segment of a horizontal bar.

    Args:
        ax: Where to draw.
        place: Of the bar, in data units.
        left: Where the segment begins, in data units.
        width: Its length, in data units.
        part: Its name, which decides its colour.
        hatch: As matplotlib's.
    """
    return ax.barh(
        place,
        width,
        left=left,
        height=0.62,
        color=part_colour(part),
        edgecolor="white",
        linewidth=0.6,
        hatch=hatch,
        zorder=2,
    )


def part_colour(part: str) -> str:
    """Return the colour of a part of the network, that of the rest where it has none of its own."""
    return PART_COLOURS.get(part, PART_COLOURS[OTHER])


def _segment(
    ax: Axes, place: int, left: float, width: float, part: str, form: str, longest: float
) -> None:
    colour = part_colour(part)
    bar = part_bar(ax, place, left, width, part, hatch=_HATCHES.get(form, ""))
    bar.set_label(f"{part}, {form}")
    if width > _LABELLED * longest:
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1.0}
        ax.text(
            left + width / 2,
            place,
            f"{width:.3g}",
            ha="center",
            va="center",
            fontsize=8,
            color=_readable_on(colour),
            bbox=box,
            zorder=3,
        )


def _handles(rows: pd.DataFrame) -> list[Artist]:
    parts = dict.fromkeys(rows["part"])
    handles: list[Artist] = [
        Patch(facecolor=part_colour(part), label=style.clip(str(part))) for part in parts
    ]
    for form, hatch in _HATCHES.items():
        if (rows["form"] == form).any():
            look: dict[str, Any] = {"facecolor": "#999999", "edgecolor": "white", "hatch": hatch}
            handles.append(Patch(label=form, **look))
    return handles


def _readable_on(colour: str) -> str:
    red, green, blue = to_rgb(colour)
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else "black"
