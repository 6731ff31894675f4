"""A run folder that grows as a training would make it, with known values and no training."""

from __future__ import annotations

from pathlib import Path

from bvit_analysis.records import RunWriter

SITES = [
    {"site_id": 0, "site": "fc", "kind": "weight", "shape": [4, 8], "n_weights": 32},
]


def grow(writer: RunWriter, first: int, last: int) -> None:
    """Write rows of the steps first..last, with known values, as a training would."""
    for step in range(first, last + 1):
        accuracy = step / 100 if step % 5 == 0 else float("nan")
        writer.append("scalars", {"step": step, "loss": 1.0 / step, "accuracy": accuracy})
        writer.append("sites", {"step": step, "site_id": 0, "flip_rate": 0.5 / step})
    writer.append("timings", {"step": last, "images_per_s": 640.0, "elapsed_s": last / 10})
    writer.seal()


def begin(folder: Path, total: int = 40) -> RunWriter:
    """Open a folder for a run of so many steps."""
    writer = RunWriter(folder, info={"sites": SITES})
    writer.write_status("running", 0, total)
    return writer
