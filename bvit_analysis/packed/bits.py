"""Signs as bits: 64 to a word, which is what one XNOR and one popcount multiply.

Shape letters: n signs in a row, W words, O output channels, I input channels.
"""

from __future__ import annotations

import numpy as np

from bvit_analysis.errors import ConfigError

WORD_BITS = 64


def words_of(signs: int) -> int:
    """Return the words that a row of so many signs takes, ceil(n / 64)."""
    return -(-signs // WORD_BITS)


def pack_signs(signs: np.ndarray) -> np.ndarray:
    """Pack signs along the last axis: bit j of word w is 1 where element 64 w + j is >= 0.

    Args:
        signs: (..., n), bool (True is +1) or signed numbers such as -1 and +1; NaN counts as -1, as sign(NaN) does.

    Returns:
        uint64 (..., W) with W = ceil(n / 64); the unused bits of the last word are 0.

    Raises:
        ConfigError: If there is no axis, or the numbers are unsigned: 0 cannot be told from -1 there.

    Example:
        >>> pack_signs(np.array([1, -1, 1, 1])).tolist()
        [13]
    """
    return words_of_rows(pack_rows(signs))


def pack_rows(signs: np.ndarray) -> np.ndarray:
    """Pack signs along the last axis into bytes, uint8 (..., ceil(n / 8)), as files keep them; see pack_signs."""
    signs = np.asarray(signs)
    if signs.ndim == 0 or signs.dtype.kind not in "bif":
        raise ConfigError(
            f"expected rows of bool or signed numbers to pack, got {signs.dtype} of shape {signs.shape}"
        )
    return np.packbits(signs if signs.dtype == np.bool_ else signs >= 0, axis=-1, bitorder="little")


def bits_of_words(words: np.ndarray, n: int) -> np.ndarray:
    """Spread words (..., ceil(n / 64)) out to their bits, uint8 (..., n), values in {0, 1}."""
    return np.unpackbits(rows_of_words(words, n), axis=-1, count=n, bitorder="little")


def unpack_rows(rows: np.ndarray, n: int) -> np.ndarray:
    """Unpack bytes (..., ceil(n / 8)) into int8 (..., n), values in {-1, +1}."""
    bits = np.unpackbits(rows, axis=-1, count=n, bitorder="little").view(np.int8)
    return bits * np.int8(2) - np.int8(1)


def words_of_rows(rows: np.ndarray) -> np.ndarray:
    """Widen packed bytes (..., ceil(n / 8)) to words, uint64 (..., ceil(n / 64)); new bits are 0."""
    wide = np.zeros((*rows.shape[:-1], -(-rows.shape[-1] // 8) * 8), np.uint8)
    wide[..., : rows.shape[-1]] = rows
    return wide.view("<u8").astype(np.uint64, copy=False)


def rows_of_words(words: np.ndarray, n: int) -> np.ndarray:
    """Narrow words (..., ceil(n / 64)) to bytes, uint8 (..., ceil(n / 8))."""
    wide = np.ascontiguousarray(words, dtype="<u8").view(np.uint8)
    return wide[..., : -(-n // 8)]
