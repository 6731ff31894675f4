"""Signs and flip counts of very many weights in two bytes each, updated once per applied step.

Layout, all weight sites one after the other (each begins at a multiple of 64):

- `counts`, one byte: [first sign is +1] + flips so far. Its lowest bit is therefore the present sign, and no further
  byte holds the signs; what would overflow is carried in units of 128, which keep that bit.
- `last`, one byte: bit 7 is the first sign; bits 0-6 the time of the last flip, step mod 125, or 127 for none in the
  last 100 steps. A sweep every 25 steps forgets older times, so that the clock is never ambiguous.
- `late`, one byte, made only when the last tenth of a training of known length begins: flips since then.
- a scratch of one byte a weight of the largest chunk (at most half of the weights of a small model, 2^19 of a
  large one), where the new signs of a chunk are written and compared, 8 weights a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from bvit_analysis.errors import CheckpointError, ConfigError
from bvit_analysis.instruments.base import Watched
from bvit_analysis.layers.linear import BinaryLinear
from bvit_analysis.measures.flip_figures import late_start
from bvit_analysis.records.columns import FLIP_BACK_STEPS
from bvit_analysis.sites import EffectiveSign, Site

BUCKETS = len(FLIP_BACK_STEPS) + 1
"One for each of FLIP_BACK_STEPS, and one for gaps that are longer or unknown."

_CLOCK = 125
_SWEEP = 25
_NONE = 127
_UNIT = 128
_FULL = 130  # + _SWEEP flips until the next sweep stays below 256
_ALIGN = 64
_LOW_BITS = 0x0101010101010101
_CHUNK = 2**19


@final
class ByteCounter:
    """Whole numbers, one byte each, exact at any size: units of 128 move to a sparse list, later to further bytes."""

    def __init__(self, low: Tensor) -> None:
        self.low = low
        self.index = torch.empty(0, dtype=torch.int64, device=low.device)
        self.units = self.index.clone()
        self.high: ByteCounter | None = None

    def add(self, index: Tensor, amount: Tensor) -> None:
        """Add whole numbers, also negative ones, at distinct places; none may become negative."""
        total = self.low[index].long() + amount
        self.low[index] = (total % _UNIT).to(torch.uint8)
        over = (total >= _UNIT) | (total < 0)
        if bool(over.any()):
            self._carry(index[over], total[over] // _UNIT)

    def sweep(self) -> None:
        """Carry units of what has become large; must run before any byte can overflow."""
        for start, part in _parts(self.low):
            index = (part >= _FULL).nonzero().view(-1)
            if index.numel():
                self.add(index + start, torch.zeros_like(index))

    def has_carry(self, start: int, end: int) -> bool:
        """Return whether numbers at places start..end may exceed their byte."""
        return self.high is not None or bool(((self.index >= start) & (self.index < end)).any())

    def dense(self, start: int, end: int) -> Tensor:
        """Return the numbers at places start..end, int32."""
        total = self.low[start:end].int()
        if self.high is not None:
            total += _UNIT * self.high.dense(start, end)
        inside = (self.index >= start) & (self.index < end)
        total[self.index[inside] - start] += (_UNIT * self.units[inside]).int()
        return total

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Return all that is kept, by name."""
        named = {
            f"{prefix}": self.low,
            f"{prefix}.index": self.index,
            f"{prefix}.units": self.units,
        }
        return named | (self.high.tensors(f"{prefix}.high") if self.high is not None else {})

    def load(self, state: dict[str, Tensor], prefix: str) -> None:
        """Become what tensors(prefix) describes, in place."""
        device = self.low.device
        self.low.copy_(state[prefix])
        self.index = state[f"{prefix}.index"].to(device, copy=True)
        self.units = state[f"{prefix}.units"].to(device, copy=True)
        self.high = None
        if f"{prefix}.high" in state:
            self.high = ByteCounter(torch.zeros_like(self.low))
            self.high.load(state, f"{prefix}.high")

    def clear(self) -> None:
        """Make every number 0."""
        self.low.zero_()
        self.index, self.units, self.high = self.index[:0].clone(), self.units[:0].clone(), None

    def _carry(self, index: Tensor, units: Tensor) -> None:
        if self.high is not None:
            self.high.add(index, units)
            return
        merged, place = torch.cat([self.index, index]).unique(return_inverse=True)
        total = torch.zeros_like(merged).index_add_(0, place, torch.cat([self.units, units]))
        if _ALIGN * len(merged) > len(self.low):  # 16 bytes an entry: a quarter of a byte a weight
            self.high = ByteCounter(torch.zeros_like(self.low))
            self.high.add(merged, total)
            merged, total = merged[:0], total[:0]
        self.index, self.units = merged.clone(), total.clone()


@dataclass(frozen=True)
class _Chunk:
    """Neighbouring sites that share one pass through the scratch."""

    start: int
    latents: list[tuple[Tensor, Tensor]]
    "Of sites whose latent weight is what the sign is taken of: that weight, and the piece of scratch for its signs."
    functions: list[tuple[EffectiveSign, nn.Module, Tensor]]
    "Of all other sites: function, module, and piece of scratch."
    bits: Tensor
    "The scratch, bool."
    words: Tensor
    "The scratch, 8 weights an int64."
    kept: Tensor
    "The counts of the same weights, 8 an int64."
    gaps: list[Tensor]
    "Scratch between sites, to be kept zero."


@final
class SignTracker:
    """Counts the effective sign flips of every weight; one update() per applied step, NaN counts as -1.

    Args:
        sites: Weight sites with distinct storages, on one device.
        late_after: Flips after this step count as late as well; None means that is unknown.
    """

    def __init__(self, sites: Sequence[Site], *, late_after: int | None = None) -> None:
        self.sites = list(sites)
        self.late_after = late_after
        self.steps = 0
        self.spans: list[tuple[int, int]] = []
        end = 0
        for site in self.sites:
            size = _numel(site)
            self.spans.append((end, end + size))
            end += -(-size // _ALIGN) * _ALIGN
        self.size = end
        self.device = _one_device(self.sites)
        self.counts = ByteCounter(torch.zeros(end, dtype=torch.uint8, device=self.device))
        self.last = torch.full((end,), _NONE, dtype=torch.uint8, device=self.device)
        self.late: ByteCounter | None = None
        self.window = torch.zeros(len(self.sites) * BUCKETS, dtype=torch.int64, device=self.device)
        self._bucket = _gap_buckets().to(self.device)
        self._site_code = torch.zeros(end // _ALIGN, dtype=torch.int32, device=self.device)
        for position, (start, stop) in enumerate(self.spans):
            self._site_code[start // _ALIGN : -(-stop // _ALIGN)] = position * BUCKETS
        self._one = torch.ones(1, dtype=torch.int64, device=self.device)
        self._one_byte = self._one.to(torch.uint8)
        self._scratch = torch.empty(0, dtype=torch.bool, device=self.device)
        self._chunks = self._plan()

    def _plan(self) -> list[_Chunk]:
        widths = [-(-(stop - start) // _ALIGN) * _ALIGN for start, stop in self.spans]
        limit = max([min(_CHUNK, self.size // 2), *widths])
        groups: list[list[int]] = []
        filled = limit
        for position, width in enumerate(widths):
            if filled + width > limit:
                groups.append([])
                filled = 0
            groups[-1].append(position)
            filled += width
        total = [sum(widths[i] for i in group) for group in groups]
        self._scratch = torch.zeros(max(total, default=0), dtype=torch.bool, device=self.device)
        return [self._chunk(group, size) for group, size in zip(groups, total, strict=True)]

    def _chunk(self, group: list[int], size: int) -> _Chunk:
        base = self.spans[group[0]][0]
        latents: list[tuple[Tensor, Tensor]] = []
        functions: list[tuple[EffectiveSign, nn.Module, Tensor]] = []
        gaps: list[Tensor] = []
        for position in group:
            site, (start, stop) = self.sites[position], self.spans[position]
            assert site.effective_sign is not None
            piece = self._scratch[start - base : stop - base].view(site.shape)
            if _is_plain(site):  # the calls saved are a sixth of an update of a small model
                latents.append((site.effective_sign(site.module), piece))
            else:
                functions.append((site.effective_sign, site.module, piece))
            if stop % _ALIGN:
                gap_end = -(-stop // _ALIGN) * _ALIGN
                gaps.append(self._scratch[stop - base : gap_end - base])
        scratch = self._scratch[:size]
        kept = self.counts.low[base : base + size].view(torch.int64)
        return _Chunk(base, latents, functions, scratch, scratch.view(torch.int64), kept, gaps)

    def replan(self) -> None:
        """Read the sites' parameters anew: some are not those that were there before."""
        self._chunks = self._plan()

    @torch.no_grad()
    def start(self) -> None:
        """Take the present signs as the first ones and forget everything else."""
        self.steps = 0
        self.counts.clear()
        self.late = None
        self.window.zero_()
        for chunk in self._chunks:
            self._read(chunk)
            new = chunk.words.view(torch.uint8)
            end = chunk.start + len(new)
            self.counts.low[chunk.start : end] = new
            self.last[chunk.start : end] = new * 128 + _NONE

    @torch.no_grad()
    def start_site(self, position: int) -> None:
        """Take the present signs of one site as its first ones; only before the first step."""
        start, stop = self.spans[position]
        new = (self.sites[position].effective() >= 0).reshape(-1).to(torch.uint8)
        self.counts.low[start:stop] = new
        self.last[start:stop] = new * 128 + _NONE

    @torch.no_grad()
    def rebase(self) -> int:
        """Take the present signs for those after the last step, count nothing, and return how many differed.

        The first sign of a weight that differs is turned, too, so that gross and net flips stay those of the training.
        """
        self.replan()
        changed = 0
        for chunk in self._chunks:
            index = self._differing(chunk)
            if index.numel():
                changed += len(index)
                # The lowest bit of a count is the present sign, and first sign + flips: turning the first sign turns it.
                was_positive = self.last.index_select(0, index) >> 7
                self.counts.add(index, 1 - 2 * was_positive.long())
                self.last.index_copy_(0, index, self.last.index_select(0, index) ^ 128)
        return changed

    @torch.no_grad()
    def differing(self) -> int:
        """Return how many signs differ from those after the last step that was counted, and count nothing."""
        return sum(len(self._differing(chunk)) for chunk in self._chunks)

    def _differing(self, chunk: _Chunk) -> Tensor:
        self._read(chunk)
        torch.bitwise_xor(chunk.words, chunk.kept, out=chunk.words)
        chunk.words.bitwise_and_(_LOW_BITS)
        return _nonzero(chunk.bits).add_(chunk.start)

    @torch.no_grad()
    def update(self) -> None:
        """Count the flips of one applied step."""
        self.steps += 1
        clock = self.steps % _CLOCK
        if clock % _SWEEP == 0:
            self._sweep(clock)
        found = []
        for chunk in self._chunks:
            # The new sign and the lowest bit of the count differ where the weight has flipped.
            found.append(self._differing(chunk))
        index = torch.cat(found) if len(found) > 1 else found[0] if found else self._one[:0]
        if index.numel():
            flip = self._one_byte.expand(len(index))
            self.counts.low.index_add_(0, index, flip)
            late = self._late_counter()
            if late is not None:
                late.low.index_add_(0, index, flip)
            # index_select and scatter_ take a fifth of the time of indexing with brackets.
            before = self.last.index_select(0, index)
            self.last.scatter_(0, index, (before & 128) | clock)
            codes = self._bucket[clock].index_select(0, before.long())
            codes = codes + self._site_code.index_select(0, index >> 6)
            self.window.index_add_(0, codes, self._one.expand(len(index)))

    def _read(self, chunk: _Chunk) -> None:
        for latent, piece in chunk.latents:
            torch.ge(latent, 0, out=piece)
        for effective, module, piece in chunk.functions:
            torch.ge(effective(module), 0, out=piece)
        for gap in chunk.gaps:
            gap.zero_()

    def _late_counter(self) -> ByteCounter | None:
        if self.late_after is None or self.steps <= self.late_after:
            return None
        if self.late is None:
            self.late = ByteCounter(torch.zeros_like(self.last))
        return self.late

    def _sweep(self, clock: int) -> None:
        self.counts.sweep()
        if self.late is not None:
            self.late.sweep()
        for _, part in _parts(self.last):
            # Ages 101..125 are the 25 clock values from `clock` on; uint8 differences wrap as they should.
            stale = ((part & _NONE) - clock) < _SWEEP
            part |= stale.to(torch.uint8) * _NONE

    def signs(self, index: Tensor) -> Tensor:
        """Return the present signs at places of the common layout, int8 in {-1, +1}."""
        return (self.counts.low[index] & 1).to(torch.int8) * 2 - 1

    def first(self, position: int) -> Tensor:
        """Return whether the first sign of each weight of a site was +1, uint8 (weights,)."""
        start, stop = self.spans[position]
        return self.last[start:stop] >> 7

    def gross(self, position: int) -> Tensor:
        """Return the flips of each weight of a site, int32 (weights,)."""
        return self.counts.dense(*self.spans[position]) - self.first(position)

    def net(self, position: int) -> int:
        """Return how many weights of a site have another sign than at first."""
        start, stop = self.spans[position]
        return int(((self.counts.low[start:stop] & 1) != self.first(position)).sum())

    def count_histogram(self, position: int) -> Tensor:
        """Return how many weights of a site have flipped 0, 1, 2, ... times, int64."""
        start, stop = self.spans[position]
        if self.counts.has_carry(start, stop):
            return torch.bincount(self.gross(position))
        return torch.bincount(self.counts.low[start:stop] - self.first(position))

    def state_bytes(self) -> int:
        """Return the bytes of all that is kept for counting, scratch and tables included."""
        kept = [*self.tensors().values(), self._scratch, self._bucket, self._site_code]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def tensors(self) -> dict[str, Tensor]:
        """Return the state by name, not copied."""
        named = self.counts.tensors("counts") | {"last": self.last, "window": self.window}
        return named | (self.late.tensors("late") if self.late is not None else {})

    def load(self, state: dict[str, Tensor], steps: int) -> None:
        """Go on from the state after so many steps.

        Raises:
            CheckpointError: If the state is of other sites.
        """
        if len(state["last"]) != self.size or len(state["window"]) != len(self.window):
            raise CheckpointError(
                f"the watch's state is of {len(state['last'])} weights, expected {self.size}; resume with"
                " the model and sites that wrote the checkpoint"
            )
        self.steps = steps
        self.counts.load(state, "counts")
        self.last.copy_(state["last"])
        self.window.copy_(state["window"])
        self.late = None
        if "late" in state:
            self.late = ByteCounter(torch.zeros_like(self.last))
            self.late.load(state, "late")


def _is_plain(site: Site) -> bool:
    """Return whether the sign is that of the latent parameter itself, now and always."""
    if not isinstance(site.module, BinaryLinear) or site.centred or site.effective_sign is None:
        return False
    return site.effective_sign(site.module) is site.latent


def _numel(site: Site) -> int:
    size = 1
    for length in site.shape:
        size *= length
    return size


def _one_device(sites: Sequence[Site]) -> torch.device:
    devices = {site.effective().device for site in sites} or {torch.device("cpu")}
    if len(devices) > 1:
        raise ConfigError(
            f"the watched weights are on {sorted(map(str, devices))}; expected one device: move the model,"
            " or watch the sites of each device apart"
        )
    return devices.pop()


def _nonzero(bits: Tensor) -> Tensor:
    if bits.device.type == "cpu":  # numpy's takes a seventh of the time of torch's on few set bytes
        return torch.from_numpy(np.flatnonzero(bits.numpy()))
    return bits.nonzero().view(-1)


def tracker_of(watched: Watched) -> SignTracker:
    """Return what tracks the signs of a watch's weights, one for all its instruments."""
    total = watched.total_steps
    late_after = None if total is None else late_start(total)
    return watched.share(
        SignTracker, lambda: SignTracker(list(watched.weights.values()), late_after=late_after)
    )


def _parts(tensor: Tensor) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(tensor), _CHUNK):
        yield start, tensor[start : start + _CHUNK]


def _gap_buckets() -> Tensor:
    """Return the bucket of a flip by [clock now, byte before], (125, 256): the first of FLIP_BACK_STEPS that is >= the gap."""
    now = torch.arange(_CLOCK).view(-1, 1)
    then = torch.arange(256).view(1, -1) & _NONE
    gap = (now - then) % _CLOCK
    bucket = torch.bucketize(gap, torch.tensor(FLIP_BACK_STEPS))
    return torch.where(then >= _CLOCK, BUCKETS - 1, bucket).to(torch.uint8)
