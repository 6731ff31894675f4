"""Level changes of ternary and few-bit weights, against counts by hand."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bvit_analysis.config import WatchConfig
from bvit_analysis.errors import ConfigError
from bvit_analysis.records import load_run
from bvit_analysis.sites import find_sites
from bvit_analysis.watch import Watch

CONFIG = WatchConfig(flips_every=4, activation_every=50, trajectory_weights=0)


class Lsq(nn.Linear):
    """Learned step size, 2 bits: round(clip(w / s, -2, 1)) s, whose step is set in the first pass (1902.08153)."""

    low, high = -2, 1

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.step = nn.Parameter(torch.ones(()))
        self.register_buffer("begun", torch.zeros(1))

    def code(self) -> Tensor:
        return (self.weight / self.step).clamp(self.low, self.high).round()

    def forward(self, x: Tensor) -> Tensor:
        if self.begun == 0:
            self.step.data.copy_(2 * self.weight.detach().abs().mean() / math.sqrt(self.high))
            self.begun.fill_(1)
        w = (self.weight / self.step).clamp(self.low, self.high)
        w = (w.round() - w).detach() + w
        return functional.linear(x, w * self.step, self.bias)


class RowScaled(nn.Linear):
    """4 levels at half steps, -1.5, -.5, .5, 1.5, with a scale per row, as StatsQ does (Q-ViT and OFQ)."""

    def code(self) -> Tensor:
        scale = 2 * self.weight.detach().abs().mean(1, keepdim=True)
        return torch.floor((self.weight / scale).clamp(-0.999, 0.999) * 2)

    def forward(self, x: Tensor) -> Tensor:
        scale = 2 * self.weight.detach().abs().mean(1, keepdim=True)
        b = (self.weight / scale).clamp(-0.999, 0.999) * 2
        q = (torch.floor(b) + 0.5) / 2 * scale
        return functional.linear(x, (q - self.weight).detach() + self.weight, self.bias)


class Ternary(nn.Linear):
    """TWN: 0 below .7 mean|w| (1605.04711), written with masks."""

    def code(self) -> Tensor:
        w, d = self.weight, 0.7 * self.weight.abs().mean()
        return (w > d).float() - (w < -d).float()

    def forward(self, x: Tensor) -> Tensor:
        w, d = self.weight, 0.7 * self.weight.abs().mean()
        q = w.detach().clone()
        q[w > d], q[w < -d] = 1.0, -1.0
        q[(w <= d) & (w >= -d)] = 0.0
        return functional.linear(x, (q - w).detach() + w, self.bias)


def raw(module: nn.Module) -> Tensor:
    return module.weight


def level(module: nn.Module) -> Tensor:
    return module.code()


def train(model: nn.Module, run_dir: Path, steps: int, **options) -> list[np.ndarray]:
    """Train with a watch, and return the codes of the first layer before and after each step."""
    torch.manual_seed(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    codes = []
    with Watch(model, run_dir, config=CONFIG, optimizer=optimizer, **options) as watch:
        for _ in range(steps):
            x = torch.randn(16, 8)
            loss = (model(x) - x[:, :3]).square().mean()
            if not codes:
                codes.append(model[0].code().detach().numpy().copy())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            codes.append(model[0].code().detach().numpy().copy())
            watch.step(loss=loss)
    return codes


def counted(codes: list[np.ndarray], begin: int) -> dict[int, tuple[float, float, float]]:
    """Return change rate, reversal rate and rise share by step of row, by a loop over weights."""
    found = {}
    size = codes[0].size
    last = np.zeros(size, int)
    changes = rises = reversals = 0
    row = begin
    for t in range(begin + 1, len(codes)):
        before, now = codes[t - 1].ravel(), codes[t].ravel()
        for i in range(size):
            way = int(np.sign(now[i] - before[i]))
            if way:
                changes += 1
                rises += way > 0
                reversals += last[i] == -way
                last[i] = way
        if t % 4 == 0:
            steps = (t - row) * size
            found[t] = (changes / steps, reversals / steps, rises / changes if changes else np.nan)
            changes, rises, reversals, row = 0, 0, 0, t
    return found


@pytest.mark.parametrize("given", [False, True], ids=["read off", "given"])
@pytest.mark.parametrize("layer", [Lsq, RowScaled, Ternary])
def test_changes_reversals_and_directions_equal_a_count_by_hand(layer, given, tmp_path) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(layer(8, 6), nn.Linear(6, 3))
    levels = {layer: level} if given else None
    sites = find_sites(model, effective_sign={layer: raw}, effective_level=levels)
    codes = train(model, tmp_path / "run", 24, sites=sites)
    # A step that is set in the first pass writes to a parameter there; what it computes is known from the second.
    begin = 1 if layer is Lsq and not given else 0
    hand = counted(codes, begin)
    run = load_run(tmp_path / "run")
    rows = run.sites[run.sites["step"] > 0].set_index("step")
    assert sum(change for change, _, _ in hand.values()) > 0.02
    assert sum(reversal for _, reversal, _ in hand.values()) > 0
    for step, figures in hand.items():
        columns = ["level_change_rate", "level_reversal_rate", "level_rise_share"]
        np.testing.assert_allclose(rows.loc[step, columns].to_numpy(float), figures, rtol=1e-6)
    assert rows["flip_rate"].isna().all()  # never called flips
    assert rows["oscillating_flips"].isna().all()
    assert rows["sign_change_rate"].notna().any()
    with pytest.raises(Exception, match="counts"):
        run.counts("0")
    (row,) = run.info["sites"]
    if layer is not RowScaled:  # whose rows of 8 may lack a level
        assert row["levels"] == max(len(np.unique(codes[t])) for t in (begin, -1))
    assert row["verified"]["differing"] == 0.0


def test_levels_go_on_exactly_after_a_resume(tmp_path) -> None:
    def make() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(Lsq(8, 6), nn.Linear(6, 3))

    def loop(model, watch, optimizer, steps) -> None:
        for t in steps:
            torch.manual_seed(100 + t)
            x = torch.randn(16, 8)
            optimizer.zero_grad()
            (model(x) - x[:, :3]).square().mean().backward()
            optimizer.step()
            watch.step()

    def sites_of(model):
        return find_sites(model, effective_sign={Lsq: raw})

    def sgd(model):
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    model = make()
    optimizer = sgd(model)
    with Watch(model, tmp_path / "whole", sites=sites_of(model), config=CONFIG) as watch:
        loop(model, watch, optimizer, range(20))

    model = make()
    optimizer = sgd(model)
    with Watch(model, tmp_path / "run", sites=sites_of(model), config=CONFIG) as watch:
        loop(model, watch, optimizer, range(10))
        states = model.state_dict(), optimizer.state_dict(), watch.state_dict()
        saved = copy.deepcopy(states)
        loop(model, watch, optimizer, range(10, 13))  # of which nothing is left

    model = make()
    optimizer = sgd(model)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    with Watch.resume(
        tmp_path / "run", model, saved[2], sites=sites_of(model), config=CONFIG
    ) as watch:
        assert watch.steps == 10
        loop(model, watch, optimizer, range(10, 20))
    whole, resumed = load_run(tmp_path / "whole"), load_run(tmp_path / "run")
    assert whole.sites.equals(resumed.sites)
    assert whole.scalars.equals(resumed.scalars)


def test_levels_that_are_no_whole_numbers_are_refused(tmp_path) -> None:
    model = nn.Sequential(Lsq(8, 6))
    sites = find_sites(
        model, effective_sign={Lsq: raw}, effective_level={Lsq: lambda m: m.weight / 0.3}
    )
    with (
        pytest.raises(ConfigError, match="site 0 must return whole numbers"),
        Watch(model, tmp_path / "run", sites=sites),
    ):
        pass


def test_a_float_weight_is_named(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(8, 6))
    sites = find_sites(model, effective_sign={nn.Linear: raw})
    with Watch(model, tmp_path / "run", sites=sites, config=CONFIG) as watch:
        with pytest.warns(RuntimeWarning, match="site 0 uses a weight of more than 16 levels"):
            model(torch.randn(2, 8))
        watch.step()
    assert load_run(tmp_path / "run").info["sites"][0]["levels"] == 17


def test_a_quantized_weight_in_place_of_the_latent_one_is_named(tmp_path) -> None:
    """As PARQ leaves it: `.data` holds the quantized weight between steps."""
    model = nn.Sequential(nn.Linear(64, 6))
    latent = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.copy_(latent.sign() * latent.abs().mean(1, keepdim=True))
    sites = find_sites(model, effective_sign={nn.Linear: raw})
    with (
        Watch(model, tmp_path / "one", sites=sites),
        pytest.warns(RuntimeWarning, match=r"has 2 values a row: it is a quantized.*'latent'"),
    ):
        model(torch.randn(2, 64))
    sites = find_sites(model, effective_sign={nn.Linear: lambda m: latent})
    with Watch(model, tmp_path / "two", sites=sites):
        model(torch.randn(2, 64))
