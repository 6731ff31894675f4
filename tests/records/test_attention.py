"""Attention in a run folder: round trip, and damaged or hostile files."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest

import bvit_analysis.records.attention as module
from bvit_analysis.errors import ConfigError
from bvit_analysis.records import RunWarning, RunWriter, load_run
from bvit_analysis.records.arrays import encode_arrays
from bvit_analysis.records.attention import write_attention
from tests.support.synthetic_run import attention_examples, make_run

SITES = ["blocks.0.attn.probabilities", "odd <b>name</b> {x}"]


@pytest.fixture
def examples():
    return attention_examples(np.random.default_rng(0), SITES)


@pytest.fixture
def folder(tmp_path):
    with RunWriter(tmp_path / "run", info={}):
        pass
    return tmp_path / "run"


def test_round_trip(folder, examples) -> None:
    write_attention(folder, examples)
    found = load_run(folder).attention
    assert found is not None
    assert found.sites == SITES
    for name in ("images", "labels", "predictions", "teacher_predictions", "bits"):
        np.testing.assert_array_equal(getattr(found, name), getattr(examples, name))
    for name in ("scores", "teacher"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(examples, name), rtol=1e-3, atol=1e-6
        )
    alone = dataclasses.replace(examples, teacher=None, teacher_predictions=None)
    write_attention(folder, alone)
    again = load_run(folder).attention
    assert again is not None
    assert again.teacher is None


def test_a_run_without_it_has_none(folder, tmp_path) -> None:
    assert load_run(folder).attention is None
    assert load_run(make_run(tmp_path / "full", steps=10)).attention is not None


@pytest.mark.parametrize(
    "change",
    [
        {"bits": np.zeros((3, 2, 2, 17, 16), np.uint8)},
        {"bits": np.zeros((3, 2, 2, 17, 17), np.float64)},
        {"scores": np.zeros((1, 2, 2, 17, 17), np.float16)},
        {"scores": np.full((3, 2, 2, 17, 17), np.nan, np.float16)},
        {"labels": np.zeros(9, np.int64)},
        {"sites": np.frombuffer(b"only one", np.uint8)},
        {"sites": np.frombuffer(b"\xff\n\xff", np.uint8)},
        {"images": np.zeros((3, 28, 28), np.uint8)},
        {"teacher": np.zeros((3, 2, 2, 17, 17), np.float16)},
    ],
)
def test_a_file_that_lies_is_left_out_and_named(folder, examples, change) -> None:
    write_attention(folder, dataclasses.replace(examples, teacher=None, teacher_predictions=None))
    path = folder / "examples" / "attention.npz"
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    path.write_bytes(encode_arrays(arrays | change))
    run = load_run(folder)
    with pytest.warns(RunWarning, match="attention.npz"):
        assert run.attention is None


@pytest.mark.parametrize("cut", [0, 10, 300, -20])
def test_a_cut_file_is_left_out(folder, examples, cut) -> None:
    write_attention(folder, examples)
    path = folder / "examples" / "attention.npz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.warns(RunWarning, match="attention.npz"):
        assert load_run(folder).attention is None


def test_a_flipped_byte_is_seen(folder, examples) -> None:
    write_attention(folder, examples)
    path = folder / "examples" / "attention.npz"
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(1)
    for place in rng.integers(0, len(data), 40):
        broken = bytearray(data)
        broken[place] ^= 0xFF
        path.write_bytes(broken)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RunWarning)
            found = load_run(folder).attention
        # Some bytes of a zip (times, extra fields) mean nothing; then all arrays are as they were.
        if found is not None:
            np.testing.assert_array_equal(found.bits, examples.bits)


def test_a_link_is_not_followed(folder, examples, tmp_path) -> None:
    write_attention(folder, examples)
    real = folder / "examples"
    real.rename(tmp_path / "elsewhere")
    real.symlink_to(tmp_path / "elsewhere")
    with pytest.warns(RunWarning, match="linked"):
        assert load_run(folder).attention is None


def test_too_much_is_refused_on_both_sides(folder, examples, monkeypatch) -> None:
    write_attention(folder, examples)
    monkeypatch.setattr(module, "MAX_ATTENTION_VALUES", 100)
    with pytest.warns(RunWarning, match="at most 100"):
        assert load_run(folder).attention is None
    with pytest.raises(ConfigError, match="fewer images"):
        write_attention(folder, examples)


def test_shapes_that_do_not_fit_are_refused(examples) -> None:
    with pytest.raises(ConfigError, match="expected"):
        dataclasses.replace(examples, sites=["one"])
