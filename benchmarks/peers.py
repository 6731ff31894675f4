"""Two ways people watch weights today, written from their descriptions for comparison; no code of theirs is here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch.utils.tensorboard import SummaryWriter

from bvit_analysis.sites import Site

_MOMENTUM = 0.01


class IntegerGridTracker:
    """Oscillation on an integer grid, as in arXiv 2203.11086: a change opposite to the last one, with a moving average.

    It runs in every forward pass and keeps four float32 a weight: last level, direction of the last change, moving
    average of oscillations, and their number.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = sites
        self.previous = [self._levels(site) for site in sites]
        self.direction = [torch.zeros_like(level) for level in self.previous]
        self.frequency = [torch.zeros_like(level) for level in self.previous]
        self.number = [torch.zeros_like(level) for level in self.previous]

    def hook(self) -> list[RemovableHandle]:
        """Make every forward pass of a site update it."""

        def look(position: int) -> object:
            return lambda module, inputs: self.update(position)

        return [
            site.module.register_forward_pre_hook(look(position))
            for position, site in enumerate(self.sites)
        ]

    @torch.no_grad()
    def update(self, position: int) -> None:
        """Look at one site."""
        levels = self._levels(self.sites[position])
        change = torch.sign(levels - self.previous[position])
        changed = change != 0
        oscillated = ((change * self.direction[position]) < 0).to(levels.dtype)
        frequency = self.frequency[position]
        frequency.mul_(1 - _MOMENTUM).add_(oscillated, alpha=_MOMENTUM)
        self.number[position].add_(oscillated)
        self.direction[position] = torch.where(changed, change, self.direction[position])
        self.previous[position] = levels

    def update_all(self) -> None:
        """Look at every site."""
        for position in range(len(self.sites)):
            self.update(position)

    def state_bytes(self) -> int:
        """Return the bytes that are kept."""
        kept = [*self.previous, *self.direction, *self.frequency, *self.number]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    @staticmethod
    def _levels(site: Site) -> Tensor:
        return (site.effective() >= 0).to(torch.float32)


class HistogramLog:
    """Every weight tensor as a TensorBoard histogram at every step."""

    def __init__(self, model: nn.Module, sites: Sequence[Site], folder: Path) -> None:
        self.sites = sites
        self.writer = SummaryWriter(str(folder))
        self.step = 0

    def update_all(self) -> None:
        """Log every site once."""
        self.step += 1
        for site in self.sites:
            self.writer.add_histogram(site.name, site.effective(), self.step)

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()
