"""Exact trajectories of a few weights of each site: latent value, gradient and sign, step by step."""

from __future__ import annotations

import weakref
import zlib
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from bvit_analysis.config import WatchConfig
from bvit_analysis.instruments.base import Instrument, Rows, Watched
from bvit_analysis.instruments.counters import SignTracker, tracker_of
from bvit_analysis.sites import Site


@final
class TrajectoryInstrument(Instrument):
    """Records latent weight, gradient and effective sign of a fixed random sample of each site's weights.

    The gradient is what the optimizer was given (unscaled, clipped, with its regularization) where the watch knows
    the optimizer, else the sum of the backward passes as it stood after the last one. It is NaN where there was none.

    Args:
        sites: Weight sites by site_id; None takes those of the watch.
        every: Steps between rows; None takes trajectory_every of the watch.
        number: Weights a site; None takes trajectory_weights of the watch.
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
        self._follow(watched.weights, tracker_of(watched), watched.config)

    def _follow(self, sites: dict[int, Site], tracker: SignTracker, config: WatchConfig) -> None:
        number = config.trajectory_weights if self._number is None else self._number
        seed = config.seed if self._seed is None else self._seed
        self.sites = list(sites.values())
        self.tracker = tracker
        drawn = [
            _draw(stop - start, number, seed, site.name)
            for site, (start, stop) in zip(self.sites, tracker.spans, strict=True)
        ]
        device = tracker.device
        self._index = [torch.from_numpy(index).to(device) for index in drawn]
        starts = [start for start, _ in tracker.spans]
        places = [index + start for index, start in zip(drawn, starts, strict=True)]
        self._places = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *places])).to(device)
        self._site_id = np.repeat(list(sites), [len(index) for index in drawn]).astype(np.int16)
        self._weight = np.concatenate([np.zeros(0, np.int64), *drawn])
        self._nothing = [torch.full((len(i),), torch.nan, device=device) for i in self._index]
        self._gradient = list(self._nothing)
        self._pass = -1
        self._rows: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []

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
            (rows.step, latent.cpu().numpy(), gradient.cpu().numpy(), signs.cpu().numpy())
        )

    def drain(self) -> dict[str, Any]:
        """Return the rows since the last call as columns, or nothing."""
        if not self._rows:
            return {}
        rows, self._rows = self._rows, []
        number = len(rows)
        return {
            "step": np.repeat([row[0] for row in rows], len(self._weight)),
            "site_id": np.tile(self._site_id, number),
            "index": np.tile(self._weight, number),
            "latent": np.concatenate([row[1] for row in rows]),
            "gradient": np.concatenate([row[2] for row in rows]),
            "sign": np.concatenate([row[3] for row in rows]),
        }

    def forget(self) -> None:
        """Drop rows that were not drained and gradients of an unfinished step."""
        self._rows = []
        self._gradient = list(self._nothing)


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
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    index = generator.choice(size, min(number, size), replace=False, shuffle=False)
    return np.sort(index).astype(np.int64)
