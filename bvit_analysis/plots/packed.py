"""Figures of the benchmark of packed inference: what is saved by count and by clock, and where the time goes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from bvit_analysis.plots import style
from bvit_analysis.plots.costs import part_bar, part_colour
from bvit_analysis.tables.packed import FP32, PACKED, RIVALS

RIVAL_COLOURS: dict[str, str] = {
    "FP32": "#444444",
    "FP32 compiled": "#888888",
    "BF16": "#0072B2",
    "INT8": "#E69F00",
    "simulated": "#CC79A7",
}
"One colour a form of the network, in every figure of the benchmark."

_NOTHING = "No measurement of packed inference is at hand for this network."


@style.bvit()
def plot_savings(
    table: pd.DataFrame, *, ax: Axes | None = None, title: str = "Counted and measured"
) -> Axes:
    """Draw how many times smaller or faster the packed model is: a group of bars a quantity, a bar a rival.

    Args:
        table: As ``tables.packed_savings``: quantity, against, ratio.
        ax: Where to draw; None makes a figure.
        title: Of the axes.

    Returns:
        The axes, ratios on a logarithmic axis; the line at 1 means no gain.
    """
    quantities = list(dict.fromkeys(table["quantity"]))
    ax = style.axes(ax, width=9.0, height=1.3 + 0.75 * max(1, len(quantities)))
    if not quantities:
        return style.nothing(ax, _NOTHING)
    rivals = _in_order(table["against"])
    height = 0.8 / len(rivals)
    said = []
    for rank, rival in enumerate(rivals):
        rows = table[table["against"] == rival]
        places = np.array([quantities.index(quantity) for quantity in rows["quantity"]])
        places = places - 0.4 + height * (rank + 0.5)
        ratios = rows["ratio"].to_numpy(dtype=float)
        colour = RIVAL_COLOURS.get(rival, style.NULL_COLOUR)
        # bars begin at no gain, so that a loss points the other way
        ax.barh(places, ratios - 1, left=1, height=0.92 * height, color=colour, label=f"vs {rival}")
        for place, ratio in zip(places, ratios, strict=True):
            side = 1.03 if ratio >= 1 else 1 / 1.03
            ax.text(
                ratio * side,
                place,
                f"{ratio:.1f}x",
                va="center",
                ha="left" if ratio >= 1 else "right",
                fontsize=8,
            )
        said += [
            f"{row.quantity} {row.ratio:.1f}x against {rival}"
            for row in rows.itertuples(index=False)
        ]
    low, high = float(table["ratio"].min()), float(table["ratio"].max())
    ax.set_xscale("log")
    ax.set_xlim(min(0.9, 0.75 * low), 1.4 * high)
    style.plain_log_ticks(ax.xaxis)
    ax.axvline(1, color="#333333", linewidth=0.9, zorder=3)
    ax.set_ylim(len(quantities) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    ax.set_yticks(range(len(quantities)), [style.clip(str(name), 32) for name in quantities])
    style.titles(ax, title=title, x="times smaller, fewer or faster (logarithmic)")
    style.legend(ax)
    return style.describe(ax, f"{title}, packed binary model: {', '.join(said)}.")


@style.bvit()
def plot_time_by_part(
    account: pd.DataFrame,
    *,
    ways: tuple[str, ...] = (FP32, PACKED),
    ax: Axes | None = None,
    title: str = "Where the time goes",
) -> Axes:
    """Draw the time of one forward pass as a bar of its parts, one bar a form of the network.

    Args:
        account: As ``tables.packed_account``: index part, a column of ms for each of ``ways``.
        ways: Which forms, the first on top.
        ax: Where to draw; None makes a figure.
        title: Of the axes.

    Returns:
        The axes, in milliseconds.
    """
    shown = [way for way in ways if way in account and account[way].sum() > 0]
    ax = style.axes(ax, width=9.0, height=1.5 + 0.6 * max(1, len(shown)))
    if not shown:
        return style.nothing(ax, _NOTHING)
    totals = {way: float(account[way].sum()) for way in shown}
    longest = max(totals.values())
    for place, way in enumerate(shown):
        left = 0.0
        for part, width in account[way].items():
            part_bar(ax, place, left, width, str(part))
            left += width
        ax.text(left + 0.01 * longest, place, f"{left:.3g} ms", va="center", fontsize=9)
    ax.set_xlim(0, 1.14 * longest)
    ax.set_ylim(len(shown) - 0.45, -0.55)
    ax.grid(visible=False, axis="y")
    ax.set_yticks(range(len(shown)), shown)
    style.titles(ax, title=title, x="time of a forward pass (ms)")
    used = account.index[account[shown].sum(axis=1) > 0]
    style.legend(
        ax,
        handles=[
            Patch(
                facecolor=part_colour(str(part)),
                label=style.clip(str(part)),
            )
            for part in used
        ],
    )
    said = ", ".join(
        f"{way} {total:.3g} ms, most of it {account[way].idxmax()}" for way, total in totals.items()
    )
    return style.describe(ax, f"{title}: {said}.")


@style.bvit()
def plot_speedups(
    models: pd.DataFrame, *, ax: Axes | None = None, title: str = "Whole forward pass"
) -> Axes:
    """Draw for each network, batch and number of threads how many times longer the rivals take, with quartiles.

    Args:
        models: As ``PackedBenchmark.models``: model, batch, threads, way, times_packed, low, high.
        ax: Where to draw; None makes a figure.
        title: Of the axes.

    Returns:
        The axes, ratios on a logarithmic axis; left of 1 the packed model is the slower.
    """
    rows = models[models["way"] != PACKED]
    places = list(dict.fromkeys(zip(rows["model"], rows["batch"], rows["threads"], strict=True)))
    ax = style.axes(ax, width=9.0, height=1.4 + 0.42 * max(1, len(places)))
    if not places:
        return style.nothing(ax, _NOTHING)
    names = _in_order(rows["way"])
    for rank, way in enumerate(names):
        own = rows[rows["way"] == way]
        at = np.array(
            [
                places.index(key)
                for key in zip(own["model"], own["batch"], own["threads"], strict=True)
            ]
        )
        at = at + 0.13 * (rank - (len(names) - 1) / 2)
        middle = own["times_packed"].to_numpy(dtype=float)
        spread = np.abs(np.vstack([middle - own["low"], own["high"] - middle]).astype(float))
        ax.errorbar(
            middle,
            at,
            xerr=spread,
            linestyle="none",
            marker="o",
            markersize=5,
            elinewidth=1.2,
            color=RIVAL_COLOURS.get(way, style.NULL_COLOUR),
            label=f"vs {way}",
        )
    low, high = float(rows["low"].min()), float(rows["high"].max())
    ax.set_xscale("log")
    ax.set_xlim(min(0.9, 0.85 * low), 1.2 * high)
    style.plain_log_ticks(ax.xaxis)
    ax.axvline(1, color="#333333", linewidth=0.9)
    ax.set_ylim(len(places) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    ax.set_yticks(
        range(len(places)),
        [
            style.clip(f"{model}, batch {batch}, {threads} thread{'s' * (threads > 1)}", 48)
            for model, batch, threads in places
        ],
    )
    style.titles(ax, title=title, x="times faster packed (logarithmic; bars: quartiles)")
    style.legend(ax)
    best = rows[rows["way"] == FP32]
    said = ", ".join(
        f"{row.model} batch {row.batch} {row.threads} threads {row.times_packed:.1f}x"
        for row in best.itertuples()
    )
    return style.describe(ax, f"{title}, times faster than FP32: {said}.")


def _in_order(ways: pd.Series) -> list[str]:
    found = list(dict.fromkeys(str(way) for way in ways))
    known = [*dict.fromkeys((*RIVAL_COLOURS, *RIVALS))]
    return [way for way in known if way in found] + [way for way in found if way not in known]
