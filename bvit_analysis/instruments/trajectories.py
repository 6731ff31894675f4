"""Exact trajectories of some weights of each site, step by step, and rows of the latents that they began with."""

from __future__ import annotations

import weakref
import zlib
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from bvit_analysis.config import WatchConfig
from bvit_analysis.instruments.base import Instrument, Rows, Watched
from bvit_analysis.instruments.counters import SignTracker, tracker_of
from bvit_analysis.records.starts import StartLatents
from bvit_analysis.sites import Site

_FIRST = 8
"Random weights a site that are followed at any length and size, and by every release."
_ROW_BYTES = 9
"Of one weight at one step in the record: a gradient and a latent that do not compress, and what little the rest takes."
_SUPPOSED_STEPS = 5000
"Length of a training of unknown length, for the budget alone."
_RESTLESS = 8
"One restless weight is followed for so many random ones, chosen at each time of choosing."
_UNKNOWN_LENGTH = (64, 512, 4096)
"When the restless are chosen in a training of unknown length, steps."
_START_WEIGHTS, _START_ROWS = 4096, 16


@final
class TrajectoryInstrument(Instrument):
    """Records latent weight, gradient and effective sign of some weights of each site.

    They are of two strata, which no estimate may mix. Those of `since` 0 are a random sample, chosen before training.
    The others are the restless: at each quarter of the training (at steps 64, 512 and 4096 where its length is not
    known) those that flipped most so far and are not followed yet, an eighth as many as the sample; `since` is the step
    at which they were chosen, and the gradient of that step is not known.

    The gradient is what the optimizer was given (unscaled, clipped, with its regularization) where the watch knows
    the optimizer, else the sum of the backward passes as it stood after the last one. It is NaN where there was none.

    Args:
        sites: Weight sites by site_id; None takes those of the watch.
        every: Steps between rows; None takes trajectory_every of the watch.
        number: Random weights a site; None takes trajectory_weights of the watch, or fewer where trajectory_bytes are few.
        seed: Chooses the sample, together with the site's name; no global generator is used. None takes the watch's.
        tracker: Where the present signs are; None takes the watch's.
    """

    cadence = "trajectory_every"

    def __init__(
        self,
        sites: dict[int, Site] | None = None,
        *,
        every: int | None = None,
        number: int | None = None,
        seed: int | None = None,
        tracker: SignTracker | None = None,
    ) -> None:
        super().__init__(every)
        self._number, self._seed = number, seed
        if sites is not None and tracker is not None:
            self._follow(sites, tracker, WatchConfig())

    def attach(self, watched: Watched) -> None:
        super().attach(watched)
        self._follow(watched.weights, tracker_of(watched), watched.config, watched.total_steps)

    def _follow(
        self,
        sites: dict[int, Site],
        tracker: SignTracker,
        config: WatchConfig,
        total_steps: int | None = None,
    ) -> None:
        self._asked = config.trajectory_weights if self._number is None else self._number
        self._seed = config.seed if self._seed is None else self._seed
        self._total_steps = total_steps
        self._site_ids = list(sites)
        self.sites = list(sites.values())
        self.tracker = tracker
        number = self._asked
        if self._number is None:
            number = min(number, max(_FIRST, self._affordable(config.trajectory_bytes)))
        self._random = number
        quarters = [total_steps * part // 4 for part in (1, 2, 3)] if total_steps else None
        self._choosing = set(_UNKNOWN_LENGTH if quarters is None else quarters) - {0}
        self._drawn = [
            _draw(stop - start, number, self._seed, site.name)
            for site, (start, stop) in zip(self.sites, tracker.spans, strict=True)
        ]
        self._starts: dict[str, StartLatents] = {}
        self._pass = -1
        self._rows: list[tuple[int, np.ndarray, np.ndarray, np.ndarray, _Layout]] = []
        self._restless: list[list[tuple[int, int]]] = [[] for _ in self.sites]
        self._arrange()

    def _affordable(self, budget: int) -> int:
        steps = self._total_steps or _SUPPOSED_STEPS
        rows = max(1, steps // (self.every or 1)) * max(1, len(self.sites))
        return budget * _RESTLESS // (rows * _ROW_BYTES * (_RESTLESS + 3))

    def _arrange(self) -> None:
        """Make the places of all weights that are followed now; gradients of this step are forgotten."""
        device = self.tracker.device
        index, since = [], []
        for drawn, restless in zip(self._drawn, self._restless, strict=True):
            index.append(np.concatenate([drawn, np.array([i for i, _ in restless], np.int64)]))
            since.append(
                np.concatenate([np.zeros_like(drawn), np.array([s for _, s in restless], np.int64)])
            )
        starts = [start for start, _ in self.tracker.spans]
        places = [one + start for one, start in zip(index, starts, strict=True)]
        nothing = np.zeros(0, np.int64)
        self._index = [torch.from_numpy(one).to(device) for one in index]
        self._places = torch.from_numpy(np.concatenate([nothing, *places])).to(device)
        self._layout = _Layout(
            np.repeat(self._site_ids, [len(one) for one in index]).astype(np.int16),
            np.concatenate([nothing, *index]),
            np.concatenate([nothing, *since]),
        )
        self._weight = self._layout.index
        self._nothing = [torch.full((len(i),), torch.nan, device=device) for i in self._index]
        self._gradient = list(self._nothing)

    def describe(self) -> dict[str, Any]:
        """Return what run.json says of the weights that are followed."""
        return {
            "every": self.every,
            "random_a_site": self._random,
            "asked_for": self._asked,
            "restless_a_site_and_time": self._random // _RESTLESS,
            "restless_chosen_at": sorted(self._choosing),
        }

    @torch.no_grad()
    def start(self) -> None:
        """Take rows of the latent weights as they are now."""
        for site_id in self._site_ids if self._random else ():
            self.take_again(site_id)

    def take_again(self, site_id: int) -> None:
        """Take a site's rows again, before the first step: a forward pass may have initialised it."""
        site = self.sites[self._site_ids.index(site_id)]
        if self._random and not self.tracker.steps:
            start = start_latents(site, 0 if self._seed is None else self._seed)
            if start is not None:
                self._starts[site.name] = start

    def drain_starts(self) -> dict[str, StartLatents]:
        """Return the start latents by site that were not drained before."""
        starts, self._starts = self._starts, {}
        return starts

    @torch.no_grad()
    def update(self) -> None:
        """See one applied step; at some of them the restless are chosen."""
        step = self.tracker.steps
        number = self._random // _RESTLESS
        if step not in self._choosing or not number:
            return
        gradients = self._gradient
        for position, restless in enumerate(self._restless):
            gross = self.tracker.gross(position).cpu().numpy()
            gross[self._drawn[position]] = 0
            gross[[index for index, _ in restless]] = 0
            flipped = np.flatnonzero(gross)
            most = flipped[np.argsort(-gross[flipped], kind="stable")][:number]
            restless += [(int(index), step) for index in most]
        self._arrange()
        for position, known in enumerate(gradients):
            unknown = self._nothing[position][len(known) :]
            self._gradient[position] = torch.cat([known, unknown])

    def state_dict(self) -> dict[str, Tensor]:
        chosen = [
            [position, index, since]
            for position, restless in enumerate(self._restless)
            for index, since in restless
        ]
        return {"restless": torch.tensor(chosen, dtype=torch.int64).view(-1, 3)} if chosen else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._restless = [[] for _ in self.sites]
        chosen = state["restless"].tolist() if "restless" in state else []
        for position, index, since in chosen:
            self._restless[position].append((index, since))
        self._starts = {}
        self._rows = []
        self._arrange()

    def hook_gradients(self) -> list[RemovableHandle]:
        """Gather gradients at the end of each backward pass, for loops whose optimizer is not known."""
        return [
            site.latent.register_post_accumulate_grad_hook(_GradientTap(self))
            for site in self.sites
            if site.latent is not None and site.latent.requires_grad
        ]

    def request_gradients(self) -> None:
        """Gather gradients once the backward pass that runs now is over."""
        # A pass that failed never reached its end, so what counts is which pass this is, not whether one was asked.
        this = torch._C._current_graph_task_id()
        if this != self._pass and self.is_due(self.tracker.steps + 1):
            self._pass = this
            engine: Any = torch.autograd.Variable._execution_engine
            engine.queue_callback(self.gather_gradients)

    @torch.no_grad()
    def gather_gradients(self, scale: float = 1.0) -> None:
        """Keep the sampled weights' part of all gradients, as they are now.

        Args:
            scale: What they are multiplied by, as a fused optimizer gets them from a GradScaler.
        """
        if not self.is_due(self.tracker.steps + 1):
            return
        for position, (site, index) in enumerate(zip(self.sites, self._index, strict=True)):
            gradient = None if site.latent is None else site.latent.grad
            if gradient is not None:
                part = gradient.reshape(-1).index_select(0, index).float()
                self._gradient[position] = part if scale == 1.0 else part / scale

    @torch.no_grad()
    def record(self, rows: Rows) -> None:
        if not len(self._weight):
            return
        latent = torch.cat(
            [
                (site.effective() if site.latent is None else site.latent)
                .reshape(-1)
                .index_select(0, index)
                .float()
                for site, index in zip(self.sites, self._index, strict=True)
            ]
        )
        signs = self.tracker.signs(self._places)
        gradient = torch.cat(self._gradient)
        self._gradient = list(self._nothing)
        self._rows.append(
            (
                rows.step,
                latent.cpu().numpy(),
                gradient.cpu().numpy(),
                signs.cpu().numpy(),
                self._layout,
            )
        )

    def drain(self) -> dict[str, Any]:
        """Return the rows since the last call as columns, or nothing."""
        if not self._rows:
            return {}
        rows, self._rows = self._rows, []
        layouts = [row[4] for row in rows]
        return {
            "step": np.repeat([row[0] for row in rows], [len(one.index) for one in layouts]),
            "site_id": np.concatenate([one.site_id for one in layouts]),
            "index": np.concatenate([one.index for one in layouts]),
            "latent": np.concatenate([row[1] for row in rows]),
            "gradient": np.concatenate([row[2] for row in rows]),
            "sign": np.concatenate([row[3] for row in rows]),
            "since": np.concatenate([one.since for one in layouts]),
        }


@dataclass(frozen=True)
class _Layout:
    """Which weights a row holds, all sites one after the other."""

    site_id: np.ndarray
    index: np.ndarray
    since: np.ndarray


@final
class _GradientTap:
    """A gradient hook that holds its instrument weakly; dead in copies.

    One gather at the end of the pass takes a fifth of the time of one in every hook.
    """

    def __init__(self, instrument: TrajectoryInstrument | None = None) -> None:
        self._instrument = None if instrument is None else weakref.ref(instrument)

    def __call__(self, parameter: Tensor) -> None:
        instrument = None if self._instrument is None else self._instrument()
        if instrument is not None:
            instrument.request_gradients()

    def __deepcopy__(self, memo: dict[int, Any]) -> _GradientTap:
        return _GradientTap()

    def __reduce__(self) -> tuple[type[_GradientTap], tuple[()]]:
        return _GradientTap, ()


def _draw(size: int, number: int, seed: int, name: str) -> np.ndarray:
    """Return a random sample of places; the first of it are those of every longer one."""
    key = zlib.crc32(name.encode())
    first = min(number, _FIRST, size)
    generator = np.random.default_rng([seed, key])
    index = generator.choice(size, first, replace=False, shuffle=False)
    if number > first and size > first:
        further = np.random.default_rng([seed, key, 1]).choice(
            size, min(number + first, size), replace=False
        )
        further = further[~np.isin(further, index)]
        index = np.concatenate([index, further[: number - first]])
    return np.sort(index).astype(np.int64)


@torch.no_grad()
def start_latents(site: Site, seed: int) -> StartLatents | None:
    """Return random whole rows of a site's latent weights as they are now, None where it has none.

    Enough rows for 4096 weights, at least 16, or all.

    Args:
        site: A weight site.
        seed: Chooses the rows, together with the site's name.
    """
    if site.latent is None or not site.latent.ndim or not site.latent.numel():
        return None
    latent = site.latent.detach().reshape(len(site.latent), -1)
    argument = site.effective()
    wanted = max(_START_ROWS, -(-_START_WEIGHTS // latent.shape[1]))
    generator = np.random.default_rng([seed, zlib.crc32(site.name.encode()), 2])
    rows = np.sort(generator.choice(len(latent), min(wanted, len(latent)), replace=False))
    kept = latent[torch.from_numpy(rows).to(latent.device)].float().cpu().numpy()
    if not np.isfinite(kept).all():
        return None
    return StartLatents(rows.astype(np.int64), kept, _argument(latent, argument))


def _argument(latent: Tensor, argument: Tensor) -> str:
    if argument.shape[:1] == latent.shape[:1] and argument.numel() == latent.numel():
        positive = argument.reshape(latent.shape) >= 0
        if torch.equal(positive, latent >= 0):
            return "latent"
        if torch.equal(positive, latent - latent.mean(dim=1, keepdim=True) >= 0):
            return "centred"
    return "other"
