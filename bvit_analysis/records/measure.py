"""What is known of a measure: its words, unit, range, null and direction, as code or as untrusted JSON says it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.files import DamagedFile

Kind = Literal["weight", "activation", "scalar", "timing", "result"]
"What a measure belongs to: a weight site, an activation or attention site, a step, a clock, or a whole run."
KINDS: tuple[str, ...] = get_args(Kind)

SHIFT, GRADIENT_TERM = "shift", "gradient term"
"Parts of a recipe that a paper may credit with moving a measure (ASM and GRS of 2305.14730)."
PARTS = (SHIFT, GRADIENT_TERM)

RESERVED = frozenset(
    {
        *("run", "run_id", "label", "recipe", "seed", "scale", "state", "step", "steps", "site"),
        *("site_id", "kind", "order", "block", "layer", "n_weights", "index", "latent", "gradient"),
        *("sign", "lo", "hi", "counts", "n", "test_half_width", "late_flip_rate"),
        "oscillating_flips_per_weight",
    }
)
"Names of columns that tables have beside the measures; no measure may take one."

_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")
_FORM = re.compile(r"(\.\d)?[efg%]")
_LONGEST = {"unit": 80, "words": 80, "label": 120, "sentence": 500, "null_words": 120}
_TOLERANCE = 1e-6  # float32 rounds a share of all by so much


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One thing that a run can hold a number of.

    Raises:
        ConfigError: If a fact is not of the form that it must have.
    """

    name: str
    "Its column: a lower-case letter, then letters, digits and '_', at most 60."
    kind: Kind
    "What it belongs to."
    words: str
    "Two or three words, for a title."
    unit: str
    "What one of it is, for an axis under that title."
    label: str = ""
    "Words on an axis that has no title; empty: words (unit)."
    sentence: str = ""
    "What it says, for a reader who sees it for the first time."
    low: float = -math.inf
    "Least value it can have; -inf: any finite one."
    high: float = math.inf
    "Largest value it can have; inf: any finite one."
    null: float | None = None
    "Its value at chance, None where that is no one number."
    null_words: str = ""
    "What has the null, for a legend."
    better: Literal[-1, 0, 1] = 0
    "+1 where a paper claims that the parts below raise it, -1 where they lower it, 0 where there is no claim."
    moved_by: frozenset[str] = frozenset()
    "Parts of a recipe that the claim is made for, of PARTS."
    margin: float = 0.0
    "A difference between recipes below this is called no difference; same unit."
    form: str = ".3g"
    "How one value is written: a format such as '.3g' or '.2%'."
    scale: Literal["linear", "log"] = "linear"
    "Of a map's colours: rates span decades, shares and coefficients do not."
    in_atlas: bool = True
    "Whether the atlas offers it (weight sites)."
    in_ablation: bool = True
    "Whether run_table has one figure of it a run, so that recipes are compared on it."

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"measure name {str(self.name)[:70]!r} is not allowed; expected a lower-case letter, then letters,"
                " digits and '_', at most 60"
            )
        if self.name in RESERVED:
            raise ConfigError(
                f"measure name {self.name!r} is that of another column of the tables; choose another"
            )
        fault = self._fault()
        if fault:
            raise ConfigError(f"measure {self.name!r}: {fault}")
        object.__setattr__(self, "moved_by", frozenset(self.moved_by))
        object.__setattr__(self, "label", self.label or f"{self.words} ({self.unit})")

    def _fault(self) -> str | None:
        if self.kind not in KINDS:
            return unknown_name("kind", self.kind, KINDS)
        for name, most in _LONGEST.items():
            text = getattr(self, name)
            if not isinstance(text, str) or len(text) > most or not text.isprintable():
                return f"{name} must be printable text of at most {most} characters on one line"
        if not self.words or not self.unit:
            return "words and unit must not be empty; the unit of a share is what it is a share of"
        numbers = {"low": self.low, "high": self.high, "margin": self.margin}
        numbers |= {} if self.null is None else {"null": self.null}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
                return f"{name} must be a number, got {str(value)[:40]!r}"
        if not self.low < self.high:
            return f"low must be below high, got {self.low} and {self.high}"
        if self.null is not None and not (math.isfinite(self.null) and self.holds(self.null)):
            return f"null {self.null} lies outside {self.range_words()}"
        if not (math.isfinite(self.margin) and self.margin >= 0):
            return f"margin must be at least 0, got {self.margin}"
        if isinstance(self.better, bool) or self.better not in (-1, 0, 1):
            return f"better must be -1, 0 or 1, got {str(self.better)[:40]!r}"
        if isinstance(self.moved_by, str) or not set(self.moved_by) <= set(PARTS):
            return f"moved_by must be of {', '.join(PARTS)}, got {str(self.moved_by)[:80]!r}"
        if self.scale not in ("linear", "log"):
            return unknown_name("scale", self.scale, ("linear", "log"))
        if not isinstance(self.form, str) or not _FORM.fullmatch(self.form):
            return f"form must be a format such as '.3g', '.2%' or 'f', got {str(self.form)[:40]!r}"
        if not isinstance(self.in_atlas, bool) or not isinstance(self.in_ablation, bool):
            return "in_atlas and in_ablation must be true or false"
        return None

    @property
    def title(self) -> str:
        """The words as a title."""
        return self.words[0].upper() + self.words[1:]

    def holds(self, value: float) -> bool:
        """Return whether a number is one that this measure can have; rounding in float32 is forgiven."""
        low, high = self.bounds()
        # Whole numbers may be too large for a float; comparing them is exact.
        return value == value and abs(value) < math.inf and low <= value <= high

    def bounds(self) -> tuple[float, float]:
        """Return the ends of the range, moved out by what float32 rounds."""
        return (
            self.low - _TOLERANCE * max(1.0, abs(self.low)) if self.low > -math.inf else self.low,
            self.high + _TOLERANCE * max(1.0, abs(self.high))
            if self.high < math.inf
            else self.high,
        )

    def range_words(self) -> str:
        """Return the range as text: '0..1', 'at least 0', 'at most 1' or 'the finite numbers'."""
        if math.isinf(self.low) and math.isinf(self.high):
            return "the finite numbers"
        if math.isinf(self.high):
            return f"at least {self.low:g}"
        if math.isinf(self.low):
            return f"at most {self.high:g}"
        return f"{self.low:g}..{self.high:g}"

    def facts(self) -> dict[str, Any]:
        """Return everything about it as JSON-ready data; an open end of the range is None."""
        data = dataclasses.asdict(self)
        for end in ("low", "high"):
            data[end] = data[end] if math.isfinite(data[end]) else None
        return data | {"moved_by": sorted(self.moved_by)}


def is_free_name(name: str) -> bool:
    """Return whether a column of a measure may have this name."""
    return bool(_NAME.fullmatch(name)) and name not in RESERVED


_FIELDS = {field.name for field in dataclasses.fields(Measure)}


def measure_from(facts: Any) -> Measure:
    """Return the measure that JSON-ready facts of a stranger describe; facts of later releases are passed over.

    Raises:
        DamagedFile: If they describe none.
    """
    if not isinstance(facts, Mapping):
        raise DamagedFile("declares a measure that is not an object")
    known = {name: value for name, value in facts.items() if name in _FIELDS}
    for end in ("low", "high"):
        if end in known and known[end] is None:
            del known[end]
    moved_by = known.get("moved_by", [])
    if not isinstance(moved_by, list) or not all(isinstance(part, str) for part in moved_by[:9]):
        raise DamagedFile("declares a measure whose moved_by is no list of texts")
    # A part that only a later release knows makes no claim here.
    known["moved_by"] = frozenset(part for part in moved_by[:9] if part in PARTS)
    try:
        return Measure(**known)
    except (ConfigError, TypeError, OverflowError) as error:
        text = " ".join(str(error).split())
        raise DamagedFile(f"declares a measure that is none ({text[:300]})") from error


def stranger(name: str, kind: Kind) -> Measure:
    """Return what is known of a column that neither the catalogue nor its run describes: its name.

    Raises:
        ConfigError: If the name is not allowed.
    """
    return Measure(
        name=name,
        kind=kind,
        words=name,
        unit="unit unknown",
        label=name,
        scale="log",
        in_atlas=False,
        in_ablation=False,
    )
