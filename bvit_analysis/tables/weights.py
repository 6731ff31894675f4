"""Single weights of one site: which were followed, when they flipped, and how all weights rank."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bvit_analysis.records import Run
from bvit_analysis.tables import chance
from bvit_analysis.tables.frames import flip_counts
from bvit_analysis.tables.levels import multilevel, remember_levels
from bvit_analysis.tables.verification import remember_unverified, unverified_sentence

Window = tuple[int, int]
"First and last applied step, both included."
_SITE = "site"


def followed(run: Run, site: str) -> pd.DataFrame:
    """Return the weights of a site that were followed step by step, with a mark at each flip.

    A flip is a row whose sign differs from the row before of the same weight,
    f_t = [s_t != s_(t-1)]. Where weights have more than two levels it is a sign change and no flip, see turns().

    Args:
        run: The run.
        site: Name of a weight site; one that the run lacks has no rows.

    Returns:
        Columns index (flat, row-major in (O, I)), step, latent, gradient, sign, flip (bool), by index and step.
    """
    rows = run.trajectories_at(site)[["index", "step", "latent", "gradient", "sign"]]
    rows = rows.sort_values(["index", "step"], ignore_index=True)
    same = np.diff(rows["index"], prepend=-1) == 0
    turned = np.diff(rows["sign"].to_numpy(np.int64), prepend=0) != 0
    found = rows.assign(flip=same & turned)
    found.attrs[_SITE] = site
    return remember_levels(remember_unverified(found, [run]), [run])


def sentence_of(rows: pd.DataFrame) -> str:
    """Return the sentence on an unverified site, of rows or a ranking of its followed weights; empty without one."""
    return unverified_sentence(rows, sites=[rows.attrs.get(_SITE, "")])


def turns(rows: pd.DataFrame) -> str:
    """Return what a change of sign is called in rows or a ranking of a site: 'flips', or 'sign changes' of several levels."""
    site = rows.attrs.get(_SITE)
    return "sign changes" if any(one.site == site for one in multilevel(rows)) else "flips"


def inside(rows: pd.DataFrame, window: Window | None) -> pd.DataFrame:
    """Return the rows whose step lies in a window, both ends included; None is all."""
    if window is None:
        return rows
    return rows[(rows["step"] >= window[0]) & (rows["step"] <= window[1])]


def flip_ranking(run: Run, site: str, window: Window | None = None) -> pd.DataFrame:
    """Rank the followed weights of a site by their flips in a window of steps.

    Args:
        run: The run.
        site: Name of a weight site.
        window: First and last step, both included; None takes all.

    Returns:
        Columns index, output and input (its place in the (O, I) matrix), flips, return_steps (median
        steps from a flip to the next one, NaN below two flips); most flips first, ties by index.
    """
    return rank_weights(followed(run, site), _width(run, site), window)


def _width(run: Run, site: str) -> int:
    table = run.site_table
    shapes = table.loc[table["site"] == site, "shape"]
    shape = shapes.iloc[0] if len(shapes) else ()
    return max(1, math.prod(shape[1:]))


def rank_weights(rows: pd.DataFrame, width: int, window: Window | None = None) -> pd.DataFrame:
    """Rank weights as flip_ranking does, from the rows of followed() and the inputs a row of the matrix has."""
    chosen = inside(rows, window)
    ranked = []
    for index in chosen["index"].unique():
        steps = chosen.loc[(chosen["index"] == index) & chosen["flip"], "step"].to_numpy()
        gaps = np.diff(steps)
        ranked.append(
            {
                "index": int(index),
                "output": int(index) // width,
                "input": int(index) % width,
                "flips": len(steps),
                "return_steps": float(np.median(gaps)) if len(gaps) else math.nan,
            }
        )
    frame = pd.DataFrame(ranked, columns=["index", "output", "input", "flips", "return_steps"])
    frame.attrs |= rows.attrs
    return frame.sort_values("flips", ascending=False, kind="stable", ignore_index=True)


def ranked_counts(run: Run, site: str) -> NDArray[np.int64]:
    """Return the flips of every weight of a site over the whole run, most first, (O*I,); empty if not stored."""
    counts = flip_counts(run, site=site)
    if site not in counts:
        return np.empty(0, np.int64)
    return np.sort(counts[site]["gross"], axis=None)[::-1].astype(np.int64)


def poisson_ranks(mean: float, weights: int, ranks: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return what weights at given ranks would count if all were equally restless and each step a fresh chance.

    The weight of rank r among n has the quantile 1 - (r - 1/2) / n of Poisson(mean).

    Args:
        mean: Flips per weight.
        weights: n.
        ranks: From 1, the weight with most flips.
    """
    top = int(mean + 12 * math.sqrt(mean + 1) + 20)
    cumulated = np.cumsum(chance.poisson_shares(mean, top))
    at_or_below = 1 - (np.asarray(ranks) - 0.5) / weights
    return np.minimum(np.searchsorted(cumulated, at_or_below), top)
