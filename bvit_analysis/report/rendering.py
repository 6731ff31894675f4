"""Cells of an executed notebook as HTML: prose, folded code, tables, pictures and explorers that stay operable."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bvit_analysis.outputs import FIGURE_ENDINGS, FRAMES_MIME, STEM_KEY, stem_parts
from bvit_analysis.report.frames import explorer_html, read_frames
from bvit_analysis.report.markup import is_heavy, markdown_html, mathml, plain_text, safe_html
from bvit_analysis.report.pictures import Figure, image_tag, joined, picture

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[@-Z\\-_]")
_MAX_TEXT = 20_000
_MAX_SOURCE = 100_000
_FILE_KINDS = dict(zip(FIGURE_ENDINGS, ("PNG", "SVG", "numbers (CSV)"), strict=True))


@dataclass(kw_only=True)
class RenderedNotebook:
    """A notebook as HTML, with what an index wants to know of it."""

    title: str
    "Text of the first heading, or empty."
    body: str
    "Safe HTML of all cells."
    figures: list[Figure] = field(default_factory=list)
    "In the order shown; of an explorer its still picture."
    explorers: int = 0
    "How many of the figures have controls."
    fault: str = ""
    "Why nothing of it is shown, or empty."


def render_notebook(
    notebook: Any,
    *,
    name: str,
    pages: Mapping[str, str],
    stopped_at: int | None = None,
    files: Mapping[str, Mapping[str, str]] | None = None,
) -> RenderedNotebook:
    """Return an executed notebook as one piece of HTML; code is folded, errors are open.

    Args:
        notebook: An nbformat 4 node.
        name: For alternative texts.
        pages: Notebook file name to page, for links between notebooks.
        files: Stem of a saved figure to its addresses by ending, for links below the figure.
        stopped_at: Zero-based position of the cell at which the execution ended, None if at its end.

    Returns:
        Title, body and figures.
    """
    rendered = RenderedNotebook(title="", body="")
    parts: list[str] = []
    heading = ""
    cells = [
        cell
        for cell in notebook.cells
        if "papermill-error-cell-tag" not in cell.metadata.get("tags", [])
    ]
    for position, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            attachments = cell.get("attachments", {})
            drawn = markdown_html(str(cell.source), pages=pages, attachments=attachments)
            titles = re.findall(r"<h[1-4]>(.*?)</h[1-4]>", drawn, flags=re.DOTALL)
            heading = plain_text(titles[-1]) if titles else heading
            rendered.title = rendered.title or (plain_text(titles[0]) if titles else "")
            parts.append(f'<section class="prose">{drawn}</section>')
        elif cell.cell_type == "code":
            parts.append(
                _code_cell(cell, position, stopped_at, heading or name, rendered, files or {})
            )
    rendered.body = "\n".join(parts)
    return rendered


def _code_cell(
    cell: Any,
    position: int,
    stopped_at: int | None,
    heading: str,
    rendered: RenderedNotebook,
    files: Mapping[str, Mapping[str, str]],
) -> str:
    source = str(cell.source)
    stopped = position == stopped_at
    pending = stopped_at is not None and position > stopped_at
    lines = source.count("\n") + 1
    tags = cell.metadata.get("tags", [])
    label = "Code"
    if "parameters" in tags:
        label = "Parameters"
    elif "injected-parameters" in tags:
        label = "Parameters of this execution"
    note = ", not executed" if pending else ""
    unit = "line" if lines == 1 else "lines"
    parts = [
        f'<details class="code"{" open" if stopped else ""}>'
        f"<summary>{label} <small>{lines} {unit}{note}</small></summary>"
        f'<pre tabindex="0">{_highlighted(source)}</pre></details>'
    ]
    if stopped:
        parts.append('<p class="stopped">The execution ended in this cell.</p>')
    parts += [_output(output, heading, rendered, files) for output in cell.get("outputs", [])]
    mark = ' id="stopped"' if stopped else ""
    return f'<section class="cell"{mark}>{"".join(parts)}</section>'


def _highlighted(source: str) -> str:
    from pygments import highlight  # type: ignore[import-untyped]
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
    from pygments.lexers import PythonLexer  # type: ignore[import-untyped]

    if len(source) > _MAX_SOURCE:  # the time of colours may grow faster than the text
        return html.escape(_cut(source, _MAX_SOURCE))
    return str(highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)))


def _output(
    output: Any,
    heading: str,
    rendered: RenderedNotebook,
    files: Mapping[str, Mapping[str, str]],
) -> str:
    kind = output.get("output_type")
    if kind == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        return _pre(joined(output.get("text", "")), name)
    if kind == "error":
        trace = "\n".join(str(line) for line in output.get("traceback", []))
        return _pre(trace or f"{output.get('ename')}: {output.get('evalue')}", "error")
    if kind not in ("display_data", "execute_result"):
        return ""
    shown = _figure(output, heading, rendered, files)
    if shown:
        return shown
    data = output.get("data", {})
    if "text/html" in data:
        given = joined(data["text/html"])
        if is_heavy(given):
            note = '<p class="note">A table too large or too deep for this page; shown as text.</p>'
            return note + _pre(joined(data.get("text/plain", "")), "plain")
        cleaned = safe_html(given)
        if cleaned.strip():
            return f'<div class="output">{cleaned}</div>'
    if "text/markdown" in data:
        drawn = markdown_html(joined(data["text/markdown"]), pages={}, attachments={})
        return f'<div class="output prose">{drawn}</div>'
    if "text/latex" in data:
        return mathml(joined(data["text/latex"]).strip().strip("$"), block=True)
    if "application/vnd.jupyter.widget-view+json" in data:
        return '<p class="note">An interactive control; execute the notebook to use it.</p>'
    return _pre(joined(data.get("text/plain", "")), "plain")


def _figure(
    output: Any,
    heading: str,
    rendered: RenderedNotebook,
    files: Mapping[str, Mapping[str, str]],
) -> str:
    """Return an output's explorer or picture with links to its files, empty if it has none."""
    data, metadata = output.get("data", {}), output.get("metadata", {})
    number = len(rendered.figures) + 1
    still = picture(data, metadata, f"Figure {number}, under the heading: {heading}")
    frames = read_frames(data[FRAMES_MIME]) if FRAMES_MIME in data else None
    if frames is not None and still is None:
        still = frames.pictures[next(iter(frames.panels.values()))[frames.start]]
    if still is None:
        return ""
    rendered.figures.append(still)
    anchor, links = f"figure-{number}", _file_links(metadata, number, files)
    if frames is not None:
        rendered.explorers += 1
        return explorer_html(frames, anchor, links)
    return f'<figure id="{anchor}"><div class="picture">{image_tag(still)}</div>{links}</figure>'


def _file_links(
    metadata: Mapping[str, Any], number: int, files: Mapping[str, Mapping[str, str]]
) -> str:
    own = metadata.get("image/png", {})
    given = own.get(STEM_KEY) if isinstance(own, Mapping) else None
    stems = [
        stem
        for stem in (given if isinstance(given, list) else [given])
        if isinstance(stem, str) and stem in files
    ]
    lines = []
    for stem in stems:
        # The stem of one picture of several goes on with its name: figure-03-ranking.
        _, part = stem_parts(stem) or (0, "")
        part = part if len(stems) > 1 else ""
        name = f"Figure {number}{f', {part}' if part else ''}"
        links = ", ".join(
            f'<a href="{html.escape(files[stem][ending])}"'
            f' aria-label="{html.escape(f"{name}: {kind}")}">{kind}</a>'
            for ending, kind in _FILE_KINDS.items()
            if ending in files[stem]
        )
        lines.append(f"<span>{html.escape(name)}: {links}</span>")
    return f'<p class="files">{" ".join(lines)}</p>' if lines else ""


def _pre(text: str, kind: str) -> str:
    text = "\n".join(_last_state(line) for line in _ANSI.sub("", text).split("\n")).rstrip()
    text = _cut(text, _MAX_TEXT)
    if not text.strip():
        return ""
    return f'<pre class="{kind}" tabindex="0">{html.escape(text)}</pre>'


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}\n[{len(text) - most} more characters]"


def _last_state(line: str) -> str:
    """Return what a terminal would show in the end of a line that a progress bar wrote again and again."""
    return line.removesuffix("\r").rpartition("\r")[2]
