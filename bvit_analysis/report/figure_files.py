"""Files beside the pages: figures copied from the jobs, and what an earlier report left behind.

A job's folder may come from anywhere, so a file is copied only if it is what its name says and cannot act; report/svg.py
says which SVG that is.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

from bvit_analysis.files import DamagedFile, open_regular, read_json, write_bytes_atomic
from bvit_analysis.outputs import FIGURE_ENDINGS, FIGURES_FOLDER, stem_parts
from bvit_analysis.report.pictures import png_size
from bvit_analysis.report.svg import is_inert_svg

_WRITTEN = re.compile(
    r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.(?:html|pdf)"
    rf"|{FIGURES_FOLDER}/[A-Za-z0-9_-][A-Za-z0-9._-]*"
    rf"/[A-Za-z0-9_-][A-Za-z0-9._-]*\.(?:{'|'.join(FIGURE_ENDINGS)})"
)
_MAX_BYTES = 64 * 2**20
_MAX_FILES = 3_000


def copy_figures(job: Path, out: Path, page: str) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Copy the saved figures of a job into the report.

    Args:
        job: The job's folder; its ``figures`` may be missing.
        out: The report's folder.
        page: File name of the job's page without ``.html``.

    Returns:
        Stem to addresses, relative to the page, by ending; and a sentence for each file of a figure that is left out.
    """
    source = job / FIGURES_FOLDER
    if source.is_symlink():
        return {}, [f"{source} is a link, its figures are left out"]
    if not source.is_dir():
        return {}, []
    found: dict[str, dict[str, str]] = {}
    faults: list[str] = []
    listed = sorted(source.iterdir())
    if len(listed) > _MAX_FILES:
        faults.append(f"{source} holds {len(listed)} files, {_MAX_FILES} of them are looked at")
    for path in listed[:_MAX_FILES]:
        stem, _, ending = path.name.partition(".")
        if stem_parts(stem) is None or ending not in FIGURE_ENDINGS:
            continue
        try:
            with open_regular(path, _MAX_BYTES) as file:
                content = file.read()
            if not _is_what_it_says(content, ending):
                raise DamagedFile(f"is no {ending.upper()} that only shows something")
        except (DamagedFile, FileNotFoundError) as error:
            faults.append(f"left out {path}: {error}")
            continue
        target = out / FIGURES_FOLDER / page
        target.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(target / path.name, content)
        found.setdefault(stem, {})[ending] = f"{FIGURES_FOLDER}/{page}/{path.name}"
    return found, faults


def _is_what_it_says(content: bytes, ending: str) -> bool:
    if ending == "png":
        return png_size(content) is not None
    if ending == "svg":
        return is_inert_svg(content)
    with contextlib.suppress(UnicodeDecodeError):
        return "\0" not in content.decode("utf-8")
    return False


def remove_stale(out: Path, written: Iterable[str]) -> list[str]:
    """Remove what an earlier report wrote here and this one did not; nothing else is touched.

    Args:
        out: The report's folder, with the manifest of the earlier report.
        written: Names of this report's files, relative to ``out``.

    Returns:
        The names that were removed.
    """
    try:
        manifest = read_json(out / "manifest.json")
    except (FileNotFoundError, DamagedFile):
        return []
    names = manifest.get("files")
    if not isinstance(names, list):  # of a report before files were listed
        pages = manifest.get("pages")
        names = [page.get("file") for page in (pages if isinstance(pages, list) else []) if page]
    keep = {"index.html", *written}
    removed = []
    for name in names:
        # The manifest may have been changed: only names that a report writes are followed.
        if not isinstance(name, str) or not _WRITTEN.fullmatch(name) or name in keep:
            continue
        path = out / name
        parents = [out / part for part in Path(name).parents if part != Path()]
        if (
            path.is_symlink()
            or not path.is_file()
            or any(folder.is_symlink() for folder in parents)
        ):
            continue
        path.unlink()
        removed.append(name)
        for folder in parents:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if it is empty now
    return removed
