"""Products of signs on packed bits: pack, linear, attention, each with a compiled and a plain form.

Both forms give the same floats to the bit, in the order of the simulated layers: every float32 operation is rounded
on its own, none is fused or reordered. Arrays in, arrays out; rows may be strided. The compiled form needs numba
(`pip install "bvit_analysis[runtime]"`), releases the GIL, may be called from several threads, and caches its machine
code between processes, beside this file or, where that folder is read-only, in the user's cache (NUMBA_CACHE_DIR
overrides both). BVIT_RUNTIME=numpy chooses the plain form.

Bits: 1 is +1, bit j of word w is element 64 w + j, unused bits are 0. A NaN has bit 0, because it compares false.
Shape letters: M rows (B images of N tokens), I inputs, O outputs, W words of 64 bits, h heads, d channels a head.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
from collections.abc import Callable

import numpy as np
from numpy import ndarray

from bvit_analysis.errors import ConfigError, MissingExtraError, unknown_name
from bvit_analysis.packed.bits import bits_of_words, words_of
from bvit_analysis.runtime.kernels import plain, threads
from bvit_analysis.runtime.kernels.compilation import tile_columns
from bvit_analysis.runtime.kernels.memory import address
from bvit_analysis.runtime.kernels.operations import Input
from bvit_analysis.runtime.kernels.programs import (
    Program,
    Scores,
    Shortcut,
    constant,
    finish_of,
)

BACKENDS = ("numba", "numpy")

ExactBits = Callable[[ndarray, ndarray], ndarray]
"From integer scores (R, N) and the head of each row (R,) to bits (R, N): decides the rows near a tie."


def available() -> str:
    """Return the fastest backend that can run here: 'numba', or 'numpy' where numba is missing or switched off."""
    return "numba" if _numba_found() else "numpy"


@functools.cache
def _numba_found() -> bool:
    off = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
    return not off and importlib.util.find_spec("numba") is not None


def choose_backend(backend: str | None = None) -> str:
    """Return the backend to use: the one named, else BVIT_RUNTIME, else the fastest.

    Raises:
        ConfigError: The name is unknown.
        MissingExtraError: It is 'numba', and numba is not installed.
    """
    name = backend or os.environ.get("BVIT_RUNTIME") or available()
    if name not in BACKENDS:
        raise ConfigError(unknown_name("runtime backend", name, BACKENDS))
    if name == "numba" and not _numba_found():
        raise MissingExtraError(
            "the compiled kernels need numba, which is not installed, or is switched off by NUMBA_DISABLE_JIT; "
            'pip install "bvit_analysis[runtime]", or choose backend "numpy"'
        )
    return name


def sign_pack(
    x: ndarray,
    add: ndarray | None = None,
    *,
    rows_per_image: int = 1,
    heads: int = 1,
    backend: str | None = None,
) -> ndarray:
    """Return the bits [x + add >= 0], packed: shift, sign and pack in one pass.

    Args:
        x: (M, I) float32; rows may be strided.
        add: What the shift adds: (I,), or (M / rows_per_image, I) where one row serves a whole image, or None.
        rows_per_image: Rows of x that share a row of `add`.
        heads: Groups of I / h channels that each begin a word of their own.

    Returns:
        (M, h ceil(I / h / 64)) uint64.
    """
    x = _floats(x)
    rows, inputs = x.shape
    if heads < 1 or inputs % heads:
        raise ConfigError(f"{inputs} channels do not divide into {heads} heads; give a divisor")
    if rows_per_image < 1 or rows % rows_per_image:
        raise ConfigError(f"{rows} rows are no whole number of images of {rows_per_image} rows")
    if add is not None:
        add = np.ascontiguousarray(add, np.float32)
        if add.shape not in ((inputs,), (rows // rows_per_image, inputs)):
            raise ConfigError(
                f"add must be of shape ({inputs},) or ({rows // rows_per_image}, {inputs}), got {add.shape}"
            )
    if choose_backend(backend) == "numpy":
        return plain.sign_pack(x, add, rows_per_image, heads)
    out = np.empty((rows, heads * words_of(inputs // heads)), np.uint64)
    if add is None:
        add = constant(inputs, -0.0)
    each = max(1, rows) if add.ndim == 1 else rows_per_image
    program = Program(threads.thread_count())
    stride = x.strides[0] // 4 if rows > 1 else inputs
    source = Input(address(x), stride, inputs, address(add), each, address(out), heads)
    program.sign(source, rows, "sign")
    program.run()
    return out


def linear(
    a: ndarray,
    weight: ndarray,
    n_in: int,
    scale: ndarray,
    bias: ndarray | None = None,
    shortcut: ndarray | None = None,
    slope: ndarray | None = None,
    zeta: ndarray | None = None,
    *,
    backend: str | None = None,
) -> ndarray:
    """Multiply signs by signs and finish the layer: leak(product * scale + bias + shortcut) + zeta.

    leak(z) = z where z > 0, else slope z. What is None is left out.

    Args:
        a: Packed rows, (M, W) uint64.
        weight: Packed weight, transposed: word w of output o at [w, o], (W, O) uint64.
        n_in: Inputs I, at most 64 W and below 2^24.
        scale: (O,) float32; bias, slope, zeta alike.
        shortcut: (M, S) float32 with S = O; or O a multiple of S: repeated; or S a multiple of O: the mean of the
            S / O parts, added one by one: torch's order for up to 4 parts, of more it adds some otherwise.

    Returns:
        (M, O) float32.
    """
    rows, words = a.shape
    outputs = weight.shape[1]
    if weight.shape[0] != words or not 64 * (words - 1) < n_in <= min(64 * words, 1 << 24):
        raise ConfigError(
            f"rows of {words} words, a weight of {weight.shape[0]} and {n_in} inputs do not fit; expected"
            " ceil(inputs / 64) words in both, and at most 2^24 inputs"
        )
    for name, vector in (("scale", scale), ("bias", bias), ("slope", slope), ("zeta", zeta)):
        if vector is not None and vector.shape != (outputs,):
            raise ConfigError(f"{name} must be of shape ({outputs},), got {vector.shape}")
    added: Shortcut | None = None
    if shortcut is not None:
        shortcut = np.ascontiguousarray(shortcut, np.float32)
        inputs = shortcut.shape[1]
        if len(shortcut) != rows or (outputs % inputs and inputs % outputs):
            raise ConfigError(
                f"a shortcut of shape {shortcut.shape} does not fit outputs of shape {(rows, outputs)}; its channels"
                " must divide the outputs or be a multiple of them"
            )
        added = Shortcut(address(shortcut), inputs, max(1, inputs // outputs))
    if choose_backend(backend) == "numpy":
        return plain.linear(a, weight, n_in, scale, bias, shortcut, slope, zeta)
    finish = finish_of(outputs, scale, bias, slope, zeta, shortcut=added)
    a, weight = np.ascontiguousarray(a), np.ascontiguousarray(weight)
    out = np.empty((rows, outputs), np.float32)
    program = Program(threads.thread_count())
    source = Input(None, 0, n_in, None, 1, address(a))
    program.linear(source, rows, weight, finish, address(out), "linear")
    program.run()
    return out


def attention(
    q: ndarray,
    k: ndarray,
    v: ndarray,
    *,
    tokens: int,
    head_dim: int,
    score_scale: ndarray,
    level: ndarray | None,
    value_scale: ndarray,
    exact_bits: ExactBits | None = None,
    backend: str | None = None,
) -> ndarray:
    """Attend on packed heads: context = value_scale * (bits @ sign(v)), bits = [2 softmax(scores) >= level].

    Scores are the integer q k^T times score_scale. softmax is a table of the d + 1 values a score can have; rows
    with |2 p - level| < margin level (tie_margin), or whose sum is not finite, are given to `exact_bits`.

    Args:
        q: Packed queries as `sign_pack(..., heads=h)` returns them, (M, h W); k and v alike.
        tokens: Tokens N of an image, M = B N.
        head_dim: d.
        score_scale: (h,) float32, what multiplies the integer score.
        level: a, (h,) float32; None sets the bits of scores >= 0 instead (boolean attention).
        value_scale: (h,) float32, what multiplies the integer context.
        exact_bits: Decides the rows near a tie; None leaves them to the table.

    Returns:
        (M, h d) float32: heads side by side, as the float attention lays them out.
    """
    heads = len(value_scale)
    shape = (q.shape[0], heads * words_of(head_dim))
    if {q.shape, k.shape, v.shape} != {shape} or tokens < 1 or shape[0] % tokens:
        raise ConfigError(
            f"q, k and v must be of shape (images x {tokens}, {shape[1]}) for {heads} heads of {head_dim} channels,"
            f" got {q.shape}, {k.shape} and {v.shape}"
        )
    rules = rules_of(score_scale, level, head_dim)
    margin = tie_margin(score_scale, level, head_dim, tokens)
    if choose_backend(backend) == "numpy":
        out, near = plain.attention(q, k, v, tokens, head_dim, *rules, margin, value_scale)
    else:
        q, k, v = (np.ascontiguousarray(words) for words in (q, k, v))
        images = len(q) // tokens
        out = np.empty((len(q), heads * head_dim), np.float32)
        near = np.zeros((images, heads, tokens), bool)
        program = Program(threads.thread_count())
        scores = Scores(*rules, lanes_of(value_scale), margin)
        program.attend(
            (address(q), address(k), address(v)),
            q.shape[1],
            images,
            tokens,
            head_dim,
            scores,
            address(out),
            address(near),
            "attention",
        )
        program.run()
    if exact_bits is not None and near.any():
        settle(out, near, q, k, v, head_dim, value_scale, exact_bits)
    return out


def binary_scores(q: ndarray, k: ndarray, *, heads: int, head_dim: int, tokens: int) -> ndarray:
    """Return the integer scores q k^T, (B, h, N, N) int32, from words (M, h W); plain numpy, to look at."""
    return plain.scores(q, k, heads, head_dim, tokens)


def attention_bits(
    scores: ndarray, score_scale: ndarray, level: ndarray | None, head_dim: int
) -> tuple[ndarray, ndarray]:
    """Return the bits (B, h, N, N) of integer scores and the rows near a tie (B, h, N); plain numpy, to look at."""
    margin = tie_margin(score_scale, level, head_dim, scores.shape[-1])
    return plain.bits_of_counts(
        (head_dim - scores) // 2, *rules_of(score_scale, level, head_dim), margin
    )


def binary_context(bits: ndarray, v: ndarray, *, head_dim: int) -> ndarray:
    """Return bits (B, h, N, N) times signs of v, words (M, h W): (B, h, N, d) int32; plain numpy, to look at."""
    return plain.context(bits, v, bits.shape[1], head_dim)


def popcount_ceiling() -> float:
    """Return the GMAC/s of XOR, popcount and add that one core reaches on registers alone; needs numba."""
    choose_backend("numba")
    from bvit_analysis.runtime.kernels import ceiling

    return ceiling.popcount_ceiling()


def _floats(x: ndarray) -> ndarray:
    """Return x, (M, I) float32, with rows that are contiguous; strided rows stay where they are."""
    if x.ndim != 2 or x.dtype != np.float32:
        raise ConfigError(
            f"x must be of shape (rows, channels) and float32, got {x.shape} {x.dtype}; flatten or convert it"
        )
    rows_apart = len(x) < 2 or x.strides[0] >= 4 * x.shape[1]  # neither turned round nor repeated
    if x.flags.aligned and rows_apart and (x.strides[1] == 4 or x.shape[1] == 1):
        return x
    return np.array(x, order="C")


def lanes_of(value_scale: ndarray) -> ndarray:
    """Return a head's scale in each lane of a tile, (h, columns) float32."""
    return np.repeat(value_scale.astype(np.float32)[:, None], tile_columns(), axis=1)


def tie_margin(score_scale: ndarray, level: ndarray | None, head_dim: int, tokens: int) -> float:
    """Return what a probability of torch's float32 softmax may be wrong by, relative to its value, from above.

    Units in the last place: 2 max|x| for the exponents x - max, 32 for scores, exp and quotient, N / 4 for a sum of N
    terms in at least four lanes; the total doubled. Infinite where numbers of float32 end, so that torch decides.
    """
    scale = float(np.abs(score_scale).max(initial=0))
    margin = 2.0**-23 * (4 * head_dim * scale + 32 + tokens / 4)
    smallest = 1.0 if level is None else float(level.min(initial=1))
    return margin if margin < 0.1 and smallest > 1e-30 else math.inf


def rules_of(
    score_scale: ndarray, level: ndarray | None, head_dim: int
) -> tuple[ndarray, ndarray | None, ndarray | None]:
    """Return per head the table of exp over counts 0..d, and the level that decides by it, or else the limit."""
    values = head_dim - 2 * np.arange(head_dim + 1, dtype=np.float32)
    with np.errstate(all="ignore"):
        # (h, d + 1), rounded as the float layer's
        score = score_scale.astype(np.float32)[:, None] * values
        table = np.exp(score.astype(np.float64) - score[:, :1])
        if level is not None:
            return table, level.astype(np.float64), None
        # scores fall with the count, so the number of those >= 0 says all
        limit = (score >= 0).sum(axis=1, dtype=np.int64) - 1
    return table, None, limit


def settle(
    out: ndarray,
    near: ndarray,
    q: ndarray,
    k: ndarray,
    v: ndarray,
    head_dim: int,
    value_scale: ndarray,
    exact_bits: ExactBits,
) -> None:
    """Overwrite the rows near a tie with what the exact softmax decides."""
    _, heads, tokens = near.shape
    words = q.shape[1] // heads
    image, head, token = np.nonzero(near)
    queries = q.reshape(-1, tokens, heads, words)[image, token, head]  # (R, W)
    keys = k.reshape(-1, tokens, heads, words)[image, :, head]  # (R, N, W)
    counts = np.bitwise_count(queries[:, None] ^ keys).sum(-1, dtype=np.int32)
    bits = exact_bits(head_dim - 2 * counts, head)
    values = v.reshape(-1, tokens, heads, words)[image, :, head]
    ones = bits_of_words(values, head_dim)  # (R, N, d)
    # sums of at most 2^24 ones are exact in float32, whose products are the fast ones
    chosen = bits.astype(np.float32)[:, None]
    exact = 2 * (chosen @ ones.astype(np.float32))[:, 0] - chosen.sum(axis=-1)
    with np.errstate(all="ignore"):
        rows = exact * value_scale[head, None]
    out.reshape(-1, tokens, heads, head_dim)[image, token, head] = rows
