"""Three tiny runs whose answer is known, recorded through the real watch: noise, a push away from zero, a push to it.

    python -m benchmarks.known_answers FOLDER [--seeds N]

One binary layer of 4096 weights is moved by AdamW along gradients that are made by hand,

    g = a_i (n_t + push sign(w)),    n_t = .5 n_(t-1) + sqrt(.75) z,    z ~ N(0, 1),

with a size a_i of each weight's own: `noise` has push 0, so its excess over chance is 0; `settling` has -0.3, which
drives weights away from the boundary; `oscillating` has +0.3, which drives them back to it.
"""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from bvit_analysis.config import WatchConfig
from bvit_analysis.quantizers import clipped_sign
from bvit_analysis.sites import find_sites
from bvit_analysis.watch import Watch

PUSHES = {"noise": 0.0, "settling": -0.3, "oscillating": 0.3}
STEPS, SIDE, RATE = 240, 64, 2e-3


class Signs(nn.Module):
    """A linear layer whose weight is a sign: y = sign(w) x."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(side, side))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, clipped_sign(self.weight))


def _latent(layer: nn.Module) -> Tensor:
    assert isinstance(layer, Signs)
    return layer.weight


def make(kind: str, folder: Path, seed: int) -> Path:
    """Record one run.

    Args:
        kind: A key of PUSHES.
        folder: Where the run's folder is made; an earlier one is replaced.
        seed: Of the weights and of the noise.

    Returns:
        The run's folder.
    """
    run_dir = folder / f"{kind}-seed{seed}"
    shutil.rmtree(run_dir, ignore_errors=True)
    draw = torch.Generator().manual_seed(seed)
    layer = Signs(SIDE)
    with torch.no_grad():
        layer.weight.copy_(0.01 * torch.randn(layer.weight.shape, generator=draw))
    size = torch.rand(layer.weight.shape, generator=draw).add_(0.25)
    model = nn.Sequential(layer)
    optimizer = torch.optim.AdamW([layer.weight], lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    config = WatchConfig(flips_every=10, distribution_every=40, activation_every=STEPS)
    noise = torch.randn(layer.weight.shape, generator=draw)
    info = {"seed": seed, "known_answer": kind}
    sites = find_sites(model, effective_sign={Signs: _latent})
    with Watch(
        model,
        run_dir,
        sites=sites,
        config=config,
        optimizer=optimizer,
        total_steps=STEPS,
        info=info,
    ) as watch:
        for _ in range(STEPS):
            loss = model(torch.ones(2, SIDE)).square().mean()
            loss.backward()
            fresh = torch.randn(layer.weight.shape, generator=draw)
            noise = 0.5 * noise + math.sqrt(0.75) * fresh
            sign = torch.where(layer.weight.detach() >= 0, 1.0, -1.0)
            layer.weight.grad = size * (noise + PUSHES[kind] * sign)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            watch.step(loss=loss)
    return run_dir


def main() -> None:
    """Make the runs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.known_answers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where the runs are made")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for kind in PUSHES:
        for seed in range(options.seeds):
            run_dir = make(kind, options.folder, seed)
            size = sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file())
            print(f"{run_dir}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
