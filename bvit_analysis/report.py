"""One offline HTML gallery of executed notebooks: index.html, a page a notebook, and a manifest.

The pages are plain HTML and CSS with pictures inside, so they open from a file, on any machine, years later.
A content security policy in each page forbids to load anything, whatever a notebook may have put there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bvit_analysis.errors import BvitError, MissingExtraError, SuiteError
from bvit_analysis.job_status import JobStatus, versions
from bvit_analysis.parameters import INSTALL_NOTEBOOKS
from bvit_analysis.records import SCHEMAS, RunWarning, load_run, write_json_atomic
from bvit_analysis.rendering import (
    Figure,
    RenderedNotebook,
    data_uri,
    render_notebook,
)
from bvit_analysis.run_files import write_bytes_atomic
from bvit_analysis.suite import read_statuses

MANIFEST_VERSION = 1
_THUMBNAIL_WIDTH = 480
_MAX_NOTEBOOK_BYTES = 256 * 2**20
_TONES = {"succeeded": "good", "finished": "good", "running": "warn", "interrupted": "warn"}
_TONES |= {"silent": "warn"}


@dataclass(frozen=True, kw_only=True)
class _Page:
    """What an index and a page say of one notebook; every string is still to be escaped."""

    name: str
    file: str
    title: str
    state: str
    tone: str
    seconds: str
    started: str
    error: str | None
    facts: list[tuple[str, str]]
    figures: int
    thumbnail: str | None
    thumbnail_alt: str
    has_heading: bool
    has_stop: bool


@dataclass(frozen=True, kw_only=True)
class _RunRow:
    """One line of the table of runs, as text."""

    run_id: str
    recipe: str
    seed: str
    state: str
    tone: str
    step: str
    accuracy: str
    count: str
    test_accuracy: float | None


def build_report(
    executed: Path,
    out: Path,
    *,
    title: str = "Binary Vision Transformers: what the runs show",
    runs: Sequence[Path] | None = None,
) -> Path:
    """Write the report of all notebooks that execute() has put below a folder, failed ones included.

    Args:
        executed: The folder that was given to execute().
        out: Folder of the report; made if missing.
        title: Heading of the index.
        runs: Run folders for the table on top; None takes those the notebooks were executed over.

    Returns:
        Path of ``index.html``. Beside it lie one page a notebook and ``manifest.json``.

    Raises:
        SuiteError: If no executed notebook is found.
        MissingExtraError: If a package is missing; the text has the line that installs it.
    """
    _require()
    executed, out = Path(executed), Path(out)
    statuses = read_statuses(executed) if executed.is_dir() else []
    if not statuses:
        raise SuiteError(
            f"no executed notebooks in {str(executed)!r}; execute some with `bvit notebooks`"
        )
    files = _file_names([status.name for status in statuses])
    links = {f"{name}.ipynb": file for name, file in files.items()}
    rendered = [_render(executed / status.name, status, links) for status in statuses]
    pages = [
        _page(status, files[status.name], drawn)
        for status, drawn in zip(statuses, rendered, strict=True)
    ]
    folders = _run_folders(statuses) if runs is None else [Path(run) for run in runs]
    rows, damages = _run_rows(folders)
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    common = {"title": title, "created": created, "version": versions().get("bvit_analysis", "")}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SuiteError(f"cannot make the folder {str(out)!r}: {error.strerror}") from error
    templates = _templates()
    from markupsafe import Markup

    for number, (page, drawn) in enumerate(zip(pages, rendered, strict=True)):
        text = templates.get_template("notebook.html").render(
            **common,
            page=page,
            body=Markup(drawn.body),  # safe by construction: see rendering.py
            before=pages[number - 1] if number else None,
            after=pages[number + 1] if number + 1 < len(pages) else None,
        )
        write_bytes_atomic(out / page.file, text.encode())
    text = templates.get_template("index.html").render(
        **common,
        wide=True,
        pages=pages,
        runs=rows,
        warnings=damages,
        summary=_summary(statuses, len(rows)),
    )
    write_bytes_atomic(out / "index.html", text.encode())
    write_json_atomic(out / "manifest.json", _manifest(common, statuses, pages, rows, damages))
    return out / "index.html"


def _require() -> None:
    for package in ("jinja2", "latex2mathml", "mistune", "nbformat", "pygments"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"the report needs the package {package!r}; install it with: {INSTALL_NOTEBOOKS}"
            )


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
    # The style sheet is ours, and quotation marks in it must stay what they are.
    environment.globals["css"] = Markup((folder / "report.css").read_text(encoding="utf-8"))
    environment.globals["wide"] = False
    return environment


def _file_names(names: Sequence[str]) -> dict[str, str]:
    """Return a plain file name for each notebook, whatever it is called."""
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


def _render(folder: Path, status: JobStatus, links: Mapping[str, str]) -> RenderedNotebook:
    import nbformat

    path = folder / "notebook.ipynb"
    nothing = '<p class="note">Nothing was recorded: the execution ended before its first cell.</p>'
    if path.is_symlink() or not path.is_file():
        return RenderedNotebook(title="", body=nothing)
    if path.stat().st_size > _MAX_NOTEBOOK_BYTES:
        return RenderedNotebook(title="", body='<p class="note">The notebook is too large.</p>')
    try:
        notebook = nbformat.read(str(path), as_version=4)
    except Exception:  # nbformat raises whatever its parsers raise
        return RenderedNotebook(title="", body='<p class="note">The notebook is damaged.</p>')
    stopped = None if status.state == "succeeded" else status.cell
    return render_notebook(notebook, name=status.name, pages=links, stopped_at=stopped)


def _page(status: JobStatus, file: str, drawn: RenderedNotebook) -> _Page:
    facts = [(name, _shown(value)) for name, value in status.parameters.items()]
    facts += [("source", Path(status.notebook).name), ("identity", status.identity)]
    facts += list(status.versions.items())
    first = drawn.figures[0] if drawn.figures else None
    return _Page(
        name=status.name,
        file=file,
        title=drawn.title or status.name,
        state=status.state.replace("_", " "),
        tone=_TONES.get(status.state, "bad"),
        seconds=f"{status.seconds:.1f}",
        started=status.started.replace("T", " ").replace("+00:00", " UTC"),
        error=status.error,
        facts=facts,
        figures=len(drawn.figures),
        thumbnail=None if first is None else _thumbnail(first),
        thumbnail_alt="" if first is None else first.alt,
        has_heading="<h1>" in drawn.body,
        has_stop='id="stopped"' in drawn.body,
    )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value) or "[]"
    return str(value)


def _thumbnail(figure: Figure) -> str:
    """Return a small copy of a figure as a data URI, or the figure itself where it cannot be read."""
    from PIL import Image

    if figure.mime == "image/png":
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("error")  # a picture that unpacks to gigabytes only warns
            with Image.open(io.BytesIO(figure.data), formats=["PNG"]) as image:
                small = Image.new("RGB", image.size, "white")
                picture = image.convert("RGBA")
                small.paste(picture, mask=picture)
                small.thumbnail((_THUMBNAIL_WIDTH, _THUMBNAIL_WIDTH))
                buffer = io.BytesIO()
                small.quantize(128).save(buffer, "PNG", optimize=True)
                return data_uri("image/png", buffer.getvalue())
    return data_uri(figure.mime, figure.data)


def _run_folders(statuses: Sequence[JobStatus]) -> list[Path]:
    folders: dict[str, None] = {}
    for status in statuses:
        runs = status.parameters.get("runs", [])
        if isinstance(runs, list):
            folders.update(dict.fromkeys(run for run in runs if isinstance(run, str)))
    return [Path(folder) for folder in folders]


def _run_rows(folders: Sequence[Path]) -> tuple[list[_RunRow], list[str]]:
    rows, damages = [], []
    for folder in folders:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RunWarning)  # they are shown on the page
            try:
                row, found = _run_row(folder)
            except BvitError as error:
                unread = {"recipe": "", "seed": "", "step": "", "accuracy": "", "count": ""}
                row = _RunRow(
                    run_id=folder.name, state="unreadable", tone="bad", test_accuracy=None, **unread
                )
                found = [str(error)]
        rows.append(row)
        damages += found
    return rows, damages


def _run_row(folder: Path) -> tuple[_RunRow, list[str]]:
    run = load_run(folder)
    for kind in SCHEMAS:
        getattr(run, kind)  # damage inside a part shows only when it is read
    config = run.config or {}
    recipe = config.get("recipe")
    name = recipe.get("name", "custom") if isinstance(recipe, dict) else "float"
    result = run.result or {}
    accuracy = result.get("test_accuracy")
    if isinstance(accuracy, bool) or not isinstance(accuracy, int | float):
        accuracy = None
    row = _RunRow(
        run_id=run.run_id,
        recipe=str(name) if run.config is not None else "watched",
        seed=str(config.get("seed", run.info.get("seed", ""))),
        state=run.state,
        tone=_TONES.get(run.state, "bad"),
        step=f"{run.step:,}",
        accuracy="" if accuracy is None else f"{accuracy:.2%}",
        count=str(result.get("test_count", "")),
        test_accuracy=None if accuracy is None else float(accuracy),
    )
    return row, [f"{run.run_id}: {warning}" for warning in run.warnings]


def _summary(statuses: Sequence[JobStatus], runs: int) -> str:
    counts: dict[str, int] = {}
    for status in statuses:
        counts[status.state] = counts.get(status.state, 0) + 1
    states = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in counts.items())
    books = "notebook" if len(statuses) == 1 else "notebooks"
    return f"{len(statuses)} {books} ({states}) over {runs} run{'' if runs == 1 else 's'}"


def _manifest(
    common: Mapping[str, str],
    statuses: Sequence[JobStatus],
    pages: Sequence[_Page],
    rows: Sequence[_RunRow],
    damages: Sequence[str],
) -> dict[str, Any]:
    return {
        "schema_version": MANIFEST_VERSION,
        **common,
        "index": "index.html",
        "pages": [
            {
                "name": status.name,
                "file": page.file,
                "title": page.title,
                "state": status.state,
                "error": status.error,
                "seconds": status.seconds,
                "started": status.started,
                "parameters": status.parameters,
                "identity": status.identity,
                "figures": page.figures,
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
