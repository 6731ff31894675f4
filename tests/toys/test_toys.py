"""The toys: each formula against the library's own in torch, against scipy, or against plain counting."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from bvit_analysis import quantizers, toys
from bvit_analysis.config import get_recipe
from bvit_analysis.errors import ConfigError
from bvit_analysis.regularization import GradientRegularizer, ResilientTerm

# Exact zeros of both signs, the corners of every estimator, and points beside them.
POINTS = np.array([-3, -1.001, -1, -0.999, -0.5, -0.0, 0.0, 0.25, 0.5, 0.75, 0.999, 1, 1.001, 3])

IN_TORCH = {
    "identity": lambda x: x + (quantizers.sign(x) - x).detach(),
    "clipped": quantizers.clipped_sign,
    "polynomial": quantizers.polynomial_sign,
    "boolean": quantizers.boolean_levels,
    "elastic": lambda x: quantizers.elastic_levels(x, torch.ones(1, dtype=x.dtype)),
}


@pytest.mark.parametrize("name", toys.ESTIMATORS)
def test_estimators_are_those_of_the_library(name: str) -> None:
    x = torch.tensor(POINTS, requires_grad=True)
    y = IN_TORCH[name](x)
    y.sum().backward()
    mine = toys.estimator(name)
    np.testing.assert_allclose(mine.forward(POINTS), y.detach().numpy(), atol=1e-12)
    np.testing.assert_array_equal(mine.slope(POINTS), x.grad.numpy())


@pytest.mark.parametrize("name", toys.ESTIMATORS)
def test_the_pretended_curve_has_the_slope(name: str) -> None:
    one = toys.estimator(name)
    x = np.linspace(-1.9, 1.9, 39) + 0.013  # away from corners
    numeric = (one.pretended(x + 1e-6) - one.pretended(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(numeric, one.slope(x), atol=1e-6)


def test_unknown_names_are_answered_with_the_near_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'clipped'"):
        toys.estimator("cliped")
    with pytest.raises(ConfigError, match="did you mean 'resilient'"):
        toys.grs_force(np.zeros(1), "resilent")


def test_the_best_scale_is_the_mean_magnitude() -> None:
    w = np.random.default_rng(0).normal(size=200)
    grid = np.linspace(0, 2, 2001)
    errors = [toys.scale_error(w, alpha) for alpha in grid]
    assert toys.best_scale(w) == pytest.approx(grid[int(np.argmin(errors))], abs=1e-3)
    assert toys.best_scale(w) == pytest.approx(
        float(quantizers.channel_scale(torch.tensor(w)[None])), rel=1e-12
    )


@pytest.mark.parametrize("positive", [0, 1, 13, 50, 100])
def test_sign_entropy_is_that_of_scipy(positive: int) -> None:
    x = np.repeat([1.0, -1.0], [positive, 100 - positive])
    expected = entropy([positive, 100 - positive], base=2)
    assert toys.sign_entropy_bits(x) == pytest.approx(expected, abs=1e-12)


def term_of(kind: str, period: int) -> str | ResilientTerm:
    return ResilientTerm(period=period) if kind == "resilient" else kind


@pytest.mark.parametrize("kind", toys.TERMS)
@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_gradient_terms_are_those_of_the_library(kind: str, progress: float) -> None:
    draw = np.random.default_rng(3)
    w, g = draw.normal(size=(5, 7)), draw.normal(size=(5, 7))
    w[0, :3] = 0.0, -0.0, 1.0
    recipe = dataclasses.replace(
        get_recipe("grs"), regularization=term_of(kind, 1), regularization_strength=0.7
    )
    weight = torch.nn.Parameter(torch.tensor(w))
    weight.grad = torch.tensor(g)
    term = GradientRegularizer({"w": weight}, recipe)
    term.apply(learning_rate=0.1, progress=progress)
    first = weight.grad.numpy() - g
    options = {"kind": kind, "strength": 0.7, "progress": progress}
    np.testing.assert_allclose(first, toys.grs_term(w, g, fraction=0.0, **options), atol=1e-12)
    # After one period the flip fraction of each row counts.
    other = draw.normal(size=(5, 7))
    weight.data, weight.grad = torch.tensor(other), torch.tensor(g)
    term.apply(learning_rate=0.1, progress=progress)
    weight.grad = torch.tensor(g)
    fraction = ((w >= 0) != (other >= 0)).mean(axis=1, keepdims=True)
    term.apply(learning_rate=0.1, progress=progress)
    expected = toys.grs_term(other, g, fraction=fraction, **options)
    np.testing.assert_allclose(weight.grad.numpy() - g, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", toys.SIGN_ESTIMATORS)
@pytest.mark.parametrize(("momentum", "clip"), [(0.0, 1.0), (0.9, 0.4), (0.5, math.inf)])
def test_one_weight_is_trained_as_torch_trains_it(name: str, momentum: float, clip: float) -> None:
    run = toys.train_one_weight(
        estimator_name=name, momentum=momentum, clip=clip, learning_rate=0.1, steps=60, seed=5
    )
    aims = 0.3 + 0.2 * np.random.default_rng(5).standard_normal(60)
    w = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=momentum)
    path = [0.5]
    for aim in aims:
        optimizer.zero_grad()
        ((IN_TORCH[name](w) - aim) ** 2 / 2).backward()
        optimizer.step()
        with torch.no_grad():
            w.clamp_(-clip, clip)
        path.append(w.item())
    np.testing.assert_allclose(run.latent, path, atol=1e-12)


def test_one_weight_between_two_values_oscillates_and_is_right_on_average() -> None:
    run = toys.train_one_weight(target=0.3)
    assert run.verdict == "oscillating"
    assert run.mean_sign == pytest.approx(0.3, abs=0.05)
    by_hand = sum(
        (a >= 0) != (b >= 0) for a, b in zip(run.latent[1:], run.latent[:-1], strict=True)
    )
    assert run.flips.sum() == by_hand


@pytest.mark.parametrize("target", [-0.5, 0.0, 0.6])
def test_a_smaller_learning_rate_moves_less_but_flips_as_often(target: float) -> None:
    fast = toys.train_one_weight(target=target, learning_rate=0.08, noise=0, steps=400, start=0.0)
    slow = toys.train_one_weight(target=target, learning_rate=0.02, noise=0, steps=400, start=0.0)
    assert fast.flips.sum() == pytest.approx(slow.flips.sum(), abs=4)
    assert np.abs(slow.latent).max() == pytest.approx(np.abs(fast.latent).max() / 4, rel=0.05)


@pytest.mark.parametrize("target", [-1.2, 1.3])
def test_a_value_that_fits_settles(target: float) -> None:
    run = toys.train_one_weight(target=target)
    assert run.verdict == "settled"
    assert run.mean_sign == math.copysign(1, target)


def test_the_gradient_term_holds_a_weight_once_it_outweighs_the_gradient() -> None:
    # At +1 the gradient is 1 - t, the term just above zero strength * 0.2 (1 + t): they balance at 2.69.
    threshold = (1 - 0.3) / (0.2 * 1.3)
    below = toys.train_one_weight(strength=0.9 * threshold, noise=0)
    above = toys.train_one_weight(strength=1.1 * threshold, noise=0)
    assert below.verdict == "oscillating"
    assert above.verdict == "settled"
    assert above.mean_sign == 1


def test_a_term_that_is_too_strong_freezes_the_wrong_sign() -> None:
    free = toys.train_one_weight(start=-0.5, strength=4)
    frozen = toys.train_one_weight(start=-0.5, strength=6)
    assert free.mean_sign == 1
    assert frozen.mean_sign == -1
    assert frozen.flips.sum() == 0


def test_verdicts() -> None:
    def of(path: list[float]) -> toys.OneWeight:
        return toys.OneWeight(np.array(path), np.zeros(len(path) - 1), 0.0)

    assert of([1.0] * 41).verdict == "settled"
    assert math.isnan(of([1.0] * 41).returned)
    assert of([1.0, -1.0] * 20 + [1.0]).verdict == "oscillating"
    assert of([1.0] * 40 + [-1.0]).verdict == "undecided"


def _torch_network(net: toys.Network) -> dict[str, torch.nn.Parameter]:
    return {
        field.name: torch.nn.Parameter(torch.tensor(getattr(net, field.name), dtype=torch.float64))
        for field in dataclasses.fields(net)
    }


def _torch_loss(p: dict[str, torch.nn.Parameter], name: str) -> torch.Tensor:
    x, y = map(torch.tensor, toys.tilted())
    weight = quantizers.channel_scale(p["first"]) * quantizers.clipped_sign(p["first"])
    hidden = IN_TORCH[name](x @ weight.T + p["shift"])
    out = p["gain"] * (hidden @ quantizers.clipped_sign(p["second"])[0]) + p["bias"]
    return ((out - y) ** 2).mean() / 2


@pytest.mark.parametrize("name", toys.SIGN_ESTIMATORS)
@pytest.mark.parametrize("seed", [0, 1])
def test_hand_written_gradients_equal_autograd(name: str, seed: int) -> None:
    net = toys.first_network(seed)
    loss, gradients = toys.network_gradients(net, *toys.tilted(), name)
    parameters = _torch_network(net)
    value = _torch_loss(parameters, name)
    value.backward()
    assert loss == pytest.approx(value.item(), rel=1e-12)
    for key, parameter in parameters.items():
        np.testing.assert_allclose(getattr(gradients, key), parameter.grad.numpy(), atol=1e-12)


@pytest.mark.parametrize("kind", toys.TERMS)
def test_two_layers_are_trained_as_the_library_trains_them(kind: str) -> None:
    run = toys.train_two_layers(strength=2.0, kind=kind, momentum=0.5, clip=0.6, steps=50)
    parameters = _torch_network(toys.first_network(4))
    recipe = dataclasses.replace(
        get_recipe("grs"), regularization=term_of(kind, toys.PERIOD), regularization_strength=2.0
    )
    latent = {name: parameters[name] for name in ("first", "second")}
    term = GradientRegularizer(latent, recipe)
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1, momentum=0.5)
    losses = []
    for step in range(50):
        optimizer.zero_grad()
        loss = _torch_loss(parameters, "polynomial")
        losses.append(loss.item())
        loss.backward()
        term.apply(learning_rate=0.1, progress=step / 50)
        optimizer.step()
        with torch.no_grad():
            for name, parameter in parameters.items():
                most = 0.6 if name in latent else toys.MOST_FLOAT
                parameter.clamp_(-most, most)
    np.testing.assert_allclose(run.loss, losses, rtol=1e-5)
    np.testing.assert_allclose(run.network.first, parameters["first"].detach(), atol=1e-5)
    changes = (run.latent[1:] >= 0) != (run.latent[:-1] >= 0)
    assert run.flips.tolist() == changes.sum(axis=1).tolist()


def test_two_layers_learn_most_of_the_task_and_some_weights_do_not_settle() -> None:
    run = toys.train_two_layers()
    assert run.loss[-40:].mean() < 0.7 * run.loss[0]
    assert run.accuracy[-40:].mean() > 0.75
    assert run.flips[-50:].sum() > 10


def test_no_setting_makes_the_network_explode() -> None:
    for momentum in (0.0, 0.95):
        run = toys.train_two_layers(learning_rate=1.0, momentum=momentum, clip=3.0, strength=8.0)
        assert np.isfinite(run.loss).all()
        assert np.isfinite(run.latent).all()


@pytest.mark.slow
@given(st.integers(0, 255), st.integers(0, 255))
def test_xnor_popcount_is_the_dot_product_of_signs(a: int, b: int) -> None:
    product = toys.xnor_popcount(a, b)
    signs = [2 * np.array([int(c) for c in f"{word:08b}"]) - 1 for word in (a, b)]
    assert product.product == int(signs[0] @ signs[1]) == toys.packed_dot(a, b, 8)
    assert product.same.tolist() == (signs[0] * signs[1] == 1).astype(int).tolist()
    assert product.popcount == product.same.sum()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=300))
def test_packed_dot_of_any_length(pairs: list[tuple[bool, bool]]) -> None:
    a, b = (np.array(side) * 2.0 - 1 for side in zip(*pairs, strict=True))
    assert toys.packed_dot(toys.pack(a), toys.pack(b), len(pairs)) == int(a @ b)


def test_a_word_that_does_not_fit_is_refused() -> None:
    assert toys.bits(255).tolist() == [1] * 8
    for word in (-1, 256):
        with pytest.raises(ConfigError, match="8 bits, 0 to 255"):
            toys.bits(word)


def test_operations_are_counted() -> None:
    count = toys.operations(384)
    assert count["float multiplications"] + count["float additions"] == 767
    assert count["XNORs of words"] == count["popcounts of words"] == 6
    assert toys.operations(65)["XNORs of words"] == 2
