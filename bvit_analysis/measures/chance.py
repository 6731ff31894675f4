"""Chance: what weights whose gradient knows nothing of their sign would do in the same optimizer.

Pure noise through the same optimizer and learning rates flips weights almost as a training does, so a count of flips
is evidence only where it exceeds this. Gradients that are decoupled from the weight's own sign are of two kinds:

    white      iid normal numbers, of the recorded size at each step where the optimizer is not scale-free
    re-dealt   recorded gradient series of weights, each with a random sign given to another start latent; it keeps
               the size over time and the correlation from step to step

All is plain numpy; the updates are in updates.py, what a recipe's gradient term does in pulls.py.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from bvit_analysis.measures.flip_figures import total_figures, window_figures
from bvit_analysis.measures.pulls import Pull
from bvit_analysis.measures.shares import ROUNDING, share
from bvit_analysis.measures.updates import Update

Weights = NDArray[np.float64]

LEAST_WEIGHTS = 4096
"Simulated weights a site."
LEAST_SERIES = 64
"Recorded gradient series a site that re-dealing needs; of fewer, one odd weight would decide."


class Gradients(ABC):
    """Where simulated weights have their gradients from."""

    @abstractmethod
    def at(self, position: int) -> Weights:
        """Return the gradients (O, I) of a step, counted from 0; called once a step, in order."""


@final
class WhiteGradients(Gradients):
    """Independent normal numbers: g_t = size_t z, z ~ N(0, 1).

    Args:
        shape: (O, I).
        random: Drawn from.
        size: Root mean square of each step, (T,); None is 1, which Adam does not see.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        random: np.random.Generator,
        size: NDArray[np.floating] | None = None,
    ) -> None:
        self._shape, self._random, self._size = shape, random, size

    def at(self, position: int) -> Weights:
        drawn = self._random.standard_normal(self._shape)
        return drawn if self._size is None else drawn * float(self._size[position])


@final
class RedealtGradients(Gradients):
    """Recorded series, each given to weights other than its own with a random sign: g_ti = s_i r_t,k(i).

    Args:
        series: Gradients of followed weights, (T, K).
        shape: (O, I).
        random: Chooses k(i), uniform, and s_i, a fair coin.
    """

    def __init__(
        self, series: NDArray[np.floating], shape: tuple[int, int], random: np.random.Generator
    ) -> None:
        self._series = np.asarray(series, np.float64)
        self._chosen = random.integers(0, series.shape[1], shape)
        self._sign = random.integers(0, 2, shape) * 2.0 - 1.0

    def at(self, position: int) -> Weights:
        return self._series[position][self._chosen] * self._sign


@final
@dataclass(frozen=True)
class Simulation:
    """What simulated weights of one site did, in the form in which a watch records it."""

    rows: dict[str, NDArray]
    "step and a column a measure, NaN where a step has no such row, as in the rows of a run."
    gross: NDArray[np.int64]
    "(O, I) flips of each weight."
    late: NDArray[np.int64]
    "(O, I) those after late_after."
    net: NDArray[np.bool_]
    "(O, I) whether the last sign differs from the first."


def simulate(
    start: NDArray[np.floating],
    rates: NDArray[np.floating],
    update: Update,
    gradients: Gradients,
    *,
    back: Sequence[int],
    near: dict[str, float],
    threshold: float,
    late_after: int,
    flip_steps: Sequence[int] = (),
    distribution_steps: Sequence[int] = (),
    centred: bool = False,
    pull: Pull | None = None,
) -> Simulation:
    """Let weights be moved by gradients that know nothing of their signs, and count as a watch does.

    About 25 nanoseconds a weight and step.

    Args:
        start: Latent weights before the first step, whole rows, (O, I).
        rates: Learning rate of each step, (T,).
        update: The optimizer, fresh.
        gradients: Of the weights, before a term.
        back: Steps k of flip_back_k, rising.
        near: Suffix of mass_near_zero to the |u| below which a weight counts.
        threshold: Flips per step above which a weight counts as frequent.
        late_after: Flips after this step are late.
        flip_steps: Steps of the rows of flip measures.
        distribution_steps: Steps of the rows of measures of the distribution, 0 allowed.
        centred: Whether the sign is that of w less its row's mean.
        pull: A gradient term, fresh, between gradient and update.

    Returns:
        Rows and counts over all T steps.
    """
    weights = np.array(start, np.float64)
    steps = len(rates)
    argument = _argument(weights, centred)
    first = (argument >= 0).ravel()
    sign = first.copy()
    gross, late = np.zeros(sign.size, np.int64), np.zeros(sign.size, np.int64)
    flipped_at = np.full(sign.size, -(2**40))
    window, row_step = np.zeros(len(back) + 1, np.int64), 0
    due, shown = set(flip_steps), set(distribution_steps)
    rows: dict[int, dict[str, float]] = {}
    if 0 in shown:
        rows[0] = distribution_figures(argument, near)
    for position in range(steps):
        rate, step = float(rates[position]), position + 1
        gradient = gradients.at(position)
        if pull is not None:
            gradient = pull.apply(
                weights, _argument(weights, centred), gradient, rate=rate, progress=position / steps
            )
        update.step(weights, gradient, rate)
        argument = _argument(weights, centred)
        now = (argument >= 0).ravel()
        turned = np.flatnonzero(now != sign)
        if len(turned):
            gross[turned] += 1
            if step > late_after:
                late[turned] += 1
            buckets = np.searchsorted(back, step - flipped_at[turned])
            window += np.bincount(buckets, minlength=len(window))
            flipped_at[turned] = step
            sign = now
        if step in due:
            row = window_figures(window, sign.size, before=row_step, step=step, back=back)
            net = int((sign != first).sum())
            row |= total_figures(np.bincount(gross), net, steps=step, threshold=threshold)
            rows.setdefault(step, {}).update(row)
            window[:] = 0
            row_step = step
        if step in shown:
            rows.setdefault(step, {}).update(distribution_figures(argument, near))
    names = dict.fromkeys(name for row in rows.values() for name in row)
    columns: dict[str, NDArray] = {"step": np.array(sorted(rows), np.int64)}
    for name in names:
        columns[name] = np.array([rows[step].get(name, math.nan) for step in sorted(rows)])
    shape = weights.shape
    return Simulation(
        columns, gross.reshape(shape), late.reshape(shape), (sign != first).reshape(shape)
    )


def distribution_figures(argument: Weights, near: dict[str, float]) -> dict[str, float]:
    """Return how bimodal weights are, each row divided by its own mean size; numpy twin of the instrument's figures.

    Args:
        argument: What the sign is taken of, (O, I).
        near: Suffix of mass_near_zero to the |u| below which a weight counts.

    Returns:
        bimodality_coefficient, kurtosis, otsu_ratio, mass_near_zero_*, weight_scale.
    """
    size = np.abs(argument).mean(axis=1, keepdims=True)
    u = np.divide(argument, size, out=np.zeros_like(argument), where=size > 0)
    x = u - u.mean()
    variance = float((x * x).mean())
    skew = kurtosis = math.nan
    if variance > ROUNDING**2:
        skew = float((x**3).mean()) / variance**1.5
        kurtosis = float((x**4).mean()) / variance**2
    sizes = np.abs(u)
    return {
        "bimodality_coefficient": (skew * skew + 1) / kurtosis,
        "kurtosis": kurtosis,
        "otsu_ratio": share(float(sizes.mean()) ** 2, float((u * u).mean())),
        **{
            f"mass_near_zero_{name}": share(int((sizes < delta).sum()), sizes.size)
            for name, delta in near.items()
        },
        "weight_scale": float(np.abs(argument).mean()),
    }


def enough_rows(rows: NDArray[np.floating], random: np.random.Generator) -> Weights:
    """Return at least LEAST_WEIGHTS start latents: the rows given, drawn again where they are too few.

    Args:
        rows: Start latents of a site, (O, I).
        random: Chooses the rows that come again.
    """
    wanted = -(-LEAST_WEIGHTS // max(1, rows.shape[1]))
    missing = max(0, wanted - len(rows))
    again = random.integers(0, len(rows), missing)
    return np.concatenate([rows, rows[again]]).astype(np.float64)


def _argument(weights: Weights, centred: bool) -> Weights:
    return weights - weights.mean(axis=1, keepdims=True) if centred else weights
