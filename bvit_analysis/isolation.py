"""The rule for many items: one that is bad is left out and named with its reason, and never stops the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from bvit_analysis.errors import BvitError

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_TEXT = 1000


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
