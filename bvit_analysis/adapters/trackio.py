"""A run's figures in trackio's local storage, written once and added to as the run goes on."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

from bvit_analysis.adapters.series import Export, Points, missing, number_of, points
from bvit_analysis.errors import ConfigError, RunError
from bvit_analysis.extras import missing_extra, not_installed
from bvit_analysis.files import write_fault
from bvit_analysis.records import Run, load_run

_OTHERS = ("step", "timestamp")  # that trackio adds to each row that it reads
_FETCHES = (
    "TRACKIO_BUCKET_ID",
    "TRACKIO_DATASET_ID",
)  # variables that make its storage ask a network


def export_trackio(run: Run | str | Path, out: str | Path, *, project: str = "bvit") -> Export:
    """Write a run's scalars, timings and measures of sites for ``TRACKIO_DIR=OUT trackio show``.

    They go into trackio's own database on this machine, and nothing goes over a network, whatever Space or server
    trackio is set up for; where it would fetch a bucket first, it is refused. A second export of the same run adds what was recorded since, so nothing is there twice.
    A run does not record when a step was taken, so every row has the time at which the run began.

    Args:
        run: The run, or its folder.
        out: Folder of trackio, TRACKIO_DIR.
        project: Name of the project in it; the run has its run id there.

    Returns:
        The folder, and how many figures of the run are in it.

    Raises:
        MissingExtraError: If trackio is not installed.
        ConfigError: If trackio does not take the project's name, keeps to another folder since it was imported, or
            would ask a network.
        RunError: If there is no run, the project has other values of a run of this name, or cannot be written.
    """
    if not_installed(["trackio"]):
        raise missing_extra("an export to trackio", ["trackio"], "trackers")
    for name in _FETCHES:
        if name in os.environ:
            raise ConfigError(
                f"{name} is set, so trackio would fetch from there first; unset it for an export"
            )
    run = run if isinstance(run, Run) else load_run(run)
    place = Path(out)
    storage = _storage(place)
    try:
        storage.validate_project_name(project)
    except ValueError as error:
        raise ConfigError(f"{str(error).rstrip('.')}; choose another project") from error
    wanted = points(run)
    try:
        kept: Points = {}
        for row in storage.get_logs(project, run.run_id, run_id=run.run_id):
            values = {tag: value for tag, value in row.items() if tag not in _OTHERS}
            kept.setdefault(row["step"], {}).update(values)
        new = missing(wanted, kept, place)
        storage.bulk_log(
            project,
            run.run_id,
            list(new.values()),
            steps=list(new),
            timestamps=[str(run.info.get("created"))] * len(new),
            config=_described(run),
            run_id=run.run_id,
        )
    except OSError as error:
        raise write_fault(place, 0, error, RunError) from error
    except sqlite3.Error as error:
        raise RunError(
            f"cannot write project {project!r} in {place}: {error}; choose another folder"
        ) from error
    return Export(run.run_id, place, number_of(wanted), number_of(new))


def _storage(folder: Path) -> Any:
    """Return trackio's storage in a folder, which it takes from the environment once, when it is imported."""
    if "trackio" not in sys.modules:
        before = os.environ.get("TRACKIO_DIR")
        os.environ["TRACKIO_DIR"] = str(folder.absolute())
        try:
            import trackio.utils
        finally:
            if before is None:
                del os.environ["TRACKIO_DIR"]
            else:
                os.environ["TRACKIO_DIR"] = before
    import trackio.utils
    from trackio.sqlite_storage import SQLiteStorage

    keeps = Path(trackio.utils.TRACKIO_DIR)
    if keeps.absolute() != folder.absolute():
        raise ConfigError(
            f"trackio was imported in this process with folder {keeps}, and keeps to it; export to that one, or use"
            " `bvit export --to trackio`, which is a process of its own"
        )
    return SQLiteStorage


def _described(run: Run) -> dict[str, Any]:
    facts = {name: run.info.get(name) for name in ("kind", "created", "seed")}
    return {**facts, **(run.config or {})}
