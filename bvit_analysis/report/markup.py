"""Text of any origin as HTML that is safe to open: no script, no address to load, formulas as MathML.

Whatever a notebook holds, prose or tables, passes through a list of what is allowed; the rest is dropped or shown
as text, so that a page needs neither network nor JavaScript.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any, final
from urllib.parse import unquote

from bvit_analysis.report.pictures import image_tag, picture

_TEXT_TAGS = {"a", "b", "blockquote", "br", "code", "dd", "del", "dl", "dt", "em", "h1", "h2", "h3"}
_TEXT_TAGS |= {"h4", "h5", "h6", "hr", "i", "li", "ol", "p", "pre", "span", "strong", "sub", "sup"}
_TEXT_TAGS |= {"div", "small", "u", "ul"}
_TABLE_TAGS = {"caption", "table", "tbody", "td", "tfoot", "th", "thead", "tr"}
_MATH_TAGS = {"math", "merror", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover", "mpadded"}
_MATH_TAGS |= {"mphantom", "mroot", "mrow", "ms", "mspace", "msqrt", "mstyle", "msub", "msubsup"}
_MATH_TAGS |= {"msup", "mtable", "mtd", "mtext", "mtr", "munder", "munderover"}
_VOID_TAGS = {"br", "hr", "img", "mspace"}
_SILENT_TAGS = {"script", "style", "template", "title", "noscript", "iframe", "object", "svg"}
_PLAIN = re.compile(r"[A-Za-z0-9 .,%#+-]*")
_ATTRIBUTES = {"colspan", "rowspan", "scope"}
_MATH_ATTRIBUTES = {
    *("accent", "accentunder", "columnalign", "columnspacing", "depth", "display", "displaystyle"),
    *("fence", "form", "height", "largeop", "linethickness", "lspace", "mathsize", "mathvariant"),
    *("maxsize", "minsize", "movablelimits", "rowspacing", "rspace", "scriptlevel", "separator"),
    *("stretchy", "symmetric", "voffset", "width"),
}
_NUMBER = re.compile(
    r"[+\u2212-]?([0-9][0-9,_]*\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*%?|NaN|nan|inf"
)
_DATA_URI = re.compile(r"data:image/(png|jpeg|gif|svg\+xml);base64,[A-Za-z0-9+/=\s]+")


@final
class _Cleaner(HTMLParser):
    """Writes anew what is allowed of a piece of HTML, balanced; text is escaped, the rest is dropped."""

    def __init__(self, tags: set[str], attributes: set[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes = tags, attributes
        self.parts: list[str] = []
        self.open: list[str] = []
        self.silent: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT_TAGS:
            self.silent.append(tag)
        if self.silent or tag not in self.tags:
            return
        kept = "".join(
            f' {name}="{html.escape(value)}"'
            for name, value in attrs
            if name in self.attributes and value is not None and _PLAIN.fullmatch(value)
        )
        if tag == "a":
            kept = _href(next((value or "" for name, value in attrs if name == "href"), ""))
        if tag == "img":
            given = {name: value or "" for name, value in attrs}
            if not _DATA_URI.fullmatch(given.get("src", "")):
                self.parts.append(html.escape(given.get("alt", "")))
                return
            alt = html.escape(given.get("alt", "") or "picture")
            kept = f' src="{html.escape(given["src"])}" alt="{alt}"'
        # Unlike <br>, an empty element of MathML has to close itself, or it swallows what follows.
        self.parts.append(f"<{tag}{kept}{' /' if tag == 'mspace' else ''}>")
        if tag not in _VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.silent:
            if tag == self.silent[-1]:
                self.silent.pop()
            return
        if tag in self.open:
            while True:
                last = self.open.pop()
                self.parts.append(f"</{last}>")
                if last == tag:
                    break

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.parts.append(html.escape(data, quote=False))

    def finish(self) -> str:
        self.close()
        self.parts.extend(f"</{tag}>" for tag in reversed(self.open))
        return "".join(self.parts)


def safe_html(text: str) -> str:
    """Return HTML reduced to text, tables and data-URI pictures; scripts, styles and addresses are dropped.

    Args:
        text: HTML of any origin, for example that of a pandas table.

    Example:
        >>> safe_html("<td onclick='x()'>a<script>alert(1)</script>&lt;b&gt;")
        '<td>a&lt;b&gt;</td>'
    """
    cleaner = _Cleaner(_TEXT_TAGS | _TABLE_TAGS | {"img"}, _ATTRIBUTES)
    cleaner.feed(text)
    return _framed_tables(cleaner.finish())


def mathml(latex: str, *, block: bool) -> str:
    """Return a LaTeX formula as MathML, or as code where it cannot be read.

    Args:
        latex: Without dollar signs.
        block: On a line of its own.
    """
    import latex2mathml.converter

    try:
        drawn = latex2mathml.converter.convert(latex, display="block" if block else "inline")
    except Exception:  # whatever it stumbles on, the source is shown
        return f"<code>{html.escape(latex)}</code>"
    cleaner = _Cleaner(_MATH_TAGS, _MATH_ATTRIBUTES)
    cleaner.feed(drawn)
    shown = cleaner.finish()
    return f'<div class="math" tabindex="0">{shown}</div>' if block else shown


def _href(address: str) -> str:
    """Return the attribute of a link that a reader may follow; nothing is loaded before that."""
    if re.match(r"(https?://|mailto:)", address, re.IGNORECASE):
        return f' href="{html.escape(address)}" rel="noreferrer noopener"'
    if address.startswith("#") or re.fullmatch(r"[A-Za-z0-9._%-]+\.html(#.*)?", address):
        return f' href="{html.escape(address)}"'
    return ""


def _framed_tables(text: str) -> str:
    """Give each table a frame that scrolls on a narrow screen, and numbers their alignment."""
    return re.sub(
        r"<table>.*?</table>",
        lambda match: (
            '<div class="scroll" role="region" aria-label="table" tabindex="0">'
            f"{_aligned(match.group())}</div>"
        ),
        text,
        flags=re.DOTALL,
    )


def _aligned(table: str) -> str:
    if "span=" in table:
        return table  # columns cannot be counted
    rows = [
        re.findall(r"<(t[hd])>(.*?)</\1>", row, flags=re.DOTALL)
        for row in re.findall(r"<tr>(.*?)</tr>", table, flags=re.DOTALL)
    ]
    columns: dict[int, list[bool]] = {}
    for row in rows:
        for number, (tag, content) in enumerate(row):
            word = content.strip()
            if tag == "td" and word:
                columns.setdefault(number, []).append(bool(_NUMBER.fullmatch(word)))
    numeric = {number for number, votes in columns.items() if all(votes)}

    def row_again(match: re.Match[str]) -> str:
        count = -1

        def cell_again(cell: re.Match[str]) -> str:
            nonlocal count
            count += 1
            return f'<{cell.group(1)} class="number">' if count in numeric else cell.group()

        return re.sub(r"<(t[hd])>", cell_again, match.group())

    return re.sub(r"<tr>.*?</tr>", row_again, table, flags=re.DOTALL)


def markdown_html(text: str, *, pages: Mapping[str, str], attachments: Mapping[str, Any]) -> str:
    """Return Markdown with formulas as safe HTML; raw HTML in it is shown as text.

    Args:
        text: Source of a Markdown cell.
        pages: Notebook file name to page, for links between notebooks.
        attachments: The cell's own pictures, name to mime bundle.
    """
    import mistune
    from mistune.plugins.math import math, math_in_list, math_in_quote

    class Renderer(mistune.HTMLRenderer):
        def link(self, text: str, url: str, title: str | None = None) -> str:
            name, mark, anchor = unquote(url).partition("#")
            target = pages[name] + mark + anchor if name in pages else url
            return f"<a{_href(target)}>{text}</a>"

        def image(self, text: str, url: str, title: str | None = None) -> str:
            bundle = attachments.get(unquote(url).removeprefix("attachment:"), {})
            figure = picture(bundle, {}, plain_text(text) or "picture")
            return image_tag(figure) if figure else f"[{text}]"

        def inline_math(self, text: str) -> str:
            return mathml(text, block=False)

        def block_math(self, text: str) -> str:
            return mathml(text, block=True)

    markdown = mistune.create_markdown(
        renderer=Renderer(escape=True),
        plugins=["table", "strikethrough", math, math_in_list, math_in_quote],
    )
    drawn = str(markdown(text))
    return _framed_tables(re.sub(r"<(table|tr|th|td)( style=\"[^\"]*\")?>", r"<\1>", drawn))


def plain_text(drawn: str) -> str:
    """Return the text of a piece of HTML on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", drawn)).split())
