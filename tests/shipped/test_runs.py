"""The recorded runs that ship with the project: complete, undamaged, small, and made as their README says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bvit_analysis import tables
from bvit_analysis.config import RECIPES, RunConfig, from_dict, get_scale
from bvit_analysis.records import SCHEMAS, find_runs, load_run

ROOT = Path(__file__).resolve().parents[2] / "data" / "runs"
FOLDERS = sorted(find_runs(ROOT))
BINARY = [folder for folder in FOLDERS if not folder.name.startswith("teacher")]


def test_all_recipes_with_two_seeds_and_one_teacher() -> None:
    names = [f"{recipe}-seed{seed}" for recipe in sorted(RECIPES) for seed in (0, 1)]
    assert [folder.name for folder in BINARY] == names
    assert len(FOLDERS) == len(BINARY) + 1


def test_they_take_a_few_megabytes_and_hold_no_weights() -> None:
    files = [path for path in ROOT.rglob("*") if path.is_file() and path.parent.name != "tables"]
    assert sum(path.stat().st_size for path in files) < 10e6
    assert not any("checkpoints" in path.parts or path.name == "lock" for path in files)
    assert {path.suffix for path in files} <= {".json", ".parquet", ".npz", ".md"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_is_whole_and_reads_without_a_warning(folder: Path) -> None:
    run = load_run(folder)  # a warning would be an error here
    for kind in SCHEMAS:
        frame = getattr(run, kind)
        assert len(frame) or (run.info["kind"] == "float" and kind not in ("scalars", "timings"))
    assert run.state == "finished"
    assert run.warnings == []
    assert run.result is not None
    assert run.result["test_correct"] == round(run.result["test_accuracy"] * 10_000)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"| `{run.run_id}` | {run.result['test_accuracy']:.2%} |" in text
    commit = re.search(r"commit `([0-9a-f]{40})`", text)
    assert commit
    assert run.info["git_commit"] == commit.group(1)
    assert run.info["seed"] == run.config["seed"]


@pytest.mark.parametrize("folder", BINARY, ids=lambda folder: folder.name)
def test_counts_rates_trajectories_and_attention_tell_one_story(folder: Path) -> None:
    run = load_run(folder)
    config = from_dict(RunConfig, run.config)
    assert config.recipe == RECIPES[config.recipe.name]
    assert config.training == get_scale("laptop").training
    moves = run.trajectories.sort_values(["site", "index", "step"])
    gross, _, weights = tables.flip_totals(run)
    rates = tables.site_frame([run], ["flip_rate"], kind="weight").dropna(subset=["flip_rate"])
    counted = float((rates["flip_rate"] * config.watch.flips_every * rates["n_weights"]).sum())
    assert weights
    assert counted == pytest.approx(gross, rel=1e-3)
    for site in tables.weight_sites(run)[::5]:
        counts = run.counts(site)["gross"].ravel()
        for index, one in moves[moves["site"] == site].groupby("index"):
            seen = int((np.diff(one["sign"].to_numpy()) != 0).sum())
            # The first row is the state after step 1, so a flip in step 1 itself is only in the counts.
            assert 0 <= counts[index] - seen <= 1
    assert run.attention is not None
    assert run.attention.bits.shape == (6, 4, 2, 17, 17)
    np.testing.assert_allclose(run.attention.scores.sum(-1), 1, atol=5e-3)
    site = tables.channel_sites(run)[0]
    mean = tables.channel_entropy(run, site)["entropy_bits"].mean()
    recorded = run.sites[run.sites["site"] == site]["sign_entropy_bits"].dropna().iloc[-1]
    assert mean == pytest.approx(recorded, abs=1e-5)


def test_trajectories_of_one_site_are_those_of_all_and_rows_are_counted() -> None:
    run = load_run(ROOT / "grs-seed0")
    whole = run.trajectories
    for site in run.site_table["site"]:
        rows = whole[whole["site"] == site].reset_index(drop=True)
        assert run.trajectories_at(site).equals(rows)
    assert run.trajectories_at("no such site").empty
    for kind in ("scalars", "sites", "histograms", "channels", "trajectories"):
        assert run.number_of_rows(kind) == len(getattr(run, kind)) > 0
