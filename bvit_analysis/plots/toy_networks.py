"""Figures of the two-layer toy: its loss and flips, its latent weights, and what it learned."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from bvit_analysis import toys
from bvit_analysis.plots import style
from bvit_analysis.plots.toys import MINUS, PALE, PLUS, POINT


@style.bvit()
def plot_network_loss(run: toys.TwoLayers, *, ax: Axes | None = None) -> Axes:
    """Draw the loss of the two-layer toy and the flips of each step below it.

    Args:
        run: What train_two_layers returned.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes of the loss; those of the flips share its steps.
    """
    ax = style.axes(ax)
    steps = np.arange(1, len(run.loss) + 1)
    late = run.flips[-(len(steps) // 4) :].sum()
    below = ax.twinx()
    edges = np.arange(len(run.flips) + 1) + 0.5
    below.stairs(run.flips, edges, fill=True, color=POINT, alpha=0.55)  # one shape is quick to draw
    below.set_ylim(0, 4 * max(1, int(run.flips.max())))
    below.grid(False)
    below.set_ylabel("flips a step", loc="bottom")
    most = int(run.flips.max())
    below.set_yticks(range(0, most + 1, max(1, -(-most // 3))))
    below.spines["right"].set_visible(True)
    style.literal(below)
    ax.plot(steps, run.loss, color="#222222")
    ax.set_ylim(-0.35 * float(run.loss.max()), 1.05 * float(run.loss.max()))
    ax.set_yticks([tick for tick in ax.get_yticks() if tick >= 0])
    ax.set_ylim(-0.35 * float(run.loss.max()), 1.05 * float(run.loss.max()))
    ax.set_zorder(below.get_zorder() + 1)
    ax.patch.set_visible(False)
    style.titles(
        ax,
        title=f"Two layers: {int(run.flips.sum())} flips, {int(late)} in the last quarter",
        x=style.STEP,
        y="loss (line)",
    )
    return style.describe(
        ax,
        f"Loss of the two-layer toy from {run.loss[0]:.2f} to {run.loss[-20:].mean():.2f}, mean of the last 20 steps; "
        f"{int(run.flips.sum())} flips, {int(late)} in the last quarter.",
    )


@style.bvit()
def plot_network_weights(run: toys.TwoLayers, *, ax: Axes | None = None) -> Axes:
    """Draw all latent weights of the two-layer toy over the steps, each flip marked.

    Args:
        run: What train_two_layers returned.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.
    """
    ax = style.axes(ax)
    signs = toys.sign(run.latent)
    flips = signs[1:] != signs[:-1]
    restless = flips[-(len(flips) // 4) :].sum(axis=0) > 1
    for weight in range(run.latent.shape[1]):
        moving = bool(restless[weight])
        colour, width = ("#222222", 1.2) if moving else ("#AAAAAA", 0.9)
        ax.plot(run.latent[:, weight], color=colour, linewidth=width)
    at, which = np.nonzero(flips)
    ax.plot(at + 1, run.latent[at + 1, which], "o", color=POINT, markersize=3)
    ax.axhline(0, color="#222222", linewidth=1)
    count = int(restless.sum())
    style.titles(
        ax,
        title=f"{count} of {run.latent.shape[1]} weights still flip (black)",
        x=style.STEP,
        y="latent weight",
    )
    return style.describe(
        ax,
        f"{run.latent.shape[1]} latent weights; {count} flip more than once in the last quarter.",
    )


@style.bvit()
def plot_network_map(run: toys.TwoLayers, *, ax: Axes | None = None) -> Axes:
    """Draw which side of the task the trained two-layer toy puts every place of the plane on.

    Args:
        run: What train_two_layers returned.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.
    """
    ax = style.axes(ax)
    side = np.linspace(-1.5, 1.5, 121)
    places = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    output = toys.network_output(run.network, places)[2].reshape(121, 121)
    ax.imshow(
        (output >= 0).astype(int),
        extent=(-1.5, 1.5, -1.5, 1.5),
        origin="lower",
        cmap=ListedColormap(PALE),
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    ax.grid(False)
    x, y = toys.tilted()
    for wanted, colour, marker in ((1, PLUS, "o"), (-1, MINUS, "s")):
        ax.plot(*x[y == wanted].T, marker, color=colour, markersize=3.5)
    ax.plot([-1.5, 1.5], [0.6, -0.6], color="#222222", linestyle="--", linewidth=1)
    right = float(run.accuracy[-20:].mean())
    style.titles(ax, title=f"At the end: {right:.0%} right", x="input 1", y="input 2")
    return style.describe(
        ax, f"The plane as the toy divides it; {right:.0%} of the points right, last 20 steps."
    )
