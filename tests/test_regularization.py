"""Every GRS term against a numpy version retyped from the equation, exact zeros included."""

from __future__ import annotations

import dataclasses
import math
from typing import get_type_hints

import numpy as np
import pytest
import torch
from torch import nn

from bvit_analysis.config import Recipe
from bvit_analysis.config.schema import choices_of
from bvit_analysis.errors import ConfigError
from bvit_analysis.regularization import TERMS as TERMS_BY_NAME
from bvit_analysis.regularization import (
    GradientRegularizer,
    GradientTerm,
    ResilientTerm,
    bin_force,
    cosine_ramp,
    double_well_force,
    flip_fraction,
)
from tests.support.own_parts import SteadyTerm

TERMS = ("resilient", "bin_centre", "double_well")


def weights(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    w = rng.normal(scale=0.05, size=(4, 6)).astype(np.float32)
    w[0, 0], w[1, 1], w[2, :] = 0.0, -0.0, 0.02  # exact zeros of both signs, and a row at its mode
    return w, rng.normal(scale=1e-3, size=(4, 6)).astype(np.float32)


def retyped(
    term: str, w: np.ndarray, g: np.ndarray, strength: float, fraction: np.ndarray, t: float
) -> np.ndarray:
    alpha = np.abs(w).mean(axis=1, keepdims=True)
    u = w / alpha
    b = np.where(w >= 0, 1.0, -1.0)
    if term == "resilient":
        size = np.clip(fraction, 0.01, 0.2) * np.abs(g).max(axis=1, keepdims=True)
        return strength * size * (u - b)
    size = (1 - math.cos(math.pi * t)) / 2 * np.abs(g).mean(axis=1, keepdims=True)
    return strength * size * ((u - b) if term == "bin_centre" else u * (u**2 - 1))


def apply_once(
    term: str, mode: str, w: np.ndarray, g: np.ndarray, *, rate: float = 0.1, t: float = 0.3
):
    parameter = nn.Parameter(torch.tensor(w))
    parameter.grad = torch.tensor(g)
    recipe = Recipe(regularization=term, regularization_strength=1.5, regularization_mode=mode)
    GradientRegularizer({"site": parameter}, recipe).apply(learning_rate=rate, progress=t)
    return parameter


@pytest.mark.parametrize("term", TERMS)
def test_coupled_term_equals_numpy(term):
    w, g = weights()
    got = apply_once(term, "coupled", w, g)
    expected = g + retyped(term, w, g, 1.5, np.zeros((4, 1)), 0.3)
    np.testing.assert_allclose(got.grad.numpy(), expected, rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(got.detach().numpy(), w)


@pytest.mark.parametrize("term", TERMS)
def test_decoupled_term_moves_the_weight_and_leaves_the_gradient(term):
    w, g = weights()
    got = apply_once(term, "decoupled", w, g, rate=0.1)
    unit = np.ones_like(g)  # with |g| = 1 the size has no gradient factor
    alpha = np.abs(w).mean(axis=1, keepdims=True)
    expected = w - 0.1 * alpha * retyped(term, w, unit, 1.5, np.zeros((4, 1)), 0.3)
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(got.grad.numpy(), g)


@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
@pytest.mark.parametrize("term", TERMS)
def test_with_centred_weights_the_term_is_of_what_the_sign_is_taken_of(term, mode):
    _, g = weights()
    w = np.random.default_rng(1).normal(np.linspace(-0.08, 0.08, 4)[:, None], 0.05, (4, 6))
    w = w.astype(np.float32)  # rows away from 0
    v = w.astype(np.float64)
    v = v - v.mean(axis=1, keepdims=True)
    assert ((v >= 0) != (w >= 0)).mean() > 0.2  # raw and centred signs are not the same
    recipe = Recipe(
        centre_weights=True,
        regularization=term,
        regularization_strength=1.5,
        regularization_mode=mode,
    )
    parameter = nn.Parameter(torch.tensor(w))
    parameter.grad = torch.tensor(g)
    GradientRegularizer({"site": parameter}, recipe).apply(learning_rate=0.1, progress=0.3)
    gradient = g if mode == "coupled" else np.ones_like(g)
    pull = retyped(term, v, gradient, 1.5, np.zeros((4, 1)), 0.3)
    alpha = np.abs(v).mean(axis=1, keepdims=True)
    expected_w = w if mode == "coupled" else w - 0.1 * alpha * pull
    expected_g = g + pull if mode == "coupled" else g
    np.testing.assert_allclose(parameter.detach().numpy(), expected_w, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(parameter.grad.numpy(), expected_g, rtol=1e-4, atol=1e-8)


def test_flips_of_centred_weights_are_flips_of_the_sign_that_is_used():
    w = np.array([[0.3, 0.2, 0.1, 0.4]], np.float32)
    recipe = Recipe(centre_weights=True, regularization=ResilientTerm(period=1))
    parameter = nn.Parameter(torch.tensor(w))
    regularizer = GradientRegularizer({"site": parameter}, recipe)
    with torch.no_grad():
        parameter[0, 2] = 0.9  # every weight stays positive; against the mean, three of four turn
    parameter.grad = torch.zeros(1, 4)
    regularizer.apply(learning_rate=0.1, progress=0.0)
    state = regularizer.state_dict()
    assert state["reference.site"].tolist() == [[False, False, True, False]]
    assert state["fraction.site"].tolist() == [[0.75]]


def test_the_term_and_the_layer_take_the_sign_of_one_argument():
    from bvit_analysis.layers.linear import BinaryLinear
    from bvit_analysis.layers.shift import BinarySign, make_shift
    from bvit_analysis.quantizers import sign_argument

    seen = []

    class Spy(GradientTerm):
        def force(self, u):
            return u * 0

        def size(self, weight, state, progress):
            seen.append(weight.clone())
            return torch.tensor(1.0)

    w, g = weights()
    for centred in (False, True):
        layer = BinaryLinear(
            nn.Parameter(torch.tensor(w)),
            None,
            sign=BinarySign(make_shift("none", 6, reduction=1), dim=6, gradient="clip"),
            activation=nn.Identity(),
            centred=centred,
        )
        layer.weight.grad = torch.tensor(g)
        recipe = Recipe(centre_weights=centred, regularization=Spy)
        GradientRegularizer({"site": layer.weight}, recipe).apply(learning_rate=0.1, progress=0.0)
        assert torch.equal(seen.pop(), layer.latent())
        assert torch.equal(layer.latent(), sign_argument(layer.weight, centred))


def test_forces_at_the_special_points():
    u = torch.tensor([-1.0, -0.0, 0.0, 1.0])
    assert bin_force(u).tolist() == [0.0, -1.0, -1.0, 0.0]
    assert double_well_force(u).abs().tolist() == [0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("force", [bin_force, double_well_force])
def test_descent_on_the_force_ends_at_the_modes(force):
    u = torch.tensor([-1.9, -0.4, 0.3, 1.6])
    for _ in range(400):
        u = u - 0.05 * force(u)
    torch.testing.assert_close(u, torch.tensor([-1.0, -1.0, 1.0, 1.0]), atol=1e-3, rtol=0)


def test_resilient_uses_the_flip_fraction_of_the_last_full_period():
    w, g = weights()
    parameter = nn.Parameter(torch.tensor(w))
    recipe = Recipe(regularization=ResilientTerm(period=3), regularization_strength=1.0)
    regularizer = GradientRegularizer({"site": parameter}, recipe)
    for index in range(3):
        parameter.grad = torch.tensor(g)
        regularizer.apply(learning_rate=0.1, progress=0.0)
        if index == 0:
            with torch.no_grad():
                parameter[0, :3] = (
                    -parameter[0, :3] - 0.01
                )  # flips some signs of row 0 within the period
    before = w >= 0
    now = (regularizer.state_dict()["reference.site"]).numpy()
    fraction = (before != now).mean(axis=1, keepdims=True)
    assert fraction[0, 0] > 0.01
    np.testing.assert_allclose(
        regularizer.state_dict()["fraction.site"].numpy(), fraction, rtol=1e-6
    )
    parameter.grad = torch.tensor(g)
    current = parameter.detach().numpy().copy()
    regularizer.apply(learning_rate=0.1, progress=0.0)
    expected = g + retyped("resilient", current, g, 1.0, fraction, 0.0)
    np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-5, atol=1e-9)


def test_state_round_trip_continues_exactly():
    w, g = weights()
    recipe = Recipe(regularization=ResilientTerm(period=2))

    def steps(regularizer: GradientRegularizer, parameter: nn.Parameter, count: int) -> None:
        for index in range(count):
            parameter.grad = torch.tensor(g) * (index + 1)
            regularizer.apply(learning_rate=0.1, progress=0.0)
            with torch.no_grad():
                parameter.sub_(parameter.grad, alpha=20.0)

    whole = nn.Parameter(torch.tensor(w))
    one = GradientRegularizer({"site": whole}, recipe)
    steps(one, whole, 3)
    saved, middle = one.state_dict(), whole.detach().clone()
    steps(one, whole, 4)
    again = nn.Parameter(middle)
    two = GradientRegularizer({"site": again}, recipe)
    two.load_state_dict(saved)
    steps(two, again, 4)
    assert torch.equal(whole, again)


def test_none_changes_nothing_and_zero_weights_stay_finite():
    w, g = weights()
    assert torch.equal(apply_once("none", "coupled", w, g).grad, torch.tensor(g))
    for term in TERMS:
        got = apply_once(term, "coupled", np.zeros((2, 3), np.float32), g[:2, :3])
        assert bool(got.grad.isfinite().all())


def test_ramp_and_fraction():
    assert [cosine_ramp(t) for t in (0.0, 0.5, 1.0, 7.0)] == pytest.approx([0.0, 0.5, 1.0, 1.0])
    before = torch.tensor([[True, True], [False, True]])
    now = torch.tensor([[True, False], [False, True]])
    assert flip_fraction(before, now).tolist() == [[0.5], [0.0]]


def test_names_are_those_that_a_recipe_takes():
    assert tuple(TERMS_BY_NAME) == choices_of(get_type_hints(Recipe)["regularization"])
    assert tuple(name for name, term in TERMS_BY_NAME.items() if term) == TERMS


def steady(w: np.ndarray, memory: float, steps: int) -> np.ndarray:
    """The running mean of signs that do not change: (1 - memory^steps) sign(w)."""
    return (1 - memory**steps) * np.where(w >= 0, 1.0, -1.0)


@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_an_own_term_with_its_state_equals_numpy(mode):
    w, g = weights()
    recipe = Recipe(
        regularization=SteadyTerm(memory=0.5), regularization_strength=0.8, regularization_mode=mode
    )
    parameter = nn.Parameter(torch.tensor(w))
    regularizer = GradientRegularizer({"site": parameter}, recipe)
    alpha = np.abs(w).mean(axis=1, keepdims=True)
    force = w / alpha - np.where(w >= 0, 1.0, -1.0)
    for step in range(3):
        with torch.no_grad():
            parameter.copy_(torch.tensor(w))
        parameter.grad = torch.tensor(g)
        regularizer.apply(learning_rate=0.1, progress=0.2)
        size = 1 - np.abs(steady(w, 0.5, step)).mean(axis=1, keepdims=True)
        mean = np.abs(g).mean(axis=1, keepdims=True)
        moved = w - 0.1 * 0.8 * size * force * alpha if mode == "decoupled" else w
        pulled = g + 0.8 * size * mean * force if mode == "coupled" else g
        np.testing.assert_allclose(parameter.detach().numpy(), moved, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(parameter.grad.numpy(), pulled, rtol=1e-5, atol=1e-9)
    assert set(regularizer.state_dict()) == {"steps", "mean.site"}
    assert int(regularizer.state_dict()["steps"]) == 3


def test_checkpoints_keep_their_names():
    parameter = nn.Parameter(torch.ones(2, 3))

    def names(term):
        recipe = Recipe(regularization=term)
        return set(GradientRegularizer({"blocks.0.a": parameter}, recipe).state_dict())

    assert names("resilient") == {"steps", "reference.blocks.0.a", "fraction.blocks.0.a"}
    assert names("bin_centre") == names("double_well") == names("none") == {"steps"}


class Flat(GradientTerm):
    """A mistake: one force a channel."""

    def force(self, u):
        return u.mean(dim=1)

    def size(self, weight, state, progress):
        return torch.tensor(1.0)


def test_mistakes_are_named():
    parameter = nn.Parameter(torch.ones(2, 3))
    parameter.grad = torch.ones(2, 3)
    for recipe, text in {
        Recipe(
            regularization="a.b:C"
        ): "the recipe's regularization is 'a.b:C', which is only named",
        Recipe(regularization=dict): "is no gradient term",
        Recipe(regularization=GradientTerm): "abstract",
    }.items():
        with pytest.raises(ConfigError, match=text):
            GradientRegularizer({"site": parameter}, recipe)
    regularizer = GradientRegularizer({"site": parameter}, Recipe(regularization=Flat))
    with pytest.raises(
        ConfigError, match=r"Flat.force must return the shape \(2, 3\) of u, got \(2,\)"
    ):
        regularizer.apply(learning_rate=0.1, progress=0.0)
    with pytest.raises(ConfigError, match="period must be at least 1"):
        ResilientTerm(period=0)


def test_presets_name_the_default_term():
    from bvit_analysis.config import RECIPES

    assert RECIPES["grs"].regularization == RECIPES["binaryvit"].regularization == "resilient"
    assert (
        dataclasses.replace(RECIPES["grs"], name="baseline", regularization="none")
        == RECIPES["baseline"]
    )
