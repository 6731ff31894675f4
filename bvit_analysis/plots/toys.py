"""Figures of the toys: an estimator on its curve, a weight that oscillates, XNOR by hand, scale and shift."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from bvit_analysis import toys
from bvit_analysis.plots import style

PLUS, MINUS, POINT = "#0072B2", "#D55E00", "#009E73"
"Colours of +1, of -1, and of what a reader moves."

PALE = ("#F9E3D4", "#D6E8F4")
"Behind -1 and behind +1."


def flip_count(count: int) -> str:
    """Return '1 flip' or '2 flips'."""
    return f"{count} flip" + "s" * (count != 1)


@style.bvit()
def plot_estimator(name: str, x: float | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw a step, the curve that the backward pass takes it for, and one point on both.

    Args:
        name: One of toys.ESTIMATORS.
        x: Where the point is; None for none.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        ConfigError: If the name is unknown.
    """
    one = toys.estimator(name)
    ax = style.axes(ax)
    grid = np.linspace(-2, 2, 801)
    jumps = one.forward(grid)
    jumps[1:][np.diff(jumps) != 0] = np.nan  # a step has no line between its levels
    ax.plot(grid, jumps, color="#222222", linewidth=2.2, label="forward: the step")
    pretended = one.pretended(grid)
    ax.plot(grid, pretended, color=MINUS, linestyle="--", label="backward: taken for this")
    ax.set_ylim(-2.2, 2.2)
    ax.set_xlim(-2.1, 2.1)
    style.titles(ax, title="Forward: what the network computes", x="x", y="value")
    ax.legend(loc="upper left")
    style.literal(ax)
    style.describe(ax, f"The step and the curve that the {name} estimator takes it for.")
    if x is not None:
        move_point(ax, name, x, slope=False)
    return ax


@style.bvit()
def plot_slope(name: str, x: float | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw what an estimator multiplies the gradient by, and how much passes at one point.

    Args:
        name: One of toys.ESTIMATORS.
        x: Where the point is; None for none.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        ConfigError: If the name is unknown.
    """
    one = toys.estimator(name)
    ax = style.axes(ax)
    grid = np.linspace(-2, 2, 801)
    slope = one.slope(grid)
    ax.axhline(0, color="#222222", linewidth=2.2, label="slope of the step: 0")
    ax.plot(grid, slope, color=MINUS, linestyle="--", label=f"{name} estimator")
    ax.fill_between(grid, slope, color=MINUS, alpha=0.12, linewidth=0)
    ax.set_ylim(-0.2, 2.6)
    ax.set_xlim(-2.1, 2.1)
    style.titles(ax, title="Backward: what is left of a gradient of 1", x="x", y="gradient passed")
    ax.legend(loc="upper left")
    style.literal(ax)
    style.describe(ax, f"Slope of the {name} estimator: {one.formula}.")
    if x is not None:
        move_point(ax, name, x, slope=True)
    return ax


@style.bvit()
def move_point(ax: Axes, name: str, x: float, *, slope: bool) -> list[Artist]:
    """Put the point of a drawn estimator at x; the rest of the picture stays as it is.

    Args:
        ax: Drawn by plot_estimator or plot_slope.
        name: Of the estimator.
        x: Where the point goes.
        slope: Whether the axes are those of plot_slope.

    Returns:
        What moved: a stem, the point, and its words.
    """
    one, at = toys.estimator(name), np.asarray(float(x))
    marks = [mark for mark in ax.get_children() if mark.get_gid() == "point"]
    if not marks:
        stem = ax.plot([], [], color=POINT, linewidth=1.5, linestyle="-" if slope else ":")[0]
        dot = ax.plot([], [], "o", color=POINT, markersize=9)[0]
        words = ax.text(
            0.98, 0.9 if slope else 0.04, "", transform=ax.transAxes, ha="right", parse_math=False
        )
        words.set_color("#00654A")  # the colour of the point, dark enough to read
        marks = [stem, dot, words]
        for mark in marks:
            mark.set_gid("point")
    value = float(one.slope(at) if slope else one.forward(at))
    line = next(m for m in marks if isinstance(m, Line2D) and m.get_marker() == "None")
    dot = next(m for m in marks if isinstance(m, Line2D) and m.get_marker() == "o")
    words = next(m for m in marks if isinstance(m, Text))
    line.set_data([x, x], [0 if slope else float(one.pretended(at)), value])
    dot.set_data([x], [value])
    words.set_text(
        f"x = {x:g}: " + (f"passes {value:g} of 1" if slope else f"forward gives {value:+g}")
    )
    said = style.alt_text(ax).split(" At x = ")[0]
    style.describe(
        ax,
        f"{said} At x = {x:g} "
        + (
            f"a gradient of 1 becomes {value:g}."
            if slope
            else f"the forward pass gives {value:+g}."
        ),
    )
    return marks


@style.bvit()
def plot_one_weight(run: toys.OneWeight, *, ax: Axes | None = None) -> Axes:
    """Draw a latent weight over the steps, its binary value as the colour behind it, and each flip.

    Args:
        run: What train_one_weight returned.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.
    """
    ax = style.axes(ax)
    steps = np.arange(len(run.latent))
    ax.yaxis.set_major_locator(MaxNLocator(6))
    most = 1.15 * max(0.1, float(np.abs(run.latent).max()))
    ax.imshow(
        (run.signs[None] > 0).astype(int),
        extent=(-0.5, len(steps) - 0.5, -most, most),
        aspect="auto",
        cmap=ListedColormap(PALE),
        vmin=0,
        vmax=1,
        interpolation="nearest",
        zorder=0,
    )
    ax.grid(False)
    ax.axhline(0, color="#222222", linewidth=1)
    ax.plot(steps, run.latent, color="#222222", linewidth=1.2)
    flips = np.flatnonzero(run.flips) + 1
    ax.plot(flips, run.latent[flips], "o", color=POINT, markersize=3.5)
    style.titles(
        ax,
        title=f"{run.verdict.capitalize()}: {flip_count(len(flips))}, {run.late_flips} in the last quarter",
        x=f"{style.STEP} (behind it: sign +1 blue, -1 red)",
        y="latent weight",
    )
    return style.describe(
        ax,
        f"Latent weight over {len(run.flips)} steps: {run.verdict}, {len(flips)} flips, {run.late_flips} of them in the "
        f"last quarter; mean binary value of the last half {run.mean_sign:.2f}, target {run.target:g}.",
    )


@style.bvit()
def plot_push(
    *,
    target: float,
    strength: float = 0.0,
    kind: str = "resilient",
    estimator_name: str = "clipped",
    ax: Axes | None = None,
) -> Axes:
    """Draw where one descent step pushes a latent weight, over its value, without noise, at the end of training.

    Args:
        target: What the binary weight should be, in units of its scale.
        strength: Of the gradient term.
        kind: Of the gradient term.
        estimator_name: One of toys.SIGN_ESTIMATORS.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        ConfigError: If a name is unknown.
    """
    ax = style.axes(ax)
    sides = (np.linspace(-1.3, -1e-6, 131), np.linspace(0, 1.3, 131))
    totals, highest = [], 2.0
    for place, side in enumerate(sides):
        task = [-toys.one_weight_gradient(float(w), target, estimator_name) for w in side]
        term = [
            -toys.one_weight_term(float(w), target, kind=kind, strength=strength, progress=1.0)
            for w in side
        ]
        total = np.add(task, term)
        totals.append(total)
        highest = max(highest, *np.abs(task), *np.abs(total))
        first = place == 0
        if strength:
            ax.plot(
                side,
                task,
                color=style.NULL_COLOUR,
                linestyle="--",
                label="task alone" if first else "",
            )
        ax.plot(side, total, color="#222222", label="push on the weight" if first else "")
        up = total > 0
        ax.fill_between(side, 0, total, where=up, color=PLUS, alpha=0.25, linewidth=0)
        ax.fill_between(side, 0, total, where=~up, color=MINUS, alpha=0.25, linewidth=0)
    left, right = float(totals[0][-1]), float(totals[1][0])
    held = [side for side, keeps in (("-1", left < 0), ("+1", right > 0)) if keeps]
    drawn = {"": "sent back from both sides", "+1": "held on +1 only", "-1": "held on -1 only"}
    words = drawn.get("".join(held), "held on either side")
    ax.axhline(0, color="#555555", linewidth=0.8)
    ax.axvline(0, color="#222222", linewidth=1)
    ax.set_ylim(-1.1 * highest, 1.1 * highest)
    style.titles(
        ax,
        title=f"Near zero it is {words}",
        x="latent weight",
        y="push (blue: up, red: down)",
    )
    ax.legend(loc="lower left")
    style.literal(ax)
    return style.describe(
        ax,
        f"Push on a latent weight over its value: {left:+.2f} just below zero, {right:+.2f} just above; {words}.",
    )


@style.bvit()
def plot_xnor(product: toys.XnorProduct, *, ax: Axes | None = None) -> Axes:
    """Draw two words of bits, their XNOR, the popcount, and the dot product that comes out.

    Args:
        product: What xnor_popcount returned.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.
    """
    ax = style.axes(ax)
    rows = np.stack([product.a, product.b, product.same])
    n = rows.shape[1]
    colours = ListedColormap([*PALE, "#FFFFFF", "#BFE3D6"])
    shown = rows + np.array([[0], [0], [2]])  # the last row has colours of its own
    ax.pcolormesh(shown[::-1], cmap=colours, vmin=0, vmax=3, edgecolors="#555555", linewidth=0.8)
    for row, values in enumerate(rows):
        for place, bit in enumerate(values):
            number = f"{2 * bit - 1:+d}"
            text = f"{bit}\n({number})"
            ax.text(place + 0.5, 2.5 - row, text, ha="center", va="center", fontsize=9)
    ax.set_yticks([2.5, 1.5, 0.5], ["word a", "word b", "XNOR"])
    ax.set_xticks([])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.grid(False)
    p = product.popcount
    style.titles(
        ax,
        title="XNOR is 1 where two signs are equal",
        x=f"popcount {p} of {n};  dot product = 2 x {p} - {n} = {product.product}",
    )
    return style.describe(
        ax,
        f"Words {_word(product.a)} and {_word(product.b)}: XNOR {_word(product.same)}, popcount {p}, "
        f"dot product 2 x {p} - {n} = {product.product}.",
    )


def _word(bits: np.ndarray) -> str:
    return "".join(str(int(bit)) for bit in bits)


@style.bvit()
def plot_xnor_sums(product: toys.XnorProduct, *, ax: Axes | None = None) -> Axes:
    """Draw the dot product of two vectors of signs as it adds up place by place.

    Args:
        product: What xnor_popcount returned.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.
    """
    ax = style.axes(ax)
    terms = 2 * product.same - 1
    ends = np.cumsum(terms)
    starts = ends - terms
    places = np.arange(1, len(terms) + 1)
    ax.bar(places, terms, bottom=starts, color=np.where(terms > 0, PLUS, MINUS), width=0.9)
    ax.axhline(0, color="#222222", linewidth=1)
    ax.axhline(product.product, color=POINT, linestyle="--", linewidth=1.2)
    ax.set_ylim(-len(terms) - 0.5, len(terms) + 0.5)
    ax.set_xticks(places)
    style.titles(
        ax,
        title=f"As floats: {len(terms)} products, {len(terms) - 1} additions, sum {product.product}",
        x="place",
        y="sum so far",
    )
    return style.describe(ax, f"Products of signs added up place by place reach {product.product}.")


@style.bvit()
def plot_scale_error(w: np.ndarray, *, ax: Axes | None = None) -> Axes:
    """Draw the error of alpha sign(w) over alpha, and mark mean |w|.

    Args:
        w: Weights, any shape.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.
    """
    ax = style.axes(ax)
    best = toys.best_scale(w)
    grid = np.linspace(0, 2.5 * best, 201)
    errors = np.array([toys.scale_error(w, float(alpha)) for alpha in grid])
    errors /= float(np.square(w).sum())
    lowest = toys.scale_error(w, best) / float(np.square(w).sum())
    ax.plot(grid, errors, color="#222222")
    ax.axvline(best, color=POINT, linestyle="--", label=f"mean |w| = {best:.3g}")
    ax.plot([grid[np.argmin(errors)]], [errors.min()], "o", color=MINUS, label="lowest measured")
    ax.set_ylim(bottom=0)
    style.titles(
        ax,
        title="How well alpha x sign(w) stands for w",
        x="scale alpha (weight units)",
        y="squared error / sum of squares",
    )
    ax.legend(loc="lower right")
    style.literal(ax)
    return style.describe(
        ax, f"The relative error is least, {lowest:.3f}, at alpha = {best:.3g}, the mean of |w|."
    )


@style.bvit()
def plot_shift_entropy(x: np.ndarray, shifts: Sequence[float], *, ax: Axes | None = None) -> Axes:
    """Draw the entropy of the sign of x + shift over the shift.

    Args:
        x: Activations of one channel, any shape.
        shifts: Values added to all of them.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.
    """
    ax = style.axes(ax)
    bits = [toys.sign_entropy_bits(x + shift) for shift in shifts]
    ax.plot(shifts, bits, color="#222222")
    ax.axvline(0, color=style.NULL_COLOUR, linestyle=":", label="no shift")
    ax.axvline(-float(np.median(x)), color=POINT, linestyle="--", label="shift by minus the median")
    ax.set_ylim(0, 1.05)
    style.titles(
        ax,
        title="What the sign still tells",
        x="shift before the sign",
        y="entropy of the sign (bits)",
    )
    style.legend(ax)
    at = toys.sign_entropy_bits(x)
    return style.describe(
        ax, f"Entropy of the sign: {at:.2f} bits without a shift, at most {max(bits):.2f} bits."
    )
