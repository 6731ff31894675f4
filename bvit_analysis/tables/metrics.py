"""The figures that runs are judged by: one a run and measure, with the words and claims that the catalogue has of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import pandas as pd

from bvit_analysis.config import FLOAT as FLOAT
from bvit_analysis.config import RECIPE_ORDER as RECIPE_ORDER
from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.files import DamagedFile
from bvit_analysis.records import MEASURES, Measure, Run
from bvit_analysis.records.measure import measure_from

Summary: TypeAlias = Literal["result", "late", "by flips", "counts"]
"How a run's one figure comes about: from its result; the mean over the last tenth of its recorded steps; over the last\
 half, in proportion to flips; from the flip counts of the whole run."


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column of run_table with what a reader must know to judge it."""

    name: str
    "The column."
    measure: Measure
    "What it is a figure of."
    summary: Summary
    "How it comes about."
    label: str
    "Words on an axis, with the unit."

    @property
    def better(self) -> int:
        """+1 where the paper's claim is that parts of a recipe raise it, -1 where they lower it, 0 without a claim."""
        return self.measure.better

    @property
    def moved_by(self) -> frozenset[str]:
        """Parts of a recipe that the claim is made for."""
        return self.measure.moved_by

    @property
    def margin(self) -> float:
        """A difference below this is called no difference; same unit."""
        return self.measure.margin

    @property
    def form(self) -> str:
        """How one value is written."""
        return self.measure.form


# Where the figure of a run is not the late mean of the measure under its own name and label.
_SUMMARIES: dict[str, tuple[str, Summary, str]] = {
    "flip_rate": ("late_flip_rate", "late", "late {words} ({unit})"),
    "oscillating_flips": (
        "oscillating_flips_per_weight",
        "counts",
        "{words} (per weight, whole run)",
    ),
    "flip_flop_ratio": ("flip_flop_ratio", "counts", "{label}"),
    "flip_back_10": ("flip_back_10", "by flips", "{words} (probability, last half)"),
}

_FIRST = (
    *("test_accuracy", "validation_accuracy", "flip_rate", "oscillating_flips", "flip_flop_ratio"),
    *("frequent_share", "flip_back_10"),
)
"Tables begin with these; the others follow as the catalogue has them."


def _metric_of(measure: Measure) -> Metric:
    plain: tuple[str, Summary, str] = (
        measure.name,
        "result" if measure.kind == "result" else "late",
        "{label}",
    )
    name, summary, label = _SUMMARIES.get(measure.name, plain)
    words = {"words": measure.words, "unit": measure.unit, "label": measure.label}
    return Metric(name=name, measure=measure, summary=summary, label=label.format(**words))


def _catalogue() -> dict[str, Metric]:
    rank = {name: place for place, name in enumerate(_FIRST)}
    chosen = [one for one in MEASURES.values() if one.in_ablation]
    found = [
        _metric_of(one) for one in sorted(chosen, key=lambda one: rank.get(one.name, len(rank)))
    ]
    return {one.name: one for one in found}


METRICS: dict[str, Metric] = _catalogue()
"Figures of the catalogue's measures; those that runs declare themselves come from metrics_of."

Source: TypeAlias = "Run | Sequence[Run] | pd.DataFrame | None"
"Runs, or a table or frame of them."


def own_measures(data: Source) -> dict[str, Measure]:
    """Return the measures that runs declare beside the catalogue's, by column; of two of one name the first."""
    if data is None:
        return {}
    found: dict[str, Measure] = {}
    if isinstance(data, pd.DataFrame):
        for facts in data.attrs.get("measures", []):
            try:
                one = measure_from(facts)
            except DamagedFile as error:
                raise ConfigError(f"attrs['measures'] of this table {error}") from error
            found.setdefault(one.name, one)
        return found
    for run in [data] if isinstance(data, Run) else data:
        for name, one in run.own_measures.items():
            found.setdefault(name, one)
    return found


def remember(frame: pd.DataFrame, own: Iterable[Measure]) -> pd.DataFrame:
    """Return the frame, with what runs declare of their own measures in its attrs, if they declare any."""
    facts = [one.facts() for one in own]
    if facts:
        frame.attrs["measures"] = facts
    return frame


def metrics_of(data: Source) -> dict[str, Metric]:
    """Return every figure that run_table has of these runs: the catalogue's, then those of their own measures."""
    own = {
        name: _metric_of(one)
        for name, one in own_measures(data).items()
        if one.in_ablation and one.kind in ("weight", "activation") and name not in METRICS
    }
    return METRICS | own


def metric(name: str, data: Source = None) -> Metric:
    """Return what is known of a metric.

    Args:
        name: A column of run_table.
        data: Runs, or their run_table, whose own measures count too.

    Raises:
        ConfigError: If there is no metric of that name.
    """
    known = metrics_of(data)
    if name not in known:
        raise ConfigError(unknown_name("metric", name, known))
    return known[name]


def ordered(recipes: Iterable[str]) -> list[str]:
    """Return distinct recipe names in the fixed order, unknown ones after the known, by name.

    A name with a remark in brackets, such as 'grs [smoke]', stands where the one without it does.
    """
    rank = {name: place for place, name in enumerate(RECIPE_ORDER)}

    def key(name: str) -> tuple[int, str]:
        base = name.partition(" [")[0].partition(" (")[0]
        return rank.get(base, len(rank)), name

    return sorted(set(recipes), key=key)


def measure_of(name: str, data: Source = None) -> Measure:
    """Return the facts of a measure that runs hold, of the catalogue or their own.

    Args:
        name: A column of ``run.sites``, ``run.scalars`` or ``run.timings``.
        data: Runs, or a frame of them, whose own measures count too.

    Raises:
        ConfigError: If neither the catalogue nor one of the runs has a measure of that name.
    """
    if name in MEASURES:
        return MEASURES[name]
    known: dict[str, Measure] = own_measures(data) | MEASURES
    if data is not None and not isinstance(data, pd.DataFrame):
        for run in [data] if isinstance(data, Run) else data:
            known = run.measures | known
    if name not in known:
        raise ConfigError(unknown_name("measure", name, known))
    return known[name]
