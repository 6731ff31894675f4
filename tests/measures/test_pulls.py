from __future__ import annotations

import numpy as np
import pytest
import torch

from bvit_analysis.config import Recipe
from bvit_analysis.errors import ConfigError
from bvit_analysis.measures.pulls import PULLS, Pull
from bvit_analysis.regularization import TERMS, GradientRegularizer

STEPS = 230  # two periods of the resilient term and a bit


def test_every_term_that_a_recipe_can_name_can_be_simulated() -> None:
    assert set(PULLS) == set(TERMS) - {"none"}
    with pytest.raises(ConfigError, match="resilient"):
        Pull("resilent", 1.0)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
@pytest.mark.parametrize("name", PULLS)
def test_a_pull_is_the_term_that_trains(name: str, mode: str, centred: bool) -> None:
    recipe = Recipe(
        regularization=name,
        regularization_mode=mode,
        regularization_strength=0.7,
        centre_weights=centred,
    )
    random = np.random.default_rng(0)
    start = random.normal(0.01, 0.02, (6, 9))
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    term = GradientRegularizer({"site": parameter}, recipe)
    weights = start.copy()
    pull = Pull(name, 0.7, decoupled=mode == "decoupled")
    for step in range(STEPS):
        gradient = random.normal(0, 1, start.shape)
        parameter.grad = torch.from_numpy(gradient.copy())
        term.apply(learning_rate=0.01, progress=step / STEPS)
        argument = weights - weights.mean(axis=1, keepdims=True) if centred else weights
        pulled = pull.apply(weights, argument, gradient, rate=0.01, progress=step / STEPS)
        np.testing.assert_allclose(pulled, parameter.grad.numpy(), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(weights, parameter.detach().numpy(), rtol=1e-6, atol=1e-8)
        with torch.no_grad():
            parameter.sub_(0.01 * parameter.grad)
        weights = parameter.detach().numpy().copy()
