"""What chance is simulated from, as a run recorded it: optimizer, learning rates, start latents, gradients."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bvit_analysis.errors import BvitError, ConfigError
from bvit_analysis.measures.chance import (
    LEAST_SERIES,
    LEAST_WEIGHTS,
    Gradients,
    RedealtGradients,
    WhiteGradients,
    enough_rows,
)
from bvit_analysis.measures.flip_figures import late_start
from bvit_analysis.measures.pulls import PULLS, Pull
from bvit_analysis.measures.updates import Update, make_update
from bvit_analysis.records import Run

_HISTOGRAM = "latent_normalised"
_FREQUENT = 0.02


class NoChanceError(BvitError):
    """There is no chance line; the text is one sentence that says why."""

    def __init__(self, why: str) -> None:
        super().__init__(f"no chance line: {why}")


@final
@dataclass(frozen=True)
class Moved:
    """What moved the weights of a run."""

    name: str
    "Of the optimizer."
    groups: list[Mapping[str, Any]]
    "Settings, with the sites of each; without sites it is of all."
    rates: NDArray[np.float64]
    "Learning rate of each step, (T,)."
    clip: NDArray[np.float64]
    "What recorded gradients are multiplied by before the update, (T,)."
    notes: tuple[str, ...]

    @property
    def adaptive(self) -> bool:
        """Whether the size of gradients does not matter."""
        return self.name in ("Adam", "AdamW")

    def settings(self, site: str) -> Mapping[str, Any]:
        """Return the settings of the group that moves a site."""
        for group in self.groups:
            if "sites" not in group or site in group["sites"]:
                return group
        raise NoChanceError(f"the recorded optimizer does not move {site}")

    def update(self, site: str) -> Update:
        """Return a fresh optimizer for the weights of a site."""
        try:
            return make_update(self.name, self.settings(site))
        except ConfigError as error:
            raise NoChanceError(str(error)) from error


def moved_by(run: Run) -> Moved:
    """Return the optimizer and learning rates that a run recorded.

    Raises:
        NoChanceError: If they are not recorded, or cannot be simulated.
    """
    notes: tuple[str, ...] = ()
    config = run.config or {}
    recorded = run.info.get("optimizer")
    if isinstance(recorded, dict):
        name, groups = _known(recorded)
    elif run.info.get("kind") == "binary" and isinstance(config.get("recipe"), dict):
        decay = config["recipe"].get("latent_weight_decay", 0.0)
        name, groups = "AdamW", [{"weight_decay": decay}]
        notes = ("AdamW, which every release that recorded no optimizer trained with",)
    else:
        raise NoChanceError(
            "the optimizer is not recorded; give it to the watch, Watch(..., optimizer=optimizer)"
        )
    rates = _each_step(run, "lr")
    if rates is None:
        raise NoChanceError(
            "the learning rate of some steps is not recorded; give the watch the optimizer, or each step its lr"
        )
    return Moved(name, groups, rates, _clip(run, len(rates)), notes)


def _known(recorded: Mapping[str, Any]) -> tuple[str, list[Mapping[str, Any]]]:
    name, where = str(recorded.get("name"))[:60], str(recorded.get("class"))
    if name == "unknown":
        raise NoChanceError(
            "the optimizer is not recorded; give it to the watch, Watch(..., optimizer=optimizer)"
        )
    if not where.startswith("torch.optim.") or name not in ("Adam", "AdamW", "SGD"):
        raise NoChanceError(
            f"the optimizer {where[:100]} is not simulated; torch's AdamW, Adam and SGD are"
        )
    if recorded.get("wrapped_by"):
        around = str(recorded["wrapped_by"])[:60]
        raise NoChanceError(
            f"{name} is wrapped by {around}, and what that does to weights is not simulated"
        )
    if recorded.get("changed_at") is not None:
        step = str(recorded["changed_at"])[:20]
        raise NoChanceError(f"settings of {name} changed at step {step} and were not followed")
    groups = recorded.get("groups")
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise NoChanceError(f"the record of {name} has no groups")
    return name, groups


def _each_step(run: Run, column: str) -> NDArray[np.float64] | None:
    """Return a scalar of every step from the first to the last, None where one is missing."""
    scalars = run.scalars[["step", column]].dropna()
    scalars = scalars[scalars["step"] > 0]
    steps = scalars["step"].to_numpy()
    if not len(steps) or len(steps) != steps[-1] or run.step > steps[-1]:
        return None
    return scalars[column].to_numpy(np.float64)


def _clip(run: Run, steps: int) -> NDArray[np.float64]:
    """Return the factor by which the trainer clips gradients after the backward pass: min(1, bound / (norm + 1e-6))."""
    training = (run.config or {}).get("training")
    bound = training.get("clip_norm", 0.0) if isinstance(training, dict) else 0.0
    followed = run.info.get("followed")
    before = not isinstance(followed, dict) or followed.get("gradient") == "of the backward pass"
    norm = _each_step(run, "grad_norm") if before and isinstance(bound, (int, float)) else None
    if norm is None or not bound > 0:
        return np.ones(steps)
    return np.minimum(1.0, bound / (norm + 1e-6))


@final
@dataclass(frozen=True)
class Began:
    """Where the weights of a site began."""

    latent: NDArray[np.float64]
    "Whole rows, at least 4096 weights."
    centred: bool
    notes: tuple[str, ...]


def began_with(run: Run, site: str) -> Began:
    """Return start latents of a site: recorded rows, or where an older release kept none, draws from its histogram.

    Raises:
        NoChanceError: If neither is recorded, or the sign is not taken of the latent weight.
    """
    random = random_of(run, site, 1)
    start = run.start(site)
    if start is not None:
        if start.argument == "other":
            raise NoChanceError(f"the sign of {site} is not taken of the latent weight itself")
        return Began(
            enough_rows(start.latent.astype(np.float64), random), start.argument == "centred", ()
        )
    shape = run.site_table.set_index("site").loc[site, "shape"]
    width = max(1, int(np.prod(shape[1:])))
    rows = run.histograms
    rows = rows[(rows["step"] == 0) & (rows["site"] == site) & (rows["kind"] == _HISTOGRAM)]
    scales = run.sites[(run.sites["step"] == 0) & (run.sites["site"] == site)]
    scale = float(scales["weight_scale"].iloc[0]) if len(scales) else np.nan
    if rows.empty or not scale > 0 or not rows["counts"].iloc[0].sum():
        raise NoChanceError(f"latent weights of {site} before the first step are not recorded")
    low, high, counts = (rows[name].iloc[0] for name in ("lo", "hi", "counts"))
    number = -(-LEAST_WEIGHTS // width)
    chosen = random.choice(len(counts), (number, width), p=counts / counts.sum())
    u = low + (chosen + random.random(chosen.shape)) * ((high - low) / len(counts))
    recipe = (run.config or {}).get("recipe") or {}
    note = "start latents are drawn from the histogram of step 0, with one scale for all rows"
    return Began(u * scale, bool(recipe.get("centre_weights", False)), (note,))


def followed_gradients(run: Run, site: str, steps: int) -> NDArray[np.float64]:
    """Return the gradients of every step of the weights that were chosen at random before training.

    Args:
        run: The run.
        site: A weight site.
        steps: T.

    Returns:
        (T, K), of the K weights whose gradient is known at each step.
    """
    rows = run.trajectories_at(site)
    rows = rows[(rows["since"] == 0) & (rows["step"] > 0) & rows["gradient"].notna()]
    counts = rows.groupby("index")["step"].count()
    whole = rows[rows["index"].isin(counts.index[counts == steps])]
    table = pd.pivot_table(whole, index="step", columns="index", values="gradient", sort=True)
    return table.to_numpy(np.float64) if len(table) == steps else np.zeros((steps, 0))


def gradients_of(
    run: Run, site: str, null: str, moved: Moved, shape: tuple[int, int]
) -> tuple[Gradients, NDArray[np.float64]]:
    """Return the gradients of a null for a site, and the root mean square of recorded ones at each step.

    Raises:
        NoChanceError: If too few were recorded.
    """
    steps = len(moved.rates)
    series = followed_gradients(run, site, steps) * moved.clip[:, None]
    size = np.sqrt((series**2).mean(axis=1)) if series.shape[1] else np.zeros(0)
    random = random_of(run, site, 2)
    if null == "re-dealt":
        if series.shape[1] < LEAST_SERIES:
            raise NoChanceError(
                f"re-dealing needs the gradients of {LEAST_SERIES} weights of a site at every step, {site} has"
                f" {series.shape[1]}"
            )
        return RedealtGradients(series, shape, random), size
    if moved.adaptive:
        typical = float(np.median(size)) if len(size) and np.median(size) > 0 else 1.0
        return WhiteGradients(shape, random, np.full(steps, typical)), size
    if not len(size):
        raise NoChanceError(
            f"{moved.name} moves a weight by the size of its gradient, which is not recorded at every step of {site}"
        )
    return WhiteGradients(shape, random, size), size


def pull_of(run: Run) -> Pull | None:
    """Return the gradient term of a run's recipe, fresh, None where it has none that can be simulated."""
    recipe = (run.config or {}).get("recipe")
    if not isinstance(recipe, dict):
        return None
    name = recipe.get("regularization", "none")
    if not isinstance(name, str) or name not in PULLS:
        return None
    strength = recipe.get("regularization_strength", 0.3)
    if isinstance(strength, bool) or not isinstance(strength, (int, float)):
        return None
    return Pull(name, float(strength), decoupled=recipe.get("regularization_mode") == "decoupled")


def frequency_threshold(run: Run) -> float:
    """Return the flips per step above which the run counted a weight as frequent."""
    watch = (run.config or {}).get("watch")
    value = watch.get("frequency_threshold", _FREQUENT) if isinstance(watch, dict) else _FREQUENT
    return float(value) if isinstance(value, (int, float)) else _FREQUENT


def late_after(run: Run, steps: int) -> int:
    """Return the step after which flips are late; where the length is not known, the last one."""
    total = run.status.get("total_steps")
    known = type(total) is int and total > 0
    return late_start(total) if known and isinstance(total, int) else steps


def random_of(run: Run, site: str, purpose: int) -> np.random.Generator:
    """Return a generator that is the same at each look, and another for each run, so that an interval over runs holds."""
    return np.random.default_rng(
        [zlib.crc32(run.run_id.encode()), zlib.crc32(site.encode()), purpose]
    )
