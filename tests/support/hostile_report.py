"""Damaged and hostile results of notebooks, for a report that has to name each and stop at none."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat

from bvit_analysis.outputs import FRAMES_MIME
from tests.support.executed import HOSTILE, frames_json, grey, new, put, shown
from tests.support.hostile import MARKUP, SURROGATE

SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{}</svg>'
SVGS = (
    "<g style='fill: image-set(\"http://e.invalid/a\" 1x)'/>",
    "<g style='fill: -webkit-image-set(\"http://e.invalid/b\" 1x)'/>",
    "<style>@import 'http://e.invalid/c';</style>",
    "<image xlink:href='http://e.invalid/d.png'/>",
    "<use xlink:href='http://e.invalid/e.svg#x'/>",
    "<script>fetch('http://e.invalid/f')</script>",
    "<g onload='alert(1)'/>",
    "<foreignObject><body xmlns='http://www.w3.org/1999/xhtml'><img src='http://e.invalid/g'/></body></foreignObject>",
    "<style>*{cursor: url(http://e.invalid/h)}</style>",
    "<set attributeName='href' to='javascript:alert(1)'/>",
)
TEXTS = (MARKUP, "\x1b]0;title\x07", SURROGATE, "x" * 400_000, "\r" * 400_000, HOSTILE)


def _raw(executed: Path, name: str, status: bytes | None, notebook: bytes | None) -> None:
    folder = executed / name
    folder.mkdir()
    for file, data in (("status.json", status), ("notebook.ipynb", notebook)):
        if data is not None:
            (folder / file).write_bytes(data)


def _status(**changes: Any) -> dict[str, Any]:
    return {
        **{"schema_version": 1, "state": "succeeded", "notebook": "/x/n.ipynb", "error": None},
        **{"cell": None, "parameters": {}, "started": "", "seconds": 1.0, "identity": ""},
        **{"versions": {}, **changes},
    }


STATUSES: dict[str, Any] = {
    "seconds-huge": _status(seconds=10**400),
    "seconds-nan": _status(seconds=float("nan")),
    "seconds-negative": _status(seconds=-1),
    "bytes-huge": _status(bytes=10**400),
    "started-list": _status(started=[1]),
    "error-long": _status(state="failed", error="e" * 5_000_000),
    "error-markup": _status(state="failed", error=MARKUP, cell=10**400),
    "state-markup": _status(state=MARKUP),
    "versions-list": _status(versions=[1]),
    "versions-markup": _status(versions={MARKUP: MARKUP, SURROGATE: SURROGATE}),
    "parameters-list": _status(parameters=[1]),
    "parameters-markup": _status(parameters={MARKUP: [MARKUP, SURROGATE], "a" * 100_000: 1}),
    "parameters-long": _status(parameters={"site": "s" * 3_000_000}),
    "runs-root": _status(parameters={"runs": ["/"]}),
    "runs-zero-byte": _status(parameters={"runs": ["\0", "", "x" * 300_000, SURROGATE]}),
    "runs-many": _status(parameters={"runs": [f"/nowhere/{n}" for n in range(40)]}),
    "runs-numbers": _status(parameters={"runs": [1, None, {"a": 1}]}),
    "left-out": _status(left_out=[MARKUP, 1]),
    "left-out-number": _status(left_out=7),
    "notebook-zero-byte": _status(notebook="/x/\0.ipynb"),
}


def make_executed(executed: Path, runs: Sequence[Path]) -> Path:
    """Make results over each of some runs and over all of them, and results that are damaged themselves."""
    for number, run in enumerate(runs):
        cells = [new.new_markdown_cell("# Look"), new.new_code_cell("1")]
        put(executed, f"look-{number:03d}", cells, parameters={"runs": [os.fspath(run)]})
    outputs = [
        new.new_output("stream", name="stdout", text=text.encode("utf-8", "replace").decode())
        for text in TEXTS
    ]
    hostile = [
        new.new_markdown_cell(MARKUP),
        new.new_markdown_cell("[" * 300_000),
        new.new_markdown_cell(
            "[a](javascript:alert(1)) ![b](http://e.invalid/i.png) $" + "x_" * 99_999 + "$"
        ),
        new.new_code_cell("(" * 300_000, outputs=outputs),
        *(shown({"image/svg+xml": SVG.format(inside)}) for inside in SVGS),
        shown({"text/html": "<div>" * 100_000, "text/plain": "deep"}),
        shown({"text/html": MARKUP + "<style>@import 'http://e.invalid/j'</style>"}),
        shown({"text/latex": "\\href{javascript:alert(1)}{x}"}),
        shown({FRAMES_MIME: frames_json(text=MARKUP), "image/png": grey(3)}),
        shown({FRAMES_MIME: {"version": 1, "controls": [[]] * 9_999}, "image/png": grey(3)}),
        shown({"image/png": "no picture"}),
    ]
    put(executed, "texts", hostile, parameters={"runs": [os.fspath(run) for run in runs]})
    figures = executed / "texts" / "figures"
    figures.mkdir()
    for number, inside in enumerate(SVGS, start=1):
        (figures / f"figure-{number:02d}.svg").write_text(SVG.format(inside))
    (figures / "figure-90.svg").write_text(SVG.format("<g>" * 200_000))
    (figures / "figure-91.svg").write_text(SVG.format("<path d='M 0 0'/>"))
    book = nbformat.writes(new.new_notebook(cells=[new.new_markdown_cell("# Its text")])).encode()
    for name, status in STATUSES.items():
        _raw(executed, f"status-{name}", json.dumps(status).encode(), book)
    deep = b'{"a":' * 400 + b"1" + b"}" * 400
    _raw(
        executed,
        "status-deep",
        json.dumps(_status()).encode()[:-1] + b', "b": ' + deep + b"}",
        book,
    )
    _raw(executed, "status-half", b'{"schema', book)
    _raw(executed, "status-none", None, book)
    _raw(executed, "status-no-utf-8", b"\xff\xfe", None)
    fine = json.dumps(_status()).encode()
    _raw(executed, "notebook-half", fine, book[:40])
    _raw(executed, "notebook-deep", fine, b'{"cells": ' + b"[" * 50_000 + b"]" * 50_000 + b"}")
    _raw(executed, "notebook-list", fine, b"[]")
    _raw(
        executed,
        "notebook-cells",
        fine,
        b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": 3}',
    )
    _raw(executed, os.fsdecode(b"name-\xff\xe9\n<b>"), fine, book)
    (executed / "link").symlink_to(executed)
    return executed
