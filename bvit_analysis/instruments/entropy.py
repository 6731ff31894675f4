"""Information that the sign of an activation keeps, from sums over the micro-batches of a sampled step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from bvit_analysis.errors import ConfigError
from bvit_analysis.instruments.base import Instrument, Rows, Watched
from bvit_analysis.instruments.listening import Listener
from bvit_analysis.instruments.passes import Passes, passes_of
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
    channel is a head. At a site of somebody else's it is what the site's argument returns.

    Args:
        sites: Activation and attention sites by site_id.
        passes: What tells which passes belong to the step; None takes all.
    """

    def __init__(self, sites: dict[int, Site], passes: Passes | None = None) -> None:
        super().__init__()
        self.sites = sites
        self.passes = passes
        self._heard: dict[int, dict[int, Moments]] = {}

    @property
    def moments(self) -> dict[int, Moments]:
        """What was heard in the passes of the step, by site_id."""
        total: dict[int, Moments] = {}
        kept = None if self.passes is None else self.passes.kept()
        for number, heard in self._heard.items():
            if kept is None or number in kept:
                for site_id, moments in heard.items():
                    total[site_id] = total[site_id] + moments if site_id in total else moments
        return {site_id: total[site_id] for site_id in self.sites if site_id in total}

    def _attach(self) -> None:
        for site_id, site in self.sites.items():
            self.tap(heard_module(site), site_id)

    def forget(self) -> None:
        self._heard = {}

    def hear(self, key: int, inputs: tuple[Any, ...], output: Tensor) -> None:
        heard = moments_of(argument_of(self.sites[key], inputs, output))
        number = 0 if self.passes is None else self.passes.of(key, output)
        sums = self._heard.setdefault(number, {})
        sums[key] = sums[key] + heard if key in sums else heard


def listener_of(watched: Watched) -> ActivationListener:
    """Return what sums up the sampled steps of a watch, one for all its instruments."""
    return watched.share(
        ActivationListener, lambda: ActivationListener(watched.others, passes_of(watched))
    )


def heard_module(site: Site) -> nn.Module:
    """Return the module whose inputs and output show what is binarized at an activation or attention site."""
    if isinstance(site.module, BinarySign) and site.argument is None:
        shift: nn.Module = site.module.shift
        return shift
    return site.module


def argument_of(
    site: Site, inputs: tuple[Any, ...], output: Any, *, images: int | None = None
) -> Tensor:
    """Return what a site compares with 0, (elements, C), from what its heard_module was given and returned.

    Args:
        site: An activation or attention site.
        inputs: What the module was given.
        output: What it returned.
        images: Take only so many of the first; None takes all.

    Raises:
        ConfigError: If the argument of somebody else's site fails, or is no tensor with channels.
    """
    if site.argument is not None:
        first = inputs[0] if images is None else inputs[0][:images]
        return _foreign_argument(site, first)
    if isinstance(site.module, BinaryProbabilities):
        return attention_argument(site.module, inputs[0][:images])
    return by_channel(output[:images], site)


def _foreign_argument(site: Site, first: Any) -> Tensor:
    assert site.argument is not None
    try:
        x = site.argument(site.module, first)
    except Exception as error:  # somebody else's code may fail in any way
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(
            f"the sign function of site {site.name} ({type(site.module).__name__}) failed: {text}; it is given the"
            " module and its first input, and returns what the sign is taken of"
        ) from error
    least = 4 if site.kind == "attention" else 2
    if not isinstance(x, Tensor) or x.ndim < least:
        got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        expected = "(B, heads, N, N)" if site.kind == "attention" else "(..., C), channels last"
        raise ConfigError(
            f"the sign function of site {site.name} must return a tensor {expected}, got {got}"
        )
    if site.kind == "attention":
        x = x.movedim(1, -1)
    return x.detach().reshape(-1, x.shape[-1])


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


def with_passes(listener: ActivationListener) -> Sequence[Listener]:
    """Return a listener after what tells it the passes, which has to hear them first."""
    return (listener,) if listener.passes is None else (listener.passes, listener)


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
        return with_passes(self.listener)

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
