"""Where runs lie: below a folder and behind links, each once, and never for long."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bvit_analysis.errors import RunError
from bvit_analysis.records import RunWarning, find_runs, places
from bvit_analysis.tables import load_runs
from tests.support.synthetic_run import make_run


def _run(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "run.json").write_text("{}")
    return path


def test_linked_runs_and_folders_of_runs_are_found(tmp_path: Path) -> None:
    elsewhere = [_run(tmp_path / "disk" / "many" / name) for name in ("a", "b")]
    alone = _run(tmp_path / "disk" / "alone")
    top = tmp_path / "runs"
    own = _run(top / "own")
    (top / "many").symlink_to(elsewhere[0].parent)
    (top / "linked").symlink_to(alone)
    assert find_runs(top) == [top / "linked", top / "many" / "a", top / "many" / "b", own]


def test_a_run_is_found_once_by_its_own_path_where_it_has_one(tmp_path: Path) -> None:
    own = _run(tmp_path / "z-own")
    (tmp_path / "a-link").symlink_to(own)
    (tmp_path / "b-link").symlink_to(own)
    assert find_runs(tmp_path) == [own]
    outside = _run(tmp_path / ".hidden" / "r")
    (tmp_path / "first").symlink_to(outside)
    (tmp_path / "second").symlink_to(outside)
    assert find_runs(tmp_path) == [tmp_path / "first", own]


def test_links_round_and_to_nowhere_are_passed_over(tmp_path: Path) -> None:
    own = _run(tmp_path / "a" / "own")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "own" / "self").symlink_to(own)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert find_runs(tmp_path) == [own]


def test_depth_and_hidden_folders_hold_behind_links_too(tmp_path: Path) -> None:
    top = tmp_path / "runs"
    top.mkdir()
    deep = _run(tmp_path / "disk" / "1" / "2" / "3" / "r")
    _run(tmp_path / "disk" / ".hidden" / "r")
    (top / "disk").symlink_to(tmp_path / "disk")
    assert find_runs(top, depth=4) == []
    assert find_runs(top, depth=5) == [top / deep.relative_to(tmp_path)]


def test_a_link_to_very_many_folders_is_not_followed_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MOST_LINKED_FOLDERS", 20)
    for number in range(40):
        (tmp_path / "disk" / f"{number:02d}").mkdir(parents=True)
    top = tmp_path / "runs"
    own = _run(top / "own")
    (top / "disk").symlink_to(tmp_path / "disk")
    with pytest.warns(RunWarning, match=r"lead to more than 20 folders.*pass the folders of runs"):
        assert find_runs(top) == [own]


def test_a_name_of_any_bytes_is_a_name(tmp_path: Path) -> None:
    own = _run(tmp_path / os.fsdecode(b"\xff\n"))
    assert find_runs(tmp_path) == [own]


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no folder at"):
        find_runs(tmp_path / "gone")


def test_a_linked_run_is_loaded(tmp_path: Path) -> None:
    make_run(tmp_path / "disk" / "r", steps=1, blocks=1)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "r").symlink_to(tmp_path / "disk" / "r")
    assert [run.run_id for run in load_runs([tmp_path / "runs"])] == ["r"]
