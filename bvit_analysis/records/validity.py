"""What a record cannot mean: a value outside its measure's range is missing, a row that cannot be is left out, both said."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bvit_analysis.records.format import MAX_STEP
from bvit_analysis.records.measure import Measure

Flags = NDArray[np.bool_]


def sound(
    kind: str, table: pa.Table, measures: Mapping[str, Measure]
) -> tuple[pa.Table, list[str]]:
    """Take values outside their measure's range as NaN and leave out rows that cannot be.

    Args:
        kind: A key of SCHEMAS.
        table: Rows of that kind.
        measures: Facts of the measures in it, by column; a float column without facts must be finite.

    Returns:
        The table, and one sentence for each column in which something was wrong, with the number.
    """
    said: list[str] = []
    for position, field in enumerate(table.schema):
        if not pa.types.is_floating(field.type) or field.name in ("lo", "hi"):
            continue
        values = table.column(field.name).to_numpy()
        one = measures.get(field.name)
        low, high = (-np.inf, np.inf) if one is None else one.bounds()
        with np.errstate(invalid="ignore"):
            wrong = ~((values >= low) & (values <= high) & np.isfinite(values)) & ~np.isnan(values)
        if wrong.any():
            where = "the finite numbers" if one is None else one.range_words()
            said.append(
                f"{int(wrong.sum())} value(s) of {field.name!r} outside {where} are taken as missing"
            )
            cleaned = pa.array(np.where(wrong, np.nan, values), field.type, from_pandas=False)
            table = table.set_column(position, field, cleaned)
    keep = np.ones(len(table), dtype=bool)
    for name, impossible in _impossible(kind, table).items():
        if impossible.any():
            said.append(f"{int(impossible.sum())} row(s) with an impossible {name} are left out")
            keep &= ~impossible
    return (table if keep.all() else table.filter(pa.array(keep))), said


def _impossible(kind: str, table: pa.Table) -> dict[str, Flags]:
    """Return the rows whose whole numbers cannot be, by what is wrong with them."""

    def column(name: str) -> NDArray:
        return table.column(name).to_numpy()

    found: dict[str, Flags] = {}
    if "step" in table.column_names:
        found["step"] = (column("step") < 0) | (column("step") > MAX_STEP)
    if kind == "trajectories":
        found["sign"] = ~np.isin(column("sign"), (-1, 1))
        found["index"] = column("index") < 0
        if "since" in table.column_names:
            found["since"] = (column("since") < 0) | (column("since") > column("step"))
    if kind == "histograms":
        low, high = column("lo"), column("hi")
        with np.errstate(invalid="ignore"):
            found["range of bins"] = ~(np.isfinite(low) & np.isfinite(high) & (low < high))
        found["count"], _ = _counts(table, np.inf)
    if kind == "channels":
        n = column("n")
        found["number of values"] = n < 0
        below, above = _counts(table, n)
        found["count"] = below | above
    return found


def _counts(table: pa.Table, most: NDArray | float) -> tuple[Flags, Flags]:
    """Return the rows whose list of counts has a negative one, and those with one above the most."""
    lists = table.column("counts").combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays([pa.array([], lists.type), *lists.chunks])
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    values = lists.flatten().to_numpy(zero_copy_only=False)
    row = np.repeat(np.arange(len(table)), lengths)
    limit = np.broadcast_to(np.asarray(most, dtype=float), (len(table),))
    below, above = np.zeros(len(table), bool), np.zeros(len(table), bool)
    below[row[values < 0]] = True
    above[row[values > limit[row]]] = True
    return below, above
