"""The one writer of a run folder."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import numpy as np

from bvit_analysis.errors import ConfigError, RunError, unknown_name
from bvit_analysis.files import (
    DamagedFile,
    plain,
    read_json,
    write_bytes_atomic,
    write_fault,
    write_json_atomic,
)
from bvit_analysis.processes import Lock, process_start
from bvit_analysis.records.arrays import encode_arrays
from bvit_analysis.records.attention import AttentionExamples, write_attention
from bvit_analysis.records.declaration import declare, declared_in, own_measures, schemas_with
from bvit_analysis.records.format import (
    COUNT_ARRAYS,
    SCHEMA_VERSION,
    STATES,
    SUPERSEDED,
    check_name,
    check_sites,
    counts_file,
)
from bvit_analysis.records.info import read_info
from bvit_analysis.records.lock import remove_leftovers, take_lock
from bvit_analysis.records.measure import Measure
from bvit_analysis.records.starts import StartLatents, write_start
from bvit_analysis.records.store import PartStore, set_aside

SEAL_SECONDS = 10.0
"Rows wait in memory no longer than about this before they are stored."


@final
class RunWriter:
    """Writes a run folder: rows wait in memory and are stored in whole parts that a reader can trust.

    Of the rows only those since the last seal can be lost, by a kill or by a full disk. One process
    owns the folder. Use it as a context manager, or call close().
    """

    def __init__(
        self,
        run_dir: str | Path,
        *,
        info: Mapping[str, Any],
        resume_step: int | None = None,
        measures: Iterable[Measure] = (),
        lock: Lock | None = None,
    ) -> None:
        """Make the folder and its run.json, or go on with one.

        Args:
            run_dir: The folder; made if it is missing.
            info: The keys of run.json: run_id (default: the folder's name), kind, config, seed,
                versions, git_commit, hardware, sites, costs; missing ones take empty values. Not
                used when a run goes on: run.json is written once.
            resume_step: Go on with the run there after this step; rows of later steps are set
                aside in `<kind>/superseded-<attempt>/`, never deleted. -1 sets all aside.
            measures: What the catalogue of records.columns lacks and this run holds; each becomes a
                column of `sites`, and run.json says what it is. When a run goes on, those that it
                began with.
            lock: Of the folder, from take_lock(), if the caller has it already; it is given up at the end.

        Raises:
            ConfigError: If the run's name is not allowed, its sites are malformed, or a measure
                cannot be declared or differs from those the run began with; nothing is written then.
            RunError: If another process writes there, a run is there and resume_step is not given,
                or the folder cannot be written.
        """
        self.run_dir = Path(run_dir)
        run_id = check_name(str(info.get("run_id", self.run_dir.name)))
        try:
            check_sites(plain(info.get("sites", [])))
        except DamagedFile as error:
            raise ConfigError(f"info of run {run_id!r} {error}") from error
        self._own = own_measures(measures)
        self._lock = lock or take_lock(self.run_dir)
        self._closed = False
        self._pid_started = process_start(os.getpid())
        self._state = "running"
        self._total_steps: int | None = None
        self._error: str | None = None
        self._step = max(0, resume_step or 0)
        try:
            goes_on = (self.run_dir / "run.json").exists()
            if goes_on:
                if resume_step is None:
                    raise RunError(
                        f"{self.run_dir} already holds a run; choose another folder, or go on with it: in a loop of your own"
                        " by Watch.resume(run_dir, model, state)"
                    )
                run_id = self._check_declared(read_info(self.run_dir))
            self.run_id = run_id
            self._store = PartStore(self.run_dir, run_id, schemas_with(self._own))
            self._prepare()
            if goes_on and resume_step is not None:
                self._supersede(resume_step)
            else:
                self._write_info(run_id, info)
            self.site_ids = {
                row["site"]: row["site_id"] for row in read_json(self.run_dir / "run.json")["sites"]
            }
            self.write_status("running", self._step)
        except OSError as error:
            self._lock.release()
            place = self.run_dir if error.filename is None else Path(error.filename)
            raise write_fault(place, 0, error) from error
        except DamagedFile as error:
            self._lock.release()
            raise RunError(
                f"cannot write to {self.run_dir}: a folder in it {error}; choose another"
            ) from error
        except BaseException:
            self._lock.release()
            raise
        self._sealed_at = time.monotonic()

    def _write_info(self, run_id: str, info: Mapping[str, Any]) -> None:
        record: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "run_id": run_id,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "kind": "watched",
            "config": None,
            "seed": None,
            "versions": {},
            "git_commit": None,
            "hardware": {},
            "sites": [],
            "costs": [],
        }
        record.update({key: value for key, value in info.items() if key != "schema_version"})
        record |= {"run_id": run_id, **declare(self._store.schemas, self._own)}
        write_json_atomic(self.run_dir / "run.json", plain(record))

    def _check_declared(self, info: Mapping[str, Any]) -> str:
        """Refuse to go on with a run in other columns than it began with, and return its id."""
        began, now = declared_in(info).own, {one.name: one for one in self._own}
        if began != now:
            differ = sorted(name for name in {*began, *now} if began.get(name) != now.get(name))
            raise ConfigError(
                f"run {self.run_dir} began with other measures of its own ({', '.join(differ)} differ); resume it with"
                " the instruments that it began with"
            )
        return str(info["run_id"])

    @property
    def measures(self) -> dict[str, Measure]:
        """What this run declares beside the catalogue's measures, by column."""
        return {one.name: one for one in self._own}

    def _prepare(self) -> None:
        self._store.prepare()
        (self.run_dir / "counts").mkdir(exist_ok=True)
        remove_leftovers(self.run_dir)

    def _supersede(self, step: int) -> None:
        attempt = self._store.supersede(step)
        result = self.run_dir / "result.json"
        if result.exists():
            set_aside(result, self.run_dir / "scalars" / f"{SUPERSEDED}{attempt}")

    @property
    def step(self) -> int:
        """Applied steps, as last appended or reported."""
        return self._step

    def append(self, kind: str, columns: Mapping[str, Any]) -> None:
        """Add rows of one kind; they are stored at the next seal, which is at most about 10 s away.

        Args:
            kind: A key of SCHEMAS.
            columns: Column name to a 1-d array of equal lengths, or to one value for all rows;
                for `counts` one array a row. A float column left out is NaN. Arrays are copied.

        Raises:
            ConfigError: If a name is unknown, a column is missing or of another type or length.
            RunError: If the rows cannot be stored.
        """
        if self._closed:
            raise RunError(
                f"the writer of {self.run_dir} is closed; open a new one with resume_step"
            )
        step = self._store.append(kind, columns)
        if step is not None:
            self._step = max(self._step, step)
        if time.monotonic() - self._sealed_at >= SEAL_SECONDS:
            self.seal()
            self.write_status(self._state, self._step)

    def seal(self) -> None:
        """Store all rows that wait in memory, so that a kill from now on cannot lose them.

        Raises:
            RunError: If the disk is full or fails; the rows stay in memory and can be sealed again.
        """
        self._sealed_at = time.monotonic()
        self._store.seal()

    def write_status(
        self, state: str, step: int, total_steps: int | None = None, error: str | None = None
    ) -> None:
        """Say where the run stands, with a heartbeat.

        Args:
            state: 'running', 'interrupted', 'failed' or 'finished'.
            step: Applied optimizer steps.
            total_steps: Of the whole run; None keeps what was said before.
            error: Why it failed.

        Raises:
            ConfigError: If the state is unknown.
            RunError: If it cannot be stored.
        """
        if state not in STATES:
            raise ConfigError(unknown_name("state of a run", state, STATES))
        if state == "finished":
            self.seal()  # who reads that has every row, even if this process is killed now
        self._state, self._step = state, int(step)
        self._total_steps = self._total_steps if total_steps is None else int(total_steps)
        self._error = error if error is not None or state == "running" else self._error
        status = {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.run_id,
            "state": state,
            "step": self._step,
            "total_steps": self._total_steps,
            "heartbeat": time.time(),
            "error": self._error,
            "pid": os.getpid(),
            "pid_started": self._pid_started,
            "host": socket.gethostname(),
        }
        write_json_atomic(self.run_dir / "status.json", status)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Store the final figures, once, when the run ends.

        Raises:
            RunError: If they cannot be stored.
        """
        write_json_atomic(
            self.run_dir / "result.json",
            {"schema_version": SCHEMA_VERSION, "run_id": self.run_id, **result},
        )

    def write_counts(
        self, site: str, *, gross: Any, first_sign: Any, last_sign: Any, late: Any, steps: Any
    ) -> None:
        """Store the flip counts of every weight of a site, replacing earlier ones.

        Args:
            site: Name of a site in run.json.
            gross: (O, I) flips of each weight.
            first_sign: (O, I) in {-1, +1}, at the start.
            last_sign: (O, I) in {-1, +1}, now.
            late: (O, I) flips in the last tenth of training; -1 where that is unknown.
            steps: Applied steps over which they were counted.

        Raises:
            ConfigError: If the site is unknown or an array is not of whole numbers.
            RunError: If they cannot be stored.
        """
        if site not in self.site_ids:
            raise ConfigError(unknown_name("site", site, self.site_ids))
        given = (gross, first_sign, last_sign, late, steps)
        arrays: dict[str, Any] = {}
        for (name, dtype), value in zip(COUNT_ARRAYS.items(), given, strict=True):
            array = np.asarray(value)
            if array.dtype.kind not in "iub":
                raise ConfigError(
                    f"counts array {name!r} must hold whole numbers, got {array.dtype}"
                )
            arrays[name] = np.ascontiguousarray(array, dtype).reshape(array.shape)
        name = counts_file(self.site_ids[site], site)
        write_bytes_atomic(self.run_dir / "counts" / name, encode_arrays(arrays, self.run_id))

    def note_sites(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """Add what was found out about sites to their rows in run.json, or replace what was found before.

        Args:
            found: By site, further keys of its row: `verified`, `unverified`, `levels`.

        Raises:
            ConfigError: If a site is unknown.
            RunError: If it cannot be stored.
        """
        for site in found:
            if site not in self.site_ids:
                raise ConfigError(unknown_name("site", site, self.site_ids))
        info = read_json(self.run_dir / "run.json")
        rows = [row | dict(found.get(row["site"], {})) for row in info["sites"]]
        if rows != info["sites"]:
            write_json_atomic(self.run_dir / "run.json", plain(info | {"sites": rows}))

    def note(self, **facts: Any) -> None:
        """Add keys to run.json that were found out after the run began, or replace what was found before.

        Args:
            facts: `optimizer`, `followed`.

        Raises:
            RunError: If it cannot be stored.
        """
        info = read_json(self.run_dir / "run.json")
        found = plain(facts)
        if any(info.get(name) != value for name, value in found.items()):
            write_json_atomic(self.run_dir / "run.json", info | found)

    def noted(self, name: str) -> Any:
        """Return what run.json says under a key, None where it has none."""
        return read_json(self.run_dir / "run.json").get(name)

    def write_start(self, site: str, start: StartLatents) -> None:
        """Store latent weights of a site as they were before the first step.

        Raises:
            ConfigError: If the site is unknown.
            RunError: If they cannot be stored.
        """
        if site not in self.site_ids:
            raise ConfigError(unknown_name("site", site, self.site_ids))
        try:
            write_start(self.run_dir, self.site_ids[site], site, start, self.run_id)
        except OSError as error:
            raise write_fault(self.run_dir, 0, error) from error

    def write_attention(self, examples: AttentionExamples) -> None:
        """Store what attention did with a few images, replacing what was stored before.

        Raises:
            ConfigError: If the maps are more than is read again.
            RunError: If they cannot be stored.
        """
        write_attention(self.run_dir, examples, self.run_id)

    def close(self, *, compact: bool = True) -> None:
        """Store what waits, merge small parts and give the folder up; a second call does nothing.

        A run that nobody called finished or failed is marked interrupted.

        Args:
            compact: Merge the parts of each kind, so that the folder is small and quick to open.

        Raises:
            RunError: If the last rows cannot be stored; the folder is given up all the same.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self.seal()
            if self._state == "running":
                self.write_status("interrupted", self._step)
            if compact:
                self._store.compact()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._state == "running" and not self._closed:
                if error is None:
                    self.write_status("finished", self._step)
                elif isinstance(error, Exception):
                    reason = f"{type(error).__name__}: {error}"
                    self.write_status("failed", self._step, error=reason)
        finally:
            self.close()
