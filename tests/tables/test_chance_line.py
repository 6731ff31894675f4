from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.known_answers import make
from bvit_analysis.records import Run, load_run
from bvit_analysis.tables import (
    NoChanceError,
    chance_line,
    excess_by_site,
    excess_table,
    observed_of,
    over_sites,
)
from bvit_analysis.tables.chance_line import chance_of

SHIPPED = Path(__file__).parents[2] / "data" / "runs" / "baseline-seed0"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("oscillating", tmp_path_factory.mktemp("runs"), 0)


@pytest.fixture
def folder(recorded: Path, tmp_path: Path) -> Path:
    """A run of its own to each test, under its own name."""
    return Path(shutil.copytree(recorded, tmp_path / recorded.name))


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chance_line, "_remembered", {})


def rewrite(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> Run:
    path = folder / name
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    return load_run(folder)


def no_simulation(*args: object, **kwargs: object) -> None:
    raise AssertionError("simulated again")


def test_what_is_observed_is_what_counts_and_rows_say(folder: Path) -> None:
    run = load_run(folder)
    (seen,) = observed_of(run).to_dict("records")
    counts = run.counts("0")
    gross, net = counts["gross"], counts["first_sign"] != counts["last_sign"]
    assert seen["oscillating_flips"] == pytest.approx((gross - net).mean(), rel=1e-6)
    assert seen["flip_flop_ratio"] == pytest.approx(gross.sum() / net.sum(), rel=1e-6)
    assert seen["tail_share"] == (gross >= 12).mean() > 0
    assert seen["late_flip_rate"] == pytest.approx(counts["late"].mean() / 24)
    rows = run.sites.dropna(subset=["flip_back_10"])
    expected = np.average(rows["flip_back_10"], weights=rows["flip_rate"])
    assert seen["flip_back_10"] == pytest.approx(expected, rel=1e-6)
    assert over_sites(observed_of(run))["tail_share"] == seen["tail_share"]


def test_a_chance_line_is_simulated_once_and_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = chance_of(load_run(folder))
    assert first.null == "re-dealt"
    assert first.notes == ()
    assert (folder / "tables" / "chance-re-dealt.json").is_file()
    monkeypatch.setattr(chance_line, "simulate", no_simulation)
    again = chance_of(load_run(folder))  # remembered
    chance_line._remembered.clear()
    kept = chance_of(load_run(folder))  # read
    for other in (again, kept):
        assert first.figures.equals(other.figures)
        assert first.rows.equals(other.rows)
    assert set(first.rows["step"]) == set(load_run(folder).sites["step"])
    assert load_run(folder).warnings == []


def test_another_record_has_another_line(folder: Path) -> None:
    before = chance_of(load_run(folder)).figures["oscillating_flips"]

    def faster(record: dict[str, Any]) -> None:
        record["optimizer"]["groups"][0]["lr_factor"] = 4.0

    after = chance_of(rewrite(folder, "run.json", faster)).figures["oscillating_flips"]
    assert float(after.iloc[0]) > 1.3 * float(before.iloc[0])


@pytest.mark.parametrize("text", ["", "{", '{"digest": 3}', '{"rows": [1]}'])
def test_what_was_kept_is_made_again_where_it_is_damaged(folder: Path, text: str) -> None:
    first = chance_of(load_run(folder))
    chance_line._remembered.clear()
    path = folder / "tables" / "chance-re-dealt.json"
    whole = path.read_text()
    path.write_text(text)
    assert chance_of(load_run(folder)).figures.equals(first.figures)
    assert path.read_text() == whole


def test_a_folder_that_cannot_be_written_is_said_and_works(folder: Path) -> None:
    (folder / "tables").write_text("a file where a folder would be")
    line = chance_of(load_run(folder))
    assert line.notes == ("computed in memory, since the run's folder cannot be written",)
    assert len(line.figures) == 1
    assert chance_of(load_run(folder), keep=False).notes == ()


def optimizer(**facts: Any) -> Callable[[dict[str, Any]], None]:
    return lambda record: record["optimizer"].update(facts)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda record: record.pop("optimizer"), "the optimizer is not recorded"),
        (lambda record: record.update(optimizer={"name": "unknown"}), "is not recorded"),
        (optimizer(wrapped_by="Lookahead"), "AdamW is wrapped by Lookahead"),
        (optimizer(changed_at=7), "settings of AdamW changed at step 7"),
        (optimizer(**{"class": "timm.optim.Lion"}), "timm.optim.Lion is not simulated"),
        (optimizer(groups=None), "has no groups"),
        (optimizer(groups=[{"sites": ["other"]}]), "does not move 0"),
        (optimizer(groups=[{"betas": "x"}]), "settings of the optimizer AdamW cannot be"),
        (optimizer(groups=[{"lr_factor": float("inf")}]), "a learning rate that is no number"),
    ],
)
def test_a_run_without_what_it_needs_says_so_in_one_sentence(
    folder: Path, change: Callable[[dict[str, Any]], None], text: str
) -> None:
    run = rewrite(folder, "run.json", change)
    with pytest.raises(NoChanceError, match=f"no chance line: .*{text}") as raised:
        chance_of(run)
    assert "\n" not in str(raised.value)
    table = excess_table(run, measures=["oscillating_flips"])
    assert table["chance"].isna().all()
    assert table["excess"].isna().all()
    assert table["observed"].notna().all()
    assert text.replace(".*", "") in table["note"].iloc[0]


def test_a_run_that_goes_on_has_none_yet(folder: Path) -> None:
    run = load_run(folder)
    run.state = "running"
    with pytest.raises(NoChanceError, match="still going on"):
        chance_of(run)


def drop(folder: Path, kind: str, keep: Callable[[Any], Any]) -> None:
    """Record rows of a kind anew, without some."""
    from bvit_analysis.records.parts import encode_part

    (path,) = (folder / kind).glob("part-*")
    table = pq.read_table(path)
    kept = table.filter(keep(table.to_pandas()).to_numpy())
    path.write_bytes(encode_part(kind, kept.replace_schema_metadata(None), folder.name))


def test_too_few_followed_weights_leave_white_noise_and_the_reason(folder: Path) -> None:
    drop(folder, "trajectories", lambda rows: (rows["index"] % 5 > 0) | (rows["since"] > 0))
    run = load_run(folder)
    with pytest.raises(NoChanceError, match="of 64 weights of a site at every step, 0 has [45]"):
        chance_of(run, null="re-dealt")
    line = chance_of(run)
    assert line.null == "white"
    assert any(note.startswith("white noise, since re-dealing needs") for note in line.notes)


def test_the_restless_are_never_dealt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = chance_of(load_run(folder), keep=False)
    drop(folder, "trajectories", lambda rows: rows["since"] == 0)
    after = chance_of(load_run(folder), keep=False)
    assert before.figures.equals(after.figures)
    assert len(chance_line._remembered) == 2  # both were simulated


def test_a_missing_rate_is_not_made_up(folder: Path) -> None:
    drop(folder, "scalars", lambda rows: rows["step"] != 17)
    with pytest.raises(NoChanceError, match="learning rate of some steps is not recorded"):
        chance_of(load_run(folder))


def test_a_term_that_a_run_has_not_is_refused(folder: Path) -> None:
    with pytest.raises(NoChanceError, match="no gradient term"):
        chance_of(load_run(folder), term=True)


@pytest.mark.slow
def test_a_run_of_an_older_release_has_white_chance() -> None:
    run = load_run(SHIPPED)
    with pytest.raises(NoChanceError, match="64 weights of a site"):
        chance_of(run, null="re-dealt", keep=False)
    table = excess_by_site(run, keep=False).set_index(["site", "measure"])
    assert set(table["null"]) == {"white"}
    together = table.loc["all"]
    # docs/science.md: .96 of white noise, 1.01 to 1.05 observed; flip-back .17 against .29
    assert together.loc["oscillating_flips", "chance"] == pytest.approx(0.96, abs=0.03)
    assert together.loc["flip_flop_ratio", "chance"] == pytest.approx(4.82, abs=0.1)
    assert together.loc["flip_back_10", "chance"] == pytest.approx(0.17, abs=0.01)
    assert together.loc["late_flip_rate", "chance"] == pytest.approx(
        3.7e-5, rel=0.3
    )  # some 150 flips
    assert together.loc["oscillating_flips", "observed"] == pytest.approx(1.05, abs=0.01)
