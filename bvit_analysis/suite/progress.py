"""How far a batch is, told on stderr: a line for each start and end, and one that moves on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from bvit_analysis.suite.estimation import makespan
from bvit_analysis.suite.jobs import JobStatus


class Progress:
    """Counts what has ended, and guesses the rest from what was expected and what it took."""

    def __init__(self, expected: Mapping[str, float], *, at_once: int, on: bool) -> None:
        self.expected, self.at_once, self.on = dict(expected), at_once, on
        self.total, self.ends = len(expected), 0
        self.live = on and sys.stderr.isatty()
        self.shown = ""
        self.began = time.monotonic()
        self.running: dict[str, float] = {}
        self.waiting = dict(expected)
        self.took = self.promised = 0.0

    def started(self, name: str) -> None:
        """Tell that a notebook is being executed."""
        self.waiting.pop(name, None)
        self.running[name] = time.monotonic()
        self._line(f"{name} started")

    def ended(self, status: JobStatus) -> None:
        """Tell what became of a notebook."""
        self.ends += 1
        self.waiting.pop(status.name, None)
        if self.running.pop(status.name, None) is not None and status.state == "succeeded":
            self.took += status.seconds
            self.promised += self.expected.get(status.name, status.seconds)
        how = (
            "kept, inputs unchanged"
            if status.skipped
            else f"{status.state}, {status.seconds:.1f} s"
        )
        why = "" if status.error is None else f": {status.error}"
        rest = "" if status.skipped else f" ({self.times()})"
        self._line(f"[{self.ends}/{self.total}] {status.name}: {how}{why}{rest}")

    def remaining_s(self) -> float:
        """Return an estimate of the seconds until all have ended."""
        # Expectations from another day or machine are all wrong by the same factor.
        factor = self.took / self.promised if self.promised > 0 else 1.0
        now = time.monotonic()
        busy = [
            max(0.0, factor * self.expected.get(name, 0.0) - (now - since))
            for name, since in self.running.items()
        ]
        return makespan([factor * wait for wait in self.waiting.values()], self.at_once, busy)

    def times(self) -> str:
        """Return the time so far and the time to come, for a person."""
        text = f"{duration(time.monotonic() - self.began)} so far"
        if self.ends < self.total:
            text += f", about {duration(self.remaining_s())} left"
        return text

    def places(self, places: Sequence[str]) -> None:
        """Show on a terminal where each notebook in flight is."""
        if not self.live:
            return
        head = f"[{self.ends}/{self.total}] {self.times()}: "
        text = printable(head + ", ".join(places))[:120]
        if text != self.shown:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
            self.shown = text

    def _line(self, text: str) -> None:
        if self.on:
            sys.stderr.write(("\r\x1b[K" if self.live else "") + printable(text) + "\n")
            sys.stderr.flush()
            self.shown = ""


def duration(seconds: float) -> str:
    """Return a time for a person.

    Example:
        >>> [duration(seconds) for seconds in (4.2, 75, 7322)]
        ['4 s', '1 min 15 s', '2 h 02 min']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def printable(text: str) -> str:
    """Replace what could move a terminal's cursor: names and errors come from notebooks."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
