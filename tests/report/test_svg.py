"""SVG files of reports only draw: what matplotlib writes is on the lists, and nothing that loads, links or runs."""

from __future__ import annotations

import time

import pytest

from bvit_analysis.report.svg import is_inert_svg

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">%s</svg>'


@pytest.mark.parametrize(
    ("inside", "inert"),
    [
        (b"<path d='M 0 0'/><text style='fill: #fff'>a</text>", True),
        (b"<!-- note --><use xlink:href='#m1'/><g clip-path='url(#p1)'/>", True),
        (b"<image xlink:href='data:image/png;base64,AA'/>", True),
        (b"<script>alert(1)</script>", False),
        (b"<SCRIPT/>", False),
        (b"<g onclick='x()'/>", False),
        (b"<a xlink:href='#x'/>", False),
        (b"<foreignObject/>", False),
        (b"<animate/>", False),
        (b"<use xlink:href='https://e.invalid/a.svg#b'/>", False),
        (b"<image href='data:image/svg+xml;base64,AA'/>", False),
        (b"<style>@import 'x'</style>", False),
        (b"<style>* { background: url(https://e.invalid) }</style>", False),
        (b"<g style='fill: u\\72l(x)'/>", False),
        (b"<g fill='url(//e.invalid/x)'/>", False),
        (b"<g xmlns='http://www.w3.org/1999/xhtml'/>", False),
        (b"<g", False),
        (b"\xff", False),
        (b"<style>*{stroke-linejoin: round; stroke-linecap: butt}</style>", True),
        (b"<g transform='translate(1 2) rotate(-90)' style='fill: rgb(10%, 2%, 0%)'/>", True),
        (b"<g style='fill: url(#h1); stroke: url( \"#h2\" )'/>", True),
        (
            b"<text style=\"font-family: 'DejaVu Sans', sans-serif; font-size: 9px\">a: b</text>",
            True,
        ),
        (b"<g style='fill: image-set(\"http://e.invalid/x\" 1x)'/>", False),
        (b"<g style='fill: -webkit-image-set(url(#a) 1x)'/>", False),
        (b"<g style='filter: src(\"x\")'/>", False),
        (b"<g style='filter: cross-fade(url(#a))'/>", False),
        (b"<g style='background: url(#a)'/>", False),
        (b"<g style='--x: 1; fill: var(--x)'/>", False),
        (b"<g style='fill: url(data:image/png,x)'/>", False),
        (b"<g style='cursor: help'/>", False),
        (b"<style>*{fill: url/**/(x)}</style>", False),
        (b"<style>*{fill: red} @font-face{src: local(x)}</style>", False),
        (b"<style>*{fill: red}<![CDATA[@import 'x';]]></style>", False),
        (b"<style>*{fill: red} @import 'x'</style>", False),
        (b"<style type='text/x'>*{fill: red}</style>", False),
        (b"<style><g/></style>@import", True),
        (b"<image xlink:href='http://e.invalid/a.png'/>", False),
        (b"<image xlink:href='#a'/>", False),
        (b"<image xlink:href='data:image/png;base64,AA' href='//e.invalid'/>", False),
        (b"<g href='javascript:alert(1)'/>", False),
        (b"<linearGradient xlink:href='other.svg#a'/>", False),
        (b"<feImage href='http://e.invalid/x'/>", False),
        (b"<filter id='f'><feColorMatrix in='SourceGraphic' values='1 0 0'/></filter>", True),
        (b"<set attributeName='href' to='x'/>", False),
        (b"<g xml:base='http://e.invalid/'/>", False),
        (b"<g ping='x'/>", False),
        (b"<svg/>", False),
        (b"<g id='a'><use xlink:href='#b'/><use xlink:href='#b'/></g><g id='b'/>", False),
        (b"<path id='m' d='M 0 0'/><use xlink:href='#m'/>", True),
    ],
)
def test_only_svg_that_cannot_act_is_copied(inside: bytes, inert: bool) -> None:
    assert is_inert_svg(SVG % inside) is inert


def test_an_svg_without_entities_or_style_sheets_of_others() -> None:
    assert not is_inert_svg(b"<!DOCTYPE svg [<!ENTITY a 'b'>]>" + SVG % b"")
    assert not is_inert_svg(b"<?xml-stylesheet href='x'?>" + SVG % b"")
    assert is_inert_svg(b'<?xml version="1.0"?>' + SVG % b"")
    assert not is_inert_svg(b"<svg/>")


def test_an_svg_is_read_as_the_bytes_that_a_browser_reads() -> None:
    assert not is_inert_svg(b'<?xml version="1.0" encoding="utf-7"?>' + SVG % b"")
    assert not is_inert_svg(b'<?xml version="1.0" encoding="iso-8859-1"?>' + SVG % b"")
    assert is_inert_svg(b'<?xml version="1.0" encoding="UTF-8"?>' + SVG % b"")
    assert not is_inert_svg((SVG % b"").decode().encode("utf-16"))


@pytest.mark.parametrize(
    "inside",
    [
        b"<g>" * 100_000,
        b"<g/>" * 300_000,
        b"<g style='" + b"fill: url(" * 100_000 + b"'/>",
        b"<g style='" + b"fill: red;" * 100_000 + b"'/>",
        b"<path d='" + b"M 1 2 " * 300_000 + b"('/>",
        b"<g transform='" + b"rotate(" * 200_000 + b"'/>",
        b"<style>" + b"*{" * 300_000 + b"</style>",
    ],
    ids=["deep", "wide", "functions", "declarations", "path", "unclosed", "rules"],
)
def test_a_long_one_takes_time_in_proportion(inside: bytes) -> None:
    started = time.process_time()
    is_inert_svg(SVG % inside)
    assert time.process_time() - started < 4
