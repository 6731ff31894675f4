"""Figures of latent weights at one step: a histogram over the Gaussian's density, and a ridge a site."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from bvit_analysis import tables
from bvit_analysis.plots import style
from bvit_analysis.plots.bimodality import (
    NO_WEIGHTS,
    NORMALISED,
    REACH,
    gaussian_density,
)
from bvit_analysis.plots.overlay import looks
from bvit_analysis.records import Run

BOUNDARY = "#222222"
_OVERLAP = 1.4  # height of the highest ridge, in rows


def density_at(
    run: Run, *, site: str | None = None, step: int | None = None
) -> tuple[int, np.ndarray, np.ndarray] | None:
    """Return the density of normalised latent weights at one step.

    Args:
        run: The run.
        site: One weight site; None pools all.
        step: The last recorded step at or before this one; None takes the last.

    Returns:
        The step, bin edges of u (bins + 1,), and densities per unit of u (bins,); None where nothing is recorded.
    """
    taken, edges, counts = site_counts(run, step)
    if taken is None or (site is not None and site not in counts):
        return None
    pooled = np.sum(list(counts.values()), axis=0) if site is None else counts[site]
    return taken, edges, pooled / max(1, pooled.sum()) / (edges[1] - edges[0])


def site_counts(
    run: Run, step: int | None = None
) -> tuple[int | None, np.ndarray, dict[str, np.ndarray]]:
    """Return the histograms of normalised latent weights of all weight sites at one step.

    Args:
        run: The run.
        step: The last recorded step at or before this one; None takes the last.

    Returns:
        The step, None where nothing is recorded; bin edges of u (bins + 1,); site -> counts (bins,). Sites of other
        bins than the first are left out.
    """
    rows = run.histograms
    of_kind = (rows["kind"] == "latent_normalised").to_numpy()
    steps = rows["step"].to_numpy()
    taken = tables.step_at(np.unique(steps[of_kind]).tolist(), step)
    if taken is None:
        return None, np.linspace(-4.0, 4.0, 2), {}
    rows = rows[of_kind & (steps == taken)]
    first = rows.iloc[0]
    bins = (first["lo"], first["hi"], len(first["counts"]))
    found = {
        str(site): counts
        for site, lo, hi, counts in zip(
            rows["site"], rows["lo"], rows["hi"], rows["counts"], strict=True
        )
        if (lo, hi, len(counts)) == bins
    }
    known = set(tables.weight_sites(run))
    edges = np.linspace(bins[0], bins[1], bins[2] + 1)
    return taken, edges, {site: found[site] for site in found if site in known}


def ridge_limit(run: Run, site: str | None = None) -> float:
    """Return the highest density of normalised latent weights of a site at any step, per unit of u.

    Args:
        run: The run; 0 where it recorded no distribution.
        site: One weight site; None takes the highest of all, each by itself.
    """
    rows = run.histograms[run.histograms["kind"] == "latent_normalised"]
    rows = rows if site is None else rows[rows["site"] == site]
    highest = 0.0
    for lo, hi, counts in zip(rows["lo"], rows["hi"], rows["counts"], strict=True):
        highest = max(highest, counts.max() / max(1, counts.sum()) * len(counts) / (hi - lo))
    return float(highest)


@style.bvit()
def plot_latent_density(
    runs: tables.Runs,
    *,
    ax: Axes | None = None,
    site: str | None = None,
    step: int | None = None,
    highest: float | None = None,
) -> Axes:
    """Draw the distribution of normalised latent weights at one step, run over run, over the Gaussian's.

    u = w / mean|w| of its row; the two binary values lie at u = -1 and u = +1, the boundary at 0.

    Args:
        runs: Run or runs; the first is filled, the others are outlines.
        ax: Where to draw; None makes a figure.
        site: One weight site; None pools all.
        step: The last recorded step at or before this one; None takes the last.
        highest: Top of the density axis, so that steps can share it, in weights per unit of u.

    Returns:
        The axes.
    """
    chosen = tables.binary_runs(runs)
    tables.check_site(chosen, site)
    ax = style.axes(ax)
    drawn: list[tuple[str, int, float, float]] = []
    for run, look in zip(chosen, looks(chosen), strict=True):
        found = density_at(run, site=site, step=step)
        if found is None:
            continue
        taken, edges, density = found
        if not drawn:
            ax.stairs(density, edges, fill=True, color=look.colour, alpha=0.3, lw=0)
        ax.stairs(density, edges, color=look.colour, linestyle=look.line, lw=1.4, label=look.name)
        middle = float(np.interp(0.0, (edges[:-1] + edges[1:]) / 2, density))
        drawn.append((look.name, taken, middle, float(density.max())))
    if not drawn:
        return style.nothing(ax, NO_WEIGHTS)
    u = np.linspace(-REACH, REACH, 121)
    ax.plot(u, gaussian_density(u), color="#333333", ls=":", lw=1.1, label="Gaussian weights")
    ax.axvline(0.0, color=BOUNDARY, linewidth=0.9, zorder=1)
    ax.set_xlim(-REACH, REACH)
    ax.set_xticks([-3, -2, -1, 0, 1, 2, 3])
    ax.set_ylim(0.0, 1.05 * (highest or max(1 / math.pi, *(one[3] for one in drawn))))
    where = "all weight sites" if site is None else site
    title = f"{where}, {steps_text([one[1] for one in drawn])}"
    style.titles(ax, title=title, x=NORMALISED, y="density per unit of u")
    style.legend(ax)
    text = ", ".join(f"{name} {middle:.3g}" for name, _, middle, _ in drawn)
    style.describe(
        ax,
        f"Distribution of latent weights of {where} at {steps_text([one[1] for one in drawn])}. "
        f"Density at zero: {text}; Gaussian weights {1 / math.pi:.3g}.",
    )
    sites = None if site is None else [site]
    return style.note(ax, tables.unverified_sentence(chosen, kind="weight", sites=sites))


def steps_text(steps: Sequence[int]) -> str:
    """Return 'step 50', or 'steps 50 and 60' where runs were recorded at different ones."""
    several = dict.fromkeys(steps)
    return f"step{'s' if len(several) > 1 else ''} {' and '.join(map(str, several))}"


@style.bvit()
def plot_latent_ridges(
    runs: tables.Runs,
    *,
    ax: Axes | None = None,
    step: int | None = None,
    highlight: str | None = None,
    highest: float | None = None,
) -> Axes:
    """Draw a ridge a site: the distributions of normalised latent weights of all sites at one step.

    Args:
        runs: Run or runs; the first is filled, the others are outlines.
        ax: Where to draw; None makes a figure.
        step: The last recorded step at or before this one; None takes the last.
        highlight: A site to bring out; None shows all alike.
        highest: Density that one ridge's full height stands for, so that steps can share it, per unit of u.

    Returns:
        The axes, sites from top to bottom in model order; each run is one collection with a ridge a site.
    """
    chosen = tables.binary_runs(runs)
    sites = list(dict.fromkeys(site for run in chosen for site in tables.weight_sites(run)))
    ax = style.axes(ax, height=min(11.0, 1.3 + 0.24 * max(8, len(sites))))
    if not any(tables.distribution_steps(run) for run in chosen):
        return style.nothing(ax, NO_WEIGHTS)
    ridge_frame(ax, sites)
    ridge_marks(ax, chosen, sites, step=step, highlight=highlight, highest=highest)
    style.legend(
        ax, handles=[style.key(one.name, one.colour, line=one.line) for one in looks(chosen)]
    )
    return ax


def ridge_frame(ax: Axes, sites: Sequence[str]) -> None:
    """Draw what does not change from step to step: the axes of a ridge view, sites from top to bottom."""
    ax.axvline(0.0, color=BOUNDARY, linewidth=0.9, zorder=0.5)
    ax.set_xlim(-REACH, REACH)
    ax.set_xticks(range(-3, 4))
    ax.set_ylim(len(sites) - 0.6, -1.6)
    ax.grid(visible=False)
    style.titles(ax, x=NORMALISED)
    style.category_ticks(ax, sites)


def ridge_marks(
    ax: Axes,
    runs: Sequence[Run],
    sites: Sequence[str],
    *,
    step: int | None = None,
    highlight: str | None = None,
    highest: float | None = None,
) -> list[Artist]:
    """Draw the ridges and the title into a ridge_frame, and return what was drawn.

    Args:
        ax: As ridge_frame left it.
        runs: Binary runs; the first is filled.
        sites: As given to ridge_frame.
        step: The last recorded step at or before this one; None takes the last.
        highlight: A site to bring out; None shows all alike.
        highest: Density that one ridge's full height stands for, per unit of u; None takes the highest drawn.
    """
    found = [(look, *site_counts(run, step)) for run, look in zip(runs, looks(runs), strict=True)]
    ridges = []
    for look, taken, edges, counts in found:
        wide = edges[1] - edges[0]
        heights = {site: row / max(1, row.sum()) / wide for site, row in counts.items()}
        if taken is not None and heights:
            ridges.append((look, taken, edges, heights))
    peak = max((row.max() for *_, heights in ridges for row in heights.values()), default=1.0)
    scale = _OVERLAP / (highest or float(peak) or 1.0)
    marks: list[Artist] = []
    for number, (look, _, edges, heights) in enumerate(ridges):
        shown = [(place, site) for place, site in enumerate(sites) if site in heights]
        strong = [highlight is None or site == highlight for _, site in shown]
        inside = np.repeat(np.abs(edges) <= REACH, 2)
        x = np.repeat(edges, 2)[inside]
        shapes = []
        for place, site in shown:
            y = np.concatenate([[0.0], np.repeat(heights[site], 2), [0.0]])[inside]
            shapes.append(np.column_stack([x, place - scale * y]))
        fill = 0.45 if number == 0 else 0.0
        collection = PolyCollection(
            shapes,
            closed=False,
            facecolors=[(look.colour, fill if yes else fill / 3) for yes in strong],
            edgecolors=[(look.colour, 1.0 if yes else 0.4) for yes in strong],
            linewidths=[1.6 if site == highlight else 0.9 for _, site in shown],
            linestyles=[look.line],
            label=look.name,
        )
        ax.add_collection(collection, autolim=False)
        marks.append(collection)
    when = steps_text([taken for _, taken, *_ in ridges])
    marks.append(ax.set_title(f"every site, {when}"))
    names = ", ".join(look.name for look, *_ in ridges)
    style.describe(
        ax,
        f"One ridge for each of {len(sites)} weight sites at {when}: the distribution of its latent weights in "
        f"{names}.",
    )
    style.note(ax, tables.unverified_sentence(runs, kind="weight", sites=sites))
    return marks
