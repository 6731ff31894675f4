"""Waiting for a run that another process writes, as long as that one gives a sign of life."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bvit_analysis.errors import RunError
from bvit_analysis.files import DamagedFile, read_json
from bvit_analysis.processes import cpu_seconds
from bvit_analysis.records.lock import SILENT_AFTER_S, writer_of

_POLL_S = 0.5


def wait_for_writer(run_dir: Path, *, progress: bool = True) -> None:
    """Return when nobody writes a run any more, because its writer has ended it or has died.

    Args:
        run_dir: The run folder.
        progress: Whether to show a bar with the steps of the run.

    Raises:
        RunError: If the writer lives, but for ten minutes neither the run's status nor its processor time has moved.
    """
    owner = writer_of(run_dir)
    if owner is None:
        return
    who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
    print(f"{run_dir.name}: waiting for {who}, which is training it", file=sys.stderr)
    seen, since = None, time.monotonic()
    with tqdm(desc=f"waiting for {run_dir.name}", unit="step", disable=not progress) as bar:
        while owner is not None:
            status = _status(run_dir)
            sign = (owner, status, _worked(owner))
            if sign != seen:
                seen, since = sign, time.monotonic()
            elif time.monotonic() - since > SILENT_AFTER_S:
                raise RunError(
                    f"{run_dir} is being written by {who}, which lives but has done nothing for {SILENT_AFTER_S:.0f} s;"
                    " stop it and start again, and the run goes on from its last checkpoint"
                )
            step, total = status.get("step"), status.get("total_steps")
            bar.n = step if isinstance(step, int) else 0
            bar.total = total if isinstance(total, int) else None
            bar.refresh()
            time.sleep(_POLL_S)
            owner = writer_of(run_dir)


def _status(run_dir: Path) -> Mapping[str, Any]:
    try:
        return read_json(run_dir / "status.json")
    except (FileNotFoundError, DamagedFile):
        return {}


def _worked(owner: Mapping[str, Any]) -> float:
    """Return the processor time of a process of this machine; another machine's status has to do."""
    pid = owner.get("pid")
    here = owner.get("host") == socket.gethostname()
    return cpu_seconds(pid) if here and isinstance(pid, int) else 0.0
