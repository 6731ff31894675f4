"""SVG files that only draw: elements, attributes and CSS that matplotlib writes, and nothing else.

A browser opens an SVG as a document of its own, so it is copied whole or left out. It is read as a stream, in time
and memory proportional to its length; what is not on a list is refused, whatever it would do.
"""

from __future__ import annotations

import re
from typing import final
from xml.parsers import expat

_SVG = "http://www.w3.org/2000/svg "
_LINK = "http://www.w3.org/1999/xlink href"
_TAGS = {"svg", "g", "defs", "style", "path", "use", "text", "tspan", "clipPath", "rect", "image"}
_TAGS |= {"linearGradient", "radialGradient", "stop", "title", "desc", "pattern", "metadata"}
_TAGS |= {"filter", "feColorMatrix", "feComposite"}
_PROPERTIES = {
    *("fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "opacity"),
    *("stroke-linecap", "stroke-linejoin", "stroke-miterlimit", "stroke-dasharray"),
    *("stroke-dashoffset", "stop-color", "stop-opacity", "clip-path", "clip-rule", "filter"),
    *("font", "font-family", "font-size", "font-style", "font-weight", "font-variant"),
    *("font-stretch", "text-anchor", "dominant-baseline", "white-space", "image-rendering"),
    *("shape-rendering", "display", "visibility", "overflow", "mix-blend-mode", "isolation"),
}
_ATTRIBUTES = _PROPERTIES | {
    *("d", "points", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "fx", "fy", "r", "rx", "ry"),
    *("dx", "dy", "width", "height", "viewBox", "preserveAspectRatio", "transform", "version"),
    *("gradientTransform", "gradientUnits", "patternTransform", "patternUnits", "spreadMethod"),
    *("patternContentUnits", "clipPathUnits", "offset", "type", "values", "operator", "in", "in2"),
    *("k1", "k2", "k3", "k4", "result", "color-interpolation-filters"),
    "http://www.w3.org/XML/1998/namespace space",
}
_NUMBERS = r"[0-9eE.,%+\-\s]*"
_FUNCTION = re.compile(
    rf"url\(\s*(['\"]?)#[\w.:-]+\1\s*\)"
    rf"|(?:rgba?|translate|rotate|scale|matrix|skewX|skewY)\({_NUMBERS}\)"
)
# No bracket, colon, semicolon, backslash, at sign or slash is left when the functions above are taken out.
_PLAIN = re.compile(r"[\w\s.,#%+*'\"\-&!|=?$~^]*")
_SELECTOR = re.compile(r"[\w\s.,#*-]+")
_IMAGE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=\s]*")
_SHEET = ("style", "type", "text/css")
_MOST_DEPTH = 200


class _Refused(Exception):
    """Something is not on the list."""


def is_inert_svg(content: bytes) -> bool:
    """Return whether an SVG only draws: no script, no link, nothing loaded, no entity to expand."""
    try:
        content.decode("utf-8")
        _Reader().read(content)
    except (UnicodeDecodeError, expat.ExpatError, ValueError, _Refused):
        return False
    return True


@final
class _Reader:
    """Looks at one element after the other and keeps none."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._css: list[str] = []
        self._others: set[str] = set()
        self._used: set[str] = set()

    def read(self, content: bytes) -> None:
        parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        parser.buffer_text = True
        parser.XmlDeclHandler = self._declared
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._never
        parser.ProcessingInstructionHandler = self._never
        parser.EntityDeclHandler = self._never
        parser.Parse(content, True)
        # What is used is a path: uses of uses could be doubled again and again, which never stops drawing.
        if self._used & self._others:
            raise _Refused

    def _never(self, *_: object) -> None:
        raise _Refused

    def _declared(self, _: str, encoding: str | None, __: int) -> None:
        if encoding is not None and encoding.lower() != "utf-8":
            raise _Refused

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        tag = name.removeprefix(_SVG)
        if tag not in _TAGS or not name.startswith(_SVG) or len(self._open) >= _MOST_DEPTH:
            raise _Refused
        if (tag == "svg") != (not self._open):
            raise _Refused
        self._open.append(tag)
        for key, value in attributes.items():
            if key in ("href", _LINK):
                self._link(tag, value)
            elif key == "style":
                _check_declarations(value)
            elif key in ("id", "class") or (tag, key, value) == _SHEET:
                continue  # names, of which nothing is loaded
            elif key not in _ATTRIBUTES or not _is_plain(value):
                raise _Refused
        if tag != "path" and "id" in attributes:
            self._others.add(attributes["id"])

    def _link(self, tag: str, value: str) -> None:
        if tag == "image" and _IMAGE.fullmatch(value):
            return
        if not value.startswith("#") or tag == "image":
            raise _Refused
        if tag == "use":
            self._used.add(value[1:])

    def _end(self, _: str) -> None:
        if self._open.pop() == "style":
            _check_sheet("".join(self._css))
            self._css.clear()

    def _text(self, text: str) -> None:
        if self._open and self._open[-1] == "style":
            self._css.append(text)


def _is_plain(value: str) -> bool:
    """Return whether a value has no function but those that matplotlib writes, and nothing that ends it."""
    return _PLAIN.fullmatch(_FUNCTION.sub(" ", value)) is not None


def _check_declarations(text: str) -> None:
    for declaration in text.split(";"):
        name, mark, value = declaration.partition(":")
        if not declaration.strip():
            continue
        if not mark or name.strip() not in _PROPERTIES | {"transform"} or not _is_plain(value):
            raise _Refused


def _check_sheet(text: str) -> None:
    *rules, rest = text.split("}")
    if rest.strip():
        raise _Refused
    for rule in rules:
        selector, mark, declarations = rule.partition("{")
        if not mark or not _SELECTOR.fullmatch(selector):
            raise _Refused
        _check_declarations(declarations)
