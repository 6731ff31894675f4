"""A shift of the lab's own."""

import torch
from torch import Tensor, nn

from bvit_analysis.layers import MeanForm, Shift, ShiftCost, token_mean


class CentredShift(Shift):
    """y = x + b_c - m_c(x), with m_c the mean over tokens: each channel is centred image by image."""

    def __init__(self, dim: int, *, name: str = "") -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("ones", torch.ones(dim))

    def added(self, x: Tensor) -> Tensor:
        return self.bias - self.ones * token_mean(x).unsqueeze(1)  # (B, 1, C)

    def cost(self) -> ShiftCost:
        # Each value is summed and shifted; one difference a channel.
        return ShiftCost(per_value=2, per_image=self.bias.numel())

    def mean_form(self) -> MeanForm:
        return MeanForm(bias=self.bias, share=self.ones)
