"""A small model of binarizers that the package does not know, trained for some steps under a watch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from bvit_analysis.config import WatchConfig
from bvit_analysis.sites import find_sites
from bvit_analysis.watch import Watch

STEPS, WIDTH, HEADS, TOKENS, BATCH = 24, 16, 2, 5, 8
EVERY = 6
"Steps between two rows of any measure."
UNSEEN = "no product with the weight was seen in its forward pass"


def through(x: Tensor, values: Tensor) -> Tensor:
    """Return values in the forward pass, with the gradient of x."""
    return x + (values - x).detach()


class Centred(nn.Linear):
    """sign(w - mean(w)) of each row, times its mean size."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.used(), self.bias)

    def used(self) -> Tensor:
        centred = self.weight - self.weight.mean(1, keepdim=True)
        return through(self.weight, centred.sign() * centred.abs().mean(1, keepdim=True))


class Unseen(Centred):
    """The same, row by row, so that no product shows the whole weight to a watch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x @ row for row in self.used()], -1) + self.bias


class Ternary(nn.Linear):
    """-1, 0 or 1 times the mean size: 0 below .7 mean|w| (1605.04711)."""

    def level(self) -> Tensor:
        least = 0.7 * self.weight.abs().mean()
        return (self.weight > least).float() - (self.weight < -least).float()

    def forward(self, x: Tensor) -> Tensor:
        used = self.level() * self.weight.abs().mean()
        return functional.linear(x, through(self.weight, used), self.bias)


class Sign(nn.Module):
    """sign(x + shift), a shift for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.linspace(-0.5, 0.5, channels))

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.shift
        return through(y, torch.where(y >= 0, 1.0, -1.0))


class Bits(nn.Module):
    """[softmax(scores) >= 1/N] / N, attention in {0, a}."""

    def forward(self, scores: Tensor) -> Tensor:
        p = scores.softmax(-1)
        tokens = scores.shape[-1]
        return through(p, (p >= 1 / tokens).float() / tokens)


class Model(nn.Module):
    """One block: binary input, an attention with binary bits, and three layers of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.sign = Sign(WIDTH)
        self.qkv = Centred(WIDTH, 3 * WIDTH)
        self.bits = Bits()
        self.tern = Ternary(WIDTH, WIDTH)
        self.unseen = Unseen(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.sign(x)).unflatten(-1, (3, HEADS, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = self.bits(q @ k.mT) @ v
        x = x + self.tern(mixed.transpose(1, 2).flatten(2))
        return self.head(self.unseen(x).mean(1))


def weight_sign(module: nn.Linear) -> Tensor:
    return module.weight - module.weight.mean(1, keepdim=True)


def watched_model(
    folder: Path,
    *,
    multilevel: bool = True,
    binary: bool = True,
    before: Callable[[nn.Module], object] | None = None,
    steps: int = STEPS,
) -> Path:
    """Train the model under a watch and return the run folder.

    Args:
        folder: Of the run.
        multilevel: Whether the ternary layer is watched.
        binary: Whether the two layers of binary weights are watched; one of them cannot be verified.
        before: Called with the model before the watch, to hook it, for example.
        steps: Of training.
    """
    torch.manual_seed(0)
    model = Model()
    if before is not None:
        before(model)
    weights = dict.fromkeys([Centred, Unseen], weight_sign) if binary else {}
    weights |= {Ternary: lambda m: m.weight} if multilevel else {}
    sites = find_sites(
        model,
        effective_sign=weights,
        activation_sign={Sign: lambda m, x: x + m.shift},
        attention_sign={Bits: lambda m, s: s.softmax(-1) - 1 / s.shape[-1]},
    )
    config = WatchConfig(
        flips_every=EVERY, distribution_every=EVERY, activation_every=EVERY, trajectory_weights=8
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    info = {"config": {"recipe": {"name": "foreign"}}, "seed": 0}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the tracked signs of 1 of", RuntimeWarning)
        with Watch(
            model, folder, sites=sites, config=config, optimizer=optimizer, info=info
        ) as watch:
            for _ in range(steps):
                x = torch.randn(BATCH, TOKENS, WIDTH)
                loss = functional.cross_entropy(model(x), x[:, 0, :3].argmax(1))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                watch.step(loss=loss)
    return folder
