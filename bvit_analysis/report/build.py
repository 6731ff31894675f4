"""Writes the report: index.html, a page an execution, saved figures beside them, a manifest, a PDF on request.

    out/index.html
    out/<execution>.html              with pictures inside, those of explorers drawn ahead
    out/figures/<execution>/          each figure as PNG and SVG, its numbers as CSV
    out/manifest.json                 what was made of what
    out/report.pdf                    all pages, printed

The pages hold all they show, so they open from a file, on any machine, years later. A content security policy in
each forbids to load anything and to run any script but our own, whatever a notebook may have put there.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bvit_analysis.errors import SuiteError, one_by_one
from bvit_analysis.extras import missing_extra, not_installed
from bvit_analysis.files import write_bytes_atomic, write_json_atomic
from bvit_analysis.report.figure_files import copy_figures, remove_stale
from bvit_analysis.report.pages import Page, grouped, page_of
from bvit_analysis.report.pdf import find_browser, for_print, print_pdf
from bvit_analysis.report.rendering import RenderedNotebook, render_notebook
from bvit_analysis.report.runs import RunRow, run_folders, run_rows
from bvit_analysis.suite import read_statuses
from bvit_analysis.suite.jobs import DAMAGED, JobStatus, versions

MANIFEST_VERSION = 1
PDF_NAME = "report.pdf"
TITLE = "Binary Vision Transformers: what the runs show"
_MAX_NOTEBOOK_BYTES = 96 * 2**20
_MOST_NAMED = 200


def build_report(
    executed: Path,
    out: Path,
    *,
    title: str = TITLE,
    runs: Sequence[Path] | None = None,
    pdf: bool = False,
) -> Path:
    """Write the report of all notebooks that execute() has put below a folder, failed ones included; see write_report.

    Returns:
        Path of ``index.html``.
    """
    return write_report(executed, out, title=title, runs=runs, pdf=pdf).index


@dataclass(frozen=True, kw_only=True)
class Report:
    """What write_report() wrote."""

    index: Path
    "Path of ``index.html``. Beside it lie one page an execution, the saved figures and ``manifest.json``."
    left_out: list[str]
    "A sentence for each run, part, figure or execution that could not be shown whole; the index has them, too."


def write_report(
    executed: Path,
    out: Path,
    *,
    title: str = TITLE,
    runs: Sequence[Path] | None = None,
    pdf: bool = False,
) -> Report:
    """Write the report of all notebooks that execute() has put below a folder, failed ones included.

    What is damaged does not stop the rest: it is shown as far as it can be, and named.

    Args:
        executed: The folder that was given to execute().
        out: Folder of the report; made if missing. Pages of an earlier report there are replaced or removed.
        title: Heading of the index.
        runs: Run folders for the table on top; None takes those the notebooks were executed over.
        pdf: Print all pages into ``report.pdf`` as well.

    Returns:
        Where the report is, and what was left out.

    Raises:
        SuiteError: If no executed notebook is found, or the PDF cannot be printed.
        MissingExtraError: If a package or, for the PDF, a browser is missing; the text has the remedy.
    """
    _require()
    if pdf:
        find_browser()  # before any work
    executed, out = Path(executed), Path(out)
    statuses = _statuses(executed)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SuiteError(f"cannot make the folder {str(out)!r}: {why}; choose another") from error
    names = _file_names([status.name for status in statuses])
    links = {f"{name}.ipynb": file for name, file in names.items()}
    for status in statuses:  # a link to a notebook leads to its first execution
        links.setdefault(Path(status.notebook).name, names[status.name])
    drawn_each, faulty = one_by_one(
        statuses, lambda status: _drawn(executed, out, status, statuses, names, links)
    )
    left_out = [f"no page of {status.name}: {why}" for status, why in faulty]
    for status, (page, _, _, faults) in drawn_each:
        if status.error and status.error.startswith(DAMAGED):
            left_out.append(f"{page.name}: {status.error}")
        left_out += [*faults, *(f"{page.name}: left out a run: {why}" for why in status.left_out)]
    statuses = [status for status, _ in drawn_each]
    pages = [page for _, (page, _, _, _) in drawn_each]
    rendered = [drawn for _, (_, drawn, _, _) in drawn_each]
    figures = [files for _, (_, _, files, _) in drawn_each]
    rows, damages = run_rows(run_folders(statuses) if runs is None else [Path(run) for run in runs])
    damages = list(dict.fromkeys([*left_out, *damages]))
    common = {
        "title": title,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": versions().get("bvit_analysis", ""),
    }
    front = {
        "groups": grouped(pages),
        "runs": rows,
        "warnings": _few(damages),
        "summary": _summary(statuses, len(rows)),
    }
    files = ["index.html", *(page.file for page in pages)]
    files += [address for stems in figures for own in stems.values() for address in own.values()]
    _write_pages(out, common, pages, rendered)
    _write_index(out, common, front)
    remove_stale(out, files)
    manifest = _manifest(common, statuses, pages, rows, damages)
    write_json_atomic(out / "manifest.json", {**manifest, "files": files})
    if pdf:  # last, so that all else is there if it fails
        _print(out / PDF_NAME, common, front, pages, rendered)
        _write_index(out, common, front, PDF_NAME)
        write_json_atomic(out / "manifest.json", {**manifest, "files": [*files, PDF_NAME]})
    return Report(index=out / "index.html", left_out=damages)


def _statuses(executed: Path) -> list[JobStatus]:
    try:
        statuses = read_statuses(executed) if executed.is_dir() else []
    except OSError as error:
        raise SuiteError(f"cannot look into {str(executed)!r}: {error.strerror}") from error
    if not statuses:
        raise SuiteError(
            f"no executed notebooks in {str(executed)!r}; execute some with `bvit notebooks`"
        )
    return sorted(statuses, key=lambda status: (Path(status.notebook).stem, status.name))


def _drawn(
    executed: Path,
    out: Path,
    status: JobStatus,
    statuses: Sequence[JobStatus],
    names: Mapping[str, str],
    links: Mapping[str, str],
) -> tuple[Page, RenderedNotebook, dict[str, dict[str, str]], list[str]]:
    """Return page, content, saved figures and what is left out of one execution."""
    file = names[status.name]
    files, faults = copy_figures(executed / status.name, out, file.removesuffix(".html"))
    drawn = _render(executed / status.name, status, links, files)
    if drawn.fault:
        faults.append(f"{status.name}: {drawn.fault}")
    return page_of(status, file, drawn, statuses), drawn, files, faults


def _few(texts: Sequence[str]) -> list[str]:
    more = len(texts) - _MOST_NAMED
    return [*texts[:_MOST_NAMED], *([f"{more} more are in manifest.json"] if more > 0 else [])]


def _write(path: Path, text: str) -> None:
    # Names of files may hold bytes that are no UTF-8; Python keeps them as characters that no file can hold.
    write_bytes_atomic(path, text.encode("utf-8", "backslashreplace"))


def _require() -> None:
    missing = not_installed(("jinja2", "latex2mathml", "mistune", "nbformat", "nh3", "pygments"))
    if missing:
        raise missing_extra("the report", missing, "notebooks")


def _templates() -> Any:
    import jinja2
    from markupsafe import Markup

    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    # Style sheet and script are ours, and quotation marks in them must stay what they are.
    script = (folder / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals["css"] = Markup((folder / "report.css").read_text(encoding="utf-8"))
    environment.globals["script"] = Markup(script)
    environment.globals["policy"] = Markup(
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}';"
        " base-uri 'none'; form-action 'none'"
    )
    environment.globals["wide"] = False
    return environment


def _write_pages(
    out: Path,
    common: Mapping[str, str],
    pages: Sequence[Page],
    rendered: Sequence[RenderedNotebook],
) -> None:
    from markupsafe import Markup

    templates = _templates()
    for number, (page, drawn) in enumerate(zip(pages, rendered, strict=True)):
        text = templates.get_template("notebook.html").render(
            **common,
            page=page,
            body=Markup(drawn.body),  # safe by construction: see rendering.py
            before=pages[number - 1] if number else None,
            after=pages[number + 1] if number + 1 < len(pages) else None,
        )
        _write(out / page.file, text)


def _write_index(
    out: Path, common: Mapping[str, str], front: Mapping[str, Any], pdf: str = ""
) -> None:
    text = _templates().get_template("index.html").render(**common, **front, wide=True, pdf=pdf)
    _write(out / "index.html", text)


def _print(
    path: Path,
    common: Mapping[str, str],
    front: Mapping[str, Any],
    pages: Sequence[Page],
    rendered: Sequence[RenderedNotebook],
) -> None:
    from markupsafe import Markup

    anchors = {page.file: page.anchor for page in pages}
    bodies = {
        page.file: Markup(for_print(drawn.body, page.anchor, anchors))
        for page, drawn in zip(pages, rendered, strict=True)
    }
    template = _templates().get_template("print.html")
    print_pdf(template.render(**common, **front, pages=pages, bodies=bodies, pdf=""), path)


def _file_names(names: Sequence[str]) -> dict[str, str]:
    """Return a plain file name for each execution, whatever it is called."""
    taken = {"index"}
    files = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "notebook"
        unique, number = plain, 2
        while unique.lower() in taken:
            unique, number = f"{plain}-{number}", number + 1
        taken.add(unique.lower())
        files[name] = f"{unique}.html"
    return files


def _render(
    folder: Path,
    status: JobStatus,
    links: Mapping[str, str],
    files: Mapping[str, Mapping[str, str]],
) -> RenderedNotebook:
    import nbformat

    path = folder / "notebook.ipynb"
    nothing = '<p class="note">Nothing was recorded: the execution ended before its first cell.</p>'
    if status.state == "running":
        return RenderedNotebook(title="", body='<p class="note">Still being executed.</p>')
    if path.is_symlink() or not path.is_file():
        return RenderedNotebook(title="", body=nothing)
    if path.stat().st_size > _MAX_NOTEBOOK_BYTES:
        return _not_shown(f"its notebook has more than {_MAX_NOTEBOOK_BYTES} bytes")
    stopped = None if status.state == "succeeded" else status.cell
    try:
        notebook = nbformat.read(str(path), as_version=4)
        return render_notebook(
            notebook, name=status.name, pages=links, stopped_at=stopped, files=files
        )
    except Exception as error:  # whatever is wrong with one notebook, the others get their pages
        return _not_shown(f"its notebook is damaged ({type(error).__name__})")


def _not_shown(why: str) -> RenderedNotebook:
    note = f"Nothing is shown: {why}."
    return RenderedNotebook(title="", body=f'<p class="note">{note}</p>', fault=why)


def _summary(statuses: Sequence[JobStatus], runs: int) -> str:
    counts: dict[str, int] = {}
    for status in statuses:
        counts[status.state] = counts.get(status.state, 0) + 1
    states = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in counts.items())
    sources = len({Path(status.notebook).stem for status in statuses})
    books = f"{sources} notebook{'' if sources == 1 else 's'}"
    if sources != len(statuses):
        books = f"{len(statuses)} executions of {books}"
    return f"{books} ({states}) over {runs} run{'' if runs == 1 else 's'}"


def _manifest(
    common: Mapping[str, str],
    statuses: Sequence[JobStatus],
    pages: Sequence[Page],
    rows: Sequence[RunRow],
    damages: Sequence[str],
) -> dict[str, Any]:
    return {
        "schema_version": MANIFEST_VERSION,
        **common,
        "index": "index.html",
        "pages": [
            {
                "name": status.name,
                "notebook": page.notebook,
                "file": page.file,
                "title": page.title,
                "state": status.state,
                "error": status.error,
                "seconds": status.seconds,
                "started": status.started,
                "parameters": status.parameters,
                "identity": status.identity,
                "figures": page.figures,
                "explorers": page.explorers,
            }
            for status, page in zip(statuses, pages, strict=True)
        ],
        "runs": [
            {
                "run_id": row.run_id,
                "recipe": row.recipe,
                "seed": row.seed,
                "state": row.state,
                "test_accuracy": row.test_accuracy,
            }
            for row in rows
        ],
        "warnings": list(damages),
    }
