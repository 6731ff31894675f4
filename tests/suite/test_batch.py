"""The batch: nothing wrong starts, every end is told truthfully, nothing is done twice or left running."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import numpy as np
import papermill
import psutil
import pytest

from bvit_analysis.errors import MissingExtraError, RunError, SuiteError
from bvit_analysis.suite import (
    JobStatus,
    NotebookJob,
    Parameter,
    ParameterText,
    declared_parameters,
    discover_notebooks,
    execute,
    exit_code,
    parse_assignments,
    parse_parameter,
    plan,
    read_status,
    read_statuses,
    read_summary,
)
from tests.support.notebooks import write_notebook
from tests.support.synthetic_run import make_run
from tests.support.waiting import alive, crowd, wait_for

PARAMETERS = """\
runs: list[str] = []  # run folders
rate: float = 0.1  # step size
top: int = 5  # how many
label: str = "a"  # shown in titles
site: str | None = None  # None takes the first
loud: bool = False
steps: list[int] = [1, 2]
scale = 3
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "asm-0", recipe="asm", steps=4)


# Before anything starts ---------------------------------------------------------------------------


def test_declared_parameters_agree_with_papermill(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "one.ipynb", "1 + 1", parameters=PARAMETERS)
    ours = declared_parameters(path)
    theirs = papermill.inspect_notebook(str(path), parameters=None)
    assert set(ours) - set(theirs) == {"site"}  # papermill does not read a union
    for name, found in theirs.items():
        assert ours[name].help == found["help"]
        if name != "scale":  # papermill infers nothing without an annotation
            assert ours[name].type == found["inferred_type_name"]
    assert ours["scale"] == Parameter(name="scale", type="int", default=3, help="")
    assert ours["site"].default is None
    assert ours["steps"].default == [1, 2]


def test_discover_takes_the_notebooks_folder_sorted(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb")
    assert [path.stem for path in discover_notebooks(tmp_path)] == ["a", "b"]
    assert discover_notebooks(tmp_path / "notebooks") == discover_notebooks(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SuiteError, match="no notebooks in"):
        discover_notebooks(tmp_path / "empty")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("float", "1e-3", 0.001),
        ("float", " 7 ", 7.0),
        ("str", "007", "007"),
        ("str", "no", "no"),
        ("str", "2024-01-02", "2024-01-02"),
        ("str", "", ""),
        ("str", "\u00fc<script>{x}\n", "\u00fc<script>{x}\n"),
        ("int", "-4", -4),
        ("bool", "no", False),
        ("bool", "True", True),
        ("str | None", "none", None),
        ("Optional[int]", "3", 3),
        ("float | str", "1.5", 1.5),
        ("float | str", "fast", "fast"),
        ("list[str]", "a, b", ["a", "b"]),
        ("list[str]", "", []),
        ("list[int]", "[1, 2]", [1, 2]),
        ("dict[str, float]", '{"a": 1}', {"a": 1.0}),
        ("Literal['fast', 2]", "2", 2),
        ("Literal[-1, 0, 1]", "-1", -1),
        ("Literal[-1, 0, 1]", "+1", 1),
        ("Literal[0.5, -2.5]", "-2.5", -2.5),
        ("Literal[True, None]", "true", True),
        ("Literal['a', None]", "none", None),
        ("Optional[Literal[-1]]", "-1", -1),
        ("list[Literal[-1, 1]]", "-1, 1", [-1, 1]),
        ("Path", " some/where ", "some/where"),
        ("pathlib.Path", "x", "x"),
        ("Path | None", "none", None),
        ("list[Path]", "a,b", ["a", "b"]),
        ("tuple[int, ...]", "3,4,5", [3, 4, 5]),
        ("tuple[int, str]", "3,a", [3, "a"]),
        ("list[float]", "1,2.5", [1.0, 2.5]),
        ("list[bool]", "yes,no", [True, False]),
        ("list[list[int]]", "[[1], [2, 3]]", [[1], [2, 3]]),
        ("object", "[1, {}]", [1, {}]),
        ("object", "plain", "plain"),
    ],
)
def test_text_is_typed_by_the_schema(kind: str, text: str, value: object) -> None:
    parameter = Parameter(name="p", type=kind, default=None, help="")
    found = parse_parameter(parameter, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("int", "1e-3"),
        ("int", "1_000"),
        ("int", ""),
        ("float", "fast"),
        ("float", "1,5"),
        ("bool", "2"),
        ("list[int]", "1,x"),
        ("list[int]", '["a"]'),
        ("dict[str, int]", "a=1"),
        ("Literal['a']", "b"),
        ("Literal[-1, 1]", "0"),
        ("Path", " "),
        ("tuple[int, str]", "3"),
        ("int", "9" * 5000),
        ("SomeClass", "x"),
    ],
)
def test_ill_typed_text_is_refused_with_type_and_default(kind: str, text: str) -> None:
    parameter = Parameter(name="top", type=kind, default=5, help="")
    with pytest.raises(SuiteError, match=r"parameter 'top' must be of type .*default 5") as caught:
        parse_parameter(parameter, text)
    assert "\n" not in str(caught.value)


def test_assignments_are_split_at_the_first_sign() -> None:
    assert parse_assignments(["a=b=c", " n =1"]) == {"a": "b=c", "n": "1"}
    for bad in ("plain", "=1", "a b=1", "class=1", "print=1", "__x=1", "x;import os=1", "1a=2"):
        with pytest.raises(SuiteError, match="parameter"):
            parse_assignments([bad])
    with pytest.raises(SuiteError, match="given twice"):
        parse_assignments(["a=1", "a=2"])


def test_plan_gives_each_notebook_what_it_declares(tmp_path: Path, run: Path) -> None:
    one = write_notebook(tmp_path / "one.ipynb", parameters=PARAMETERS)
    two = write_notebook(tmp_path / "two.ipynb", parameters="colour: str = 'red'\n")
    given = {
        "top": np.int64(7),
        "rate": ParameterText("1e-3"),
        "steps": (3, 4),
        "colour": ParameterText("007"),
    }
    jobs = plan([one, two], [run], given)
    assert jobs[0].parameters == {
        "runs": [str(run.resolve())],
        "top": 7,
        "rate": 0.001,
        "steps": [3, 4],
    }
    assert type(jobs[0].parameters["top"]) is int
    assert jobs[1] == NotebookJob(notebook=two, parameters={"colour": "007"}, name="two")
    assert jobs[0].frames == 24


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"tpo": 3}, "unknown notebook parameter 'tpo'.*did you mean 'top'"),
        ({"top": "3"}, "parameter 'top' must be of type int, got '3'"),
        ({"top": True}, "must be of type int, got True"),
        ({"top": 3.0}, "must be of type int"),
        ({"rate": "fast"}, "must be of type float"),
        ({"loud": 1}, "must be of type bool"),
        ({"label": None}, "must be of type str"),
        ({"steps": [1, "a"]}, r"must be of type list\[int\]"),
        ({"steps": 1}, r"must be of type list\[int\]"),
        ({"scale": {1, 2}}, "must be of type int"),
        ({"runs": ["x"]}, "choose runs instead"),
        ({"import": 1}, "plain Python name"),
        ({"print": 1}, "Python builtin"),
        ({"a-b": 1}, "plain Python name"),
        ({"__name__": 1}, "plain Python name"),
    ],
)
def test_plan_refuses_before_anything_starts(
    tmp_path: Path, run: Path, parameters: dict[str, object], message: str
) -> None:
    path = write_notebook(tmp_path / "one.ipynb", parameters=PARAMETERS)
    with pytest.raises(SuiteError, match=message) as caught:
        plan([path], [run], parameters)
    assert "\n" not in str(caught.value)


def test_plan_refuses_bad_notebooks_and_runs(tmp_path: Path, run: Path) -> None:
    path = write_notebook(tmp_path / "one.ipynb", parameters=PARAMETERS)
    twin = write_notebook(tmp_path / "other" / "one.ipynb")
    (tmp_path / "text.ipynb").write_text("not json")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "run.json").write_text('{"schema_version": 99}')
    double = write_notebook(tmp_path / "double.ipynb", parameters="a: int = 1")
    notebook = nbformat.read(double, as_version=4)
    notebook.cells.append(nbformat.from_dict(notebook.cells[0]))
    notebook.cells[1]["id"] = "other"
    nbformat.write(notebook, double)
    broken = write_notebook(tmp_path / "broken.ipynb", parameters="a: int =")
    single = write_notebook(tmp_path / "single.ipynb", parameters="runs: str = ''")
    for notebooks, runs, error, message in (
        ([], [run], SuiteError, "no notebooks chosen"),
        ([path, twin], [run], SuiteError, "two notebooks are named 'one'"),
        ([tmp_path / "none.ipynb"], [run], SuiteError, "no notebook at"),
        ([tmp_path / "text.ipynb"], [run], SuiteError, "is not a notebook"),
        ([double], [run], SuiteError, "2 cells tagged 'parameters'"),
        ([broken], [run], SuiteError, "not plain Python"),
        ([single], [run], SuiteError, "parameter 'runs' must be of type str"),
        ([path], [], SuiteError, "needs run folders"),
        ([path], [tmp_path / "nowhere"], RunError, "no run at"),
        ([path], [tmp_path / "foreign"], RunError, "schema version"),
    ):
        with pytest.raises(error, match=message) as caught:
            plan(notebooks, runs, {})
        assert "\n" not in str(caught.value)


def test_a_missing_package_names_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'bvit_analysis\[notebooks\]'"):
        plan([tmp_path / "one.ipynb"], [], {})


def test_execute_refuses_numbers_out_of_range(tmp_path: Path) -> None:
    for name in ("jobs_at_once", "cell_timeout_s", "limit_s"):
        with pytest.raises(SuiteError, match=f"{name} must be at least 1"):
            execute([], tmp_path / "out", **{name: 0})
    assert not (tmp_path / "out").exists()


# Every end is told truthfully ---------------------------------------------------------------------

COUNTING = "import pathlib\nwith open(log, 'a') as file: file.write(label + '\\n')"
DECLARED = "runs: list[str] = []\nlog: str = ''\nlabel: str = 'ok'  # of a line\n"
ENDS = {
    "fails": "raise ValueError('<script>\\n{x}')",
    "hangs": "import time; time.sleep(300)",
    "ignores": "import time\nwhile True:\n    try: time.sleep(300)\n    except KeyboardInterrupt: pass",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "leaves": "import sys; sys.exit(0)",
    "leaves_loudly": "import sys; sys.exit(3)",
    "ok": f"import sys; assert sys.executable == {sys.executable!r}; print(runs[0])",
}


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory, run: Path) -> dict[str, object]:
    root = tmp_path_factory.mktemp("batch")
    notebooks = [
        write_notebook(
            root / f"{name}.ipynb", COUNTING, ending, "print('the end')", parameters=DECLARED
        )
        for name, ending in ENDS.items()
    ]
    jobs = plan(notebooks, [run], {"log": str(root / "log")})
    out = root / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bvit_analysis.suite.execution.GRACE_S", 2.0)
        statuses = execute(jobs, out, jobs_at_once=3, cell_timeout_s=5, limit_s=120, progress=False)
    return {"root": root, "jobs": jobs, "out": out, "statuses": statuses}


@pytest.mark.processes
def test_each_end_has_its_own_state(batch: dict[str, object]) -> None:
    statuses = {status.name: status for status in batch["statuses"]}
    assert {name: status.state for name, status in statuses.items()} == {
        "fails": "failed",
        "hangs": "timeout",
        "ignores": "timeout",
        "killed": "kernel_died",
        "leaves": "early_exit",
        "leaves_loudly": "early_exit",
        "ok": "succeeded",
    }
    assert list(statuses) == list(ENDS)
    assert exit_code(batch["statuses"]) == 1
    assert exit_code([statuses["ok"]]) == 0
    for name, status in statuses.items():
        # parameters, injected parameters, counting, then the ending
        assert status.cell == (None if name == "ok" else 3)
        assert (status.error is None) == (name == "ok")
        assert "\n" not in (status.error or "")
        assert status.seconds > 0
        assert status.bytes > 0
        assert status.versions["python"].startswith("3.")
        assert status.parameters["label" if "label" in status.parameters else "log"]
    assert "ValueError: <script> {x}" in statuses["fails"].error
    assert "limit of 5 s" in statuses["hangs"].error
    assert "limit of 5 s and ignored the interrupt" in statuses["ignores"].error
    assert statuses["ignores"].seconds < 60


@pytest.mark.processes
def test_status_files_and_evidence_are_kept(batch: dict[str, object], run: Path) -> None:
    out = batch["out"]
    assert read_statuses(out) == batch["statuses"]
    for name in ENDS:
        assert sorted(path.name for path in (out / name).iterdir()) == [
            "notebook.ipynb",
            "status.json",
        ]
        executed = nbformat.read(out / name / "notebook.ipynb", as_version=4)
        printed = [
            output.text
            for cell in executed.cells
            for output in cell.get("outputs", [])
            if output.get("name") == "stdout"
        ]
        assert printed == ([f"{run.resolve()}\n", "the end\n"] if name == "ok" else [])
    summary = json.loads((out / "summary.json").read_text())
    assert summary["exit_code"] == 1
    assert (summary["executed"], summary["kept"]) == (len(ENDS), 0)
    assert (summary["complete"], summary["waiting"]) == (True, [])
    assert summary["states"] == {
        "early_exit": 2,
        "failed": 1,
        "kernel_died": 1,
        "succeeded": 1,
        "timeout": 2,
    }
    assert summary["bytes"] == sum(status.bytes for status in batch["statuses"])
    longest = max(status.seconds for status in batch["statuses"])
    assert longest < summary["seconds"] < sum(status.seconds for status in batch["statuses"])
    # The size was taken before the status was written for the last time.
    here = sum(path.stat().st_size for path in (out / "ok").iterdir())
    assert abs(batch["statuses"][-1].bytes - here) < 200
    assert [job["state"] for job in summary["jobs"]] == [s.state for s in batch["statuses"]]
    assert read_summary(out) == summary


@pytest.mark.processes
def test_a_second_start_executes_only_what_changed(
    batch: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = batch["root"], batch["out"]
    log = root / "log"
    before = log.read_text().split()
    assert len(before) == len(ENDS)
    ok = [job for job in batch["jobs"] if job.name == "ok"]
    (kept,) = execute(ok, out)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["executed"], summary["kept"], summary["exit_code"]) == (0, 1, 0)
    assert kept.skipped
    assert kept.state == "succeeded"
    assert log.read_text().split() == before
    assert "kept, inputs unchanged" in capsys.readouterr().err
    # Another value of a parameter is another input.
    values = {"log": str(log), "label": "new"}
    changed = plan([ok[0].notebook], ok[0].parameters["runs"], values)
    (status,) = execute(changed, out, progress=False)
    assert not status.skipped
    assert status.state == "succeeded"
    assert log.read_text().split() == [*before, "new"]
    # So is another number of frames.
    frames = plan([ok[0].notebook], ok[0].parameters["runs"], values, frames=3)
    (status,) = execute(frames, out, progress=False)
    assert not status.skipped
    assert (status.frames, status.state) == (3, "succeeded")
    assert log.read_text().split() == [*before, "new", "new"]


def test_identity_follows_the_whole_library(tmp_path: Path, run: Path) -> None:
    """The batch lives in a folder of the package, and must still see a change of what draws."""
    import bvit_analysis
    from bvit_analysis.suite import jobs

    package = Path(bvit_analysis.__file__).parent
    copy = tmp_path / "bvit_analysis"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = jobs.library_hash(copy)
    assert before == jobs.library_hash() == jobs.library_hash(package)
    changed = copy / "plots" / "flips.py"
    changed.write_text(changed.read_text() + "# another line\n")
    assert jobs.library_hash(copy) != before


def test_identity_follows_the_data_of_a_run(tmp_path: Path) -> None:
    from bvit_analysis.suite.jobs import identity

    run = make_run(tmp_path / "grs-0", recipe="grs", steps=4)
    path = write_notebook(tmp_path / "one.ipynb", parameters=DECLARED)
    (job,) = plan([path], [run], {})
    first = identity(job)
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "heartbeat": 1.0}))
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / "x").write_text("x")
    assert identity(job) == first
    (run / "status.json").write_text(json.dumps({**status, "step": 5}))
    second = identity(job)
    assert second != first
    part = sorted((run / "scalars").glob("*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    assert identity(job) != second


@pytest.mark.processes
def test_two_at_once_under_hostile_names(tmp_path: Path, run: Path) -> None:
    # Each waits for the other, so both succeed only if they run together.
    meet = (
        "import pathlib, time\n"
        "(pathlib.Path(log) / mine).write_text('here')\n"
        "while not (pathlib.Path(log) / other).exists():\n"
        "    time.sleep(0.05)\n"
        "print(label)"
    )
    names = ("<script>alert(1)<\u2044script>", "{x} \n")
    notebooks = [
        write_notebook(
            tmp_path / "{y}" / f"{name}.ipynb",
            meet,
            parameters=f"{DECLARED}mine: str = 'm{n}'\nother: str = 'm{1 - n}'\n",
        )
        for n, name in enumerate(names)
    ]
    label = "<script>{x}\n'\"\\ \u00fc"
    jobs = plan(notebooks, [run], {"log": str(tmp_path), "label": label})
    statuses = execute(jobs, tmp_path / "{z}", progress=False)
    assert [(status.state, status.name) for status in statuses] == [
        ("succeeded", name) for name in names
    ]
    for name in names:
        executed = nbformat.read(tmp_path / "{z}" / name / "notebook.ipynb", as_version=4)
        assert executed.cells[-1].outputs[0].text == label + "\n"


# Nothing is left running --------------------------------------------------------------------------


@pytest.mark.processes
def test_the_wall_clock_limit_kills_the_whole_family(tmp_path: Path) -> None:
    stubborn = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        "with open(log, 'w') as file: file.write(f'{os.getpid()} {child.pid}')\n"
        "time.sleep(300)"
    )
    path = write_notebook(tmp_path / "stubborn.ipynb", stubborn, parameters="log: str = ''")
    jobs = plan([path], [], {"log": str(tmp_path / "pids")})
    limit_s = round(8 * crowd())  # it has to get as far as its last cell
    (status,) = execute(jobs, tmp_path / "out", limit_s=limit_s, progress=False)
    assert (status.state, status.cell) == ("timeout", 2)
    assert f"limit of {limit_s} s" in status.error
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)
    assert (tmp_path / "out" / "stubborn" / "notebook.ipynb").exists()


@pytest.mark.processes
@pytest.mark.parametrize(
    ("end", "reason"),
    [(signal.SIGKILL, "is gone"), (signal.SIGINT, "stopped by KeyboardInterrupt")],
    ids=["killed", "interrupted"],
)
def test_a_killed_parent_leaves_no_kernel_and_a_true_state(
    tmp_path: Path, end: signal.Signals, reason: str
) -> None:
    sleeper = "import os, time\nopen(log, 'w').write(str(os.getpid()))\ntime.sleep(300)"
    path = write_notebook(tmp_path / "sleeper.ipynb", sleeper, parameters="log: str = ''")
    pid_file, out = tmp_path / "pid", tmp_path / "out"
    code = (
        "import sys; from pathlib import Path; from bvit_analysis.suite import execute, plan\n"
        "jobs = plan([Path(sys.argv[1])], [], {'log': sys.argv[2]})\n"
        "execute(jobs, Path(sys.argv[3]), progress=False)"
    )
    # Whoever is killed outright cannot tidy up, so it works in a folder that this test removes.
    short = Path(tempfile.mkdtemp(prefix="b", dir="/tmp"))
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(pid_file), str(out)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TMPDIR": str(short),
        },
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: pid_file.exists() and pid_file.read_text())
        kernel = int(pid_file.read_text())
        assert alive(kernel)
        with pytest.raises(SuiteError, match="another process is executing"):
            execute(plan([path], [], {"log": str(pid_file)}), out, progress=False)
        assert read_status(out / "sleeper").state == "running"
        family = psutil.Process(parent.pid).children(recursive=True)
    finally:
        parent.send_signal(end)
        parent.wait(60)
        left = list(short.iterdir())
        shutil.rmtree(short, ignore_errors=True)
    assert len(left) == (end == signal.SIGKILL)
    wait_for(lambda: not any(alive(process.pid) for process in family))
    assert not alive(kernel)
    status = read_status(out / "sleeper")
    assert status.state == "interrupted"
    assert reason in status.error


@pytest.mark.processes
def test_a_parent_killed_half_way_and_a_second_start_that_executes_only_the_rest(
    tmp_path: Path,
) -> None:
    """Two of five have ended, two hang and one waits when the parent is killed outright."""
    log = tmp_path / "log"
    hang = "import pathlib, time\nwhile not pathlib.Path(log + '.go').exists(): time.sleep(0.05)"
    names = ["a", "b", "c", "d", "e"]
    notebooks = [
        write_notebook(
            tmp_path / f"{name}.ipynb",
            f"with open(log, 'a') as file: file.write('{name} ')",
            hang if name in "cd" else "1 + 1",
            parameters="log: str = ''",
        )
        for name in names
    ]
    out = tmp_path / "out"
    code = (
        "import sys; from pathlib import Path; from bvit_analysis.suite import execute, plan\n"
        "jobs = plan([Path(path) for path in sys.argv[3:]], [], {'log': sys.argv[1]})\n"
        "execute(jobs, Path(sys.argv[2]), progress=False)"
    )
    short = Path(tempfile.mkdtemp(prefix="b", dir="/tmp"))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TMPDIR": str(short),
    }
    arguments = [str(log), str(out), *map(str, notebooks)]
    parent = subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment)
    try:
        wait_for(lambda: log.exists() and len(log.read_text().split()) == 4)
        wait_for(lambda: len(json.loads((out / "summary.json").read_text())["jobs"]) == 4)
        family = psutil.Process(parent.pid).children(recursive=True)
        early = read_summary(out)
        assert (early["complete"], early["exit_code"], early["waiting"]) == (False, None, ["e"])
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait(60)
    wait_for(lambda: not any(alive(process.pid) for process in family))
    left = sorted(path.name[:5] for path in short.iterdir())
    assert left == ["bvit-", "bvit-"]  # nobody was there to tidy up
    states = {status.name: status.state for status in read_statuses(out)}
    assert states == {"a": "succeeded", "b": "succeeded", "c": "interrupted", "d": "interrupted"}
    told = read_summary(out)
    assert (told["complete"], told["waiting"]) == (False, ["e"])
    assert told["states"] == {"succeeded": 2, "interrupted": 2}
    assert [job["error"] for job in told["jobs"]][2:] == [
        "the process that executed it is gone"
    ] * 2

    Path(f"{log}.go").touch()
    assert sorted(log.read_text().split()) == ["a", "b", "c", "d"]
    second = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=False)
    assert second.returncode == 0
    assert sorted(log.read_text().split()) == ["a", "b", "c", "c", "d", "d", "e"]
    summary = read_summary(out)
    assert (summary["executed"], summary["kept"], summary["exit_code"]) == (3, 2, 0)
    assert summary["states"] == {"succeeded": 5}
    assert list(short.iterdir()) == []  # what the first left behind is gone as well
    short.rmdir()


@pytest.mark.processes
def test_abandoned_folders_are_removed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bvit_analysis.suite.private_folders import PrivateFolder, remove_abandoned

    short = Path(tempfile.mkdtemp(prefix="b", dir="/tmp"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(short))
    try:
        mine = PrivateFolder()
        code = (
            "import os, sys; from bvit_analysis.suite.private_folders import PrivateFolder\n"
            "folder = PrivateFolder(); print(folder.path); os.kill(os.getpid(), 9)"
        )
        environment = {
            **os.environ,
            "TMPDIR": str(short),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        subprocess.run(
            [sys.executable, "-c", code], env=environment, check=False, capture_output=True
        )
        (short / "bvit-stranger").mkdir()  # no lock in it: not known to be ours
        (tmp_path / "target").mkdir()
        (tmp_path / "target" / "owner").touch()
        (short / "bvit-link").symlink_to(tmp_path / "target")
        assert len(list(short.iterdir())) == 4
        assert remove_abandoned() == 1
        left = {path.name for path in short.iterdir()}
        assert left == {mine.path.name, "bvit-stranger", "bvit-link"}
        mine.remove()
        assert not mine.path.exists()
    finally:
        shutil.rmtree(short)


def test_folders_half_made_or_half_removed_go_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before it had a lock, or after its lock was removed: nobody holds a folder under its hidden name for long."""
    from bvit_analysis.suite.private_folders import PrivateFolder, remove_abandoned

    short = Path(tempfile.mkdtemp(prefix="b", dir="/tmp"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(short))
    try:
        for name in ("young", "old", "locked"):
            (short / f".bvit-{name}").mkdir()
            (short / f".bvit-{name}" / "k").touch()
        (short / ".bvit-locked" / "owner").touch()
        (tmp_path / "target").mkdir()
        (short / ".bvit-link").symlink_to(tmp_path / "target")
        for name in ("old", "locked"):
            os.utime(short / f".bvit-{name}", (1e9, 1e9))
        assert remove_abandoned() == 2
        assert {path.name for path in short.iterdir()} == {".bvit-young", ".bvit-link"}
        assert list((tmp_path / "target").iterdir()) == []
        # A removal that is killed half-way leaves such a folder, whatever is gone of it already.
        mine = PrivateFolder()
        (mine.path / "k").touch()
        monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors: (path / "owner").unlink())
        mine.remove()
        monkeypatch.undo()
        monkeypatch.setattr(tempfile, "gettempdir", lambda: str(short))
        os.utime(short / f".{mine.path.name}", (1e9, 1e9))
        assert remove_abandoned() == 1
        assert {path.name for path in short.iterdir()} == {".bvit-young", ".bvit-link"}
    finally:
        shutil.rmtree(short)


@pytest.mark.processes
def test_what_a_killed_batch_left_is_removed_by_the_next(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "one.ipynb", "1 + 1")
    jobs, out = plan([path], [], {}), tmp_path / "out"
    execute(jobs, out, progress=False)
    before = sorted(out.rglob("*"))
    for name in (".shared-00ff", ".summary.json.1-ab.tmp", "one/.begun-00", "one/.status.json.tmp"):
        (out / name).touch()
    (status,) = execute(jobs, out, progress=False)
    assert status.skipped
    assert sorted(out.rglob("*")) == before


@pytest.mark.processes
def test_kernels_are_told_frames_figures_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("BVIT_FRAMES", "BVIT_FIGURES", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    cells = (
        f"import json, os; print(json.dumps({{name: os.environ.get(name) for name in {names}}}))",
        "from pathlib import Path\n"
        "figures = Path(os.environ['BVIT_FIGURES'])\n"
        "print(sorted(path.name for path in figures.iterdir()))\n"
        "(figures / 'figure-01.png').write_text('x' * n)",
    )
    path = write_notebook(tmp_path / "one.ipynb", *cells, parameters="n: int = 5000")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)))
    monkeypatch.setenv("BVIT_FIGURES", "/nowhere")
    out = tmp_path / "out"

    def printed(**values: object) -> list[str]:
        jobs = plan([path], [], values, frames=7)
        (status,) = execute(jobs, out, jobs_at_once=3, progress=False)
        assert status.state == "succeeded", status.error
        assert status.bytes >= 5000
        notebook = nbformat.read(out / "one" / "notebook.ipynb", as_version=4)
        return [cell.outputs[0].text for cell in notebook.cells if cell.get("outputs")]

    told, listed = printed()
    figures = str(out / "one" / "figures")
    assert json.loads(told) == dict(zip(names, ("7", figures, "4", "4"), strict=True))
    assert listed == "[]\n"
    assert (out / "one" / "figures" / "figure-01.png").stat().st_size == 5000
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # whoever sets one has decided
    told, listed = printed(n=6000)
    assert json.loads(told)["OMP_NUM_THREADS"] == "2"
    assert json.loads(told)["MKL_NUM_THREADS"] is None
    assert listed == "[]\n"  # emptied of what the first execution saved


@pytest.mark.processes
def test_what_cannot_be_started_or_written_ends_one_notebook_only(tmp_path: Path) -> None:
    notebooks = [write_notebook(tmp_path / f"{name}.ipynb", "1 + 1") for name in "abc"]
    jobs = plan(notebooks, [], {})
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("a file where a folder must go")
    notebooks[1].unlink()
    statuses = execute(jobs, out, progress=False)
    assert [status.state for status in statuses] == ["failed", "failed", "succeeded"]
    assert "could not be executed" in statuses[0].error
    assert "cannot be read" in statuses[1].error
    assert read_summary(out)["states"] == {"succeeded": 1, "failed": 2}


def test_progress_tells_counts_time_and_the_rest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bvit_analysis.suite.progress import Progress

    now = [100.0]
    monkeypatch.setattr("bvit_analysis.suite.progress.time.monotonic", lambda: now[0])
    progress = Progress(dict.fromkeys("abcd", 10.0), at_once=2, on=True)
    assert progress.remaining_s() == 20.0
    progress.started("a")
    progress.started("b")
    now[0] += 20
    progress.ended(JobStatus(name="a", notebook="a", state="succeeded", seconds=20.0))
    # All take twice what was expected: b is due, c and d take 20 s each, side by side.
    assert progress.remaining_s() == 20.0
    progress.started("c")
    now[0] += 5
    progress.ended(JobStatus(name="b", notebook="b", state="failed", error="why", seconds=25.0))
    progress.ended(JobStatus(name="d", notebook="d", state="succeeded", skipped=True))
    assert progress.remaining_s() == 15.0  # of c, which began 5 s ago
    lines = capsys.readouterr().err.splitlines()
    assert lines[2] == "[1/4] a: succeeded, 20.0 s (20 s so far, about 20 s left)"
    assert lines[4] == "[2/4] b: failed, 25.0 s: why (25 s so far, about 20 s left)"
    assert lines[5] == "[3/4] d: kept, inputs unchanged"


def test_status_of_a_stranger_is_read_as_data(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    assert read_status(folder) is None
    good = {
        "schema_version": 1,
        "name": "../other",
        "notebook": "one.ipynb",
        "state": "succeeded",
        "error": None,
        "cell": None,
        "parameters": {},
        "started": "",
        "seconds": 1,
        "identity": "",
        "versions": {},
    }
    for change in (
        {"state": "perfect"},
        {"schema_version": 2},
        {"parameters": 3},
        {"seconds": "x"},
        {"versions": None},
    ):
        (folder / "status.json").write_text(json.dumps({**good, **change}))
        assert read_status(folder) is None
    (folder / "status.json").write_text(json.dumps(good))
    assert read_status(folder) == JobStatus(
        name="one", notebook="one.ipynb", state="succeeded", seconds=1.0
    )
    (folder / "status.json").unlink()
    (folder / "status.json").symlink_to("/etc/hostname")
    assert read_status(folder) is None
