"""Flips and oscillation of weight signs, from counters that see every applied step."""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch
from torch import Tensor

from bvit_analysis.config import WatchConfig
from bvit_analysis.errors import CheckpointError
from bvit_analysis.instruments.base import Instrument, Rows, Watched
from bvit_analysis.instruments.counters import BUCKETS, SignTracker, tracker_of
from bvit_analysis.measures import near_threshold_share
from bvit_analysis.measures.flip_figures import late_start, total_figures, window_figures
from bvit_analysis.records.columns import FLIP_BACK_STEPS, catalogued
from bvit_analysis.sites import Site

_SAMPLE = 256


@final
class FlipInstrument(Instrument):
    """Counts the flips of every weight on every applied step, and describes them in a row every so many steps.

    Over the window since the last row: flip_rate, flips per weight and step; flip_back_k, the share of the window's
    flips that came at most k steps after the same weight's last flip, so that they undid it (NaN where nothing
    flipped, and where the window reaches into the first k steps, whose past is unknown). It is the mirror image in
    time of measures.flip_back_probability, so that a row needs no steps after it.

    Over all steps so far: gross_flips, net_flips and oscillating_flips per weight, flip_flop_ratio, frequent_share,
    concentration (of the top 1%); see measures.

    Of a weight with more than two levels none of these is put: its sign changes are no flips. They are
    sign_change_rate, per weight and step.

    At the step itself: near_threshold_share, P(|w| < typical update) of the argument w of the sign, where the
    typical update is the mean |change| in this step over at most 256 evenly spaced weights of the site.

    Args:
        sites: Weight sites by site_id; None takes those of the watch.
        every: Steps between rows; None takes flips_every of the watch.
        threshold: Flips per step above which a weight counts as frequent; None takes the watch's frequency_threshold.
        total_steps: Length of the training if known; flips in its last tenth are counted as late. A watch says itself.
    """

    measures = catalogued(
        "flip_rate",
        "gross_flips",
        "net_flips",
        "oscillating_flips",
        "flip_flop_ratio",
        *(f"flip_back_{k}" for k in FLIP_BACK_STEPS),
        "frequent_share",
        "concentration",
        "near_threshold_share",
        "sign_change_rate",
    )

    def __init__(
        self,
        sites: dict[int, Site] | None = None,
        *,
        every: int | None = None,
        threshold: float | None = None,
        total_steps: int | None = None,
    ) -> None:
        super().__init__(every)
        self._threshold = threshold
        self._multilevel: set[int] = set()
        if sites is not None:
            late_after = None if total_steps is None else late_start(total_steps)
            tracker = SignTracker(list(sites.values()), late_after=late_after)
            self._follow(sites, tracker, WatchConfig())

    def attach(self, watched: Watched) -> None:
        super().attach(watched)
        self._multilevel = watched.multilevel
        self._follow(watched.weights, tracker_of(watched), watched.config)

    def _follow(self, sites: dict[int, Site], tracker: SignTracker, config: WatchConfig) -> None:
        self.site_ids = list(sites)
        self.sites = list(sites.values())
        self.threshold = config.frequency_threshold if self._threshold is None else self._threshold
        self.tracker = tracker
        self._row_step = 0
        self._places = [_spread(stop - start) for start, stop in self.tracker.spans]
        self._places = [place.to(self.tracker.device) for place in self._places]
        self._before: list[Tensor] = []

    @property
    def steps(self) -> int:
        """Applied steps counted so far."""
        return self.tracker.steps

    def start(self) -> None:
        """Take the present signs as the first ones."""
        self.tracker.start()
        self._row_step = 0
        self._before = self._sample() if self.is_due(1) else []

    def update(self) -> None:
        """Count one applied step; call it on each."""
        self.tracker.update()
        if not self.is_due(self.steps):
            self.prepare()

    def take_again(self, site_id: int) -> None:
        """Take a site's present signs as its first ones, before the first step: a forward pass may have initialised it."""
        if self.steps == 0:
            self.tracker.start_site(self.site_ids.index(site_id))

    def prepare(self) -> None:
        """Keep the sample that the next step's typical update needs, if the next step leaves rows."""
        if self.is_due(self.steps + 1):
            self._before = self._sample()

    @torch.no_grad()
    def record(self, rows: Rows) -> None:
        now = self._sample()
        window = self.tracker.window.view(-1, BUCKETS).cpu().numpy()
        for position, site_id in enumerate(self.site_ids):
            if site_id in self._multilevel:
                figures = self._window_figures(position, window[position])
                rows.put(site_id, sign_change_rate=figures["flip_rate"])
                continue
            rows.put(
                site_id,
                **self._window_figures(position, window[position]),
                **self._total_figures(position),
                near_threshold_share=self._near_threshold(position, now),
            )
        self.tracker.window.zero_()
        self._row_step = self.steps
        self._before = now if self.is_due(self.steps + 1) else []

    def counts(self, position: int) -> dict[str, np.ndarray]:
        """Return what is stored of each weight of a site: gross, first_sign, last_sign, late, steps."""
        tracker, shape = self.tracker, self.sites[position].shape
        start, stop = tracker.spans[position]
        first = tracker.first(position).to(torch.int8) * 2 - 1
        last = (tracker.counts.low[start:stop] & 1).to(torch.int8) * 2 - 1
        if tracker.late is not None:
            late = tracker.late.dense(start, stop)
        else:  # not begun is 0, unknown is -1
            late = torch.full((stop - start,), -1 if tracker.late_after is None else 0)
        arrays = {"gross": tracker.gross(position), "late": late.int(), "first_sign": first}
        arrays["last_sign"] = last
        named = {name: array.view(shape).cpu().numpy() for name, array in arrays.items()}
        return named | {"steps": np.array(self.steps, dtype=np.int64)}

    def state_dict(self) -> dict[str, Tensor]:
        state = {name: tensor.clone() for name, tensor in self.tracker.tensors().items()}
        state["progress"] = torch.tensor([self.steps, self._row_step])
        if self._before:
            state["before"] = torch.cat(self._before)
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        missing = {"progress", "counts", "counts.index", "counts.units", "last", "window"} - set(
            state
        )
        if missing:
            raise CheckpointError(
                f"the watch's state lacks {sorted(missing)}; resume with the versions that wrote the checkpoint"
            )
        steps, self._row_step = state["progress"].tolist()
        self.tracker.load(state, steps)
        self._before = []
        if "before" in state:
            before = state["before"].to(self.tracker.device, copy=True)
            self._before = list(before.split([len(place) for place in self._places]))

    def _window_figures(self, position: int, flips: np.ndarray) -> dict[str, float]:
        start, stop = self.tracker.spans[position]
        return window_figures(
            flips, stop - start, before=self._row_step, step=self.steps, back=FLIP_BACK_STEPS
        )

    def _total_figures(self, position: int) -> dict[str, float]:
        return total_figures(
            self.tracker.count_histogram(position).cpu().numpy(),
            self.tracker.net(position),
            steps=self.steps,
            threshold=self.threshold,
        )

    def _near_threshold(self, position: int, now: list[Tensor]) -> float:
        if not self._before:
            return math.nan
        update = (now[position] - self._before[position]).double().abs().mean()
        return near_threshold_share(self.sites[position].effective(), update)

    @torch.no_grad()
    def _sample(self) -> list[Tensor]:
        return [
            site.effective().reshape(-1).index_select(0, place).float()
            for site, place in zip(self.sites, self._places, strict=True)
        ]


def _spread(size: int) -> Tensor:
    number = min(size, _SAMPLE)
    return torch.arange(number) * size // max(1, number)
