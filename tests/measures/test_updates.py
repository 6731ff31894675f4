from __future__ import annotations

import numpy as np
import pytest
import torch

from bvit_analysis.errors import ConfigError
from bvit_analysis.measures.updates import make_update

STEPS, SIZE = 300, 400

OPTIMIZERS = {
    "AdamW": [{"weight_decay": 0.0}, {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-3}],
    "Adam": [{}, {"weight_decay": 0.1, "amsgrad": True}],
    "SGD": [
        {},
        {"momentum": 0.9, "weight_decay": 0.01},
        {"momentum": 0.8, "nesterov": True},
        {"momentum": 0.9, "dampening": 0.3},
    ],
}
CASES = [(name, settings) for name, many in OPTIMIZERS.items() for settings in many]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_flips_and_weights_are_those_of_torch(name: str, settings: dict) -> None:
    random = np.random.default_rng(1)
    start = random.normal(0, 0.02, SIZE)
    gradients = random.normal(0, 1, (STEPS, SIZE)) * np.linspace(0.1, 2, STEPS)[:, None]
    rates = 0.01 * np.cos(np.linspace(0, 1.5, STEPS))
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = getattr(torch.optim, name)([parameter], lr=1.0, **settings)
    weights, update = start.copy(), make_update(name, settings)
    flips = 0
    for rate, gradient in zip(rates, gradients, strict=True):
        before = parameter.detach() >= 0
        optimizer.param_groups[0]["lr"] = float(rate)
        parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        update.step(weights, gradient, float(rate))
        flips += int((before != (parameter.detach() >= 0)).sum())
        assert ((weights >= 0) == (parameter.detach().numpy() >= 0)).all()
    assert flips > SIZE / 4
    np.testing.assert_allclose(weights, parameter.detach().numpy(), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("Lion", {}, "Lion is not simulated"),
        ("AdamW", {"maximize": True}, "maximizes"),
        ("AdamW", {"betas": [0.9, 1.0]}, "cannot be"),
        ("SGD", {"momentum": "0.9"}, "no number"),
        ("SGD", {"weight_decay": float("nan")}, "not finite"),
    ],
)
def test_what_cannot_be_simulated_is_refused(name: str, settings: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make_update(name, settings)
