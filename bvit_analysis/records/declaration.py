"""What a run says about its own columns: written in run.json by its writer, read as a stranger's word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from bvit_analysis.errors import ConfigError
from bvit_analysis.files import DamagedFile
from bvit_analysis.records.columns import MEASURES
from bvit_analysis.records.format import SCHEMAS
from bvit_analysis.records.measure import Measure, is_free_name, measure_from

MAX_OWN = 256
"Columns of a kind, and measures of a run, that the catalogue lacks and that are read."

ROWS_OF = {"scalar": "scalars", "timing": "timings", "weight": "sites", "activation": "sites"}
"Kind of measure to the kind of rows that hold it; figures of a whole run are in result.json."


def own_measures(measures: Iterable[Measure]) -> tuple[Measure, ...]:
    """Return the measures that the catalogue lacks, which a writer must declare.

    Raises:
        ConfigError: If one has the name of another in the catalogue, two have one name, one is not of a site, or there
            are too many.
    """
    own: dict[str, Measure] = {}
    for one in measures:
        known = MEASURES.get(one.name)
        if known is not None and known != one:
            raise ConfigError(
                f"measure {one.name!r} ({one.words}) has the name of another one in the catalogue, {known.label};"
                " choose another name"
            )
        if one.name in own and own[one.name] != one:
            raise ConfigError(
                f"measure {one.name!r} is declared twice with different facts; choose another name"
            )
        if known is None:
            if ROWS_OF.get(one.kind) != "sites":
                raise ConfigError(
                    f"measure {one.name!r} is of kind {one.kind!r}; one of your own belongs to a site: 'weight' or"
                    " 'activation'"
                )
            own[one.name] = one
    if len(own) > MAX_OWN:
        raise ConfigError(f"{len(own)} measures are declared, at most {MAX_OWN} are read again")
    return tuple(own.values())


def schemas_with(own: Iterable[Measure]) -> dict[str, pa.Schema]:
    """Return the columns of every kind of rows, measures of one's own after those of the catalogue."""
    schemas = dict(SCHEMAS)
    for one in own:
        schemas["sites"] = schemas["sites"].append(pa.field(one.name, pa.float32()))
    return schemas


def declare(schemas: Mapping[str, pa.Schema], own: Iterable[Measure]) -> dict[str, Any]:
    """Return the keys of run.json that say which columns are written, and what the catalogue does not know of them."""
    return {
        "columns": {kind: schema.names for kind, schema in schemas.items()},
        "measures": [one.facts() for one in own],
    }


@dataclass(frozen=True)
class Declared:
    """What run.json says about the run's columns, as far as it can be believed."""

    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    "Kind of rows to columns that the catalogue lacks."
    own: dict[str, Measure] = field(default_factory=dict)
    "Measures that the catalogue lacks, by name."
    faults: tuple[str, ...] = ()
    "What was passed over, a sentence each."


def declared_in(info: Mapping[str, Any]) -> Declared:
    """Read a run's declaration; a run of the first release has none.

    Where the catalogue knows a name, it is believed and not the run: otherwise a folder could widen a range.

    Args:
        info: What run.json holds.
    """
    faults: list[str] = []
    own: dict[str, Measure] = {}
    facts = info.get("measures", [])
    if not isinstance(facts, list) or len(facts) > MAX_OWN:
        faults.append(f"measures is not a list of at most {MAX_OWN} objects, passed over")
        facts = []
    for one in facts:
        try:
            measure = measure_from(one)
        except DamagedFile as error:
            faults.append(f"{error}, passed over")
            continue
        known = MEASURES.get(measure.name)
        if measure.name in own:
            faults.append(f"declares measure {measure.name!r} twice, the first is used")
        elif known is not None:
            if (known.kind, known.unit) != (measure.kind, measure.unit):
                faults.append(
                    f"declares {measure.name!r} in {measure.unit!r}, it is read as {known.label!r}"
                )
        else:
            own[measure.name] = measure
    said = info.get("columns", {})
    if not isinstance(said, dict):
        faults.append("columns is not an object, passed over")
        said = {}
    columns = {kind: _columns_of(said, kind, faults) for kind in SCHEMAS}
    for one_ in own.values():
        kind = ROWS_OF.get(one_.kind)
        if kind is not None and one_.name not in columns[kind]:
            columns[kind] = (*columns[kind], one_.name)
    return Declared(columns, own, tuple(faults[:20]))


def _columns_of(said: Mapping[str, Any], kind: str, faults: list[str]) -> tuple[str, ...]:
    names = said.get(kind, [])
    if not isinstance(names, list) or len(names) > 2 * MAX_OWN:
        faults.append(
            f"columns of {kind} is not a list of at most {2 * MAX_OWN} names, passed over"
        )
        return ()
    free: dict[str, None] = {}
    for name in names:
        if isinstance(name, str) and name in SCHEMAS[kind].names:
            continue
        if not isinstance(name, str) or not is_free_name(name):
            faults.append(f"names a column of {kind} {str(name)[:60]!r}, which is not allowed")
        elif name in free:
            faults.append(f"names the column {name!r} of {kind} twice")
        else:
            free[name] = None
    return tuple(free)
