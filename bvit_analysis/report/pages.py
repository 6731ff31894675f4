"""What an index and a page say of one execution: its state, its parameters, its first figure, its group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bvit_analysis.report.pictures import thumbnail
from bvit_analysis.report.rendering import RenderedNotebook
from bvit_analysis.report.runs import TONES
from bvit_analysis.suite.jobs import JobStatus

_MOST_SHOWN = 2000


@dataclass(frozen=True, kw_only=True)
class Page:
    """What an index and a page say of one execution; every string is still to be escaped."""

    name: str
    file: str
    anchor: str
    notebook: str
    "Stem of the source, which several executions share."
    title: str
    state: str
    tone: str
    seconds: str
    started: str
    error: str | None
    facts: list[tuple[str, str]]
    own: list[tuple[str, str]]
    "Parameters in which it differs from other executions of its notebook."
    figures: int
    explorers: int
    thumbnail: str | None
    thumbnail_alt: str
    has_heading: bool
    has_stop: bool


def page_of(
    status: JobStatus, file: str, drawn: RenderedNotebook, statuses: Sequence[JobStatus]
) -> Page:
    """Return what is said of one execution.

    Args:
        status: What became of it.
        file: Name of its page.
        drawn: Its notebook.
        statuses: Of all executions, for the parameters in which it differs.
    """
    facts = [(name[:_MOST_SHOWN], _cut(_shown(value))) for name, value in status.parameters.items()]
    facts += [("source", Path(status.notebook).name), ("identity", status.identity)]
    facts += list(status.versions.items())
    first = drawn.figures[0] if drawn.figures else None
    return Page(
        name=status.name,
        file=file,
        anchor=f"page-{file.removesuffix('.html')}",
        notebook=Path(status.notebook).stem,
        title=drawn.title or status.name,
        state=status.state.replace("_", " "),
        tone=TONES.get(status.state, "bad"),
        seconds=f"{status.seconds:.1f}",
        started=status.started.replace("T", " ").replace("+00:00", " UTC"),
        error=status.error,
        facts=facts,
        own=_own_parameters(status, statuses),
        figures=len(drawn.figures),
        explorers=drawn.explorers,
        thumbnail=None if first is None else thumbnail(first),
        thumbnail_alt="" if first is None else first.alt,
        has_heading="<h1>" in drawn.body,
        has_stop='id="stopped"' in drawn.body,
    )


def _own_parameters(status: JobStatus, statuses: Sequence[JobStatus]) -> list[tuple[str, str]]:
    """Return the parameters in which an execution differs from others of its notebook."""
    beside = [other for other in statuses if other.notebook == status.notebook]
    names = sorted({name for other in beside for name in other.parameters})
    missing = object()
    return [
        (name, _brief(name, status.parameters.get(name, "as in the notebook")))
        for name in names
        if any(
            other.parameters.get(name, missing) != status.parameters.get(name, missing)
            for other in beside
        )
    ]


def _brief(name: str, value: Any) -> str:
    if name == "runs" and isinstance(value, list):
        value = [Path(str(item)).name for item in value]
    text = _shown(value)
    return (text if len(text) <= 80 else f"{text[:77]}...") or "(empty)"


def grouped(pages: Sequence[Page]) -> list[tuple[str, list[Page]]]:
    """Return title and pages of each notebook with several executions; others share a group without title."""
    books: dict[str, list[Page]] = {}
    for page in pages:
        books.setdefault(page.notebook, []).append(page)
    groups: list[tuple[str, list[Page]]] = []
    for book in books.values():
        if len(book) > 1:
            groups.append((book[0].title, book))
        elif groups and not groups[-1][0]:
            groups[-1][1].extend(book)
        else:
            groups.append(("", book))
    return groups


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value) or "[]"
    return str(value)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."
