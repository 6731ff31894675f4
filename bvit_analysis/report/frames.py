"""Explorers in a page without a kernel: pictures drawn ahead, and controls that choose among them.

The frames come from an executed notebook, so they are data of unknown origin: one thing out of shape, and the page
shows the explorer's still picture instead. Every picture is in the page once a panel; a small script of ours hides
all but one.
"""

from __future__ import annotations

import base64
import binascii
import html
import io
import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from bvit_analysis.outputs import (
    FRAMES_VERSION,
    MOST_CONTROLS,
    MOST_FRAME_BYTES,
    MOST_OPTIONS,
    MOST_PANELS,
    MOST_SETTINGS,
    StoredControl,
    StoredFrames,
    StoredPanel,
    StoredPicture,
)
from bvit_analysis.report.pictures import Figure, image_tag, png_size

T = TypeVar("T")

_MAX_LABEL, _MAX_TEXT = 120, 4_000
_SLIDER_FROM = 4  # fewer numbers are quicker to choose from a list
_BROAD = 700  # a panel of more pixels has a row of its own
_NUMBER = r"[+-]?(?:[0-9][0-9,]*\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_AMOUNT = re.compile(rf"({_NUMBER})(?: to ({_NUMBER}))?(\s?%|\s[A-Za-z]{{1,12}})?")


@dataclass(frozen=True, kw_only=True)
class Control:
    """What a reader turns."""

    label: str
    options: list[str]
    start: int
    "Index of the option shown first."

    @property
    def ordered(self) -> bool:
        """Whether the options are numbers in order, many enough for a slider."""
        found = [_AMOUNT.fullmatch(option) for option in self.options]
        if len(found) < _SLIDER_FROM or None in found:
            return False
        amounts = [
            tuple(float(part.replace(",", "")) for part in match.groups()[:2] if part)
            for match in found
            if match
        ]
        units = {match.group(3) for match in found if match}
        pairs = list(zip(amounts, amounts[1:], strict=False))
        rising, falling = all(a < b for a, b in pairs), all(a > b for a, b in pairs)
        return len(units) == 1 and (rising or falling)


@dataclass(frozen=True, kw_only=True)
class Frames:
    """An explorer as pictures for many settings; the last control turns fastest."""

    title: str
    controls: list[Control]
    panels: dict[str, list[int]]
    "Name to the index of a picture for each setting."
    findings: list[str]
    "A sentence a setting."
    pictures: list[Figure]

    @property
    def start(self) -> int:
        """The setting shown first."""
        at = 0
        for control in self.controls:
            at = at * len(control.options) + control.start
        return at


def read_frames(data: object) -> Frames | None:
    """Return the frames of an explorer from a notebook's output, or None if anything about them is wrong.

    Args:
        data: JSON of unknown origin, of the shape of StoredFrames if all is well.
    """
    try:
        return _read(data)
    except (_Malformed, RecursionError):
        return None


class _Malformed(Exception):
    """The data is not shaped as frames are."""


def _read(data: object) -> Frames:
    found = _shaped(data, StoredFrames)
    if found["version"] != FRAMES_VERSION or isinstance(found["version"], bool):
        raise _Malformed
    controls = []
    for entry in _list(found["controls"], MOST_CONTROLS):
        control = _shaped(entry, StoredControl)
        options = [_text(text, _MAX_LABEL) for text in _list(control["options"], MOST_OPTIONS)]
        if not options:
            raise _Malformed
        start = _index(control["start"], len(options))
        label = _text(control["label"], _MAX_LABEL) or _text(control["name"], _MAX_LABEL)
        label = f"{label[:1].upper()}{label[1:]}" or "Choice"
        controls.append(Control(label=label, options=options, start=start))
    settings = math.prod(len(control.options) for control in controls)
    if settings > MOST_SETTINGS:
        raise _Malformed
    pictures = [_picture(entry) for entry in _list(found["pictures"], MOST_SETTINGS)]
    panels: dict[str, list[int]] = {}
    for entry in _list(found["panels"], MOST_PANELS):
        panel = _shaped(entry, StoredPanel)
        name = _text(panel["name"], _MAX_LABEL)
        shown = _list(panel["frames"], settings)
        if len(shown) != settings or name in panels:
            raise _Malformed
        panels[name] = [_index(number, len(pictures)) for number in shown]
    findings = [_text(text, _MAX_TEXT) for text in _list(found["findings"], settings)]
    if len(findings) != settings or not panels:
        raise _Malformed
    total = sum(len(pictures[index].data) for frames in panels.values() for index in set(frames))
    if total > MOST_FRAME_BYTES:
        raise _Malformed
    return Frames(
        title=_text(found["title"], _MAX_LABEL),
        controls=controls,
        panels=panels,
        findings=findings,
        pictures=pictures,
    )


def _shaped(value: object, shape: type[T]) -> T:
    """Return a mapping that has the keys of a shape; what they hold is still of unknown origin."""
    if not isinstance(value, Mapping) or not shape.__required_keys__ <= value.keys():  # type: ignore[attr-defined]
        raise _Malformed
    return cast(T, value)


def _list(value: object, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise _Malformed
    return value


def _index(value: object, count: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
        raise _Malformed
    return value


def _text(value: object, most: int) -> str:
    """Return text on one line, cut to a length."""
    if not isinstance(value, str):
        raise _Malformed
    line = " ".join("".join(c if c.isprintable() else " " for c in value[: 2 * most]).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _picture(entry: object) -> Figure:
    from PIL import Image

    stored = _shaped(entry, StoredPicture)
    png = stored["png"]
    if not isinstance(png, str) or len(png) > MOST_FRAME_BYTES * 4 // 3:
        raise _Malformed
    try:
        data = base64.b64decode(png, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _Malformed from error
    if png_size(data) is None:
        raise _Malformed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                image.verify()
    except Exception as error:  # Pillow raises many kinds
        raise _Malformed from error
    return Figure(mime="image/png", data=data, alt=_text(stored["alt"], _MAX_TEXT) or "picture")


def explorer_html(frames: Frames, anchor: str, files: str = "") -> str:
    """Return an explorer as a figure with controls; without JavaScript it shows its start.

    Args:
        frames: From read_frames().
        anchor: Id of the figure, unique in its page.
        files: HTML that is put below it, such as links to files.
    """
    bars, told = [], []
    for number, control in enumerate(frames.controls, start=1):
        bars.append(_control_html(control, f"{anchor}-control-{number}"))
        told.append(f"{control.label} {control.options[control.start]}")
    at = frames.start
    panels = []
    for shown in frames.panels.values():
        own = sorted(set(shown))
        places = " ".join(str(own.index(index)) for index in shown)
        images = "".join(
            image_tag(frames.pictures[index], hidden=index != shown[at]) for index in own
        )
        sizes = [png_size(frames.pictures[index].data) or (0, 0) for index in own]
        broad = " broad" if max(width for width, _ in sizes) > _BROAD else ""
        panels.append(f'<div class="panel{broad}" data-frames="{places}">{images}</div>')
    title = html.escape(frames.title)
    caption = f"<figcaption>{title}</figcaption>" if title else ""
    bar = (
        f'<div class="controls" role="group" aria-label="{title or "controls"}" hidden>'
        f"{''.join(bars)}</div>"
    )
    shown_first = html.escape(f"Shown: {', '.join(told)}.")
    finding = html.escape(frames.findings[at], quote=False)
    return (
        f'<figure class="explorer" id="{anchor}">{caption}'
        + (
            f'{bar}<noscript><p class="note">{shown_first} <small>The controls need JavaScript.</small></p></noscript>'
            if bars
            else ""
        )
        + f'<div class="panels">{"".join(panels)}</div>'
        + f'<p class="finding" aria-live="polite" data-findings="{_json(frames.findings)}">{finding}</p>'
        + f"{files}</figure>"
    )


def _control_html(control: Control, anchor: str) -> str:
    label, now = html.escape(control.label), html.escape(control.options[control.start])
    if len(control.options) == 1:
        return f'<span class="control fixed"><span>{label}</span> <output>{now}</output></span>'
    if control.ordered:
        # As long as the longest text, so that nothing moves while the handle is drawn.
        widest = html.escape(max(control.options, key=len))
        return (
            f'<span class="control"><label for="{anchor}">{label}</label>'
            f'<input type="range" id="{anchor}" min="0" max="{len(control.options) - 1}" step="1"'
            f' value="{control.start}" aria-valuetext="{now}" autocomplete="off"'
            f' data-texts="{_json(control.options)}">'
            f'<span class="reading"><output for="{anchor}">{now}</output>'
            f'<span class="widest" aria-hidden="true">{widest}</span></span></span>'
        )
    options = "".join(
        f"<option{' selected' if number == control.start else ''}>{html.escape(text)}</option>"
        for number, text in enumerate(control.options)
    )
    return (
        f'<span class="control"><label for="{anchor}">{label}</label>'
        f'<select id="{anchor}" autocomplete="off">{options}</select></span>'
    )


def _json(texts: Sequence[str]) -> str:
    return html.escape(json.dumps(list(texts)))
