"""Shifts: what each adds against numpy, forms and costs against hand counts, and mistakes in a shift of one's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bvit_analysis.config import Recipe
from bvit_analysis.config.schema import choices_of
from bvit_analysis.errors import ConfigError
from bvit_analysis.layers.shift import SHIFTS, Shift, ShiftCost, make_shift, token_mean
from tests.support.own_parts import Clamped, ClampedMeanShift, HalfMeanShift, NeighbourShift

CHANNELS, TOKENS, IMAGES = 6, 5, 3


def moved(shift: Shift, seed: int = 0) -> Shift:
    """A shift whose parameters are all away from where they start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in shift.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return shift.eval()


def activations() -> Tensor:
    return torch.randn(IMAGES, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(3))


def retyped(name: str, shift: Shift, x: np.ndarray) -> np.ndarray:
    p = {key: value.detach().double().numpy() for key, value in shift.named_parameters()}
    mean = x.mean(axis=1, keepdims=True)
    if name == "none":
        return x
    if name == "static":
        return x + p["bias"]
    if name == "token_mean":
        return x + p["bias"] - p["share"] * mean
    hidden = mean @ p["down"].T
    return x + p["bias"] + (hidden / (1 + np.exp(-hidden))) @ p["up"].T


def test_names_are_those_that_a_recipe_takes() -> None:
    from typing import get_type_hints

    assert tuple(SHIFTS) == choices_of(get_type_hints(Recipe)["shift"])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_is_its_equation(name: str, training: bool) -> None:
    shift = moved(make_shift(name, CHANNELS, reduction=2, name="site")).train(training)
    x = activations()
    wanted = retyped(name, shift, x.double().numpy())
    np.testing.assert_allclose(shift(x).detach().numpy(), wanted, rtol=1e-5, atol=1e-6)


OWN = [ClampedMeanShift, NeighbourShift, HalfMeanShift, Clamped(bound=0.25)]


@pytest.mark.parametrize("made", [*SHIFTS, *OWN], ids=str)
def test_what_it_adds_is_all_it_does(made: object) -> None:
    shift, x = moved(make_shift(made, CHANNELS, reduction=2, name="site")), activations()
    added = shift.added(x)
    wanted = x if added is None else x + added
    assert torch.equal(shift(x), wanted)
    assert added is None or tuple(added.shape) in (
        (CHANNELS,),
        (IMAGES, 1, CHANNELS),
        (IMAGES, TOKENS, CHANNELS),
    )


@pytest.mark.parametrize("made", ["none", "static", "token_mean", HalfMeanShift], ids=str)
def test_the_form_of_a_program_is_what_it_adds_to_the_bit(made: object) -> None:
    shift, x = moved(make_shift(made, CHANNELS, reduction=2)), activations()
    form = shift.mean_form()
    assert form is not None
    found = torch.zeros(IMAGES, 1, CHANNELS) if form.bias is None else form.bias
    if form.share is not None:
        found = found - form.share * token_mean(x).unsqueeze(1)
    assert torch.equal(x + found, shift(x))


def test_other_shifts_have_no_form() -> None:
    for made in ("bottleneck", ClampedMeanShift, NeighbourShift):
        assert make_shift(made, CHANNELS, reduction=2).mean_form() is None


@pytest.mark.parametrize("name", SHIFTS)
def test_every_shift_starts_as_nothing_and_draws_by_name(name: str) -> None:
    one, two, other = (
        make_shift(name, CHANNELS, reduction=2, name=site) for site in ("a", "a", "b")
    )
    x = activations()
    assert torch.equal(one(x), x)
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())
    if name == "bottleneck":
        assert not torch.equal(one.state_dict()["down"], other.state_dict()["down"])


def test_costs_by_hand() -> None:
    costs = {name: make_shift(name, 6, reduction=2).cost() for name in SHIFTS}
    assert costs == {
        "none": ShiftCost(),
        "static": ShiftCost(per_value=1),
        "token_mean": ShiftCost(per_value=2, per_image=6 + 6),
        "bottleneck": ShiftCost(per_value=2, per_image=4 * 3 + 6, float_macs=6 * 3 + 3 * 6),
    }


def test_a_forward_of_its_own_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Mine has a forward\(\) of its own"):

        class Mine(Shift):
            def forward(self, x: Tensor) -> Tensor:
                return 2 * x


def _no_shift(dim: int, *, name: str) -> torch.nn.Module:
    return torch.nn.Linear(dim, dim)


def _no_name(dim: int) -> Shift:
    return NeighbourShift(dim)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        ("statik", "did you mean 'static'"),
        (_no_shift, r"_no_shift\(dim, name=...\) gave a Linear"),
        (_no_name, "_no_name cannot be made as shift"),
        (Shift, "abstract"),
    ],
)
def test_mistakes_are_named(made: object, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make_shift(made, 4, reduction=2, name="site")
