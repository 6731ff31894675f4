"""Where runs lie: the run folders below a folder, behind links as well."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from bvit_analysis.errors import RunError
from bvit_analysis.files import RunWarning

RUN_FILE = "run.json"
MOST_LINKED_FOLDERS = 5_000
"Folders that are looked into behind links; a link may lead anywhere, to the root of a disk as well."


def find_runs(root: str | Path, *, depth: int = 4) -> list[Path]:
    """Return the run folders at or below a folder, sorted, each once.

    Links to folders are followed. A run that is reached in several ways is returned by its own path if that lies
    below the folder, else by the first link; a link that leads nowhere or back is passed over.

    Args:
        root: Where to look.
        depth: Folders below it that are looked into.

    Raises:
        RunError: If the folder does not exist.
    """
    top = Path(root)
    if not top.is_dir():
        raise RunError(f"no folder at {top}; make runs with `bvit train`, or pass their folder")
    runs: list[Path] = []
    seen: set[str] = set()
    links: list[Path] = []
    left = MOST_LINKED_FOLDERS
    _look(top, top, depth, seen, runs, links, None)
    while links:  # after all that needs no link, so that a run has its own path where there is one
        link = links.pop(0)
        left = _look(link, top, depth, seen, runs, links, left)
        if left <= 0:
            names = ", ".join(str(one) for one in [link, *links][:3])
            warnings.warn(
                f"links in {top} lead to more than {MOST_LINKED_FOLDERS} folders, not all are looked into"
                f" ({names}); pass the folders of runs themselves",
                RunWarning,
                stacklevel=2,
            )
            break
    return sorted(runs)


def _look(
    start: Path,
    top: Path,
    depth: int,
    seen: set[str],
    runs: list[Path],
    links: list[Path],
    left: int | None,
) -> int:
    """Add the runs of a folder and the links met on the way; return how many more folders may be looked into."""
    room = MOST_LINKED_FOLDERS if left is None else left
    for place, folders, files in os.walk(start):
        here = Path(place)
        known = os.path.realpath(here)
        if known in seen or room <= 0:
            folders.clear()
            continue
        seen.add(known)
        room -= left is not None
        if RUN_FILE in files:
            runs.append(here)
            folders.clear()
        elif len(here.relative_to(top).parts) >= depth:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        linked = [name for name in folders if (here / name).is_symlink()]
        links.extend(here / name for name in linked)
        folders[:] = [name for name in folders if name not in linked]
    return room
