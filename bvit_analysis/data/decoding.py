"""Image files as models are shown them: upright, RGB, 8 bits a channel, whatever mode and range they are stored in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "SGI", "TGA"),
    *("TIFF", "WEBP"),
)

DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"What Pillow raises for files that are cut off, empty, not images, or bombs."

_BITS_PER_SAMPLE = 258  # TIFF's tag

# Headers that are looked at before a training; more would take minutes on a slow disk.
_LOOKED_AT = 2000


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type's name where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def suffixes() -> frozenset[str]:
    """Return how names of image files end, in lower case: those of the formats that hold pixels and that Pillow opens."""
    known = Image.registered_extensions()
    return frozenset(end for end, kind in known.items() if kind in _FORMATS and kind in Image.OPEN)


def open_image(path: str | Path) -> Image.Image:
    """Read an image file, the first frame where it has several, in the mode that it is stored in."""
    with open(path, "rb") as file:  # noqa: PTH123 - torchvision gives text, a million times
        image = Image.open(file)
        image.load()
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says and make it RGB of 8 bits.

    Of 16 bits the upper 8 are kept, as Pillow itself does with 16-bit colours; grey is repeated, a palette looked up,
    CMYK converted, and an alpha channel dropped.

    Raises:
        ValueError: If its values have no known range, as floating-point numbers have none.
    """
    bits = _bits(image)
    if _is_turned(image):
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or bits > 16:
        raise ValueError(
            f"its values (mode {image.mode}) have no known range; store it with 8 or 16 bits a channel"
        )
    if bits > 8:
        values = np.asarray(image, dtype=np.int64) >> (bits - 8)
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns of a palette with transparency otherwise
    return image.convert("RGB")


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except DECODE_ERRORS:  # a damaged note on an image that is whole
        return False


def _bits(image: Image.Image) -> int:
    """Return how many bits the one channel of an image of whole numbers has, 8 for all other images."""
    if image.mode.startswith("I;16"):
        stored = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
        return int(stored[0])
    if image.mode == "I":
        # a PGM of more than 8 bits, which Pillow spreads over 16, and PNG in older releases
        return 16 if image.format in ("PPM", "PNG") else 32
    return 8


def survey(paths: Sequence[str]) -> list[str]:
    """Look at the headers of image files, evenly spread ones if there are many, and say what is unusual.

    Returns:
        One sentence, or none where nothing is unusual.
    """
    every = max(1, -(-len(paths) // _LOOKED_AT))
    chosen = paths[::every]
    found: Counter[str] = Counter()
    faulty = []
    for path in chosen:
        try:
            with Image.open(path) as image:
                found.update(_oddities(image))
        except DECODE_ERRORS as error:
            faulty.append(f"{path}: {first_line(error)}")
    parts = [f"{count} {what}" for what, count in found.items()]
    if faulty:
        shown = "; ".join(faulty[:3]) + ("; ..." if len(faulty) > 3 else "")
        parts.append(f"{len(faulty)} cannot be opened ({shown}): a training stops there")
    return (
        [f"of {len(chosen)} of {len(paths)} images looked at, {', '.join(parts)}"] if parts else []
    )


def _oddities(image: Image.Image) -> list[str]:
    found = []
    if "A" in image.getbands() or "transparency" in image.info:
        found.append("with an alpha channel, which is dropped")
    # the EXIF of a PNG may stand behind its pixels, which are not read here
    if image.format in ("JPEG", "MPO", "TIFF", "WEBP") or "exif" in image.info:
        found += ["turned as their EXIF orientation says"] * _is_turned(image)
    if image.mode == "F" or _bits(image) > 16:
        found.append(f"of mode {image.mode}, which cannot be read: a training stops there")
    elif _bits(image) > 8:
        found.append("with more than 8 bits a channel, of which the upper 8 are kept")
    if getattr(image, "is_animated", False):
        found.append("with several frames, of which the first is read")
    return found
