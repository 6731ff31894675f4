"""What a token-mean shift adds, as machine code: sums over blocks of tokens, then their mean, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from bvit_analysis.runtime.kernels.jit import called
from bvit_analysis.runtime.kernels.operations import BLOCK, GROUP
from bvit_analysis.runtime.kernels.pointers import f32, f64


@called
def token_sums(mean: Any, first: int, last: int) -> None:
    """Add up the tokens of units first..last of (image, block) in float64; `mean` is that section of an operation."""
    tokens, channels, stride = mean.tokens, mean.channels, mean.stride
    blocks = (tokens + BLOCK - 1) // BLOCK
    for unit in range(first, last):
        image, block = unit // blocks, unit % blocks
        start, end = BLOCK * block, min(BLOCK * (block + 1), tokens)
        sums = carray(f64(mean.sums + 8 * channels * unit), channels)
        sums[:] = 0.0
        at = mean.x + 4 * stride * (image * tokens + start)
        fours = (end - start) // 4 * 4
        for token in range(0, fours, 4):  # so that sums go through memory a fourth as often
            a = carray(f32(at + 4 * stride * token), channels)
            b = carray(f32(at + 4 * stride * (token + 1)), channels)
            c = carray(f32(at + 4 * stride * (token + 2)), channels)
            d = carray(f32(at + 4 * stride * (token + 3)), channels)
            for i in range(channels):
                left = np.float64(a[i]) + np.float64(b[i])
                right = np.float64(c[i]) + np.float64(d[i])
                sums[i] += left + right
        for token in range(fours, end - start):
            a = carray(f32(at + 4 * stride * token), channels)
            for i in range(channels):
                sums[i] += np.float64(a[i])


@called
def mean_shift(mean: Any, first: int, last: int) -> int:
    """Fill bias - factor * mean in units first..last of (image, channel group), from what token_sums() left."""
    tokens, channels = mean.tokens, mean.channels
    blocks = (tokens + BLOCK - 1) // BLOCK
    groups = (channels + GROUP - 1) // GROUP
    bias = carray(f32(mean.bias), channels)
    factor = carray(f32(mean.factor), channels)
    total = np.empty(GROUP, np.float64)
    for unit in range(first, last):
        image, start = unit // groups, GROUP * (unit % groups)
        width = min(GROUP, channels - start)
        total[:] = 0.0
        for block in range(blocks):
            at = mean.sums + 8 * (channels * (blocks * image + block) + start)
            sums = carray(f64(at), width)
            for c in range(width):
                total[c] += sums[c]
        out = carray(f32(mean.out + 4 * (channels * image + start)), width)
        for c in range(width):
            of_tokens = np.float32(total[c] / np.float64(tokens))
            out[c] = bias[start + c] - factor[start + c] * of_tokens
    return total.size
