"""The kernels in plain numpy: slow, exact, and what the compiled form is held against.

Shape letters: M rows (B images of N tokens), I inputs, O outputs, W words of 64 bits, h heads, d channels a head.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from bvit_analysis.packed.bits import bits_of_words, pack_signs, words_of

_CHUNK = 1 << 22  # words of a temporary, 32 MiB


def sign_pack(x: ndarray, add: ndarray | None, rows_per_image: int, heads: int) -> ndarray:
    """Return the bits [x + add >= 0] of each row, every head's bits in words of their own, (M, h W) uint64."""
    rows, inputs = x.shape
    if add is not None and add.ndim == 2:
        add = np.repeat(add, rows_per_image, axis=0)
    with np.errstate(invalid="ignore", over="ignore"):
        bits = x >= 0 if add is None else x + add >= 0
    packed = pack_signs(bits.reshape(rows, heads, inputs // heads))
    return packed.reshape(rows, heads * packed.shape[-1])


def differing(a: ndarray, weight: ndarray) -> ndarray:
    """Count the places where rows of bits and columns of bits differ: (M, W) and (W, O) to (M, O) int32."""
    rows, words = a.shape
    outputs = weight.shape[1]
    counts = np.zeros((rows, outputs), np.int32)
    step = max(1, _CHUNK // max(1, outputs))
    for start in range(0, rows, step):
        chunk = slice(start, start + step)
        for word in range(words):
            counts[chunk] += np.bitwise_count(a[chunk, word, None] ^ weight[word])
    return counts


def linear(
    a: ndarray,
    weight: ndarray,
    n_in: int,
    scale: ndarray,
    bias: ndarray | None,
    shortcut: ndarray | None,
    slope: ndarray | None,
    zeta: ndarray | None,
) -> ndarray:
    """Return leak(product * scale + bias + shortcut) + zeta, (M, O) float32, one rounding a step."""
    with np.errstate(all="ignore"):
        y = (n_in - 2 * differing(a, weight)).astype(np.float32) * scale
        if bias is not None:
            y += bias
        if shortcut is not None:
            y += _fitted(shortcut, y.shape[1])
        if slope is not None:
            y = np.where(y > 0, y, slope * y)
        if zeta is not None:
            y += zeta
    return y


def _fitted(x: ndarray, outputs: int) -> ndarray:
    rows, inputs = x.shape
    if inputs == outputs:
        return x
    if inputs < outputs:
        return np.tile(x, (1, outputs // inputs))
    copies = x.reshape(rows, inputs // outputs, outputs)
    total = np.zeros((rows, outputs), np.float32)
    for copy in range(copies.shape[1]):  # one by one, as torch adds them
        total += copies[:, copy]
    return total / np.float32(copies.shape[1])


def attention(
    q: ndarray,
    k: ndarray,
    v: ndarray,
    tokens: int,
    head_dim: int,
    table: ndarray,
    level: ndarray | None,
    limit: ndarray | None,
    margin: float,
    value_scale: ndarray,
) -> tuple[ndarray, ndarray]:
    """Return the context (M, h d) float32 and which rows (B, h, N) are too near a tie to be decided by the table."""
    heads = len(value_scale)
    counts = (head_dim - scores(q, k, heads, head_dim, tokens)) // 2
    bits, near = bits_of_counts(counts, table, level, limit, margin)
    exact = context(bits, v, heads, head_dim).astype(np.float32)
    with np.errstate(all="ignore"):
        exact *= value_scale[:, None, None]
    return exact.transpose(0, 2, 1, 3).reshape(len(q), heads * head_dim), near


def scores(q: ndarray, k: ndarray, heads: int, head_dim: int, tokens: int) -> ndarray:
    """Return q k^T of signs per head, (B, h, N, N) int32, from words (M, h W)."""
    words = words_of(head_dim)
    images = len(q) // tokens
    left = q.reshape(images, tokens, heads, words).transpose(0, 2, 1, 3)
    right = k.reshape(images, tokens, heads, words).transpose(0, 2, 1, 3)
    counts = np.zeros((images, heads, tokens, tokens), np.int32)
    for word in range(words):
        counts += np.bitwise_count(left[..., :, None, word] ^ right[..., None, :, word])
    return head_dim - 2 * counts


def bits_of_counts(
    counts: ndarray, table: ndarray, level: ndarray | None, limit: ndarray | None, margin: float
) -> tuple[ndarray, ndarray]:
    """Return the bits of attention from counts of differing places, (B, h, N, N), and the rows near a tie.

    By a limit, bits are set whose count is at most a head's limit. By a level, 2 p >= a decides, with p = e / sum(e)
    from the table (h, d + 1); a row is near a tie where any of its p is within margin a / 2 of it.
    """
    if level is None:
        assert limit is not None
        return counts <= limit[:, None, None], np.zeros(counts.shape[:-1], bool)
    value = table[np.arange(len(level))[:, None, None], counts]  # (B, h, N, N)
    with np.errstate(all="ignore"):
        cut = level[:, None, None] * value.sum(-1, keepdims=True) / 2  # (B, h, N, 1)
        usable = (cut > 1e-250) & np.isfinite(cut)
        near = (np.abs(value - cut) < margin * cut).any(-1) | ~usable[..., 0]
        return (value >= cut) & usable, near


def context(bits: ndarray, v: ndarray, heads: int, head_dim: int) -> ndarray:
    """Return bits (B, h, N, N) times the signs of v, (B, h, N, d) int32, as 2 popcount(b & v) - popcount(b)."""
    images, _, tokens, _ = bits.shape
    of_tokens = over_tokens(v, heads, head_dim, tokens)  # (B, h, T, d)
    rows = pack_signs(bits)  # (B, h, N, T)
    counts = np.zeros((images, heads, tokens, head_dim), np.int32)
    for word in range(rows.shape[-1]):
        counts += np.bitwise_count(rows[..., :, None, word] & of_tokens[..., None, word, :])
    return 2 * counts - bits.sum(-1, dtype=np.int32)[..., None]


def over_tokens(v: ndarray, heads: int, head_dim: int, tokens: int) -> ndarray:
    """Turn words over channels (M, h W) into words over tokens, (B, h, T, d) with T = ceil(N / 64)."""
    images = len(v) // tokens
    words = v.reshape(images, tokens, heads, words_of(head_dim))
    bits = bits_of_words(words, head_dim).astype(bool)
    return pack_signs(bits.transpose(0, 2, 3, 1)).swapaxes(-1, -2)
