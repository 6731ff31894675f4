from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.optim.lookahead import Lookahead
from torch import nn
from torch.nn import functional

from bvit_analysis.config import WatchConfig
from bvit_analysis.quantizers import clipped_sign
from bvit_analysis.records import Run, load_run
from bvit_analysis.sites import find_sites
from bvit_analysis.watch import Watch


class Signs(nn.Linear):
    def forward(self, x):
        return functional.linear(x, clipped_sign(self.weight))


def two() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Signs(6, 6, bias=False), Signs(6, 6, bias=False))


def watched(path: Path, make, *, each=lambda optimizer, step: None, steps: int = 4) -> Run:
    model = two()
    optimizer = make(model)
    sites = find_sites(model, effective_sign={Signs: lambda m: m.weight})
    moving = optimizer if optimizer is not None else torch.optim.SGD(model.parameters(), lr=0.1)
    config = WatchConfig(trajectory_weights=2, activation_every=50)
    with Watch(model, path, sites=sites, optimizer=optimizer, config=config) as watch:
        for step in range(steps):
            each(moving, step)
            loss = model(torch.randn(3, 6)).square().sum()
            loss.backward()
            moving.step()
            moving.zero_grad()
            watch.step(loss=loss)
    return load_run(path)


def test_the_group_that_moves_each_site_is_recorded_with_every_rate(tmp_path) -> None:
    def make(model):
        groups = [
            {"params": model[0].parameters(), "betas": (0.8, 0.9), "weight_decay": 0.1},
            {"params": model[1].parameters(), "lr": 0.02},
        ]
        return torch.optim.AdamW(groups, lr=0.01, weight_decay=0.0)

    def slower(optimizer, step: int) -> None:
        for group, rate in zip(optimizer.param_groups, (0.01, 0.02), strict=True):
            group["lr"] = rate / (step + 1)

    run = watched(tmp_path / "run", make, each=slower)
    found = run.info["optimizer"]
    assert (found["name"], found["class"]) == ("AdamW", "torch.optim.adamw.AdamW")
    assert found["wrapped_by"] is None
    assert found["changed_at"] is None
    first, second = found["groups"]
    assert (first["sites"], second["sites"]) == (["0"], ["1"])
    assert (first["betas"], first["weight_decay"], first["eps"]) == ([0.8, 0.9], 0.1, 1e-8)
    assert (second["betas"], second["lr_factor"]) == ([0.9, 0.999], 2.0)
    assert run.scalars["lr"].tolist() == pytest.approx([0.01, 0.005, 0.01 / 3, 0.0025])
    assert run.info["followed"]["gradient"] == "of the update"


def test_sgd_has_its_momentum(tmp_path) -> None:
    run = watched(tmp_path / "run", lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9))
    (group,) = run.info["optimizer"]["groups"]
    assert (group["momentum"], group["dampening"], group["nesterov"]) == (0.9, 0, False)


def test_what_wraps_an_optimizer_is_named_beside_the_innermost(tmp_path) -> None:
    run = watched(
        tmp_path / "run", lambda m: Lookahead(torch.optim.SGD(m.parameters(), lr=0.5), k=2)
    )
    found = run.info["optimizer"]
    assert (found["name"], found["wrapped_by"]) == ("SGD", "Lookahead")


def test_no_optimizer_is_recorded_as_unknown(tmp_path) -> None:
    run = watched(tmp_path / "run", lambda model: None)
    assert run.info["optimizer"] == {"name": "unknown"}
    assert run.scalars["lr"].isna().all()
    assert run.info["followed"]["gradient"] == "of the backward pass"


def test_settings_that_change_are_said_with_the_step(tmp_path) -> None:
    def cycled(optimizer, step: int) -> None:
        optimizer.param_groups[0]["momentum"] = 0.9 if step < 2 else 0.8

    run = watched(
        tmp_path / "run",
        lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9),
        each=cycled,
    )
    assert run.info["optimizer"]["changed_at"] == 3
    assert run.info["optimizer"]["groups"][0]["momentum"] == 0.9


def test_a_rate_that_ends_at_zero_is_no_change(tmp_path) -> None:
    def down(optimizer, step: int) -> None:
        optimizer.param_groups[0]["lr"] = 0.1 * (3 - step)

    run = watched(tmp_path / "run", lambda m: torch.optim.SGD(m.parameters(), lr=0.3), each=down)
    assert run.info["optimizer"]["changed_at"] is None
    assert run.scalars["lr"].iloc[-1] == 0
