"""The blocks of a packed ViT, run on a few images at a time: their activations stay in the processor's cache.

Shape letters: B images, N tokens, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bvit_analysis.runtime.layers import PackedLinear

CHUNK_BYTES = 6 * 2**20
"Of a chunk's widest activation: 5 images of a DeiT-S at 224 pixels, two thirds of the time that each of 32 takes."


class PackedBlocks(nn.Sequential):
    """Run all blocks on a part of the batch, then on the next; images do not meet in a block, so no result changes.

    Args:
        blocks: The blocks, in order; kept under the names 0, 1, ...

    Shape:
        Input and output (B, N, D).
    """

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        linears = [module for module in self.modules() if isinstance(module, PackedLinear)]
        self.widest = max((layer.out_features for layer in linears), default=1)

    def forward(self, x: Tensor) -> Tensor:
        size = max(1, CHUNK_BYTES // (4 * self.widest * max(1, x.shape[1])))
        if len(x) <= size:
            return super().forward(x)
        return torch.cat([super(PackedBlocks, self).forward(chunk) for chunk in x.split(size)])
