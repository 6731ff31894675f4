"""Information that the sign of an activation keeps, from sums over the micro-batches of a sampled step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from bvit_analysis.errors import ConfigError
from bvit_analysis.instruments.base import Instrument, Listener, Rows, Watched
from bvit_analysis.layers.attention import BinaryProbabilities
from bvit_analysis.layers.shift import BinarySign
from bvit_analysis.measures import (
    channel_entropy_bits,
    channel_moments,
    channel_spread,
    constant_share,
    histogram,
    near_constant_share,
    share,
)
from bvit_analysis.records.columns import catalogued
from bvit_analysis.sites import Site

_ROWS = 4096  # summed in float32 at a time, where counts are exact; then in float64


@dataclass(frozen=True)
class Moments:
    """Sums over all elements of each channel of x, the argument of a step function at 0; float64, (C,) each."""

    n: int
    "Elements a channel."
    positive: Tensor
    "Number of x >= 0."
    total: Tensor
    "Sum of x."
    square: Tensor
    "Sum of x^2."
    absolute: Tensor
    "Sum of |x|."

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.n + other.n,
            self.positive + other.positive,
            self.total + other.total,
            self.square + other.square,
            self.absolute + other.absolute,
        )


def moments_of(x: Tensor) -> Moments:
    """Return the sums of x, (elements, C).

    Args:
        x: Argument of a step at 0, any float dtype and unit.
    """
    sums = torch.zeros(4, x.shape[1], dtype=torch.float64, device=x.device)
    for part in x.split(_ROWS):
        part = part.float()
        positive = (part >= 0).float().sum(0)
        sums += torch.stack([positive, part.sum(0), part.square().sum(0), part.abs().sum(0)])
    positive, total, square, absolute = sums.unbind(0)
    return Moments(len(x), positive, total, square, absolute)


@final
class ActivationListener(Listener):
    """Sums up what enters the signs of a model in the training passes of one sampled step.

    At an activation site x is the output of the shift, just before the sign. At an attention site x is the score
    that is compared minus what it is compared with (its rule's argument: softmax - a/2, or the raw score), and a
    channel is a head.

    Args:
        sites: Activation and attention sites by site_id.
    """

    def __init__(self, sites: dict[int, Site]) -> None:
        super().__init__()
        self.sites = sites
        self.moments: dict[int, Moments] = {}

    def _attach(self) -> None:
        self.moments = {}
        for site_id, site in self.sites.items():
            if isinstance(site.module, BinarySign):
                self.tap(site.module.shift, site_id)
            elif isinstance(site.module, BinaryProbabilities):
                self.tap(site.module, site_id)

    def hear(self, key: int, inputs: tuple[Any, ...], output: Tensor) -> None:
        site = self.sites[key]
        if isinstance(site.module, BinaryProbabilities):
            x = attention_argument(site.module, inputs[0])
        else:
            x = by_channel(output, site)
        heard = moments_of(x)
        self.moments[key] = self.moments[key] + heard if key in self.moments else heard


def listener_of(watched: Watched) -> ActivationListener:
    """Return what sums up the sampled steps of a watch, one for all its instruments."""
    return watched.share(ActivationListener, lambda: ActivationListener(watched.others))


def by_channel(x: Tensor, site: Site) -> Tensor:
    """Return activations as (elements, C), from (..., C) or, of attention heads, (B, h, N, d) with C = h d."""
    channels = site.shape[0]
    if x.shape[-1] == channels:
        return x.reshape(-1, channels)
    if x.ndim == 4 and x.shape[1] * x.shape[3] == channels:
        return x.transpose(1, 2).reshape(-1, channels)
    raise ConfigError(
        f"site {site.name} has {channels} channels, but its activation has shape {tuple(x.shape)};"
        " expected (B, N, C) or (B, heads, N, C / heads)"
    )


def attention_argument(module: BinaryProbabilities, scores: Tensor) -> Tensor:
    """Return what a binarized attention compares with 0, (elements, heads), from scores (B, h, N, N)."""
    x = module.rule.argument(scores.float(), module.scale().float())
    return x.movedim(1, -1).reshape(-1, x.shape[1])


@final
class EntropyInstrument(Instrument):
    """Describes how much information each activation's sign carries, channel by channel.

    sign_entropy_bits has the correction of Miller and Madow, sign_entropy_plugin_bits has not; shares of channels
    below 0.5 bit and of constant ones; positive_share over all; channel_spread of mean / std (activations only).
    The histogram `channel_entropy` has 20 bins on [0, 1] bit, of the corrected entropies; the counts they come from
    are recorded channel by channel.

    Args:
        listener: What sums up the sampled steps; None takes the watch's.
        every: Steps between rows; None takes activation_every of the watch.
    """

    measures = catalogued(
        "sign_entropy_bits",
        "sign_entropy_plugin_bits",
        "near_constant_share",
        "constant_share",
        "positive_share",
        "channel_spread",
    )
    cadence = "activation_every"

    def __init__(
        self, listener: ActivationListener | None = None, *, every: int | None = None
    ) -> None:
        super().__init__(every)
        if listener is not None:
            self.listener = listener

    def attach(self, watched: Watched) -> None:
        super().attach(watched)
        self.listener = listener_of(watched)

    @property
    def listeners(self) -> Sequence[Listener]:
        return (self.listener,)

    def record(self, rows: Rows) -> None:
        for site_id, m in self.listener.moments.items():
            if m.n == 0:
                continue
            bits = channel_entropy_bits(m.positive, m.n)
            rows.put(
                site_id,
                sign_entropy_bits=float(bits.mean()),
                sign_entropy_plugin_bits=float(
                    channel_entropy_bits(m.positive, m.n, corrected=False).mean()
                ),
                near_constant_share=near_constant_share(bits),
                constant_share=constant_share(m.positive, m.n),
                positive_share=share(float(m.positive.sum()), m.n * len(m.positive)),
            )
            if self.listener.sites[site_id].kind == "activation":
                mean, std = channel_moments(m.n, m.total, m.square)
                rows.put(site_id, channel_spread=channel_spread(mean, std))
            rows.histogram(site_id, "channel_entropy", 0.0, 1.0, histogram(bits, 0.0, 1.0, 20))
            rows.channel_counts(site_id, m.n, m.positive)
