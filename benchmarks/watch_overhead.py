"""What watching costs, as medians of ratios within one run, beside two patterns people use today.

    python -m benchmarks.watch_overhead [--quick] [--threads N]

Rivals take turns step by step, so that both see the same machine. Times are CPU seconds of this process, so that other
work on the machine does not count; the ratio of wall-clock times stands beside the one figure that also waits for the
disk. A period has as many steps as the slowest cadence (50), so that every row the watch writes is in the figure.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers import HistogramLog, IntegerGridTracker
from bvit_analysis.config import WatchConfig, get_scale
from bvit_analysis.convert import binarize, calibrate
from bvit_analysis.instruments import SignTracker
from bvit_analysis.sites import Site, find_sites
from bvit_analysis.watch import Watch

_SWEEP = (
    25  # the tracker tidies up once in so many updates: a fair time of one update is their mean
)


@dataclass(frozen=True)
class Setting:
    """A model and a batch to measure with."""

    name: str
    build: Callable[[], nn.Module]
    images: tuple[int, ...]
    classes: int


def settings() -> list[Setting]:
    """Return the laptop preset at its batch size, and a model as wide and deep as DeiT-T at a small batch."""
    scale = get_scale("laptop")
    model, size = scale.model, scale.data.img_size

    def laptop() -> nn.Module:
        return timm.create_model(
            model.name,
            img_size=size,
            in_chans=1,
            num_classes=10,
            patch_size=model.patch_size,
            embed_dim=model.embed_dim,
            depth=model.depth,
            num_heads=model.num_heads,
        )

    def deit() -> nn.Module:
        return timm.create_model("deit_tiny_patch16_224", num_classes=100)

    batch = scale.training.batch_size
    return [
        Setting(f"laptop ViT, batch {batch}", laptop, (batch, 1, size, size), 10),
        Setting("DeiT-T, batch 4", deit, (4, 3, 224, 224), 100),
    ]


class Trainer:
    """A model with its optimizer, and one training step on fixed images."""

    def __init__(self, setting: Setting, *, recipe: str | None = "baseline") -> None:
        torch.manual_seed(0)
        self.model = setting.build()
        self.images = torch.randn(setting.images)
        self.labels = torch.randint(0, setting.classes, setting.images[:1])
        if recipe is not None:
            binarize(self.model, recipe)
            calibrate(self.model, self.images)
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.0)
        self.sites = [site for site in find_sites(self.model) if site.kind == "weight"]

    def step(self) -> Tensor:
        """Train for one step."""
        loss = functional.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss


Clock = tuple[float, float]


def _timed(action: Callable[[], object]) -> Clock:
    cpu, wall = time.process_time(), time.perf_counter()
    action()
    return time.process_time() - cpu, time.perf_counter() - wall


def ratios(
    one: Callable[[], object], other: Callable[[], object], *, steps: int, periods: int
) -> tuple[float, float]:
    """Return median over periods of (time of one / time of the other), by CPU time and by wall clock."""
    for _ in range(3):
        one(), other()
    found = []
    for _ in range(periods):
        sums = [[0.0, 0.0], [0.0, 0.0]]
        for step in range(steps):
            order = ((0, one), (1, other)) if step % 2 else ((1, other), (0, one))
            for which, action in order:
                for clock, value in enumerate(_timed(action)):
                    sums[which][clock] += value
        found.append((sums[0][0] / sums[1][0], sums[0][1] / sums[1][1]))
    return statistics.median(f[0] for f in found), statistics.median(f[1] for f in found)


@contextmanager
def _watched(trainer: Trainer, folder: Path) -> Iterator[Callable[[], object]]:
    with Watch(trainer.model, folder / "run", config=WatchConfig(), total_steps=10_000) as watch:
        yield lambda: watch.step(loss=trainer.step(), lr=1e-3)


@contextmanager
def _grid_tracked(trainer: Trainer, folder: Path) -> Iterator[Callable[[], object]]:
    handles = IntegerGridTracker(trainer.sites).hook()
    yield trainer.step
    for handle in handles:
        handle.remove()


@contextmanager
def _histogram_logged(trainer: Trainer, folder: Path) -> Iterator[Callable[[], object]]:
    log = HistogramLog(trainer.model, trainer.sites, folder / "board")
    yield lambda: (trainer.step(), log.update_all())
    log.close()


WAYS = {"ours": _watched, "integer grid": _grid_tracked, "histograms": _histogram_logged}


def step_overhead(setting: Setting, way: str, *, steps: int, periods: int) -> tuple[float, float]:
    """Return the time of a watched training step / one of an equal model that nobody watches."""
    watched, plain = Trainer(setting), Trainer(setting)
    with tempfile.TemporaryDirectory() as folder, WAYS[way](watched, Path(folder)) as step:
        return ratios(step, plain.step, steps=steps, periods=periods)


def update_cost(setting: Setting, *, rounds: int) -> tuple[dict[str, tuple[float, float]], float]:
    """Return (time of one update / one bare `w >= 0` of every weight, bytes kept a weight) of each way, and flips.

    Adam moves the weights between updates, so some of them flip; the last figure is how many, per weight and step.
    """
    trainer = Trainer(setting)
    sites: list[Site] = trainer.sites
    weights = [site.latent for site in sites if site.latent is not None]
    number = sum(weight.numel() for weight in weights)

    def bare() -> None:
        for weight in weights:
            weight >= 0  # noqa: B015 - the time of this is the unit

    tracker = SignTracker(sites, late_after=0)  # late flips are counted too: the dearest case
    tracker.start()
    grid = IntegerGridTracker(sites)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        log = HistogramLog(trainer.model, sites, Path(folder))
        actions = {
            "ours": tracker.update,
            "integer grid": grid.update_all,
            "histograms": log.update_all,
        }
        trainer.step()
        for _ in range(rounds):
            sums = dict.fromkeys(actions, 0.0)
            unit = 0.0
            for turn in range(_SWEEP):
                _jump(trainer)
                for way, action in actions.items():
                    # Who comes second finds the weights in the cache, so they take turns.
                    if turn % 2:
                        unit += _timed(bare)[0]
                        sums[way] += _timed(action)[0]
                    else:
                        sums[way] += _timed(action)[0]
                        unit += _timed(bare)[0]
            for way in actions:
                found[way].append(sums[way] / (unit / len(actions)))
        log.close()
    kept = {"ours": tracker.state_bytes(), "integer grid": grid.state_bytes(), "histograms": 0}
    flips = int(tracker.window.sum()) / (tracker.steps * number)
    return {way: (statistics.median(found[way]), kept[way] / number) for way in WAYS}, flips


def _jump(trainer: Trainer) -> None:
    """Let Adam take one more step along a fresh gradient of the right size, without the cost of a backward pass."""
    for parameter in trainer.model.parameters():
        state = trainer.optimizer.state.get(parameter)
        scale = state["exp_avg_sq"].sqrt() if state else torch.zeros_like(parameter)
        parameter.grad = torch.randn_like(parameter) * scale
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()


def binary_cost(setting: Setting, recipe: str, *, steps: int, periods: int) -> float:
    """Return the time of a training step of the binary ViT / of the same float ViT."""
    binary, plain = Trainer(setting, recipe=recipe), Trainer(setting, recipe=None)
    return ratios(binary.step, plain.step, steps=steps, periods=periods)[0]


def _row(figure: str, ours: str, goal: str, *peers: str) -> None:
    print(f"{figure:<58}{ours:>14}{goal:>9}" + "".join(f"{peer:>15}" for peer in peers))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.watch_overhead", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="a minute, laptop ViT only, noisier")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {options.threads} thread(s); medians of ratios in this run;"
        " smaller is better\n"
    )
    _row("figure", "bvit_analysis", "goal", "integer grid", "histograms")
    for position, setting in enumerate(settings()[: 1 if options.quick else 2]):
        periods = 1 if options.quick else (5 if position == 0 else 3)
        peer = {"steps": 5 if position else 10, "periods": periods}
        overhead, wall = step_overhead(setting, "ours", steps=50, periods=periods)
        others = [step_overhead(setting, way, **peer)[0] for way in list(WAYS)[1:]]
        _row(
            f"training step, watched / not ({setting.name})",
            f"{overhead:.3f}",
            "<= 1.05",
            *(f"{value:.3f}" for value in others),
        )
        _row("  the same by wall clock", f"{wall:.3f}", "")
        costs, flips = update_cost(setting, rounds=2 if options.quick else 5)
        names = list(WAYS)
        values = [f"{costs[way][0]:.2f}" for way in names]
        _row(f"  one update / one bare w >= 0 ({flips:.2%} flip)", values[0], "<= 3", *values[1:])
        values = [f"{costs[way][1]:.2f}" for way in names]
        _row("  bytes kept per binary weight", values[0], "<= 4", *values[1:])
        for recipe in ("baseline", "binaryvit"):
            steps = 5 if position else 20
            ratio = binary_cost(setting, recipe, steps=steps, periods=periods)
            _row(f"  training step, binary / float ({recipe})", f"{ratio:.2f}", "<= 1.6")
    print(
        "\ninteger grid: levels, direction, moving average and number of oscillations of each weight, updated in every"
        " forward pass;\nhistograms: TensorBoard's add_histogram of every binary weight at every step (it counts no flips"
        " and keeps its data on disk)"
    )


if __name__ == "__main__":
    main()
