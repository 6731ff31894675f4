"""Attention rules: bits against numpy, the argument against the bits, scales against a loop."""

from __future__ import annotations

from typing import get_type_hints

import numpy as np
import pytest
import torch
from scipy.special import softmax

from bvit_analysis.config import Recipe
from bvit_analysis.config.schema import choices_of
from bvit_analysis.errors import ConfigError
from bvit_analysis.layers import BinaryProbabilities
from bvit_analysis.layers.attention_rule import (
    ATTENTION_RULES,
    AttentionRule,
    LevelForm,
    make_rule,
)
from tests.support.own_parts import SteadyTerm, UniformRule

SCALE = torch.tensor([0.3, 0.6]).view(2, 1, 1)


def scores() -> torch.Tensor:
    return 2 * torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(1))


def test_names_are_those_that_a_recipe_takes() -> None:
    assert tuple(ATTENTION_RULES) == choices_of(get_type_hints(Recipe)["attention"])


def test_bits_against_numpy() -> None:
    s = scores()
    p = softmax(s.double().numpy(), axis=-1)
    wanted = {
        "elastic": p >= SCALE.double().numpy() / 2,
        "boolean": s.numpy() >= 0,
        UniformRule: p >= 1 / 5,
    }
    for rule, bits in wanted.items():
        np.testing.assert_array_equal(make_rule(rule).bits(s, SCALE).numpy(), bits)
        assert 0 < bits.mean() < 1


@pytest.mark.parametrize("rule", [*ATTENTION_RULES, UniformRule()], ids=str)
def test_a_bit_is_set_where_the_argument_is_not_negative(rule: object) -> None:
    made, s = make_rule(rule), scores()
    assert torch.equal(made.bits(s, SCALE), (made.argument(s, SCALE) >= 0).float())


def test_best_scale_of_each_head_against_a_loop() -> None:
    s = scores()
    p = softmax(s.double().numpy(), axis=-1)
    best = []
    for head in range(2):
        errors = {}
        for k in range(-10, 21):
            a = 2 ** (k / 4) / 5
            errors[a] = float(((p[:, head] - a * (p[:, head] >= a / 2)) ** 2).mean())
        best.append(min(errors, key=errors.__getitem__))
    found = make_rule("elastic").best_scale(s)
    assert found is not None
    np.testing.assert_allclose(found.numpy(), best, rtol=1e-6)
    module = BinaryProbabilities(2, tokens=5, rule=make_rule("elastic"))
    module.calibrate(s)
    np.testing.assert_allclose(module.scale().detach().flatten().numpy(), best, rtol=1e-5)


def test_a_rule_without_a_best_scale_keeps_it() -> None:
    for rule in ("boolean", UniformRule):
        module = BinaryProbabilities(2, tokens=5, rule=make_rule(rule))
        module.calibrate(scores())
        torch.testing.assert_close(module.scale().detach(), torch.full((2, 1, 1), 2 / 5))


def test_forms_of_packed_attention() -> None:
    elastic, boolean = (make_rule(name).level_form(SCALE) for name in ("elastic", "boolean"))
    assert elastic is not None
    assert elastic.level is SCALE
    assert boolean is not None
    assert boolean.level is None
    assert make_rule(UniformRule).level_form(SCALE) is None


class Short(UniformRule):
    """A mistake: one level for all heads."""

    def level_form(self, scale: torch.Tensor) -> LevelForm:
        return LevelForm(level=scale[:1])


def test_a_level_of_another_shape_is_refused() -> None:
    module = BinaryProbabilities(2, tokens=5, rule=Short())
    with pytest.raises(ConfigError, match=r"Short.level_form .* \(2, 1, 1\), got \(1, 1, 1\)"):
        module.level_form()
    elastic = BinaryProbabilities(2, tokens=5, rule=make_rule("elastic")).level_form()
    assert elastic is not None
    torch.testing.assert_close(elastic.level, torch.full((2, 1, 1), 2 / 5))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("elastik", "did you mean 'elastic'"),
        (SteadyTerm(), "is no attention rule"),
        (AttentionRule, "abstract"),
        (dict, "is no attention rule"),
    ],
)
def test_mistakes_are_named(rule: object, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make_rule(rule)
