"""A small binary ViT trained with accumulated gradients in a plain loop, counted by hand: what adapters are held to."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import bvit_analysis
from bvit_analysis.config import WatchConfig
from bvit_analysis.convert import binarize, calibrate
from bvit_analysis.records import load_run
from bvit_analysis.sites import find_sites
from tests.support.tiny_vit import tiny_vit

EACH = WatchConfig(
    flips_every=1, distribution_every=2, activation_every=2, trajectory_weights=4, seed=3
)
"Rows at every step, trajectories of four weights a site."

ACCUMULATED, CLIP = 3, 0.05
"Micro-batches a step, and a norm that cuts every gradient here."


def binary_vit() -> nn.Module:
    """Return the model, always the same."""
    model = tiny_vit()
    binarize(model, "asm")
    calibrate(model, micro_batch(999)[0])
    return model.train()


def micro_batch(number: int) -> tuple[Tensor, Tensor]:
    """Return six images and their labels, a function of the number."""
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(6, 1, 14, 14, generator=generator)
    return images, torch.randint(0, 3, (6,), generator=generator)


def made(model: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return the optimizer, and a schedule under which no two steps have the same learning rate."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))


@dataclass
class Counted:
    """What a loop did, step by step; weights and signs by site."""

    losses: list[float] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    gradients: list[dict[str, np.ndarray]] = field(default_factory=list)
    flips: dict[str, np.ndarray] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)

    def begin(self, model: nn.Module) -> None:
        """Remember the signs before the first step."""
        self._signs = _signs(model)
        self.flips = {name: np.zeros(sign.shape, int) for name, sign in self._signs.items()}

    def step(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        losses: list[float],
        change: Callable[[], object] | None = None,
    ) -> None:
        """Step the optimizer and count; gradients are those that it is given."""
        self.losses.append(float(np.mean(losses)))
        self.lrs.append(float(optimizer.param_groups[0]["lr"]))
        self.gradients.append({name: site.grad.numpy().copy() for name, site in _latents(model)})
        (change or optimizer.step)()
        signs = _signs(model)
        for name, sign in signs.items():
            self.flips[name] += sign != self._signs[name]
        self._signs = signs
        self.state = {name: value.clone() for name, value in model.state_dict().items()}


def by_hand(batches: int, *, accumulated: int = ACCUMULATED, clip: float = CLIP) -> Counted:
    """Train on the micro-batches 0, 1, ... in a plain loop; the last step may have fewer of them.

    Every loss is divided by the full number, as Lightning and accelerate do.
    """
    model = binary_vit()
    optimizer, schedule = made(model)
    counted = Counted()
    counted.begin(model)
    losses: list[float] = []
    for number in range(batches):
        images, labels = micro_batch(number)
        loss = functional.cross_entropy(model(images), labels)
        (loss / accumulated).backward()
        losses.append(float(loss.detach()))
        if len(losses) == accumulated or number == batches - 1:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            counted.step(model, optimizer, losses)
            schedule.step()
            optimizer.zero_grad()
            losses = []
    return counted


def assert_recorded(path: Path, counted: Counted, *, prefix: str = "") -> None:
    """Hold steps, losses, learning rates, flips of every weight and trajectories of a run to a count by hand."""
    run = load_run(path)
    assert run.warnings == []
    assert run.scalars["step"].tolist() == list(range(1, len(counted.losses) + 1))
    np.testing.assert_allclose(run.scalars["loss"], counted.losses, rtol=1e-5)
    np.testing.assert_allclose(run.scalars["lr"], counted.lrs, rtol=1e-6)
    assert sum(int(flips.sum()) for flips in counted.flips.values()) > 50
    for name, flips in counted.flips.items():
        np.testing.assert_array_equal(run.counts(prefix + name)["gross"], flips, err_msg=name)


def assert_gradients(path: Path, counted: Counted, *, prefix: str = "") -> None:
    """Hold the recorded gradients of sampled weights to those that the optimizer was given."""
    rows = load_run(path).trajectories
    assert len(rows) == len(counted.losses) * len(counted.flips) * EACH.trajectory_weights
    given = [
        counted.gradients[step - 1][str(site).removeprefix(prefix)].reshape(-1)[index]
        for step, site, index in zip(rows["step"], rows["site"], rows["index"], strict=True)
    ]
    np.testing.assert_allclose(rows["gradient"], given, rtol=1e-4, atol=1e-9)
    assert np.count_nonzero(given) > len(given) / 2


def assert_same_bits(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Hold all weights and buffers to those of another training, to the bit."""
    found = model.state_dict()
    assert list(found) == list(state)
    for name, value in state.items():
        assert torch.equal(found[name], value), name


def example(word: str) -> str:
    """Return the code of docs/adapters.md that has a word."""
    page = Path(bvit_analysis.__file__).parents[1] / "docs" / "adapters.md"
    (code,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
        if word in block
    ]
    return code


def hooks_of(model: nn.Module, *optimizers: torch.optim.Optimizer) -> int:
    """Return how many hooks a model and optimizers carry."""
    number = 0
    for module in model.modules():
        number += len(module._forward_hooks) + len(module._forward_pre_hooks)
    for parameter in model.parameters():
        number += len(getattr(parameter, "_post_accumulate_grad_hooks", None) or {})
    for optimizer in optimizers:
        number += len(optimizer._optimizer_step_pre_hooks)
        number += len(optimizer._optimizer_step_post_hooks)
    return number


def _latents(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(site.name, site.latent) for site in find_sites(model) if site.latent is not None]


def _signs(model: nn.Module) -> dict[str, np.ndarray]:
    sites = [site for site in find_sites(model) if site.kind == "weight"]
    return {site.name: (site.effective() >= 0).numpy().copy() for site in sites}
