"""The batch on a Dask cluster: the same states, no job executed twice, whatever is lost on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bvit_analysis.errors import MissingExtraError, SuiteError
from bvit_analysis.suite import execute, plan, read_status, read_summary
from tests.support.notebooks import write_notebook
from tests.support.waiting import wait_for

pytestmark = pytest.mark.processes

COUNT = "with open(log, 'a') as file: file.write(name + ' ')"
DECLARED = "log: str = ''\nname: str = ''\n"
KILL_WORKER = (
    "import os, psutil, signal\n"
    "with open(log + '.pid', 'w') as file: file.write(str(os.getpid()))\n"
    "os.kill(psutil.Process(os.getppid()).ppid(), signal.SIGKILL)\n"
    "import time; time.sleep(300)"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers of one thread each, in processes of their own, as on two machines."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",
        memory_limit=0,
        host="127.0.0.1",
        resources={"slot": 1},
        silence_logs=50,
    ) as found:
        yield found


def counted(log: Path) -> list[str]:
    return sorted(log.read_text().split()) if log.exists() else []


def test_a_lost_worker_is_told_and_nothing_is_executed_twice(cluster: Any, tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    ends = {
        "ends": "print(name)",
        "fails": "raise ValueError('why')",
        "later": "print(name)",
        "loses": KILL_WORKER,
    }
    notebooks = [
        write_notebook(tmp_path / f"{name}.ipynb", COUNT, end, parameters=DECLARED)
        for name, end in ends.items()
    ]
    jobs = [
        job
        for path in notebooks
        for job in plan([path], [], {"log": str(log), "name": path.stem}, frames=6)
    ]
    # The first four have ended when the worker of the fifth is lost; the last come after.
    order = [*jobs, *plan([notebooks[0]], [], {"log": str(log)}, grid={"name": ["x", "y"]})]
    statuses = execute(order, out, cluster=cluster.scheduler_address, progress=False)
    states = {status.name: status.state for status in statuses}
    assert states == {
        "ends": "succeeded",
        "fails": "failed",
        "later": "succeeded",
        "loses": "worker_lost",
        "ends--name-x": "succeeded",
        "ends--name-y": "succeeded",
    }
    assert counted(log) == sorted([*ends, "x", "y"])
    kernel = int(Path(f"{log}.pid").read_text())
    wait_for(lambda: not psutil.pid_exists(kernel))
    lost = statuses[3]
    assert "worker that executed it was lost" in lost.error
    assert 0 < lost.seconds < 120
    assert lost.frames == 6
    assert read_status(out / "loses").state == "worker_lost"
    assert (out / "loses" / "notebook.ipynb").is_file()  # as far as it came
    summary = read_summary(out)
    assert summary["states"] == {"succeeded": 4, "failed": 1, "worker_lost": 1}
    assert (summary["exit_code"], summary["executed"], summary["kept"]) == (1, 6, 0)
    # No claim, marker or order is left behind, here or in the cluster.
    assert [path.name for path in out.rglob(".*")] == [".suite.lock"]
    assert sorted(path.name for path in (out / "ends").iterdir()) == [
        "notebook.ipynb",
        "status.json",
    ]
    # A second start executes what is missing, here or there: the identities are the same.
    write_notebook(tmp_path / "loses.ipynb", COUNT, parameters=DECLARED)
    again = execute(
        [job for job in order if job.name != "fails"],
        out,
        cluster=cluster.scheduler_address,
        resources={"slot": 1},
        progress=False,
    )
    assert [status.skipped for status in again] == [True, True, False, True, True]
    assert {status.state for status in again} == {"succeeded"}
    here = execute([job for job in order if job.name != "fails"], out, progress=False)
    assert all(status.skipped for status in here)
    assert counted(log) == sorted([*ends, "x", "y", "loses"])


def test_a_client_that_is_killed_leaves_no_kernel_on_the_workers(
    cluster: Any, tmp_path: Path
) -> None:
    sleeper = "import os, time\nopen(log, 'w').write(str(os.getpid()))\ntime.sleep(300)"
    path = write_notebook(tmp_path / "sleeper.ipynb", sleeper, parameters=DECLARED)
    log, out = tmp_path / "log", tmp_path / "out"
    code = (
        "import sys; from pathlib import Path; from bvit_analysis.suite import execute, plan\n"
        "if __name__ == '__main__':\n"
        "    jobs = plan([Path(sys.argv[1])], [], {'log': sys.argv[2]})\n"
        "    execute(jobs, Path(sys.argv[3]), cluster=sys.argv[4], progress=False)"
    )
    for end in (signal.SIGINT, signal.SIGKILL):
        log.unlink(missing_ok=True)
        client = subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(log), str(out), cluster.scheduler_address],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(lambda: counted(log))
            kernel = int(log.read_text())
            assert psutil.pid_exists(kernel)
            assert read_status(out / "sleeper").state == "running"
        finally:
            client.send_signal(end)
            client.wait(60)
        wait_for(lambda pid=kernel: not psutil.pid_exists(pid))
        wait_for(lambda: read_status(out / "sleeper").state == "interrupted")
        if end == signal.SIGINT:
            summary = json.loads((out / "summary.json").read_text())
            assert summary["states"] == {"interrupted": 1}
            assert "KeyboardInterrupt" in summary["jobs"][0]["error"]


def test_no_worker_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only worker of a cluster is started as a person would, and its machine goes away."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("bvit_analysis.suite.cluster.NO_WORKER_S", 1.0)
    cells = (COUNT, "open(pid, 'w').write(str(__import__('os').getpid()))", KILL_WORKER)
    declared = DECLARED + "pid: str = ''\n"
    paths = [
        write_notebook(tmp_path / f"{name}.ipynb", *cells, parameters=declared) for name in "ab"
    ]
    jobs = plan(paths, [], {"log": str(tmp_path / "log"), "pid": str(tmp_path / "pid")})
    with distributed.LocalCluster(
        n_workers=0, dashboard_address=":0", host="127.0.0.1", silence_logs=50
    ) as found:
        address = found.scheduler_address
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny"]
        command += ["--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path / "w")]
        worker = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stderr=subprocess.DEVNULL,
        )
        try:
            statuses = execute(jobs, tmp_path / "out", cluster=address)
        finally:
            worker.kill()
            worker.wait()
    assert [status.state for status in statuses] == ["worker_lost", "interrupted"]
    assert "no worker is left" in statuses[0].error
    assert "it was not begun" in statuses[1].error
    assert read_summary(tmp_path / "out")["states"] == {"interrupted": 1, "worker_lost": 1}
    assert "[2/2] b: interrupted" in capsys.readouterr().err
    kernel = int((tmp_path / "pid").read_text())
    wait_for(lambda: not psutil.pid_exists(kernel))


def test_a_cluster_that_cannot_do_it_is_refused_before_anything_starts(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bvit_analysis.suite import cluster as module

    path = write_notebook(tmp_path / "one.ipynb", "1 + 1")
    jobs, address = plan([path], [], {}), cluster.scheduler_address
    out = tmp_path / "out"

    def refused(message: str, **values: Any) -> None:
        with pytest.raises(SuiteError, match=message) as caught:
            execute(jobs, out, progress=False, **{"cluster": address, **values})
        assert "\n" not in str(caught.value)
        assert not (out / "one").exists()
        assert [path.name for path in out.rglob(".*")] == [".suite.lock"]

    refused("no worker offers 1 of the resource 'gpu'.*--resources gpu=1", resources={"gpu": 1})
    monkeypatch.setattr(module, "CONNECT_S", 0.5)
    refused("no Dask scheduler answers at 'tcp://127.0.0.1:9'", cluster="tcp://127.0.0.1:9")
    refused("no Dask scheduler answers at 'nowhere'", cluster="nowhere")
    monkeypatch.setattr(module, "CONNECT_S", 15.0)
    monkeypatch.setattr(module, "library_hash", lambda: "another")
    refused("another source of bvit_analysis")
    monkeypatch.undo()
    monkeypatch.setattr(module.ClusterRunner, "_paths", lambda self, jobs: ["/not/shared"])
    refused("does not see '/not/shared'; results, notebooks and runs must lie on a file system")
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if "dist" in name else 1)
    with pytest.raises(MissingExtraError, match=r"pip install 'bvit_analysis\[cluster\]'"):
        execute(jobs, out, cluster=address, progress=False)


def test_a_claim_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Dask runs again finds the claim of the same order, at each point where it may be lost."""
    pytest.importorskip("distributed")
    from bvit_analysis.suite import cluster as module
    from bvit_analysis.suite.execution import Limits, record
    from bvit_analysis.suite.jobs import new_status

    (job,) = plan([write_notebook(tmp_path / "one.ipynb", "1 + 1")], [], {})
    folder = tmp_path / "one"
    folder.mkdir()
    (tmp_path / "marker").touch()
    order = {
        "notebook": str(job.notebook),
        "parameters": {},
        "name": "one",
        "frames": 24,
        "out": str(tmp_path),
        "marker": "marker",
        "identity": "i",
        "token": "t",
        "limits": {**Limits().__dict__},
    }
    monkeypatch.setattr("distributed.get_worker", lambda: pytest.fail("it must not begin"))
    (folder / ".begun-t").touch()
    assert module.execute_on_worker(order)["state"] == "worker_lost"
    for state, told in (("running", "worker_lost"), ("succeeded", "succeeded"), ("failed",) * 2):
        record(folder, new_status(job, state=state, started="2024-01-01T00:00:00+00:00"))
        answer = module.execute_on_worker(order)
        assert answer["state"] == told
        assert (answer["seconds"] > 0) == (state == "running")
    (tmp_path / "marker").unlink()
    answer = module.execute_on_worker(order)
    assert answer["state"] == "failed"
    assert "does not see" in answer["error"]
