"""Packed kernels against products of floats: both forms, every shape, to the bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray

from bvit_analysis.errors import ConfigError, MissingExtraError
from bvit_analysis.runtime.kernels import products as kernels
from tests.support.bits import (
    FORMS,
    compiled,
    draw,
    layer,
    pack_slowly,
    same,
    signs,
    transposed,
)

# --- signs ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60)
@given(
    images=st.integers(0, 3),
    tokens=st.integers(1, 4),
    heads=st.integers(1, 4),
    each=st.integers(1, 200),
    shift=st.sampled_from(["none", "channel", "image", "row"]),
    strided=st.booleans(),
)
def test_sign_pack_is_sign_of_the_sum(
    form: str, images: int, tokens: int, heads: int, each: int, shift: str, strided: bool
) -> None:
    rows, inputs = images * tokens, heads * each
    x = draw(each, rows, 3 * inputs)
    x = x[:, inputs : 2 * inputs] if strided else np.ascontiguousarray(x[:, :inputs])
    per = {"none": None, "channel": (inputs,), "image": (images, inputs), "row": (rows, inputs)}
    add = None if per[shift] is None else -draw(heads, *per[shift])  # type: ignore[misc]
    each_row = tokens if shift == "image" else 1
    got = kernels.sign_pack(x, add, rows_per_image=each_row, heads=heads, backend=form)
    added = x if add is None else x + (np.repeat(add, tokens, 0) if shift == "image" else add)
    assert got.dtype == np.uint64
    np.testing.assert_array_equal(got, pack_slowly(added, heads))


@pytest.mark.parametrize("form", FORMS)
def test_special_values_have_defined_signs(form: str) -> None:
    values = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3e38]
    x = np.array([values * 9], np.float32)
    expected = [x >= 0 for x in values]  # a NaN compares false
    assert pack_bits(kernels.sign_pack(x, backend=form), 72) == expected * 9
    # inf - inf is a NaN too, and so has bit 0
    add = np.full(72, -np.inf, np.float32)
    assert pack_bits(kernels.sign_pack(x, add, backend=form), 72) == [False] * 72


def pack_bits(words: ndarray, count: int) -> list[bool]:
    return [bool(int(words[0, j // 64]) >> j % 64 & 1) for j in range(count)]


@pytest.mark.parametrize("form", FORMS)
def test_sign_pack_takes_any_layout(form: str) -> None:
    x = draw(5, 70, 12)
    expected = pack_slowly(np.ascontiguousarray(x.T))
    np.testing.assert_array_equal(kernels.sign_pack(x.T, backend=form), expected)
    np.testing.assert_array_equal(
        kernels.sign_pack(x.T[::-1], backend=form), expected[::-1]
    )  # a negative stride
    frozen = x.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(kernels.sign_pack(frozen, backend=form), pack_slowly(x))


# --- linear ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=80)
@given(
    rows=st.integers(0, 9),
    inputs=st.integers(1, 200),
    outputs=st.integers(1, 70),
    parts=st.integers(1, 4),  # of more, torch adds some columns in another order
    which=st.integers(0, 7),
    with_shortcut=st.sampled_from(["no", "same", "repeat", "mean"]),
)
def test_linear_is_the_float_layer(
    form: str, rows: int, inputs: int, outputs: int, parts: int, which: int, with_shortcut: str
) -> None:
    x, weight = draw(inputs, rows, inputs), draw(outputs, outputs, inputs)
    scale, bias, slope, zeta = draw(rows + 1, 4, outputs)
    given_bias, given_slope = bias if which & 1 else None, slope if which & 2 else None
    given_zeta = zeta if which & 4 else None
    width = {"no": 0, "same": outputs, "repeat": 1, "mean": parts * outputs}
    if with_shortcut == "repeat":
        width["repeat"] = max(d for d in range(1, outputs + 1) if outputs % d == 0 and d <= 32)
    shortcut = draw(7, rows, width[with_shortcut]) if with_shortcut != "no" else None
    got = kernels.linear(
        kernels.sign_pack(x, backend=form),
        transposed(weight),
        inputs,
        scale,
        given_bias,
        shortcut,
        given_slope,
        given_zeta,
        backend=form,
    )
    assert got.dtype == np.float32
    assert same(got, layer(x, weight, scale, given_bias, shortcut, given_slope, given_zeta))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [
        (197, 384, 1152),
        (197, 384, 384),
        (66, 1536, 384),
        (66, 384, 1536),
        (17, 64, 256),
        (1, 64, 10),
    ],
)
def test_linear_at_the_sizes_of_real_models(
    form: str, rows: int, inputs: int, outputs: int
) -> None:
    x, weight = draw(1, rows, inputs), draw(2, outputs, inputs)
    scale, bias, slope, zeta = draw(3, 4, outputs)
    shortcut = None if outputs == 10 else x
    a = kernels.sign_pack(x, backend=form)
    got = kernels.linear(
        a, transposed(weight), inputs, scale, bias, shortcut, slope, zeta, backend=form
    )
    assert same(got, layer(x, weight, scale, bias, shortcut, slope, zeta))


@pytest.mark.parametrize("form", FORMS)
def test_linear_rounds_after_every_operation(form: str) -> None:
    x, weight = draw(1, 40, 100), draw(2, 96, 100)
    scale, bias = np.random.default_rng(3).normal(size=(2, 96)).astype(np.float32)
    product = (signs(x) @ signs(weight).T).astype(np.float32)
    twice = product * scale + bias
    once = (product.astype(np.float64) * scale + bias).astype(np.float32)  # as a fused one rounds
    assert (twice != once).mean() > 0.1  # so that the next line can tell them apart
    a = kernels.sign_pack(x, backend=form)
    got = kernels.linear(a, transposed(weight), 100, scale, bias, backend=form)
    assert same(got, twice)


@pytest.mark.parametrize("form", FORMS)
def test_linear_carries_nan_and_infinity(form: str) -> None:
    x, weight = draw(1, 6, 32), draw(2, 32, 32)
    x[0, 0], x[1, 1], x[2, 2], x[3, 3] = np.nan, np.inf, -np.inf, -0.0
    scale, bias, slope, zeta = draw(3, 4, 32)
    scale[4], bias[5], slope[6], zeta[7] = np.nan, np.inf, -np.inf, np.nan
    a = kernels.sign_pack(x, backend=form)
    got = kernels.linear(a, transposed(weight), 32, scale, bias, x, slope, zeta, backend=form)
    expected = layer(x, weight, scale, bias, x, slope, zeta)
    assert same(got, expected)
    assert np.isnan(expected).any()
    assert np.isinf(expected).any()


@pytest.mark.parametrize("form", FORMS)
def test_linear_leaves_out_what_is_none(form: str) -> None:
    # a product of 0 times a negative scale is -0.0, which adding a bias of +0.0 would lose
    x = np.tile(np.array([1, -1], np.float32), (5, 8))
    weight = np.ones((40, 16), np.float32)
    scale = np.full(40, -2.0, np.float32)
    a = kernels.sign_pack(x, backend=form)
    got = kernels.linear(a, transposed(weight), 16, scale, backend=form)
    assert same(got, np.full((5, 40), -0.0, np.float32))


@pytest.mark.parametrize("form", FORMS)
def test_linear_takes_any_layout(form: str) -> None:
    x, weight, scale = draw(1, 9, 130), draw(2, 35, 130), draw(3, 70)
    a, words = kernels.sign_pack(x), transposed(weight)
    expected = layer(x, weight, scale[::2].copy())
    spread = np.zeros((18, 3), np.uint64)
    spread[::2] = a
    words.flags.writeable = False
    got = kernels.linear(spread[::2], words, 130, scale[::2], backend=form)
    assert same(got, expected)
    by_rows = np.asfortranarray(words)
    assert same(kernels.linear(a, by_rows, 130, scale[::2], backend=form), expected)


# --- attention ------------------------------------------------------------------------------------------------


def heads_of(x: ndarray, tokens: int, heads: int) -> ndarray:
    shape = (len(x) // tokens, tokens, heads, x.shape[1] // heads)
    return signs(x).reshape(shape).transpose(0, 2, 1, 3)


def attend_slowly(
    q: ndarray,
    k: ndarray,
    v: ndarray,
    tokens: int,
    score_scale: ndarray,
    level: ndarray | None,
    value_scale: ndarray,
) -> ndarray:
    """Float attention by torch, as the simulated layer computes it."""
    heads = len(score_scale)
    q, k, v = (torch.from_numpy(heads_of(x, tokens, heads)) for x in (q, k, v))
    per_head = [torch.from_numpy(x).view(-1, 1, 1) for x in (score_scale, value_scale)]
    scores = (q @ k.transpose(-2, -1)) * per_head[0]
    if level is None:
        bits = scores >= 0
    else:
        bits = 2 * scores.softmax(-1) >= torch.from_numpy(level).view(-1, 1, 1)
    context = (bits.float() @ v) * per_head[1]
    return context.transpose(1, 2).flatten(2).flatten(0, 1).numpy()


def exact(score_scale: ndarray, level: ndarray, seen: list[int]) -> kernels.ExactBits:
    def decide(scores: ndarray, head: ndarray) -> ndarray:
        seen.append(len(scores))
        scaled = torch.from_numpy(scores.astype(np.float32) * score_scale[head, None])
        return (2 * scaled.softmax(-1) >= torch.from_numpy(level[head, None])).numpy()

    return decide


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=50)
@given(
    images=st.integers(0, 3),
    tokens=st.integers(1, 140),
    heads=st.integers(1, 3),
    head_dim=st.integers(1, 140),
    kind=st.sampled_from(["elastic", "elastic", "boolean"]),
    size=st.sampled_from([0.0, 1e-3, 0.1, 1.0, 50.0]),
)
def test_attention_is_the_float_attention(
    form: str, images: int, tokens: int, heads: int, head_dim: int, kind: str, size: float
) -> None:
    x = [draw(seed, images * tokens, heads * head_dim) for seed in (1, 2, 3)]
    rng = np.random.default_rng(tokens)
    score_scale = (size * rng.random(heads)).astype(np.float32)
    level = (rng.choice([0.5, 1, 2], size=heads) * 2 / tokens).astype(np.float32)
    value_scale = rng.normal(size=heads).astype(np.float32)
    got = kernels.attention(
        *(kernels.sign_pack(part, heads=heads, backend=form) for part in x),
        tokens=tokens,
        head_dim=head_dim,
        score_scale=score_scale,
        level=level if kind == "elastic" else None,
        value_scale=value_scale,
        exact_bits=exact(score_scale, level, []),
        backend=form,
    )
    expected = attend_slowly(
        *x, tokens, score_scale, level if kind == "elastic" else None, value_scale
    )
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("head_dim", [8, 64, 96])
@pytest.mark.parametrize("tokens", [5, 197, 1025])
@pytest.mark.parametrize("scale", [0.003, 0.1, 0.7])
def test_the_margin_of_a_tie_is_above_what_softmax_is_wrong_by(
    head_dim: int, tokens: int, scale: float
) -> None:
    counts = np.random.default_rng(tokens).binomial(head_dim, 0.5, (200, tokens))
    score_scale = np.array([scale], np.float32)
    scores = (head_dim - 2 * counts).astype(np.float32) * score_scale
    found = torch.from_numpy(scores).softmax(dim=-1).double().numpy()
    exact = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    wrong = np.abs(found / exact - 1)[exact > 1e-30].max()
    margin = kernels.tie_margin(score_scale, np.array([2 / tokens], np.float32), head_dim, tokens)
    assert 0 < 2 * wrong < margin < 2e-4
    assert (
        kernels.tie_margin(score_scale, np.array([1e-31], np.float32), head_dim, tokens) == math.inf
    )
    odd = np.array([np.nan], np.float32)
    assert kernels.tie_margin(odd, None, head_dim, tokens) == math.inf


@pytest.mark.parametrize("form", FORMS)
def test_only_rows_near_a_tie_ask_for_the_softmax(form: str) -> None:
    x = [draw(seed, 2 * 50, 3 * 32) for seed in (1, 2, 3)]
    packed = [kernels.sign_pack(part, heads=3, backend=form) for part in x]
    value_scale = np.ones(3, np.float32)
    level = np.full(3, 2 / 50, np.float32)
    sizes: list[list[int]] = []
    # equal scores make p = 1 / N = level / 2 exactly; usual ones come as near as 1e-4 now and then
    for score_scale in (np.zeros(3, np.float32), np.full(3, 0.17, np.float32)):
        seen: list[int] = []
        got = kernels.attention(
            *packed,
            tokens=50,
            head_dim=32,
            score_scale=score_scale,
            level=level,
            value_scale=value_scale,
            exact_bits=exact(score_scale, level, seen),
            backend=form,
        )
        expected = attend_slowly(*x, 50, score_scale, level, value_scale)
        np.testing.assert_array_equal(got, expected)
        sizes.append(seen)
    assert sizes[0] == [2 * 3 * 50]
    assert sum(sizes[1]) < 15


@compiled
@pytest.mark.parametrize("score_scale", [0.0, 0.3, 1e4, np.inf, np.nan])
@pytest.mark.parametrize("level", [None, 0.05, np.nan])
def test_both_forms_of_attention_agree_also_where_nothing_is_finite(
    score_scale: float, level: float | None
) -> None:
    packed = [kernels.sign_pack(draw(seed, 66, 40), heads=2) for seed in (1, 2, 3)]
    options = {
        "tokens": 33,
        "head_dim": 20,
        "score_scale": np.full(2, score_scale, np.float32),
        "level": None if level is None else np.full(2, level, np.float32),
        "value_scale": np.array([1.5, -2.5], np.float32),
    }
    one, two = (kernels.attention(*packed, backend=form, **options) for form in ("numba", "numpy"))
    assert same(one, two)


def test_pieces_of_attention_are_products_of_signs() -> None:
    q, k, v = (draw(seed, 2 * 70, 3 * 20) for seed in (1, 2, 3))
    words = [kernels.sign_pack(part, heads=3) for part in (q, k, v)]
    scores = kernels.binary_scores(*words[:2], heads=3, head_dim=20, tokens=70)
    expected = heads_of(q, 70, 3) @ heads_of(k, 70, 3).swapaxes(-1, -2)
    np.testing.assert_array_equal(scores, expected)
    scale, level = np.full(3, 0.2, np.float32), np.full(3, 0.03, np.float32)
    bits, near = kernels.attention_bits(scores, scale, level, 20)
    e = np.exp(0.2 * (expected - expected.max(-1, keepdims=True)))
    p = e / e.sum(-1, keepdims=True)
    np.testing.assert_array_equal(bits[~near], (2 * p >= 0.03)[~near])
    context = kernels.binary_context(bits, words[2], head_dim=20)
    np.testing.assert_array_equal(context, bits.astype(np.float32) @ heads_of(v, 70, 3))


# --- mistakes -------------------------------------------------------------------------------------------------


def test_shapes_that_do_not_fit_are_named() -> None:
    x = draw(1, 4, 70)
    a, weight, scale = kernels.sign_pack(x), transposed(draw(2, 5, 70)), draw(3, 5)
    with pytest.raises(ConfigError, match="3 heads"):
        kernels.sign_pack(x, heads=3)
    with pytest.raises(ConfigError, match=r"\(4, 70\), got \(3,\)"):
        kernels.sign_pack(x, scale[:3])
    with pytest.raises(ConfigError, match="flatten"):
        kernels.sign_pack(x[0])
    with pytest.raises(ConfigError, match="float64"):  # rounding could turn a sign around
        kernels.sign_pack(x.astype(np.float64))
    with pytest.raises(ConfigError, match="4 rows are no whole number"):
        kernels.sign_pack(x, x[:1], rows_per_image=3)
    with pytest.raises(ConfigError, match="2 words, a weight of 1"):
        kernels.linear(a, weight[:1], 70, scale)
    with pytest.raises(ConfigError, match="200 inputs"):
        kernels.linear(a, weight, 200, scale)
    with pytest.raises(ConfigError, match="shortcut of shape"):
        kernels.linear(a, weight, 70, scale, None, x[:, :7])
    with pytest.raises(ConfigError, match="scale must be of shape"):
        kernels.linear(a, weight, 70, scale[:3])
    with pytest.raises(ConfigError, match="q, k and v"):
        kernels.attention(
            a, a, a, tokens=3, head_dim=70, score_scale=scale[:1], level=None, value_scale=scale[:1]
        )


def test_backend_is_chosen_by_name_then_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BVIT_RUNTIME", "numpy")
    assert kernels.choose_backend() == "numpy"
    monkeypatch.delenv("BVIT_RUNTIME")
    assert kernels.choose_backend() == kernels.available()
    with pytest.raises(ConfigError, match="did you mean 'numba'"):
        kernels.choose_backend("numbas")
    monkeypatch.setattr(kernels, "_numba_found", lambda: False)
    assert kernels.choose_backend() == "numpy"
    with pytest.raises(MissingExtraError, match=r"bvit_analysis\[runtime\]"):
        kernels.choose_backend("numba")
