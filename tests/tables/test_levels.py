"""Weights of more than two levels have no flips: what tables say in their place, on runs that were really watched."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from bvit_analysis import tables
from bvit_analysis.errors import RunError
from bvit_analysis.records import Run, load_run
from bvit_analysis.tables.levels import NOT_QUANTIZED
from tests.support.foreign_run import UNSEEN, watched_model
from tests.support.noted_run import noted
from tests.support.synthetic_run import make_run

SAID = (
    "The weights of tern (foreign, seed 0) have 3 levels: level changes are recorded in place of flips, as"
    " level_change_rate and level_reversal_rate."
)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(watched_model(tmp_path_factory.mktemp("levels") / "mixed"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(watched_model(tmp_path_factory.mktemp("levels") / "alone", binary=False))


def test_the_sentence_says_how_many_levels_and_what_is_recorded(mixed: Run, alone: Run) -> None:
    for run in (mixed, alone):
        (one,) = tables.multilevel(run)
        assert (one.site, one.levels, one.counted) == ("tern", 3, True)
        assert tables.levels_sentence(run) == SAID
        assert SAID in tables.describe_runs(run)
        assert tables.levels_sentence(run, measure="bimodality_coefficient") == ""
        assert tables.levels_sentence(run, sites=["qkv"]) == ""
    frame = tables.site_frame(alone, ["flip_rate"], kind="weight")
    assert frame.empty
    assert tables.levels_sentence(frame) == SAID, "a frame without a row remembers it too"


def test_an_atlas_offers_what_is_recorded(mixed: Run, alone: Run, tmp_path: Path) -> None:
    levels = {"level_change_rate", "level_reversal_rate"}
    old = load_run(make_run(tmp_path / "old", steps=20))
    offered = {name: set(tables.atlas_choices(run)) for name, run in
               {"mixed": mixed, "alone": alone, "old": old}.items()}  # fmt: skip
    assert levels <= offered["mixed"]
    assert "flip_rate" in offered["mixed"]
    assert levels <= offered["alone"]
    assert "flip_rate" not in offered["alone"]
    assert "flip_rate" in offered["old"]
    assert not levels & offered["old"]
    for run, names in ((mixed, offered["mixed"]), (alone, offered["alone"])):
        assert all(tables.site_atlas(run, name).sites for name in names)
    assert set(tables.atlas_choices([old, alone])) == offered["old"] | offered["alone"]
    assert list(tables.atlas_choices([])) == list(tables.ATLAS_METRICS)


def test_the_atlas_of_levels_is_the_recorded_rate(alone: Run) -> None:
    found = tables.site_atlas(alone, "level_change_rate")
    rows = alone.sites.dropna(subset=["level_change_rate"])
    assert found.sites == ("tern",)
    assert found.grid[0] == pytest.approx(rows["level_change_rate"].to_numpy())


def test_what_flips_is_counted_and_the_rest_is_no_hole(mixed: Run, alone: Run) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(tables.flip_counts(mixed)) == {"qkv", "unseen"}
        assert tables.flip_counts(alone) == {}
    assert tables.ranked_counts(mixed, "tern").size == 0
    with pytest.raises(RunError, match="its weights have 3 levels, so level changes are recorded"):
        mixed.counts("tern")


def test_tables_of_runs(mixed: Run, alone: Run) -> None:
    table = tables.inventory([mixed, alone])
    assert table.loc["sites of several levels"].tolist() == ["3 levels: tern"] * 2
    assert table.loc["flip counts"].tolist() == ["yes", "no"]
    assert table.loc["unverified sites"].tolist() == ["unseen", "none"]
    rows = tables.run_table([mixed, alone])
    assert rows["late_flip_rate"].notna().tolist() == [True, False]
    text = tables.finding(tables.run_table(alone), "late_flip_rate")
    assert text.endswith(f"not recorded in a finished run here. {SAID}")
    said = tables.finding(rows, "late_flip_rate")
    assert said.count("have 3 levels") == 1
    assert f"unseen (foreign, seed 0: {UNSEEN})" in said
    assert "levels" not in tables.finding(rows, "sign_entropy_bits")


def test_sites_without_a_shape_have_their_channels(mixed: Run) -> None:
    shapes = mixed.site_table.set_index("site")["shape"]
    assert shapes["sign"] == shapes["bits"] == ()
    assert tables.channel_sites(mixed) == ["sign", "bits"]
    assert len(tables.channel_entropy(mixed, "sign")) == 16
    assert len(tables.channel_entropy(mixed, "bits")) == 2
    summary = tables.site_summary(mixed, ["sign_entropy_bits"], kind="activation")
    assert summary.notna().all().all()


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        (NOT_QUANTIZED, "have more than 16 levels: sign changes are recorded"),
        (4, "have 4 levels: sign changes are recorded in place of flips, as sign_change_rate."),
        (2, ""),
        (True, ""),
        ("many", ""),
        (10**9, ""),
    ],
)
def test_levels_that_are_not_counted_and_a_stranger_s(
    tmp_path: Path, levels: object, said: str
) -> None:
    run = noted(make_run(tmp_path / "run", steps=20), {"blocks.0.attn.qkv": {"levels": levels}})
    assert said in tables.levels_sentence(run)
    assert bool(said) == bool(tables.levels_sentence(run))
