"""Texts of a run folder cut to a line, and names of many sites in little room, none left out."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PLAIN = 8  # so many names are written out
_MOST = 40  # groups of names; a model has a dozen kinds of layers


def clip(text: str, most: int = 60) -> str:
    """Return text from a run folder on one line, without control characters, cut to a length."""
    line = "".join(c if c.isprintable() else " " for c in str(text))
    return line if len(line) <= most else f"{line[: most - 3]}..."


def named(sites: Iterable[str]) -> str:
    """Return the names of sites; of many, those that differ in their block alone become one.

    Example:
        >>> named(["head", "blocks.0.fc", "blocks.1.fc"])
        'head, blocks.0.fc, blocks.1.fc'
        >>> named(f"blocks.{block}.fc" for block in (*range(9), 11))
        'blocks.{0-8,11}.fc'
    """
    listed = list(dict.fromkeys(sites))
    if len(listed) <= _PLAIN:
        return ", ".join(clip(site) for site in listed)
    blocks: dict[tuple[str, str], list[int]] = {}
    for site in listed:
        match = re.match(r"^((?:.*?\.)?)(\d{1,4})(\..+)$", site)
        key = (match[1], match[3]) if match else (site, "")
        blocks.setdefault(key, []).extend([int(match[2])] if match else [])
    names = [
        clip(f"{before}{{{_spans(numbers)}}}{after}" if numbers else before)
        for (before, after), numbers in blocks.items()
    ]
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more


def _spans(numbers: Iterable[int]) -> str:
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(f"{low}" if low == high else f"{low}-{high}" for low, high in spans)
