"""What a watch notes of sites in run.json, written into a recorded run by hand."""

from __future__ import annotations

import json
from pathlib import Path

from bvit_analysis.records import Run, load_run


def noted(folder: Path, found: dict[str, dict[str, object]]) -> Run:
    """Return the run of a folder after more keys were added to the rows of some of its sites."""
    info = json.loads((folder / "run.json").read_text())
    for row in info["sites"]:
        row |= found.get(row["site"], {})
    (folder / "run.json").write_text(json.dumps(info))
    return load_run(folder)
