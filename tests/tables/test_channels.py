"""Entropy of single channels against scipy and against the mean that the instrument recorded."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from bvit_analysis import tables
from bvit_analysis.errors import ConfigError
from bvit_analysis.measures import channel_entropy_bits
from bvit_analysis.records import RunWarning, RunWriter, load_run
from tests.support.synthetic_run import SIGNS, make_run


def write(folder, counts, n, step=5):
    site = {
        "site_id": 3,
        "site": "a.sign",
        "kind": "activation",
        "shape": [len(counts)],
        "n_weights": 0,
    }
    with RunWriter(folder, info={"sites": [site]}) as writer:
        writer.append("channels", {"step": step, "site_id": 3, "n": n, "counts": np.array(counts)})
    return load_run(folder)


def test_entropy_is_scipys_plus_the_correction(tmp_path) -> None:
    counts, n = [0, 1, 7, 20, 39, 40], 40
    table = tables.channel_entropy(write(tmp_path / "r", counts, n), "a.sign")
    for row, count in zip(table.itertuples(), counts, strict=True):
        plain = entropy([count / n, 1 - count / n], base=2)
        more = 0 if count in (0, n) else 1 / (2 * n * math.log(2))
        assert row.entropy_bits == pytest.approx(plain + more, abs=1e-12)
        assert row.positive_share == count / n
        assert row.near_constant == (plain + more < 0.5)
    library = channel_entropy_bits(torch.tensor(counts), n)
    np.testing.assert_allclose(table["entropy_bits"], library.numpy(), atol=1e-12)


def test_channels_of_a_run_agree_with_its_means(tmp_path) -> None:
    run = load_run(make_run(tmp_path / "run", steps=20))
    site = "blocks.1.mlp.fc2.sign"
    assert tables.channel_steps(run, site) == [0, 10, 20]
    assert site in tables.channel_sites(run)
    assert "blocks.0.mlp.fc1" not in tables.channel_sites(run)
    for step in (0, 20):
        table = tables.channel_entropy(run, site, step)
        mean = run.sites.query("site == @site and step == @step")["sign_entropy_bits"].item()
        assert table["entropy_bits"].mean() == pytest.approx(mean, abs=1e-3)
        assert len(table) == 128
    row = run.channels.query("site == @site").iloc[-1]
    assert row["n"] == SIGNS
    last = tables.channel_entropy(run, site)["positive_share"] * SIGNS
    np.testing.assert_allclose(last, row["counts"])


def test_wrong_questions_are_answered_clearly(tmp_path) -> None:
    run = write(tmp_path / "r", [1, 2], 4)
    with pytest.raises(ConfigError, match="did you mean 'a.sign'"):
        tables.channel_entropy(run, "a.sing")
    with pytest.raises(ConfigError, match="take one of \\[5\\]"):
        tables.channel_entropy(run, "a.sign", 6)


@pytest.mark.parametrize(("counts", "n"), [([5], 4), ([-1], 4)])
def test_a_record_without_sense_is_empty_and_said(tmp_path, counts, n) -> None:
    run = write(tmp_path / "r", counts, n)
    with pytest.warns(RunWarning, match=r"1 row\(s\) with an impossible count"):
        assert tables.channel_entropy(run, "a.sign").empty


def test_a_record_of_no_values_is_empty(tmp_path) -> None:
    assert tables.channel_entropy(write(tmp_path / "r", [0], 0), "a.sign").empty


def test_an_older_run_has_no_channels(tmp_path) -> None:
    site = {"site_id": 0, "site": "s", "kind": "activation", "shape": [2], "n_weights": 0}
    with RunWriter(tmp_path / "r", info={"sites": [site]}):
        pass
    (tmp_path / "r" / "channels").rmdir()
    run = load_run(tmp_path / "r")
    assert run.channels.empty
    assert tables.channel_steps(run, "s") == []
    assert list(tables.channel_entropy(run, "s").columns) == [
        "channel",
        "positive_share",
        "entropy_bits",
        "near_constant",
    ]
