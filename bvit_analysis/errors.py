"""Errors a user can cause, each with a remedy in its text; all else is a bug and stays a plain exception."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
