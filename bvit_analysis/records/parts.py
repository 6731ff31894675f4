"""Parts: immutable Parquet files of one kind of rows, each column with a digest of its content."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.files import DamagedFile, open_regular
from bvit_analysis.records.format import OPTIONAL, SCHEMA_VERSION, SCHEMAS, SUPERSEDED
from bvit_analysis.records.measure import is_free_name

MAX_PART_BYTES = 512 * 2**20
MAX_PART_ROWS = 8_000_000
MAX_PART_VALUES = 128_000_000
MAX_PART_COLUMNS = 512
MAX_TEXT = 200
"Characters of one text in a column."
PART_BYTES = 64 * 2**20
"A part holds about so much at most, uncompressed, which keeps it far within the reader's limits."

_PART = re.compile(r"part-(\d{6})\.parquet")

Chunk = dict[str, Any]
"Column name to an array, or to a list of texts or arrays."


def _numbers(kind: str, name: str, dtype: np.dtype[Any], value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim > 1:
        raise ConfigError(f"column {kind}.{name} must be a number or 1-d, got shape {array.shape}")
    if array.size == 0:
        return np.empty(array.shape, dtype)
    if array.dtype == dtype:
        return array.copy()  # the caller may go on writing to its own memory
    if dtype.kind == "f" and array.dtype.kind in "fiub":
        return array.astype(dtype)
    if dtype.kind == "i" and array.dtype.kind in "iub":
        info = np.iinfo(dtype)
        if array.min() >= info.min and array.max() <= info.max:
            return array.astype(dtype)
    raise ConfigError(f"column {kind}.{name} must hold {dtype} values, got {array.dtype} values")


def _texts(kind: str, name: str, value: Any) -> list[str] | str:
    texts = value if isinstance(value, str) else list(value)
    if not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"column {kind}.{name} must hold text")
    return texts


def _lists(kind: str, name: str, value: Any) -> list[np.ndarray]:
    rows = [value] if len(value) == 0 or np.ndim(value[0]) == 0 else list(value)
    arrays = [np.asarray(row) for row in rows]
    for array in arrays:
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iub"):
            raise ConfigError(f"column {kind}.{name} must hold 1-d arrays of whole numbers")
    return [array.astype(np.int64) for array in arrays]


def chunk_of(kind: str, schema: pa.Schema, columns: Mapping[str, Any]) -> tuple[int, Chunk]:
    """Return the number of rows given and their columns as arrays of the schema's types, copied.

    Raises:
        ConfigError: If a column is unknown, missing, or of another type or length.
    """
    chunk: Chunk = {}
    for name, value in columns.items():
        position = schema.get_field_index(name)
        if position < 0:
            raise ConfigError(unknown_name(f"column of {kind}", name, schema.names))
        type_ = schema.field(position).type
        if pa.types.is_string(type_):
            chunk[name] = _texts(kind, name, value)
        elif pa.types.is_list(type_):
            chunk[name] = _lists(kind, name, value)
        else:
            chunk[name] = _numbers(kind, name, np.dtype(type_.to_pandas_dtype()), value)
    for field in schema:
        if field.name in OPTIONAL:
            chunk.setdefault(field.name, np.int64(0))
        if field.name not in chunk and not pa.types.is_floating(field.type):
            raise ConfigError(f"{kind} rows need the column {field.name!r}")
    lengths = {
        name: len(value)
        for name, value in chunk.items()
        if isinstance(value, list) or np.ndim(value) > 0
    }
    rows = next(iter(lengths.values()), 1)
    if any(length != rows for length in lengths.values()):
        raise ConfigError(f"columns of {kind} differ in length: {lengths}")
    for name, value in chunk.items():
        if name not in lengths:
            chunk[name] = [value] * rows if isinstance(value, str) else np.full(rows, value)
    return rows, chunk


def table_of(schema: pa.Schema, chunks: list[tuple[int, Chunk]]) -> pa.Table:
    """Join chunks into one table of a schema; a column that a chunk lacks is NaN there."""
    arrays = []
    for field in schema:
        if pa.types.is_string(field.type) or pa.types.is_list(field.type):
            values = [item for _, chunk in chunks for item in chunk[field.name]]
            arrays.append(pa.array(values, type=field.type))
            continue
        dtype = field.type.to_pandas_dtype()
        parts = [
            chunk[field.name] if field.name in chunk else np.full(rows, np.nan, dtype)
            for rows, chunk in chunks
        ]
        # from_pandas=False: NaN is a value here, not a missing one.
        arrays.append(pa.array(np.concatenate(parts), type=field.type, from_pandas=False))
    return pa.Table.from_arrays(arrays, schema=schema)


def _digest(column: pa.ChunkedArray) -> str:
    array = column.combine_chunks()
    digest = hashlib.blake2b(digest_size=16)
    if pa.types.is_list(array.type):
        lengths = array.value_lengths().to_numpy(zero_copy_only=False)
        digest.update(lengths.astype(np.int64).tobytes())
        array = array.flatten()
    if pa.types.is_string(array.type):
        digest.update(json.dumps(array.to_pylist()).encode())
    else:
        digest.update(array.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def encode_part(kind: str, table: pa.Table, run_id: str) -> memoryview:
    """Return a table as the bytes of a Parquet file that carries its run's id and a digest of each column."""
    digests = {name: _digest(table.column(name)) for name in table.column_names}
    note = {"kind": kind, "schema_version": SCHEMA_VERSION, "run_id": run_id, "digests": digests}
    sink = io.BytesIO()
    # The Arrow schema is left out: the reader has its own, and takes no types from a file.
    options: dict[str, Any] = {
        "compression": "zstd",
        "store_schema": False,
        "write_statistics": False,
    }
    if kind == "trajectories":
        # Measured: floats of single weights take 40 % less as separate bytes than as a dictionary.
        options["use_byte_stream_split"] = ["latent", "gradient"]
        options["use_dictionary"] = ["step", "site_id", "index", "sign", "since"]
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"bvit": json.dumps(note)})
    return sink.getbuffer()


def part_number(path: Path) -> int:
    """Return the number in a part's name, or -1 if it is not a part."""
    match = _PART.fullmatch(path.name)
    return int(match.group(1)) if match else -1


def part_paths(run_dir: Path, kind: str) -> list[Path]:
    """Return the parts of one kind in the order in which they were written.

    Raises:
        DamagedFile: If the kind's folder is a link or not a folder.
    """
    folder = run_dir / kind
    if folder.is_symlink():
        raise DamagedFile("is a symbolic link; expected a folder")
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise DamagedFile("is not a folder")
    return sorted(path for path in folder.iterdir() if part_number(path) >= 0)


def stray_names(run_dir: Path, kind: str) -> list[str]:
    """Return what lies among the parts of a kind and is none; hidden files and superseded rows do not count."""
    folder = run_dir / kind
    if not folder.is_dir():
        return []
    return sorted(
        path.name
        for path in folder.iterdir()
        if part_number(path) < 0 and not path.name.startswith((".", SUPERSEDED))
    )


_PARQUET_FAULTS = (
    pa.ArrowException,
    RecursionError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    EOFError,
)


@dataclass(frozen=True)
class Layout:
    """The columns of a part, in the order of the catalogue and then of the file."""

    known: tuple[str, ...]
    "Those that the catalogue has."
    own: tuple[str, ...]
    "Columns of numbers that it has not."
    unreadable: tuple[str, ...]
    "Columns of anything else, or whose name is not allowed."
    digests: Mapping[str, Any]
    "Column to digest, as the file says."
    unpacked: int
    "About what its rows take in memory, bytes, by the numbers of values that the file claims."


def _layout(file: pq.ParquetFile, kind: str, run_id: str | None) -> Layout:
    found = file.metadata
    note = json.loads((found.metadata or {}).get(b"bvit", b"{}"))
    if not isinstance(note, dict):
        raise DamagedFile("has a note that is not an object")
    if note.get("kind") != kind or note.get("schema_version") != SCHEMA_VERSION:
        raise DamagedFile(f"was not written as part of {kind!r} of schema version {SCHEMA_VERSION}")
    owner = note.get("run_id")
    # Parts of the first release have no id.
    if owner is not None and run_id is not None and owner != run_id:
        raise DamagedFile(f"belongs to run {str(owner)[:80]!r}, not to {run_id!r}")
    if found.num_rows > MAX_PART_ROWS or found.num_row_groups > 4096:
        raise DamagedFile(f"claims {found.num_rows} rows, at most {MAX_PART_ROWS} are read")
    if found.num_columns > MAX_PART_COLUMNS:
        raise DamagedFile(
            f"claims {found.num_columns} columns, at most {MAX_PART_COLUMNS} are read"
        )
    values = sum(
        found.row_group(group).column(column).num_values
        for group in range(found.num_row_groups)
        for column in range(found.num_columns)
    )
    # Columns that it lacks are filled, so they count too.
    values = max(values, found.num_rows * len(SCHEMAS[kind]))
    if values > MAX_PART_VALUES:
        raise DamagedFile(f"claims {values} values, at most {MAX_PART_VALUES} are read")
    digests = note.get("digests")
    if not isinstance(digests, dict):
        raise DamagedFile("has no digests")
    nested = any(not pa.types.is_primitive(field.type) for field in SCHEMAS[kind])
    # A text or a list is an object of its own in a frame, whatever is in it.
    unpacked = 8 * values + (200 * found.num_rows if nested else 0)
    return _sorted_columns(file.schema_arrow, kind, digests, unpacked)


def _sorted_columns(
    schema: pa.Schema, kind: str, digests: Mapping[str, Any], unpacked: int
) -> Layout:
    names = list(schema.names)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DamagedFile(f"has two columns named {str(twice)[:80]!r}")
    if set(names) != set(digests):
        raise DamagedFile("has other columns than those it has digests of")
    wanted = SCHEMAS[kind]
    for field in wanted:
        needed = not pa.types.is_floating(field.type) and field.name not in OPTIONAL
        if field.name not in names and needed:
            raise DamagedFile(f"lacks the column {field.name!r}")
        if field.name in names and not _alike(schema.field(field.name).type, field.type):
            raise DamagedFile(f"has a column {field.name!r} of another type than {field.type}")
    own: list[str] = []
    unreadable: list[str] = []
    for name in names:
        if name not in wanted.names:
            fits = _is_number(schema.field(name).type) and is_free_name(name)
            (own if fits else unreadable).append(name)
    known = tuple(name for name in wanted.names if name in names)
    return Layout(known, tuple(own), tuple(unreadable), digests, unpacked)


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    )


def _alike(found: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_list(wanted):
        return bool(pa.types.is_list(found) and pa.types.is_integer(found.value_type))
    if pa.types.is_string(wanted):
        return bool(pa.types.is_string(found))
    return _is_number(found)


def own_type(found: pa.DataType) -> pa.DataType:
    """Return the type in which a column that the catalogue lacks is read: float32 as it is, all else as float64."""
    return found if pa.types.is_float32(found) else pa.float64()


def check_part(path: Path, kind: str, *, run_id: str | None = None) -> Layout:
    """Check a part's kind, version, run, columns and claimed size from its last bytes alone, and return its columns.

    Raises:
        DamagedFile: If it cannot be one of ours, or belongs to another run.
        FileNotFoundError: If it has gone.
    """
    with open_regular(path, MAX_PART_BYTES) as file:
        try:
            return _layout(pq.ParquetFile(pa.PythonFile(file, mode="r")), kind, run_id)
        except _PARQUET_FAULTS as error:
            raise DamagedFile(f"is not a readable Parquet file ({type(error).__name__})") from error


def _short_texts(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return texts that come as a dictionary as plain ones, if none is too long.

    Raises:
        DamagedFile: If one is.
    """
    for chunk in column.chunks:
        longest = pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0
        if longest > 4 * MAX_TEXT:  # bytes of so many characters
            raise DamagedFile(f"has a text of {longest} bytes in column {name!r}")
    return column.cast(pa.string())


def read_part(
    path: Path, kind: str, columns: Sequence[str] | None = None, *, run_id: str | None = None
) -> pa.Table:
    """Read the columns that a part has, or some of them, and check each one read against its digest.

    Args:
        path: The part.
        kind: A key of SCHEMAS.
        columns: Names to read; None reads all that are numbers or known.
        run_id: The run it should belong to; a part without an id is taken.

    Returns:
        Known columns in the order and of the types of SCHEMAS, then those that the catalogue lacks, as numbers.

    Raises:
        DamagedFile: If it is damaged, foreign, too large or not a regular file.
        FileNotFoundError: If it has gone.
    """
    with open_regular(path, MAX_PART_BYTES) as source:
        data = source.read()
    try:
        texts = [field.name for field in SCHEMAS[kind] if pa.types.is_string(field.type)]
        # As a dictionary one long text takes its room once, and is refused before it is repeated.
        file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts)
        layout = _layout(pq.ParquetFile(pa.BufferReader(data)), kind, run_id)
        names = [
            name for name in (*layout.known, *layout.own) if columns is None or name in columns
        ]
        table = file.read(columns=names, use_threads=False).select(names)
        arrays = []
        for name in names:
            column = table.column(name)
            if name in texts:
                column = _short_texts(column, name)
            if layout.digests.get(name) != _digest(column):
                raise DamagedFile(f"does not match its checksum in column {name!r}")
            if name in layout.known:
                if column.null_count:
                    raise DamagedFile(f"has missing values in column {name!r}")
                arrays.append(column.cast(SCHEMAS[kind].field(name).type))
            else:
                # a null is what another program calls NaN
                arrays.append(column.cast(own_type(column.type), safe=False).fill_null(np.nan))
        return pa.Table.from_arrays(arrays, names=names)
    except _PARQUET_FAULTS as error:
        raise DamagedFile(f"is not a readable Parquet file ({type(error).__name__})") from error
