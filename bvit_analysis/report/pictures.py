"""Pictures of a notebook: read from untrusted data, checked, and written into a page."""

from __future__ import annotations

import base64
import binascii
import contextlib
import html
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bvit_analysis.outputs import ALT_KEY

_MIMES = ("image/png", "image/jpeg", "image/gif", "image/svg+xml")
_THUMBNAIL_WIDTH = 480
_PNG_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_MAX_SIDE = 20_000
_WIDE = 900  # a picture of more pixels scrolls on a narrow screen, or its text would be too small to read


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture of a notebook."""

    mime: str
    "For example 'image/png'."
    data: bytes
    "As stored."
    alt: str
    "What a reader is told who does not see it; plain text."


def picture(data: Mapping[str, Any], metadata: Mapping[str, Any], fallback: str) -> Figure | None:
    """Return the picture of an output's data, or None if it has none that can be read.

    Args:
        data: Mime type to content.
        metadata: Of the output; may hold the alternative text.
        fallback: Alternative text where there is none.
    """
    for mime in _MIMES:
        if mime not in data:
            continue
        stored = joined(data[mime])
        if mime == "image/svg+xml":
            content = stored.encode()
        else:
            try:
                content = base64.b64decode("".join(stored.split()), validate=True)
            except (binascii.Error, ValueError):
                continue
        own = metadata.get(mime, {})
        alt = (own.get(ALT_KEY) if isinstance(own, Mapping) else None) or metadata.get(ALT_KEY)
        return Figure(mime=mime, data=content, alt=" ".join(str(alt or fallback).split()))
    return None


def png_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a PNG in pixels, or None if it is none of a sensible size."""
    if not data.startswith(_PNG_HEAD) or len(data) < 24:
        return None
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return (width, height) if 0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE else None


def image_tag(figure: Figure, *, hidden: bool = False) -> str:
    """Return an ``<img>`` that holds the picture; with its size, so that a page does not jump."""
    size = png_size(figure.data) if figure.mime == "image/png" else None
    sides = "" if size is None else f' width="{size[0]}" height="{size[1]}"'
    wide = ' class="wide"' if size is not None and size[0] > _WIDE else ""
    return (
        f'<img src="{data_uri(figure.mime, figure.data)}" alt="{html.escape(figure.alt)}"'
        f"{sides}{wide}{' hidden' if hidden else ''}>"
    )


def thumbnail(figure: Figure) -> str:
    """Return a small copy of a figure as a data URI, or the figure itself where it cannot be read."""
    from PIL import Image

    if figure.mime == "image/png":
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("error")  # a picture that unpacks to gigabytes only warns
            with Image.open(io.BytesIO(figure.data), formats=["PNG"]) as image:
                small = Image.new("RGB", image.size, "white")
                content = image.convert("RGBA")
                small.paste(content, mask=content)
                small.thumbnail((_THUMBNAIL_WIDTH, _THUMBNAIL_WIDTH))
                buffer = io.BytesIO()
                small.quantize(128).save(buffer, "PNG", optimize=True)
                return data_uri("image/png", buffer.getvalue())
    return data_uri(figure.mime, figure.data)


def data_uri(mime: str, data: bytes) -> str:
    """Return bytes as an address that holds them."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def joined(text: Any) -> str:
    """Return text that a notebook may store as a list of lines."""
    return "".join(str(part) for part in text) if isinstance(text, list) else str(text)
