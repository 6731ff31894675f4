"""Errors a user can cause, each with a remedy in its text; all else is a bug and stays a plain exception.

And the rule for many items: one that is bad is left out and named with its reason, and never stops the others.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_TEXT = 1000


class BvitError(Exception):
    """Base of every error that names a mistake in what was asked for, or a fault of the machine."""


class ConfigError(BvitError, ValueError):
    """A setting, name or parameter is not what is expected."""


class DataError(BvitError):
    """A data set is missing, damaged or not shaped as its name promises."""


class RunError(BvitError):
    """A run folder is missing, foreign or of another schema version."""


class CheckpointError(BvitError):
    """A checkpoint cannot be written, or none of those found can be trusted."""


class PackedFileError(BvitError):
    """A packed model cannot be written, or the file is damaged, foreign or of another version."""


class TrainingError(BvitError):
    """A training cannot go on, for example because its loss is no longer finite."""


class UnsupportedModelError(BvitError, TypeError):
    """A model has an architecture that cannot be binarized here."""


class MissingExtraError(BvitError, ImportError):
    """A feature needs an optional package; the text has the line that installs it."""


class SuiteError(BvitError):
    """A batch of notebooks or a report cannot be made as asked."""


def unknown_name(kind: str, name: object, options: Iterable[str]) -> str:
    """Build the text for a name that is not among the options, with the nearest right one.

    Args:
        kind: What the name is of, for example ``"recipe"``.
        name: What was given.
        options: The names that exist.

    Returns:
        One line such as ``unknown recipe 'asn'; expected one of 'asm', 'grs'; did you mean 'asm'?``.

    Example:
        >>> unknown_name("recipe", "asn", ["baseline", "asm"])
        "unknown recipe 'asn'; expected one of 'baseline', 'asm'; did you mean 'asm'?"
    """
    known = [str(option) for option in options]
    listed = ", ".join(f"'{option}'" for option in known) or "nothing (there are none)"
    text = f"unknown {kind} {str(name)!r}; expected one of {listed}"
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"{text}; did you mean '{near[0]}'?" if near else text


def reason(error: BaseException) -> str:
    """Return why something failed as one line of bounded length; a fault that nobody foresaw is named by its type."""
    text = " ".join(str(error).split())
    if not isinstance(error, BvitError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 3]}..."


def one_by_one(
    items: Iterable[Item], work: Callable[[Item], Result]
) -> tuple[list[tuple[Item, Result]], list[tuple[Item, str]]]:
    """Do the same with each item; whoever asked says what was left out, and ends with exit code 1.

    Args:
        items: What is to be worked on.
        work: What to do with one; whatever it raises, short of an interrupt, is about that one alone.

    Returns:
        Items with their results, and items that failed with the reason; both in the order given.

    Example:
        >>> one_by_one([4, 0, 2], lambda number: 8 // number)
        ([(4, 2), (2, 4)], [(0, 'ZeroDivisionError: integer division or modulo by zero')])
    """
    done: list[tuple[Item, Result]] = []
    left_out: list[tuple[Item, str]] = []
    for item in items:
        try:
            done.append((item, work(item)))
        except Exception as error:  # a bug of ours in one item must not hide the others either
            left_out.append((item, reason(error)))
    return done, left_out
