"""What an executed notebook stores for the report: names, keys, shapes and limits, which writer and reader share.

A figure is a picture in the notebook with its alternative text, and files of one stem in the job's folder of figures. An
explorer is a still picture and, beside it, frames: pictures for many settings of its controls.
"""

from __future__ import annotations

import re
from typing import TypedDict

ALT_KEY = "alt"
"Key in the metadata of a picture: what a reader is told who does not see it."

STEM_KEY = "bvit_figure"
"Key in the metadata of a picture that tells its files: a stem, or a list of stems."

FIGURES_VARIABLE = "BVIT_FIGURES"
"Environment variable: folder in which each figure that a notebook shows is saved; unset saves none."

FIGURES_FOLDER = "figures"
"Name of that folder in a job's folder, and in the report."

FIGURE_ENDINGS = ("png", "svg", "csv")
"A saved figure as files: the picture, the drawing, the numbers."

_STEM = re.compile(r"figure-([0-9]{2,4})(?:-([a-z0-9_-]{1,40}))?")

FRAMES_VARIABLE = "BVIT_FRAMES"
"Environment variable: how many settings of an explorer an executed notebook stores; unset or 0 stores none."

FRAMES_MIME = "application/vnd.bvit.frames+json"
"Mime type of StoredFrames in the output of an executed notebook."

FRAMES_VERSION = 1
"Of the shape of StoredFrames; another one is not read."

FRAMES = 24
"Settings that an explorer draws ahead, so that it still follows its controls in a page without a kernel."

MOST_CONTROLS, MOST_PANELS, MOST_OPTIONS, MOST_SETTINGS = 12, 16, 1024, 4096
"Limits of StoredFrames; a page shows the still picture where one is passed."

MOST_FRAME_BYTES = 64 * 2**20
"Of all pictures of an explorer, each panel's counted."


class StoredControl(TypedDict):
    """What a reader turns; ``start`` is the index of the option shown first."""

    name: str
    label: str
    options: list[str]
    start: int


class StoredPanel(TypedDict):
    """A picture that follows the controls: for each setting an index into the pictures."""

    name: str
    frames: list[int]


class StoredPicture(TypedDict):
    """A PNG in base64."""

    png: str
    alt: str


class StoredFrames(TypedDict):
    """An explorer as JSON. A setting is one combination of options, the last control fastest; a finding a setting."""

    version: int
    title: str
    controls: list[StoredControl]
    panels: list[StoredPanel]
    findings: list[str]
    pictures: list[StoredPicture]


def figure_stem(number: int, name: str = "") -> str:
    """Return the stem of a figure's files.

    Args:
        number: Of the figure in its notebook, from 1.
        name: Of the picture, where one output has several; letters and digits of it are kept.

    Example:
        >>> figure_stem(3), figure_stem(3, "Flip rate")
        ('figure-03', 'figure-03-flip-rate')
    """
    plain = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")[:40]
    return f"figure-{number:02d}{f'-{plain}' if plain else ''}"


def stem_parts(stem: str) -> tuple[int, str] | None:
    """Return number and name of a stem that figure_stem made, None of any other text.

    Example:
        >>> stem_parts("figure-03-flip-rate"), stem_parts("../figure-03")
        ((3, 'flip-rate'), None)
    """
    match = _STEM.fullmatch(stem)
    return (int(match.group(1)), match.group(2) or "") if match else None
