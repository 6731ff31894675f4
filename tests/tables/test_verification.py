"""One sentence names the unverified sites of what is shown, in every table that shows them; otherwise nothing changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bvit_analysis import tables
from bvit_analysis.records import Run, load_run
from bvit_analysis.report.runs import run_rows
from bvit_analysis.tables.site_names import named
from tests.support.noted_run import noted
from tests.support.synthetic_run import make_run

QKV, SIGN = "blocks.0.attn.qkv", "blocks.1.attn.qkv.sign"
REASON = "no forward pass was seen"
SAID = f"Not verified to be the signs that the forward pass uses: {QKV} (grs, seed 0: {REASON})."


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that says nothing of verification."""
    return load_run(make_run(tmp_path_factory.mktemp("old") / "old", recipe="baseline", steps=20))


@pytest.fixture(scope="module")
def doubted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with an unverified weight site, and one that is verified."""
    folder = make_run(tmp_path_factory.mktemp("new") / "new", recipe="grs", steps=20)
    verified = {"how": "forward pass (linear)", "step": 0, "compared": 1.0, "differing": 0.0}
    other = {"verified": verified, "unverified": None, "levels": 2}
    return noted(
        folder,
        {QKV: {"verified": False, "unverified": REASON, "levels": 2}, "blocks.0.mlp.fc1": other},
    )


def test_a_run_that_says_nothing_is_as_before(old: Run) -> None:
    assert tables.unverified(old) == []
    assert tables.unverified_sentence([old]) == ""
    table = tables.run_table(old)
    assert "unverified" not in table.columns
    assert "unverified" not in table.attrs
    assert tables.site_frame(old, ["flip_rate"], kind="weight").attrs == {}
    assert "unverified sites" not in tables.inventory(old).index
    assert "erified" not in tables.describe_runs(old) + tables.finding(table, "late_flip_rate")


def test_the_sentence_names_site_run_and_reason(old: Run, doubted: Run) -> None:
    runs = [old, doubted]
    assert tables.unverified_sentence(runs) == SAID
    assert tables.unverified_sentence(doubted, kind="weight") == SAID
    assert tables.unverified_sentence(doubted, kind="activation") == ""
    assert tables.unverified_sentence(doubted, sites=[QKV]) == SAID
    assert tables.unverified_sentence(doubted, sites=["blocks.0.mlp.fc1"]) == ""
    assert tables.unverified_sentence(None) == ""
    assert SAID in tables.describe_runs(runs)


def test_a_frame_remembers_it_and_speaks_of_its_own_rows(old: Run, doubted: Run) -> None:
    frame = tables.site_frame([old, doubted], ["flip_rate"], kind="weight")
    frame = frame.dropna(subset=["flip_rate"])
    assert tables.unverified_sentence(frame) == SAID
    assert tables.unverified_sentence(frame[frame["site"] != QKV]) == ""
    assert tables.unverified_sentence(frame[frame["run_id"] == "old"]) == ""


def test_every_table_of_runs_says_it(old: Run, doubted: Run) -> None:
    runs = [old, doubted]
    table = tables.run_table(runs)
    assert table["unverified"].tolist() == ["", QKV]
    assert tables.csv_text(table).count(QKV) == 1
    assert tables.inventory(runs).loc["unverified sites"].tolist() == ["none", QKV]
    assert tables.finding(table, "late_flip_rate").splitlines()[-1] == SAID
    assert SAID not in tables.finding(table, "sign_entropy_bits")
    rows, damages = run_rows([run.path for run in runs])
    assert [row.notes for row in rows] == [(), (SAID,)]
    assert damages == []


def test_a_difference_that_was_seen_later_is_the_reason(tmp_path: Path) -> None:
    reason = "33.33% of the signs differed at step 500"
    run = noted(
        make_run(tmp_path / "run", steps=20), {SIGN: {"verified": False, "unverified": reason}}
    )
    assert f"{SIGN} (baseline, seed 0: {reason})" in tables.unverified_sentence(run)
    assert tables.unverified_sentence(run, kind="weight") == ""


@pytest.mark.parametrize("said", [None, 7, ["x"], ""])
def test_a_stranger_s_reason_is_no_text(tmp_path: Path, said: object) -> None:
    run = noted(
        make_run(tmp_path / "run", steps=20), {QKV: {"verified": False, "unverified": said}}
    )
    assert "(baseline, seed 0: no reason is recorded)" in tables.unverified_sentence(run)


def test_a_stranger_s_text_stays_on_one_line(tmp_path: Path) -> None:
    reason = "a\nb\x1b[31m" + "x" * 1000
    run = noted(
        make_run(tmp_path / "run", steps=20), {QKV: {"verified": False, "unverified": reason}}
    )
    sentence = tables.unverified_sentence(run)
    assert sentence.isprintable()
    assert len(sentence) < 400


def test_of_many_sites_none_is_left_out() -> None:
    few = [f"blocks.{block}.fc" for block in range(8)]
    assert named(few) == ", ".join(few)
    many = [f"blocks.{block}.{layer}" for block in (*range(12), 14) for layer in ("q", "k")]
    assert named([*many, "head"]) == "blocks.{0-11,14}.q, blocks.{0-11,14}.k, head"
    assert named(f"layer{number}" for number in range(50)).endswith("layer39 and 10 more")
