"""Bits of signs: positions, unused bits, inverses, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bvit_analysis.errors import ConfigError
from bvit_analysis.packed.bits import (
    bits_of_words,
    pack_rows,
    pack_signs,
    rows_of_words,
    unpack_rows,
    words_of,
    words_of_rows,
)

SHAPES = st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 200))


def signs_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), shape)


def read_back(words: np.ndarray, n: int) -> np.ndarray:
    """Signs of words, one bit at a time."""
    places = np.arange(n)
    bits = words[..., places // 64] >> (places % 64).astype(np.uint64) & np.uint64(1)
    return np.where(bits, 1, -1).astype(np.int8)


@given(SHAPES, st.integers(0, 2**32 - 1))
def test_a_round_trip_keeps_every_sign(shape, seed):
    signs = signs_of(shape, seed)
    words = pack_signs(signs)
    assert words.dtype == np.uint64
    assert words.shape == (*shape[:-1], -(-shape[-1] // 64))
    np.testing.assert_array_equal(read_back(words, shape[-1]), signs)


@given(SHAPES, st.integers(0, 2**32 - 1))
def test_bytes_and_words_hold_the_same_bits(shape, seed):
    signs = signs_of(shape, seed)
    rows = pack_rows(signs)
    assert rows.shape == (*shape[:-1], -(-shape[-1] // 8))
    np.testing.assert_array_equal(words_of_rows(rows), pack_signs(signs))
    np.testing.assert_array_equal(rows_of_words(pack_signs(signs), shape[-1]), rows)
    back = unpack_rows(rows, shape[-1])
    assert back.dtype == np.int8
    np.testing.assert_array_equal(back, signs)


def test_bit_j_of_word_w_is_element_64_w_plus_j():
    for n in (1, 63, 64, 65, 130):
        for element in range(n):
            signs = -np.ones(n, np.int8)
            signs[element] = 1
            words = [int(word) for word in pack_signs(signs)]
            assert words == [
                1 << (element - 64 * w) if 64 * w <= element < 64 * w + 64 else 0
                for w in range(-(-n // 64))
            ]


@given(st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_xor_and_popcount_give_the_product(n, seed):
    a, b = signs_of((2, n), seed)
    different = int(np.bitwise_count(pack_signs(a) ^ pack_signs(b)).sum())
    assert n - 2 * different == int(a.astype(int) @ b.astype(int))


@given(st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_bits_are_read_one_by_one(n, seed):
    words = pack_signs(signs_of((3, n), seed))
    assert words_of(n) == words.shape[-1] == len(range(0, n, 64))
    one_by_one = [[int(row[j // 64]) >> j % 64 & 1 for j in range(n)] for row in words]
    assert bits_of_words(words, n).tolist() == one_by_one


def test_what_counts_as_plus_one():
    values = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, -1e-30], np.float32)
    assert pack_signs(values).tolist() == [0b001011]
    assert pack_signs(np.array([True, False, True])).tolist() == [0b101]


def test_rows_need_not_be_contiguous():
    signs = signs_of((70, 6))
    np.testing.assert_array_equal(pack_signs(signs.T), pack_signs(signs.T.copy()))
    rows = np.asfortranarray(pack_rows(signs_of((5, 130))))
    np.testing.assert_array_equal(unpack_rows(rows, 130), signs_of((5, 130)))


def test_refusals():
    with pytest.raises(ConfigError, match="signed numbers"):
        pack_signs(np.array([0, 1], np.uint8))
    with pytest.raises(ConfigError, match="rows"):
        pack_signs(np.float32(1))
