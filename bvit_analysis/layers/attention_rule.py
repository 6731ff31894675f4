"""Rules that turn attention scores into bits: what is decided, what it costs, whether packed attention can hold it.

A recipe names one of ATTENTION_RULES, or holds a rule of the researcher's own; docs/extending.md has an example.

Shape letters: B batch, N tokens, h heads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.quantizers import boolean_levels, elastic_levels


@final
@dataclass(frozen=True, kw_only=True)
class LevelForm:
    """What packed attention can hold of a rule: bits [softmax(scores) >= a/2], or [scores >= 0]."""

    level: Tensor | None = None
    "a, (h, 1, 1), dimensionless; None compares the scores themselves with 0."


class AttentionRule(ABC):
    """Decide which tokens each token attends to: one bit a score. A rule has no parameters and no state.

    The learned scale a > 0 of a head is the value of a set bit; a rule may decide by it, too.
    """

    takes_softmax: ClassVar[bool] = False
    "Whether scores go through a softmax first, which the cost ledger counts."
    operations: ClassVar[int] = 0
    "Element-wise operations for each score, beside the softmax and the comparison."

    @abstractmethod
    def bits(self, scores: Tensor, scale: Tensor) -> Tensor:
        """Return bits with a straight-through gradient.

        Args:
            scores: (B, h, N, N), dimensionless.
            scale: a, (h, 1, 1), dimensionless.

        Returns:
            (B, h, N, N), values in {0, 1}.
        """

    @abstractmethod
    def argument(self, scores: Tensor, scale: Tensor) -> Tensor:
        """Return what decides, (B, h, N, N), dimensionless: a bit is set where it is >= 0. Arguments as for bits()."""

    def best_scale(self, scores: Tensor) -> Tensor | None:
        """Return the scale a of each head for one batch of scores, (h,); None keeps the scale as it is."""
        return None

    def level_form(self, scale: Tensor) -> LevelForm | None:
        """Return how packed attention can decide the same; None where it cannot.

        Args:
            scale: a, (h, 1, 1), dimensionless.
        """
        return None


@final
@dataclass(frozen=True)
class ElasticRule(AttentionRule):
    """Softmax rounded on the learned scale: [softmax(scores) >= a/2]. Source: BiT, arXiv 2205.13016."""

    takes_softmax: ClassVar[bool] = True

    def bits(self, scores: Tensor, scale: Tensor) -> Tensor:
        return elastic_levels(scores.softmax(dim=-1), scale)

    def argument(self, scores: Tensor, scale: Tensor) -> Tensor:
        return scores.softmax(dim=-1) - scale / 2

    def best_scale(self, scores: Tensor) -> Tensor:
        """Return of 31 candidates, 2^(k/4) / N for k = -10..20, each head's with the least squared error, (h,)."""
        p = scores.softmax(dim=-1)
        candidates = torch.exp2(torch.arange(-10, 21, device=p.device) / 4) / p.shape[-1]
        errors = []
        for scale in candidates:
            errors.append((p - scale * (2 * p >= scale)).square().mean(dim=(0, 2, 3)))  # (h,)
        return candidates[torch.stack(errors).argmin(dim=0)]

    def level_form(self, scale: Tensor) -> LevelForm:
        return LevelForm(level=scale)


@final
@dataclass(frozen=True)
class BooleanRule(AttentionRule):
    """The sign of the scores, without a softmax: [scores >= 0]. Source: BiBERT, arXiv 2203.06390."""

    def bits(self, scores: Tensor, scale: Tensor) -> Tensor:
        return boolean_levels(scores)

    def argument(self, scores: Tensor, scale: Tensor) -> Tensor:
        return scores

    def level_form(self, scale: Tensor) -> LevelForm:
        return LevelForm()


ATTENTION_RULES: Mapping[str, AttentionRule] = {
    "elastic": ElasticRule(),
    "boolean": BooleanRule(),
}
"What a recipe's `attention` may name."


def make_rule(rule: Any) -> AttentionRule:
    """Return the rule a recipe means.

    Args:
        rule: A name in ATTENTION_RULES, a rule, or a class of rules that is made without arguments.

    Raises:
        ConfigError: If there is no such rule.
    """
    if isinstance(rule, str):
        if rule not in ATTENTION_RULES:
            raise ConfigError(unknown_name("attention rule", rule, ATTENTION_RULES))
        return ATTENTION_RULES[rule]
    try:
        made = rule() if callable(rule) else rule
    except TypeError as error:
        raise ConfigError(
            f"attention rule {rule!r} cannot be made without arguments: {error}; give an object of it"
        ) from error
    if not isinstance(made, AttentionRule):
        raise ConfigError(
            f"{rule!r} is no attention rule; expected a bvit_analysis.layers.AttentionRule"
        )
    return made
