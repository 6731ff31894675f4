"""The parts of a run while it is written: rows wait in memory, are sealed into files, merged and, on resume, set aside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import pyarrow as pa
import pyarrow.compute as pc

from bvit_analysis.errors import ConfigError, RunError, unknown_name
from bvit_analysis.files import DamagedFile, write_bytes_atomic
from bvit_analysis.records.format import SUPERSEDED
from bvit_analysis.records.parts import (
    PART_BYTES,
    Chunk,
    check_part,
    chunk_of,
    encode_part,
    part_number,
    part_paths,
    read_part,
    table_of,
)

MERGE_PARTS = 256
"So many small parts of a kind are merged into one, to keep a long run quick to open."

_SUPERSEDED = re.compile(rf"{SUPERSEDED}(\d+)")


@final
class PartStore:
    """Writes the rows of a run as parts; its owner holds the lock of the folder.

    Args:
        run_dir: The run folder.
        run_id: What every part is marked with.
        schemas: Columns of each kind of rows.
    """

    def __init__(self, run_dir: Path, run_id: str, schemas: Mapping[str, pa.Schema]) -> None:
        self._run_dir = run_dir
        self._run_id = run_id
        self.schemas = dict(schemas)
        self._buffers: dict[str, list[tuple[int, Chunk]]] = {kind: [] for kind in schemas}
        self._fresh: dict[str, list[Path]] = {kind: [] for kind in schemas}
        self._next = dict.fromkeys(schemas, 0)

    def prepare(self) -> None:
        """Make the folders of all kinds, and find out which numbers of parts are taken."""
        for kind in self.schemas:
            folder = self._run_dir / kind
            folder.mkdir(exist_ok=True)
            names = [*folder.glob("part-*"), *folder.glob(f"{SUPERSEDED}*/part-*")]
            self._next[kind] = 1 + max((part_number(path) for path in names), default=-1)

    def append(self, kind: str, columns: Mapping[str, Any]) -> int | None:
        """Let rows wait in memory, and return the step of the last one, or None without rows.

        Args:
            kind: A kind of rows.
            columns: As RunWriter.append takes them.

        Raises:
            ConfigError: If a name is unknown, a column is missing or of another type or length.
        """
        if kind not in self.schemas:
            raise ConfigError(unknown_name("kind of rows", kind, self.schemas))
        rows, chunk = chunk_of(kind, self.schemas[kind], columns)
        if not rows:
            return None
        self._buffers[kind].append((rows, chunk))
        return int(chunk["step"][-1])

    def seal(self) -> None:
        """Store all rows that wait in memory, so that a kill from now on cannot lose them.

        Raises:
            RunError: If the disk is full or fails; the rows stay in memory and can be sealed again.
        """
        for kind, chunks in self._buffers.items():
            if chunks:
                table = table_of(self.schemas[kind], chunks)
                rows = max(1, min(len(table), len(table) * PART_BYTES // max(1, table.nbytes)))
                for start in range(0, len(table), rows):
                    self._write_part(kind, table.slice(start, rows))
                chunks.clear()
            if len(self._fresh[kind]) >= MERGE_PARTS:
                self._merge(kind, self._fresh[kind])
                self._fresh[kind] = []

    def supersede(self, step: int) -> int:
        """Set rows of later steps aside in `<kind>/superseded-<attempt>/`, never deleted; return the attempt.

        Args:
            step: The last one whose rows stay.
        """
        found = [
            _SUPERSEDED.fullmatch(path.name) for path in self._run_dir.glob(f"*/{SUPERSEDED}*")
        ]
        attempt = 1 + max((int(match.group(1)) for match in found if match), default=0)
        for kind in self.schemas:
            for part in part_paths(self._run_dir, kind):
                try:
                    table = read_part(part, kind, run_id=self._run_id)
                except DamagedFile:
                    continue  # stays where it is, and the reader names it
                kept = table.filter(pc.less_equal(table.column("step"), step))
                if len(kept) == len(table):
                    continue
                # First the copy, then the move: a crash between them leaves rows twice, never less.
                if len(kept):
                    self._write_part(kind, kept)
                set_aside(part, self._run_dir / kind / f"{SUPERSEDED}{attempt}")
        return attempt

    def compact(self) -> None:
        """Merge the parts of each kind, so that the folder is small and quick to open."""
        for kind in self.schemas:
            self._merge(kind, part_paths(self._run_dir, kind))

    def _write_part(self, kind: str, table: pa.Table) -> None:
        path = self._run_dir / kind / f"part-{self._next[kind]:06d}.parquet"
        write_bytes_atomic(path, encode_part(kind, table, self._run_id))
        self._next[kind] += 1
        self._fresh[kind].append(path)

    def _merge(self, kind: str, parts: list[Path]) -> None:
        group: list[tuple[Path, pa.Table]] = []
        for part in parts:
            try:
                if check_part(part, kind, run_id=self._run_id).unreadable:
                    continue  # another release wrote more than would be copied
                table = read_part(part, kind, run_id=self._run_id)
            except (DamagedFile, FileNotFoundError):
                continue  # stays where it is, and the reader names it
            full = sum(other.nbytes for _, other in group) + table.nbytes > PART_BYTES
            if group and (full or group[0][1].schema != table.schema):
                self._replace_by_one(kind, group)
                group = []
            group.append((part, table))
        self._replace_by_one(kind, group)

    def _replace_by_one(self, kind: str, group: list[tuple[Path, pa.Table]]) -> None:
        if len(group) < 2:
            return
        # The sum is stored before its parts go; rows seen twice meanwhile are one row.
        try:
            self._write_part(kind, pa.concat_tables([table for _, table in group]))
        except RunError:
            return  # there is no room for it; the parts hold every row as they are
        for part, _ in group:
            part.unlink(missing_ok=True)


def set_aside(path: Path, folder: Path) -> None:
    """Move a file into a folder, made if it is missing."""
    folder.mkdir(exist_ok=True)
    path.replace(folder / path.name)
