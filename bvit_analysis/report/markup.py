"""Text of any origin as HTML that is safe to open: no script, no address to load, formulas as MathML.

Whatever a notebook holds, prose or tables, passes through a list of what is allowed; the rest is dropped or shown
as text, so that a page needs neither network nor JavaScript. nh3, the library for it, reads HTML as browsers do. It
has the last word: what this module adds to a table is added before it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from bvit_analysis.report.pictures import image_tag, picture

if TYPE_CHECKING:
    import nh3

_TEXT_TAGS = {"a", "b", "blockquote", "br", "code", "dd", "del", "dl", "dt", "em", "h1", "h2", "h3"}
_TEXT_TAGS |= {"h4", "h5", "h6", "hr", "i", "img", "li", "ol", "p", "pre", "span", "strong", "sub"}
_TEXT_TAGS |= {"div", "small", "sup", "u", "ul"}
_TABLE_TAGS = {"caption", "table", "tbody", "td", "tfoot", "th", "thead", "tr"}
_MATH_TAGS = {"math", "merror", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover", "mpadded"}
_MATH_TAGS |= {"mphantom", "mroot", "mrow", "ms", "mspace", "msqrt", "mstyle", "msub", "msubsup"}
_MATH_TAGS |= {"msup", "mtable", "mtd", "mtext", "mtr", "munder", "munderover"}
_SILENT_TAGS = {"script", "style", "template", "title", "noscript", "iframe", "object", "svg"}
_MAX_HTML, _MAX_MARKDOWN, _MAX_FORMULA = 4_000_000, 100_000, 10_000
_MAX_ENTITIES, _MAX_DEPTH = 100_000, 1_000
"The time that reading takes grows with the depth of HTML, and faster than the length of Markdown and formulas."
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]{0,9})")
_ALONE = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "wbr"}
_PLAIN = re.compile(r"[A-Za-z0-9 .,%#+-]*")
_CELL = {"colspan", "rowspan", "scope"}
_ATTRIBUTES = {"td": _CELL, "th": _CELL, "a": {"href"}, "img": {"src", "alt"}}
_MATH_ATTRIBUTES = {
    *("accent", "accentunder", "columnalign", "columnspacing", "depth", "display", "displaystyle"),
    *("fence", "form", "height", "largeop", "linethickness", "lspace", "mathsize", "mathvariant"),
    *("maxsize", "minsize", "movablelimits", "rowspacing", "rspace", "scriptlevel", "separator"),
    *("stretchy", "symmetric", "voffset", "width"),
}
_FRAME = {"class": "scroll", "role": "region", "aria-label": "table", "tabindex": "0"}
"Attributes of the frame in which a wide table scrolls."

_REL = "noreferrer noopener"
_OUTWARD = re.compile(r"(https?://|mailto:)", re.IGNORECASE)
_INWARD = re.compile(r"#.*|[A-Za-z0-9._%-]+\.html(#.*)?")
_DATA_URI = re.compile(r"data:image/(png|jpeg|gif|svg\+xml);base64,[A-Za-z0-9+/=\s]+")
# Possessive: a long cell that is no number after all must not be tried again from each of its digits.
_NUMBER = re.compile(
    r"[+\u2212-]?([0-9][0-9,_]*+\.?[0-9]*+|\.[0-9]++)([eE][+-]?[0-9]+)?\s*+%?|NaN|nan|inf"
)
# As nh3 writes it: values in double quotes, and no such quotes in them.
_IMAGE = re.compile(r'<img((?: [a-z]+="[^"]*")*)>')
_OUTWARD_LINK = re.compile(r'<a href="((?:https?://|mailto:)[^"]*)">', re.IGNORECASE)


@cache
def _prose(dressed: bool) -> nh3.Cleaner:
    """Return what cleans text, tables and pictures, with or without what this module adds to them."""
    import nh3

    added: dict[str, dict[str, set[str]]] = {
        "a": {"rel": {_REL}},
        "div": {name: {value} for name, value in _FRAME.items()},
        "td": {"class": {"number"}},
        "th": {"class": {"number"}},
    }
    return nh3.Cleaner(
        tags=_TEXT_TAGS | _TABLE_TAGS,
        clean_content_tags=_SILENT_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=_allowed,
        tag_attribute_values=added if dressed else {},
        url_schemes={"http", "https", "mailto", "data"},
        link_rel=None,
    )


@cache
def _formulas() -> nh3.Cleaner:
    import nh3

    return nh3.Cleaner(
        tags=_MATH_TAGS,
        clean_content_tags=_SILENT_TAGS,
        attributes={"*": _MATH_ATTRIBUTES},
        attribute_filter=_allowed,
        link_rel=None,
    )


def _allowed(tag: str, name: str, value: str) -> str | None:
    """Return the value of an attribute, or None if this one may not be shown."""
    if name == "href":
        return value if _OUTWARD.match(value) or _INWARD.fullmatch(value) else None
    if name == "src":
        return value if _DATA_URI.fullmatch(value) else None
    return value if name == "alt" or _PLAIN.fullmatch(value) else None


def is_heavy(text: str) -> bool:
    """Return whether HTML is longer, or its tags are deeper in one another, than is read in a moment."""
    if len(text) > _MAX_HTML or text.count("&") > _MAX_ENTITIES:
        return True
    depth = 0
    for tag in _TAG.finditer(text):
        if tag.group(2).lower() not in _ALONE:
            depth = max(0, depth - 1) if tag.group(1) else depth + 1
            if depth > _MAX_DEPTH:
                return True
    return False


def safe_html(text: str) -> str:
    """Return HTML reduced to text, tables and data-URI pictures; scripts, styles and addresses are dropped.

    Args:
        text: HTML of any origin, for example that of a pandas table.

    Example:
        >>> safe_html("<b onclick='x()'>a<script>alert(1)</script>&lt;b&gt;")
        '<b>a&lt;b&gt;</b>'
    """
    plain = _IMAGE.sub(_image_or_words, _prose(False).clean(text))
    plain = _OUTWARD_LINK.sub(rf'<a href="\1" rel="{_REL}">', plain)
    return _prose(True).clean(_framed_tables(plain))


def _image_or_words(image: re.Match[str]) -> str:
    """Return a picture that came with its data, or its alternative text."""
    given = dict(re.findall(r' ([a-z]+)="([^"]*)"', image.group(1)))
    if "src" not in given:
        return html.escape(html.unescape(given.get("alt", "")), quote=False)
    return f'<img src="{given["src"]}" alt="{given.get("alt") or "picture"}">'


def mathml(latex: str, *, block: bool) -> str:
    """Return a LaTeX formula as MathML, or as code where it cannot be read.

    Args:
        latex: Without dollar signs.
        block: On a line of its own.
    """
    import latex2mathml.converter

    if len(latex) > _MAX_FORMULA:
        return f"<code>{html.escape(latex[:_MAX_FORMULA])} ... ({len(latex)} characters)</code>"
    try:
        drawn = latex2mathml.converter.convert(latex, display="block" if block else "inline")
    except Exception:  # whatever it stumbles on, the source is shown
        return f"<code>{html.escape(latex)}</code>"
    shown = _formulas().clean(drawn)
    return f'<div class="math" tabindex="0">{shown}</div>' if block else shown


def _href(address: str) -> str:
    """Return the attribute of a link that a reader may follow; nothing is loaded before that."""
    if _OUTWARD.match(address):
        return f' href="{html.escape(address)}" rel="{_REL}"'
    return f' href="{html.escape(address)}"' if _INWARD.fullmatch(address) else ""


def _framed_tables(text: str) -> str:
    """Give each table a frame that scrolls on a narrow screen, and numbers their alignment."""
    frame = "".join(f' {name}="{value}"' for name, value in _FRAME.items())
    return re.sub(
        r"<table>.*?</table>",
        lambda match: f"<div{frame}>{_aligned(match.group())}</div>",
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
    if len(text) > _MAX_MARKDOWN:
        cut = f"{html.escape(text[:_MAX_MARKDOWN])} ... ({len(text)} characters, shown as text)"
        return f'<pre tabindex="0">{cut}</pre>'
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
