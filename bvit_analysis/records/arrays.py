"""Archives of plain arrays in a run folder: nothing in them is pickled, and no size is believed before it is checked."""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, final

import numpy as np

from bvit_analysis.files import DamagedFile, open_regular

_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    SyntaxError,  # numpy reads the header of a damaged array as Python
    tokenize.TokenError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
)


OWNER = "run_id"
_MOST_ID = 200  # bytes


def encode_arrays(arrays: Mapping[str, np.ndarray], run_id: str | None = None) -> memoryview:
    """Return arrays as the bytes of a compressed .npz file, which carries its run's id if there is one."""
    sink = io.BytesIO()
    owner = {} if run_id is None else {OWNER: np.frombuffer(run_id.encode(), dtype=np.uint8)}
    # As numpy.savez_compressed, which takes five times as long for a large layer as the lowest level of compression.
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in {**arrays, **owner}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
    return sink.getbuffer()


@final
class ArrayArchive:
    """Reads arrays of known type from an .npz file that may be damaged or hostile.

    Args:
        path: A regular file.
        limit: Its largest size, bytes.

    Raises:
        DamagedFile: If the file cannot be trusted.
        FileNotFoundError: If there is none.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._file = open_regular(path, limit)
        try:
            self._archive = zipfile.ZipFile(self._file)
        except _FAULTS as error:
            self._file.close()
            raise _unsound(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._archive.close()
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return f"{name}.npy" in self._archive.namelist()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape that an array claims to have."""
        try:
            with self._archive.open(f"{name}.npy") as member:
                return _header(member)[0]
        except _FAULTS as error:
            raise _unsound(error) from error

    def read(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array of exactly this type and shape.

        Raises:
            DamagedFile: If it is missing, of another type or shape, or its checksum is wrong.
        """
        try:
            with self._archive.open(f"{name}.npy") as member:
                # The header is compared before any array is made, so a lying file cannot claim the memory.
                found, fortran, kind = _header(member)
                if found != shape or kind != dtype or fortran:
                    raise DamagedFile(
                        f"has an array of shape {found} and type {kind}; expected {shape} of {dtype}"
                    )
                size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
                # One byte more than is due, so that the archive checks its checksum.
                data = member.read(size + 1)
        except _FAULTS as error:
            raise _unsound(error) from error
        if len(data) != size:
            raise DamagedFile("has an array of another length than its header says")
        return np.frombuffer(data, dtype=dtype).reshape(shape).copy()


def check_owner(archive: ArrayArchive, run_id: str | None) -> None:
    """Refuse an archive of another run; those of the first release carry no id and are taken.

    Raises:
        DamagedFile: If it belongs to another run.
    """
    if run_id is None or OWNER not in archive:
        return
    shape = archive.shape(OWNER)
    if len(shape) != 1 or shape[0] > _MOST_ID:
        raise DamagedFile("has a run id that is none")
    owner = archive.read(OWNER, np.dtype(np.uint8), shape).tobytes().decode(errors="replace")
    if owner != run_id:
        raise DamagedFile(f"belongs to run {owner[:80]!r}, not to {run_id!r}")


def _header(member: object) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)  # type: ignore[arg-type]
    if version != (1, 0):
        raise DamagedFile("has an unexpected array header")
    return np.lib.format.read_array_header_1_0(member)  # type: ignore[arg-type]


def _unsound(error: BaseException) -> DamagedFile:
    return DamagedFile(f"is not a sound array archive ({type(error).__name__})")
