"""Vectors of signs as words of bits, and their dot product by XNOR and popcount."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bvit_analysis.errors import ConfigError
from bvit_analysis.toys.estimators import Array


@dataclass(frozen=True)
class XnorProduct:
    """The product of two vectors of signs, kept as bits: 1 for +1 and 0 for -1."""

    a: Array
    "Bits of the first, highest first, (n,)."
    b: Array
    "Bits of the second, (n,)."

    @property
    def same(self) -> Array:
        """XNOR: 1 where the bits are equal, which is where the product of the signs is +1, (n,)."""
        return 1 - (self.a ^ self.b)

    @property
    def popcount(self) -> int:
        """How many places are equal."""
        return int(self.same.sum())

    @property
    def product(self) -> int:
        """2 popcount - n: each equal place adds 1, each unequal one takes 1 away."""
        return 2 * self.popcount - len(self.a)


def bits(word: int, n: int = 8) -> Array:
    """Return the n lowest bits of a word, highest first.

    Raises:
        ConfigError: If the word does not fit.

    Example:
        >>> bits(6, 4)
        array([0, 1, 1, 0])
    """
    if not 0 <= word < 2**n:
        raise ConfigError(f"expected a word of {n} bits, 0 to {2**n - 1}, got {word}")
    return np.array([word >> place & 1 for place in range(n - 1, -1, -1)])


def xnor_popcount(a: int, b: int, n: int = 8) -> XnorProduct:
    """Return the product of two words of n bits, step by step."""
    return XnorProduct(bits(a, n), bits(b, n))


def pack(signs: Array) -> int:
    """Return signs as one word: a bit each, 1 for +1, the first sign highest."""
    word = 0
    for one in np.asarray(signs):
        word = word << 1 | int(one >= 0)
    return word


def packed_dot(a: int, b: int, n: int) -> int:
    """Return the dot product of two packed vectors of n signs, 2 popcount(XNOR(a, b)) - n, without unpacking."""
    return 2 * (~(a ^ b) & (1 << n) - 1).bit_count() - n


def operations(n: int, word: int = 64) -> dict[str, int]:
    """Return how many operations a dot product of n numbers takes: as floats, and as words of packed signs."""
    words = -(-n // word)
    return {
        "float multiplications": n,
        "float additions": n - 1,
        "XNORs of words": words,
        "popcounts of words": words,
        "integer additions": words - 1,
        "final 2 p - n": 2,
    }
