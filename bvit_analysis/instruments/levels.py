"""Level changes of weights that have more than two levels: ternary, and of 2 to 4 bits."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from bvit_analysis.errors import CheckpointError, ConfigError
from bvit_analysis.instruments.base import Instrument, Rows, Watched
from bvit_analysis.instruments.counters import tracker_of
from bvit_analysis.instruments.program import WeightProgram
from bvit_analysis.instruments.verification import MOST_LEVELS, levels_of, zero_level
from bvit_analysis.measures import share
from bvit_analysis.records.columns import catalogued
from bvit_analysis.sites import Site

_CLOSE = 1e-3  # of a step between levels


@final
@dataclass
class _Levels:
    """The levels of one site's weights, and what has become of them."""

    now: Tensor
    "Whole number of each weight's level, int16, (O, I, ...)."
    direction: Tensor
    "+1 where the weight's last change went up, -1 down, 0 where it never changed, int8."
    window: Tensor
    "Since the last row: changes, those that went up, those opposite to the weight's change before; int64, (3,)."
    row_step: int
    "Applied steps at the last row."


@final
class LevelInstrument(Instrument):
    """Counts the level changes of every weight with more than two levels, on every applied step.

    With z_t the whole number of a weight's level after step t and d_t = sign(z_t - z_(t-1)), over the window since the
    last row: level_change_rate, the share of (weight, step) with d_t != 0; level_reversal_rate, the share with
    d_t != 0 and d_t = -d_s of the weight's last change s < t, which is an oscillation after 2203.11086; level_rise_share,
    of the changes those with d_t > 0. Nothing is put for binary weights, whose every flip but the first is a reversal.

    Args:
        every: Steps between rows; None takes flips_every of the watch.

    Source: arXiv 2203.11086.
    """

    measures = catalogued("level_change_rate", "level_reversal_rate", "level_rise_share")

    def attach(self, watched: Watched) -> None:
        super().attach(watched)
        self._tracker = tracker_of(watched)  # which knows the applied steps
        self._sources: dict[int, LevelSource | None] = {}
        self._levels: dict[int, _Levels] = {}
        self._unfollowed: set[int] = set()

    def start(self) -> None:
        for site_id, site in self.watched.weights.items():
            if site.effective_level is not None:
                self.follow(site_id, None)

    def follow(self, site_id: int, program: WeightProgram | None) -> None:
        """Count the level changes of a site from now on; before the first step, take its levels as the first ones.

        Args:
            site_id: Of a weight site whose used weight has more than two levels, or whose levels are given.
            program: How its used weight comes to be; not needed where the levels are given.
        """
        site = self.watched.sites[site_id]
        self.watched.multilevel.add(site_id)
        if site.effective_level is None and program is None:
            if site_id not in self._levels and site_id not in self._unfollowed:
                self._unfollowed.add(site_id)
            return
        self._unfollowed.discard(site_id)
        self._sources[site_id] = None if program is None else level_source(program)
        steps = self._tracker.steps
        if site_id not in self._levels or steps == 0:
            now = self._read(site_id)
            empty = torch.zeros(3, dtype=torch.int64, device=now.device)
            direction = torch.zeros_like(now, dtype=torch.int8)
            self._levels[site_id] = _Levels(now, direction, empty, steps)

    def unfollowed(self) -> list[str]:
        """Return the names of the sites that have more than two levels whose changes cannot be counted."""
        return [self.watched.sites[site_id].name for site_id in sorted(self._unfollowed)]

    def warn(self) -> None:
        """Say once which sites those are."""
        names = self.unfollowed()
        if names:
            self._unfollowed.clear()
            warnings.warn(
                f"the weights of {', '.join(names[:5])} have more than two levels, whose changes cannot be read off the"
                " forward pass; pass find_sites(..., effective_level={TheirLayer: fn}) to count them. Their sign changes"
                " are recorded",
                RuntimeWarning,
                stacklevel=4,
            )

    @torch.no_grad()
    def update(self) -> None:
        for site_id, levels in self._levels.items():
            if site_id not in self._sources:
                continue
            now = self._read(site_id)
            went = (now - levels.now).sign().to(torch.int8)
            changed = went != 0
            counts = (changed, went > 0, changed & (went == -levels.direction))
            levels.window += torch.stack([one.sum() for one in counts])
            levels.direction = torch.where(changed, went, levels.direction)
            levels.now = now

    @torch.no_grad()
    def rebase(self) -> None:
        """Take the present levels for those after the last step; nothing is counted."""
        for site_id, levels in self._levels.items():
            if site_id in self._sources:
                levels.now = self._read(site_id)

    def record(self, rows: Rows) -> None:
        for site_id, levels in self._levels.items():
            steps = rows.step - levels.row_step
            size = levels.now.numel()
            changes, rises, reversals = levels.window.tolist()
            if steps > 0:
                rows.put(
                    site_id,
                    level_change_rate=share(changes, size * steps),
                    level_reversal_rate=share(reversals, size * steps),
                    level_rise_share=share(rises, changes),
                )
            levels.window.zero_()
            levels.row_step = rows.step

    def state_dict(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for site_id, one in self._levels.items():
            state |= {
                f"{site_id}.now": one.now.clone(),
                f"{site_id}.direction": one.direction.clone(),
                f"{site_id}.window": one.window.clone(),
                f"{site_id}.progress": torch.tensor(one.row_step),
            }
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._levels = {}
        for name in state:
            site_id, _, what = name.partition(".")
            if what != "now":
                continue
            number = int(site_id)
            if number not in self.watched.weights:
                raise CheckpointError(
                    f"the watch's state has levels of site {number}, which is not watched; resume with the sites that"
                    " wrote the checkpoint"
                )
            device = self.watched.sites[number].effective().device
            self._levels[number] = _Levels(
                state[name].to(device, copy=True),
                state[f"{site_id}.direction"].to(device, copy=True),
                state[f"{site_id}.window"].to(device, copy=True),
                int(state[f"{site_id}.progress"]),
            )
            self.watched.multilevel.add(number)
            if self.watched.sites[number].effective_level is not None:
                self._sources[number] = None

    def _read(self, site_id: int) -> Tensor:
        site = self.watched.sites[site_id]
        if site.effective_level is not None:
            return _given_levels(site)
        source = self._sources[site_id]
        assert source is not None
        return source.read()


@torch.no_grad()
def _given_levels(site: Site) -> Tensor:
    assert site.effective_level is not None
    found = site.effective_level(site.module)
    if not isinstance(found, Tensor) or found.numel() != torch.Size(site.shape).numel():
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(
            f"effective_level of site {site.name} must return a tensor of shape {site.shape}, got {got}"
        )
    whole = found.detach().round()
    if found.is_floating_point() and bool(((found - whole).abs() > _CLOSE).any()):
        raise ConfigError(
            f"effective_level of site {site.name} must return whole numbers, got"
            f" {float(found.reshape(-1)[(found - whole).abs().argmax()]):.4g}; round it, before the scale is multiplied back"
        )
    return whole.to(torch.int16).reshape(site.shape)


@final
@dataclass(frozen=True)
class LevelSource:
    """Where the levels of a layer's weights are read off: a whole number on the way to the used weight, or its values."""

    program: WeightProgram
    number: int | None = None
    "Of the value that the layer rounds to whole numbers, or to halves of odd ones; None takes the values of the used weight."
    ternary: bool = False
    "Whether the values are one below, at and above 0."

    @torch.no_grad()
    def read(self) -> Tensor:
        """Return the level of each weight that the layer would use now, int16, in the site's shape."""
        if self.number is None:
            used = self.program.run()
            return _signs(used) if self.ternary else _lattice(used)
        values = self.program.run_all(self.number)
        values.pop(self.program.result, None)
        return torch.floor(next(iter(values.values())).float() + _CLOSE).to(torch.int16)


@torch.no_grad()
def level_source(program: WeightProgram) -> LevelSource:
    """Return where the levels can be read off, with the weights as they are now.

    Taken is the last value on the way to the used weight that is a whole number, or half of an odd one, wherever equal
    ones mean equal used weights and higher ones higher weights, row by row or column by column. Where there is none,
    as with masks alone, it is the used weight itself, in multiples of the smallest distance of two of a row's values.
    """
    values = program.run_all(*program.same_size)
    used = values.pop(program.result)
    for value, candidate in reversed(list(values.items())):
        if candidate.dtype == torch.bool:
            continue
        doubled = 2 * candidate.float()
        if bool(((doubled - doubled.round()).abs() > _CLOSE).any()):
            continue
        if _same_order(torch.floor(candidate.float() + _CLOSE).to(torch.int16), used):
            return LevelSource(program, value.number)
    return LevelSource(program, ternary=levels_of(used) <= 3)


def _same_order(codes: Tensor, used: Tensor) -> bool:
    """Return whether equal codes mean equal used weights and higher codes higher ones, in each row or each column."""
    ways = [(codes.reshape(len(codes), -1), used.reshape(len(used), -1))]
    if codes.ndim > 1:
        ways.append(
            (
                codes.movedim(1, 0).reshape(codes.shape[1], -1),
                used.movedim(1, 0).reshape(used.shape[1], -1),
            )
        )
    return any(_same_order_in_rows(c, u.float()) for c, u in ways)


def _same_order_in_rows(codes: Tensor, used: Tensor) -> bool:
    present = codes.unique()
    if not 2 < len(present) <= 4 * MOST_LEVELS:
        return False
    size = used.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    highest = torch.full_like(size, -torch.inf)
    for code in present:  # in rising order
        here = codes == code
        least = used.masked_fill(~here, torch.inf).amin(dim=1)
        most = used.masked_fill(~here, -torch.inf).amax(dim=1)
        there = here.any(dim=1)
        if bool((((most - least) > _CLOSE * size) & there).any()):
            return False
        if bool(((least - highest) < _CLOSE * size)[there].any()):
            return False
        highest = torch.where(there, most, highest)
    return True


def _signs(used: Tensor) -> Tensor:
    return used.masked_fill(zero_level(used), 0.0).sign().to(torch.int16)


def _lattice(used: Tensor) -> Tensor:
    flat = used.masked_fill(zero_level(used), 0.0).reshape(len(used), -1).double()
    ordered = flat.sort(dim=1).values
    size = ordered.abs().amax(dim=1, keepdim=True)
    steps = ordered[:, 1:] - ordered[:, :-1]
    step = torch.where(steps > _CLOSE * size, steps, torch.inf).amin(dim=1, keepdim=True)
    step = torch.where(step.isfinite(), step, size.clamp(min=torch.finfo(torch.float64).tiny))
    ratio = flat / step
    whole = (ratio - ratio.round()).abs().amax(dim=1, keepdim=True) < 0.1
    return torch.where(whole, ratio.round(), ratio.floor()).to(torch.int16).reshape(used.shape)
