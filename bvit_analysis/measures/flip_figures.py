"""The figures of a row of flip measures, from counts; of recorded and of simulated weights by the same functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bvit_analysis.measures.shares import Array, as_numpy, share

TOP = 0.01
"Share of the weights whose part of all flips is the concentration."


def late_start(total_steps: int) -> int:
    """Return the step after which the last tenth of a training begins; it has at least one step."""
    return total_steps - max(1, total_steps // 10)


def flip_flop_ratio(gross: Array | float, net: Array | float) -> float:
    """Return the gross flips for each net one: sum G / max(1, sum N).

    It grows with T: compare equal T only. Null: about T for white noise, 137 for AR(1) with theta 0.99 at T = 1500.

    Args:
        gross: Gross flips of each weight, or their sum.
        net: Net flips of each weight, or their sum.

    Returns:
        Ratio, at least 1 where any net flip is left; 0 where nothing flipped.
    """
    return float(as_numpy(gross).sum()) / max(1.0, float(as_numpy(net).sum()))


def window_figures(
    flips: NDArray, weights: int, *, before: int, step: int, back: Sequence[int]
) -> dict[str, float]:
    """Return flip_rate and flip_back_k of the steps since the row before.

    Args:
        flips: Flips of the window by how long ago the same weight flipped before: at most back[0] steps, at most
            back[1], ..., longer or never, (len(back) + 1,).
        weights: Number of weights.
        before: Step of the row before.
        step: Of this row.
        back: The k, steps, rising.

    Returns:
        flip_rate, per weight and step; flip_back_k, shares, NaN where nothing flipped or the first k steps are reached.
    """
    total = int(flips.sum())
    figures = {"flip_rate": share(total, weights * (step - before))}
    for column, k in enumerate(back):
        known = before >= k
        figures[f"flip_back_{k}"] = (
            share(int(flips[: column + 1].sum()), total) if known else math.nan
        )
    return figures


def total_figures(
    weights_by_count: NDArray, net: int, *, steps: int, threshold: float
) -> dict[str, float]:
    """Return the flip measures of all steps so far.

    Args:
        weights_by_count: How many weights have flipped 0, 1, 2, ... times.
        net: How many have another sign than at first.
        steps: Applied steps.
        threshold: Flips per step above which a weight counts as frequent.

    Returns:
        gross_flips, net_flips, oscillating_flips per weight; flip_flop_ratio; frequent_share; concentration.
    """
    flips = np.arange(len(weights_by_count))
    size, gross = int(weights_by_count.sum()), int((weights_by_count * flips).sum())
    top = math.ceil(TOP * size - 1e-9)
    return {
        "gross_flips": share(gross, size),
        "net_flips": share(net, size),
        "oscillating_flips": share(gross - net, size),
        "flip_flop_ratio": flip_flop_ratio(gross, net),
        "frequent_share": share(int(weights_by_count[flips > threshold * steps].sum()), size),
        "concentration": share(_top_flips(weights_by_count, top), gross),
    }


def _top_flips(weights_by_count: NDArray, top: int) -> int:
    """Return the flips of the `top` weights that flipped most, from how many weights flipped 0, 1, 2, ... times."""
    counts = np.asarray(weights_by_count)[::-1]
    before = np.concatenate([[0], counts.cumsum()[:-1]])
    taken = np.clip(top - before, 0, counts)
    return int((taken * np.arange(len(counts))[::-1]).sum())
