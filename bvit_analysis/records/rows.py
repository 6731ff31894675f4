"""Rows of one kind as a frame: the columns that a run's parts have, the catalogue's that they lack as NaN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from bvit_analysis.errors import RunError
from bvit_analysis.files import DamagedFile
from bvit_analysis.records.columns import MEASURES
from bvit_analysis.records.declaration import MAX_OWN, ROWS_OF, Declared
from bvit_analysis.records.format import KEYS, OPTIONAL, SCHEMAS
from bvit_analysis.records.measure import Measure
from bvit_analysis.records.parts import (
    MAX_PART_VALUES,
    check_part,
    part_paths,
    read_part,
    stray_names,
)
from bvit_analysis.records.unpacked import Unpacked
from bvit_analysis.records.validity import sound

Taken = TypeVar("Taken")

MAX_PARTS = 2000
"Of one kind that are read; a writer merges them long before."


@final
class RowReader:
    """Reads the rows of a run folder as frames; what is left out is told to its owner.

    Args:
        path: The run folder.
        run_id: Its id; parts of another run are left out.
        declared: What its run.json says of its columns.
        left_out: Told each file that is left out, and why.
        taken_as_missing: Told each file in which something was passed over, and what.
    """

    def __init__(
        self,
        path: Path,
        run_id: str,
        declared: Declared,
        *,
        left_out: Callable[[Path, object], None],
        taken_as_missing: Callable[[Path, str], None],
    ) -> None:
        self._path = path
        self._run_id = run_id
        self._left_out = left_out
        self._missing = taken_as_missing
        self._bad: set[Path] = set()
        self._declared = declared
        self.own: dict[str, dict[str, None]] = {
            kind: dict.fromkeys(declared.columns.get(kind, ())) for kind in SCHEMAS
        }
        "Kind of rows to the columns that the catalogue lacks: declared ones, then those found."

    def check(self) -> None:
        """Look at the last bytes of every part, so that what is damaged is named at once."""
        unpacked = Unpacked()
        for kind in SCHEMAS:
            try:
                parts = part_paths(self._path, kind)
                strangers = stray_names(self._path, kind)
            except DamagedFile as error:
                self._left_out(self._path / kind, error)
                continue
            if strangers:
                self._left_out(
                    self._path / kind,
                    f"{len(strangers)} file(s) that are no parts, {strangers[0][:80]!r} first",
                )
            if len(parts) > MAX_PARTS:
                self._left_out(
                    self._path / kind, f"{len(parts)} parts, the first {MAX_PARTS} are read"
                )
            for part in parts[:MAX_PARTS]:
                try:
                    layout = check_part(part, kind, run_id=self._run_id)
                    unpacked.take(part.stat().st_size, layout.unpacked)
                except FileNotFoundError:
                    continue  # merged into another part since it was listed
                except DamagedFile as error:
                    self._leave(part, error)
                    continue
                self._take(kind, part, layout.own)
                if layout.unreadable:
                    names = ", ".join(repr(name[:60]) for name in layout.unreadable[:5])
                    self._missing(part, f"column(s) {names} cannot be shown and are left out")

    def facts(self, kind: str) -> dict[str, Measure]:
        """Return what is known of the measures in rows of a kind, by column; nothing of a column without facts."""
        known = {**self._declared.own, **MEASURES}
        names = (*SCHEMAS[kind].names, *self.own[kind])
        return {
            name: known[name]
            for name in names
            if name in known and ROWS_OF.get(known[name].kind) == kind
        }

    def number(self, kind: str) -> int:
        """Return how many rows of a kind are stored, reading and checking one part after the other."""
        return sum(self._each(kind, None, len))

    def frame(
        self, kind: str, columns: Sequence[str] | None = None, *, site_id: int | None = None
    ) -> pd.DataFrame:
        """Return the rows of a kind, sorted by key, of two rows with one key the later value.

        Args:
            kind: A key of SCHEMAS.
            columns: Names to read; None reads all.
            site_id: Of one site, whose rows alone are kept of each part; None takes all.

        Raises:
            RunError: If the writer merges parts faster than they are read.
        """
        keys = list(KEYS[kind])

        def kept(table: pa.Table) -> pa.Table:
            return table if site_id is None else table.filter(pc.equal(table["site_id"], site_id))

        tables = self._each(kind, columns, kept)
        schema = self._schema(kind, columns, [table.schema for table in tables])
        filled = [_filled(table, schema) for table in tables]
        table = pa.concat_tables([schema.empty_table(), *filled]).combine_chunks()
        counts: np.ndarray | None = None
        if "counts" in table.column_names:
            column = table.column("counts").combine_chunks()
            if isinstance(column, pa.ChunkedArray):
                column = pa.concat_arrays([pa.array([], column.type), *column.chunks])
            counts = np.empty(len(table), dtype=object)
            cuts = column.value_lengths().to_numpy(zero_copy_only=False).cumsum()[:-1]
            values = column.flatten().to_numpy(zero_copy_only=False).copy()
            counts[:] = np.split(values, cuts) if len(table) else []
            table = table.drop_columns(["counts"])
        frame: pd.DataFrame = table.to_pandas()
        if counts is not None:
            # where the schema has it, before what the catalogue lacks
            frame.insert(schema.get_field_index("counts"), "counts", counts)
        if frame.duplicated(keys).any():
            if kind in ("histograms", "channels", "trajectories"):
                frame = frame.drop_duplicates(keys, keep="last")
            else:
                frame = frame.groupby(keys, as_index=False, sort=False).last()
        return frame.sort_values(keys, kind="stable", ignore_index=True)

    def _leave(self, part: Path, reason: object) -> None:
        self._bad.add(part)
        self._left_out(part, reason)

    def _take(self, kind: str, part: Path, names: Sequence[str]) -> None:
        """Remember columns that the catalogue lacks, as many as are read."""
        own = self.own[kind]
        surplus = [name for name in names if name not in own]
        room = max(0, MAX_OWN - len(own))
        own.update(dict.fromkeys(surplus[:room]))
        if surplus[room:]:
            self._missing(part, f"{len(surplus[room:])} column(s) beyond {MAX_OWN} are left out")

    def _each(
        self, kind: str, columns: Sequence[str] | None, work: Callable[[pa.Table], Taken]
    ) -> list[Taken]:
        """Read the parts of a kind one after the other and keep what `work` makes of each."""
        for _ in range(20):
            taken = []
            try:
                for part in part_paths(self._path, kind)[:MAX_PARTS]:
                    if part in self._bad:
                        continue
                    try:
                        taken.append(work(self._table(part, kind, columns)))
                    except DamagedFile as error:
                        self._leave(part, error)
            except FileNotFoundError:
                continue  # the writer merged parts meanwhile: list them again
            except DamagedFile as error:
                self._left_out(self._path / kind, error)
                return []
            return taken
        raise RunError(f"the {kind} of run {self._path} keep changing; try again in a moment")

    def _table(self, part: Path, kind: str, columns: Sequence[str] | None) -> pa.Table:
        table = read_part(part, kind, columns, run_id=self._run_id)
        known = SCHEMAS[kind].names
        self._take(kind, part, [name for name in table.column_names if name not in known])
        width = len(known) + len(self.own[kind])
        if len(table) * width > MAX_PART_VALUES:
            raise DamagedFile(f"claims {len(table)} rows, too many for {width} columns")
        table = table.select(
            [name for name in table.column_names if name in known or name in self.own[kind]]
        )
        table, said = sound(kind, table, self.facts(kind))
        for text in said:
            self._missing(part, text)
        return table

    def _schema(
        self, kind: str, columns: Sequence[str] | None, found: Sequence[pa.Schema]
    ) -> pa.Schema:
        wanted = SCHEMAS[kind]
        fields = [field for field in wanted if columns is None or field.name in columns]
        for name in self.own[kind]:
            if columns is None or name in columns:
                types = {schema.field(name).type for schema in found if name in schema.names}
                # float32 is what a writer stores of a site; the wider one where parts differ
                narrow = types == {pa.float32()} or (not types and kind == "sites")
                fields.append(pa.field(name, pa.float32() if narrow else pa.float64()))
        return pa.schema(fields)


def _filled(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with the columns of a schema, those that it lacks as NaN."""
    arrays = []
    for field in schema:
        if field.name in table.column_names:
            arrays.append(table.column(field.name).cast(field.type))
        else:
            missing = 0 if field.name in OPTIONAL else np.nan
            empty = np.full(len(table), missing, field.type.to_pandas_dtype())
            arrays.append(pa.array(empty, field.type, from_pandas=False))
    return pa.Table.from_arrays(arrays, schema=schema)
