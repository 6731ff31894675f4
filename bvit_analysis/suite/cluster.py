"""Executions on the workers of an existing Dask cluster: the same function, the same folders, other machines.

Dask runs a task again when the worker that had it, or that held its result, is lost. Notebooks must not be
executed twice for that, whatever the scheduler's settings: a worker claims a job by creating a file in its
folder, and whoever finds the claim of the same order tells what became of it in place of beginning anew.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from bvit_analysis.errors import MissingExtraError, SuiteError
from bvit_analysis.extras import missing_extra, not_installed
from bvit_analysis.suite.execution import Limits, record, run_to_end, threads_each
from bvit_analysis.suite.jobs import (
    STATUS_VERSION,
    JobStatus,
    NotebookJob,
    library_hash,
    new_status,
    read_status,
    status_from,
)
from bvit_analysis.suite.parameters import require_notebooks
from bvit_analysis.suite.private_folders import remove_abandoned

CONNECT_S = 15.0
NO_WORKER_S = 60.0
"A cluster without any worker for so long is given up, seconds."
CLAIM, MARKER = ".begun-", ".shared-"
"How names of files begin by which a worker takes an order, and sees that whoever gave it waits."
_LOST = "the worker that executed it was lost; start the batch again to execute it"


@dataclass
class _Flight:
    job: NotebookJob
    identity: str
    token: str
    future: Any
    began: float


@final
class ClusterRunner:
    """Tasks of a Dask cluster, each of which executes one notebook to its end."""

    def __init__(
        self,
        address: str,
        out: Path,
        limits: Limits,
        *,
        jobs: Sequence[NotebookJob],
        at_once: int | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        self.address, self.out, self.limits = address, out, limits
        self.at_once, self.resources = at_once, dict(resources or {})
        self.flights: list[_Flight] = []
        self.ended: list[JobStatus] = []
        self.asked, self.slots = 0.0, 0
        self.empty_since: float | None = None
        self.marker = f"{MARKER}{secrets.token_hex(8)}"
        self.client = _connect(address)
        try:
            (out / self.marker).touch()
            _check_workers(self.client, address, self._paths(jobs), self.resources)
        except BaseException:
            self.close()
            raise

    def _paths(self, jobs: Sequence[NotebookJob]) -> list[str]:
        paths = [str(self.out / self.marker)]
        for job in jobs:
            runs = job.parameters.get("runs", [])
            paths += [str(job.notebook), *(map(str, runs) if isinstance(runs, list) else [])]
        return list(dict.fromkeys(paths))

    def has_room(self) -> bool:
        """Return True if fewer notebooks are in flight than at_once, or than the workers have threads."""
        self._look_at_workers()
        return len(self.flights) < (self.at_once or max(1, self.slots))

    def start(self, job: NotebookJob, identity: str) -> None:
        """Order one notebook."""
        folder, token = self.out / job.name, secrets.token_hex(8)
        with contextlib.suppress(OSError):
            for old in folder.glob(f"{CLAIM}*"):
                old.unlink(missing_ok=True)
        order = {
            "notebook": str(job.notebook),
            "parameters": job.parameters,
            "name": job.name,
            "frames": job.frames,
            "out": str(self.out),
            "marker": self.marker,
            "identity": identity,
            "token": token,
            "limits": asdict(self.limits),
        }
        try:
            future = self.client.submit(
                execute_on_worker,
                order,
                key=f"bvit-notebook-{token}",
                pure=False,
                retries=0,
                resources=self.resources or None,
            )
        except Exception as error:  # of a connection that is gone; the states must still be written
            reason = " ".join(f"the cluster at {self.address} takes no orders: {error}".split())
            never = new_status(job, state="interrupted", error=reason[:300])
            self.ended.append(never)
            return
        self.flights.append(_Flight(job, identity, token, future, time.monotonic()))

    def poll(self) -> list[JobStatus]:
        """Return what has ended, and let go of its result, which Dask would otherwise make again."""
        for flight in list(self.flights):
            status = self._result(flight)
            if status is not None:
                self._let_go(flight)
                self.ended.append(status)
        self._look_at_workers()
        if self.flights and self._is_deserted():
            for flight in list(self.flights):
                self.ended.append(self._lost(flight, "no worker is left in the cluster"))
                self._let_go(flight)
        ended, self.ended = self.ended, []
        return ended

    def places(self) -> list[str]:
        """Return the names of what is in flight."""
        return [flight.job.name for flight in self.flights]

    def stop(self, reason: str) -> list[JobStatus]:
        """Take all orders back, and wait a moment for the workers to have stopped their kernels."""
        with contextlib.suppress(Exception):
            self.client.cancel([flight.future for flight in self.flights], force=True)
        until = time.monotonic() + 10
        while time.monotonic() < until and any(self._is_busy(one) for one in self.flights):
            time.sleep(0.1)
        found = [self._found_out(flight, "interrupted", reason) for flight in self.flights]
        for flight in list(self.flights):
            self._let_go(flight)
        return [*self.ended, *found]

    def close(self) -> None:
        """Leave the cluster as it was."""
        (self.out / self.marker).unlink(missing_ok=True)
        with contextlib.suppress(Exception):
            self.client.close(timeout=5)

    def _look_at_workers(self) -> None:
        now = time.monotonic()
        if self.asked and now - self.asked < 2:
            return
        self.asked = now
        try:
            self.slots = sum(self.client.nthreads().values())
        except Exception:  # whatever a broken connection raises; it counts as no worker
            self.slots = 0
        if self.slots:
            self.empty_since = None
        elif self.empty_since is None:
            self.empty_since = now

    def _is_deserted(self) -> bool:
        silent = 0.0 if self.empty_since is None else time.monotonic() - self.empty_since
        return self.client.status == "closed" or silent > NO_WORKER_S

    def _result(self, flight: _Flight) -> JobStatus | None:
        state = flight.future.status
        if state == "pending":
            return None
        if state == "finished":
            try:
                data = flight.future.result(timeout=10)
            except TimeoutError:
                return None  # its worker was lost with it, and Dask asks another
            except Exception as error:
                return self._lost(flight, f"its result was lost: {error}")
            status = status_from(flight.job.name, data)
            return status or self._found_out(flight, "failed", "the worker's answer makes no sense")
        if state == "error":
            fault = flight.future.exception(timeout=10)
            if type(fault).__name__ == "KilledWorker":
                return self._lost(flight, _LOST)
            reason = f"the worker could not execute it: {type(fault).__name__}: {fault}"
            return self._found_out(flight, "failed", " ".join(reason.split())[:300])
        return self._lost(flight, f"the connection to the cluster was lost (its task is {state})")

    def _claimed(self, flight: _Flight) -> JobStatus | None:
        """Return what the worker that took this very order has written, if one did."""
        folder = self.out / flight.job.name
        return read_status(folder) if (folder / f"{CLAIM}{flight.token}").exists() else None

    def _is_busy(self, flight: _Flight) -> bool:
        status = self._claimed(flight)
        return status is not None and status.state == "running"

    def _lost(self, flight: _Flight, reason: str) -> JobStatus:
        if self._claimed(flight) is None:
            return self._found_out(flight, "interrupted", f"{reason}; it was not begun")
        return self._found_out(flight, "worker_lost", reason)

    def _found_out(self, flight: _Flight, state: Any, reason: str) -> JobStatus:
        found = self._claimed(flight)
        if found is not None and found.state not in ("running", "interrupted"):
            return found  # it got to its end, only nobody could say so
        seconds = round(time.monotonic() - flight.began, 3)
        base = found or new_status(flight.job, state=state, identity=flight.identity)
        folder = self.out / flight.job.name
        folder.mkdir(exist_ok=True)
        return record(folder, replace(base, state=state, error=reason, seconds=seconds))

    def _let_go(self, flight: _Flight) -> None:
        self.flights.remove(flight)
        with contextlib.suppress(Exception):
            flight.future.release()
        claim = self.out / flight.job.name / f"{CLAIM}{flight.token}"
        with contextlib.suppress(OSError):
            claim.unlink(missing_ok=True)


def _connect(address: str) -> Any:
    if not_installed(["distributed"]):
        raise missing_extra("a cluster", ["distributed"], "cluster")
    from distributed import Client

    try:
        return Client(address, timeout=CONNECT_S, set_as_default=False, name="bvit-notebooks")
    except (OSError, ValueError, TimeoutError) as error:
        reason = " ".join(str(error).split())[:150]
        raise SuiteError(
            f"no Dask scheduler answers at {address!r} ({reason}); start one with `dask scheduler` "
            "and workers with `dask worker ADDRESS`, or leave --cluster out to execute here"
        ) from error


def _check_workers(
    client: Any, address: str, paths: Sequence[str], resources: Mapping[str, float]
) -> None:
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
    except TimeoutError as error:
        raise SuiteError(
            f"the cluster at {address} has no workers; start some with `dask worker {address}`"
        ) from error
    try:
        client.get_versions(check=True)
    except ValueError as error:
        reason = " ".join(str(error).split())[:300]
        raise SuiteError(
            f"the machines of the cluster at {address} have other packages than this one: {reason}"
        ) from error
    answers = client.run(_look_around, list(paths), on_error="return")
    for worker, answer in sorted(answers.items()):
        if isinstance(answer, BaseException):
            reason = " ".join(f"{type(answer).__name__}: {answer}".split())[:200]
            raise SuiteError(
                f"worker {worker} cannot run bvit_analysis ({reason}); install the same version there"
            )
        if answer["problem"]:
            raise SuiteError(f"worker {worker}: {answer['problem']}")
        if answer["library"] != library_hash():
            raise SuiteError(
                f"worker {worker} has another source of bvit_analysis than this machine; "
                "install the same version there and start the worker again"
            )
        if answer["missing"]:
            raise SuiteError(
                f"worker {worker} does not see {answer['missing'][0]!r}; results, notebooks and runs "
                "must lie on a file system that all workers share, under the same path"
            )
    offers = [answer["resources"] for answer in answers.values()]
    for name, amount in resources.items():
        if not any(offer.get(name, 0) >= amount for offer in offers):
            raise SuiteError(
                f"no worker offers {amount:g} of the resource {name!r}; start one with "
                f"`dask worker {address} --resources {name}={amount:g}`"
            )


# On a worker --------------------------------------------------------------------------------------


def _look_around(paths: Sequence[str], dask_worker: Any) -> dict[str, Any]:
    """Tell what this worker is and which of the paths it does not see."""
    problem = ""
    try:
        require_notebooks()
    except MissingExtraError as error:
        problem = str(error)
    missing = [path for path in paths if not Path(path).exists()]
    return {
        "library": library_hash(),
        "missing": missing,
        "problem": problem,
        "resources": dict(dask_worker.state.total_resources),
    }


def execute_on_worker(order: Mapping[str, Any]) -> dict[str, Any]:
    """Execute one notebook to its end in this worker, unless another has begun this very order.

    Args:
        order: Plain data, from ClusterRunner.start.

    Returns:
        The status as plain data, small enough to be lost without harm.
    """
    from distributed import get_worker

    job = NotebookJob(
        notebook=Path(order["notebook"]),
        parameters=dict(order["parameters"]),
        name=str(order["name"]),
        frames=int(order["frames"]),
    )
    out, identity = Path(order["out"]), str(order["identity"])
    folder = out / job.name
    if not (out / order["marker"]).exists():
        reason = f"a worker does not see {str(out)!r}, or nobody waits for the results any more"
        return _plain(new_status(job, state="failed", error=reason, identity=identity))
    folder.mkdir(exist_ok=True)
    try:
        (folder / f"{CLAIM}{order['token']}").touch(exist_ok=False)
    except FileExistsError:
        return _plain(_begun_elsewhere(job, folder, identity))
    (folder / "status.json").unlink(missing_ok=True)  # so that what is found is of this order
    remove_abandoned()
    worker = get_worker()
    limits = replace(Limits(**order["limits"]), threads=threads_each(worker.state.nthreads))
    return _plain(run_to_end(job, out, limits, identity, _unwanted(worker)))


def _begun_elsewhere(job: NotebookJob, folder: Path, identity: str) -> JobStatus:
    found = read_status(folder)
    if found is not None and found.state not in ("running", "interrupted"):
        return found
    base = found or new_status(job, state="worker_lost", identity=identity)
    seconds = base.seconds
    with contextlib.suppress(ValueError):
        since = datetime.now(UTC) - datetime.fromisoformat(base.started)
        seconds = round(since.total_seconds(), 3)
    return record(folder, replace(base, state="worker_lost", error=_LOST, seconds=seconds))


def _unwanted(worker: Any) -> Callable[[], str | None]:
    """Return a question: has whoever ordered the present task gone away or taken it back?"""
    key = worker.get_current_task()

    def ask() -> str | None:
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled":
            return "the process that ordered it is gone, or took the order back"
        return None

    return ask


def _plain(status: JobStatus) -> dict[str, Any]:
    data = asdict(status)
    del data["skipped"]
    return {"schema_version": STATUS_VERSION, **data}
