"""An attention rule of the lab's own."""

from dataclasses import dataclass

from torch import Tensor

from bvit_analysis.layers import AttentionRule, LevelForm
from bvit_analysis.quantizers import elastic_levels


@dataclass(frozen=True)
class QuarterRule(AttentionRule):
    """Softmax rounded on half of the learned scale a: [softmax(scores) >= a/4]."""

    takes_softmax = True

    def bits(self, scores: Tensor, scale: Tensor) -> Tensor:
        return elastic_levels(scores.softmax(dim=-1), scale / 2)

    def argument(self, scores: Tensor, scale: Tensor) -> Tensor:
        return scores.softmax(dim=-1) - scale / 4

    def level_form(self, scale: Tensor) -> LevelForm:
        return LevelForm(level=scale / 2)
