"""A run's figures as TensorBoard event files, written once and added to as the run goes on."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np

from bvit_analysis.adapters.series import Export, Points, missing, number_of, points
from bvit_analysis.errors import RunError
from bvit_analysis.extras import missing_extra, not_installed
from bvit_analysis.files import sync_folder, write_fault
from bvit_analysis.records import Run, load_run

EVENT_FILE = "events.out.tfevents.bvit"
"Name of the file in the folder of each run; TensorBoard looks for 'tfevents' in it."

_AROUND = 16  # bytes of a record beside its content: length, checksum of the length, checksum of the content


def export_tensorboard(run: Run | str | Path, out: str | Path) -> Export:
    """Write a run's scalars, timings and measures of sites for ``tensorboard --logdir OUT``.

    A second export of the same run adds what was recorded since, so nothing is there twice and a TensorBoard that
    looks at the folder follows a running training. What a kill left half written is cut off first. TensorBoard
    holds float32. A run does not record when a step was taken, so every point has the time at which the run began.

    Args:
        run: The run, or its folder.
        out: Folder for all runs; this one goes to ``OUT/<run_id>/``.

    Returns:
        The event file, and how many figures are in it.

    Raises:
        MissingExtraError: If tensorboard is not installed.
        RunError: If there is no run, the file has other values of a run of this name, or cannot be written.
    """
    if not_installed(["tensorboard"]):
        raise missing_extra("an export to TensorBoard", ["tensorboard"], "trackers")
    run = run if isinstance(run, Run) else load_run(run)
    path = Path(out) / run.run_id / EVENT_FILE
    wanted = {step: _rounded(values) for step, values in points(run).items()}
    try:
        kept, whole = _read(path) if path.exists() else ({}, 0)
        new = missing(wanted, kept, path)
        if new:
            _append(path, whole, new, _began(run))
    except OSError as error:
        raise write_fault(path, 0, error, RunError) from error
    return Export(run.run_id, path, number_of(wanted), number_of(new))


def _rounded(values: dict[str, float]) -> dict[str, float]:
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite there
        return {tag: float(np.float32(value)) for tag, value in values.items()}


def _read(path: Path) -> tuple[Points, int]:
    """Return the points in a file, and how many bytes of it are whole records."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    kept: Points = {}
    whole = 0
    for content in RawEventFileLoader(str(path)).Load():
        whole += _AROUND + len(content)
        event = Event.FromString(content)
        for value in event.summary.value:
            kept.setdefault(event.step, {})[value.tag] = value.simple_value
    return kept, whole


def _append(path: Path, whole: int, new: Points, began: float) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    write: Callable[[bytes], None] = RecordWriter(buffer).write
    if not whole:
        write(Event(wall_time=began, file_version="brain.Event:2").SerializeToString())
    for step, values in new.items():
        tagged = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        event = Event(wall_time=began, step=step, summary=Summary(value=tagged))
        write(event.SerializeToString())
    path.parent.mkdir(parents=True, exist_ok=True)
    # In place: a TensorBoard that has the file open would not look at another one of its name.
    with path.open("ab") as file:
        file.truncate(whole)
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _began(run: Run) -> float:
    try:
        return datetime.fromisoformat(run.info["created"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return 0.0
