"""trackio's local storage, read back by trackio's own reader and by plain SQL, with every way to a network closed."""

from __future__ import annotations

import json
import socket
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from bvit_analysis.adapters import export_trackio
from bvit_analysis.adapters.series import points
from bvit_analysis.cli import main
from bvit_analysis.errors import ConfigError, MissingExtraError, RunError
from bvit_analysis.records import load_run
from tests.support.growing_run import begin, grow
from tests.support.synthetic_run import make_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """trackio's folder, which it keeps to in a process."""
    return tmp_path_factory.mktemp("trackio")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set trackio up for a Space, and close the way to it."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked for")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/space")
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://127.0.0.1:1?write_token=x")


def read(project: str, run: str) -> dict[int, dict[str, float]]:
    """Everything of a run, as trackio reads it; two rows of a step are one."""
    from trackio.sqlite_storage import SQLiteStorage

    found: dict[int, dict[str, float]] = {}
    for row in SQLiteStorage.get_logs(project, run):
        values = {tag: value for tag, value in row.items() if tag not in ("step", "timestamp")}
        assert not found.get(row["step"], {}).keys() & values.keys()
        found.setdefault(row["step"], {}).update(values)
    return found


def test_what_is_read_back_is_what_was_recorded(tmp_path: Path, folder: Path) -> None:
    run = make_run(tmp_path / "grs-seed0", recipe="grs", steps=20)
    done = export_trackio(run, folder, project="back")
    wanted = points(load_run(run))
    assert read("back", "grs-seed0") == wanted
    assert done.added == done.figures == sum(map(len, wanted.values()))
    with sqlite3.connect(folder / "back.db") as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step")
        by_step = {step: json.loads(metrics) for name, step, metrics in rows}
        (config,) = database.execute("SELECT config FROM configs").fetchone()
    database.close()
    assert by_step == wanted
    assert json.loads(config)["recipe"]["name"] == "grs"


def test_a_running_run_is_gone_on_with_and_nothing_is_there_twice(
    tmp_path: Path, folder: Path
) -> None:
    writer = begin(tmp_path / "run")
    grow(writer, 1, 5)
    first = export_trackio(tmp_path / "run", folder, project="grows")
    grow(writer, 6, 9)
    second = export_trackio(tmp_path / "run", folder, project="grows")
    assert (first.added, second.added) == (13, 10)
    assert export_trackio(tmp_path / "run", folder, project="grows").added == 0
    writer.append("timings", {"step": 3, "images_per_s": 1.0})  # late, at a step that is there
    writer.close()
    assert export_trackio(tmp_path / "run", folder, project="grows").added == 1
    assert read("grows", "run") == points(load_run(tmp_path / "run"))


def test_another_run_of_the_name_is_refused(tmp_path: Path, folder: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        make_run(tmp_path / name / "run", seed=seed, steps=4, blocks=1)
    export_trackio(tmp_path / "a" / "run", folder, project="names")
    with pytest.raises(RunError, match="already holds a run of this name"):
        export_trackio(tmp_path / "b" / "run", folder, project="names")
    assert read("names", "run") == points(load_run(tmp_path / "a" / "run"))


def test_another_folder_and_a_name_that_trackio_keeps_are_refused(
    tmp_path: Path, folder: Path
) -> None:
    run = make_run(tmp_path / "run", steps=2, blocks=1)
    export_trackio(run, folder, project="first")
    with pytest.raises(ConfigError, match="was imported in this process with folder") as refused:
        export_trackio(run, tmp_path / "elsewhere", project="first")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(ConfigError, match="choose another project"):
        export_trackio(run, folder, project="mine_system")


@pytest.mark.parametrize("name", ["TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID"])
def test_where_trackio_would_fetch_first_it_is_refused(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "somebody/something")
    with pytest.raises(ConfigError, match=f"{name} is set"):
        export_trackio(make_run(tmp_path / "run", steps=2, blocks=1), folder)


def test_the_command(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", steps=2, blocks=1)
    command = ["export", str(run), "--to", "trackio", "--out", str(folder)]
    assert main(command) == 0
    assert " of them new" in capsys.readouterr().out
    assert read("bvit", "run") == points(load_run(run))
    assert main([*command, "--project", "another"]) == 0
    assert read("another", "run") == points(load_run(run))


def test_without_trackio_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    run = make_run(tmp_path / "run", steps=2, blocks=1)
    with pytest.raises(MissingExtraError, match=r"pip install 'bvit_analysis\[trackers\]'"):
        export_trackio(run, tmp_path / "out")
