"""Statistics of bimodality on one scale, from Gaussian weights to two points: do they agree?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from bvit_analysis import tables
from bvit_analysis.plots import style
from bvit_analysis.plots.distribution import steps_text
from bvit_analysis.plots.overlay import looks
from bvit_analysis.records import MEASURES, Run
from bvit_analysis.tables.bimodality import STATISTICS

NO_STATISTICS = "No statistics of latent weights are recorded in these runs (yet)."
_LOW, _HIGH = -0.6, 1.12  # ends of the scale; what lies beyond is drawn at its end and said
_MOST_NUMBERS = 3  # runs whose numbers fit beside their marks


@style.bvit()
def plot_bimodality_nulls(
    runs: tables.Runs,
    *,
    ax: Axes | None = None,
    site: str | None = None,
    step: int | None = None,
) -> Axes:
    """Draw every statistic of bimodality on one scale: 0 for Gaussian weights, 1 for two sharp points.

    (value - gaussian) / (points - gaussian), with the value itself beside each mark and the Gaussian value
    beside each name. Marks of one run that do not lie together are statistics that disagree.

    Args:
        runs: Run or runs.
        ax: Where to draw; None makes a figure.
        site: One weight site; None takes the mean over all, in proportion to their weights.
        step: The last recorded step at or before this one; None takes the last.

    Returns:
        The axes, one row a statistic.
    """
    chosen = tables.binary_runs(runs)
    tables.check_site(chosen, site)
    found = statistics_of(chosen, site, step)
    ax = style.axes(ax)
    if not any(len(table) for table in found):
        return style.nothing(ax, NO_STATISTICS)
    null_frame(ax)
    null_marks(ax, chosen, found, site)
    style.legend(ax)
    return ax


def statistics_of(
    runs: Sequence[Run], site: str | None = None, step: int | None = None
) -> list[pd.DataFrame]:
    """Return bimodality_at of each run, without rows where the run lacks the site or recorded nothing.

    Args:
        runs: Binary runs.
        site: One weight site; None takes the mean over all.
        step: The last recorded step at or before this one; None takes the last.
    """
    found = []
    for run in runs:
        known = site is None or site in tables.weight_sites(run)
        table = tables.bimodality_at(run, site=site if known else None, step=step)
        found.append(table if known and table["value"].notna().any() else table.iloc[:0])
    return found


def null_frame(ax: Axes) -> None:
    """Draw what never changes: the rows with their Gaussian values, and the line where Gaussian weights lie."""
    ax.axvline(0.0, color=style.NULL_COLOUR, linestyle=(0, (4, 3)), linewidth=1.2, zorder=1.5)
    labels = [
        f"{label}\nGaussian {MEASURES[name].null:.3g}" for name, (label, _) in STATISTICS.items()
    ]
    ax.set_yticks(range(len(labels)), labels, fontsize=8.5)
    ax.set_xlim(_LOW, _HIGH)
    ax.set_xticks([0.0, 0.5, 1.0], ["Gaussian", "half-way", "two points"])
    ax.set_ylim(len(labels) - 0.5, -0.5)
    style.titles(ax, x="place between Gaussian weights and two points")


def null_marks(
    ax: Axes, runs: Sequence[Run], found: Sequence[pd.DataFrame], site: str | None = None
) -> list[Artist]:
    """Draw marks, numbers and title into a null_frame, and return what was drawn.

    Args:
        ax: As null_frame left it.
        runs: Binary runs.
        found: As statistics_of these runs.
        site: For the title.
    """
    shown = [one for one in zip(looks(runs), found, strict=True) if len(one[1])]
    nudges = np.linspace(-0.2, 0.2, len(shown)) if len(shown) > 1 else [0.0]
    marks: list[Artist] = []
    for (look, table), nudge in zip(shown, nudges, strict=True):
        towards = table["towards"].to_numpy(dtype=float)
        places = np.clip(towards, _LOW + 0.03, _HIGH - 0.03)
        marks += ax.plot(
            places,
            np.arange(len(table)) + nudge,
            linestyle="none",
            marker=look.marker,
            markersize=6,
            color=look.colour,
            fillstyle="full" if look.line == "-" else "none",
            label=look.name,
            zorder=3,
        )
        style.hold(marks[-1], x=towards, y=np.arange(len(table)))
        for row, (value, place) in enumerate(zip(table["value"], places, strict=True)):
            if np.isnan(value) or len(shown) > _MOST_NUMBERS:
                continue
            # on the side where neither the border nor the line of the null is
            left = place > 0.8 or -0.3 < place < 0.1
            beyond = "" if _LOW < towards[row] < _HIGH else " (beyond the scale)"
            marks.append(
                ax.text(
                    place + (-0.04 if left else 0.04),
                    row + nudge,
                    f"{value:.3g}{beyond}",
                    ha="right" if left else "left",
                    va="center",
                    fontsize=8,
                    color=look.colour,
                )
            )
    where = "all weight sites" if site is None else site
    title = f"{style.clip(where)}, {steps_text([table.attrs['step'] for _, table in shown])}"
    marks.append(ax.set_title(title, parse_math=False))
    verdicts = [f"{look.name}: {tables.bimodality_verdict(table)}" for look, table in shown]
    style.describe(ax, f"Statistics of bimodality, {title}. {'; '.join(verdicts)}.")
    sites = None if site is None else [site]
    style.note(ax, tables.unverified_sentence(runs, kind="weight", sites=sites))
    return marks
