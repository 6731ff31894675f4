"""The container of a packed model: a safetensors file whose header says what it is, read without trusting it.

Metadata key 'bvit' holds JSON: format, version, model, recipe, float_dtype, data, sites, source, and sha256: of the
whole file with these 64 digits as zeros, so that no byte can change unseen. For each binary linear NAME of shape
(O, I) there are 'NAME.bits', uint8 (O, ceil(I / 8)), rows of bits, lowest bit first, 1 for +1; and 'NAME.weight_scale',
(O,), unless the recipe has no weight scale. All other parameters have their own names. Nothing is pickled, and no
name in the file is imported or used as a path.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from bvit_analysis.config import Recipe
from bvit_analysis.errors import PackedFileError, RunError
from bvit_analysis.files import DamagedFile, open_regular, write_bytes_atomic
from bvit_analysis.packed.bits import words_of_rows
from bvit_analysis.packed.checks import (
    AGAIN,
    DTYPES,
    FORMAT,
    MAX_FILE_BYTES,
    MAX_HEADER_BYTES,
    VERSION,
    check_header,
    check_version,
    naturals,
    packed_names,
    shown,
)

_NO_DIGEST = "0" * 64


@dataclass(frozen=True)
class PackedFile:
    """A packed file that was read and checked; no model is built."""

    path: Path
    header: dict[str, Any]
    "The metadata, see the module's text."
    recipe: Recipe
    tensors: dict[str, Tensor]
    "As stored, by name, in memory of their own; the methods that begin with take_ remove what they return."

    @property
    def sites(self) -> dict[str, tuple[int, int]]:
        """Shapes (O, I) of the binary linears by module path."""
        return {name: (site["out"], site["in"]) for name, site in self.header["sites"].items()}

    def rows(self, site: str) -> np.ndarray:
        """Return the packed weight of a binary linear, uint8 (O, ceil(I / 8)), without a copy."""
        return self.tensors[f"{site}.bits"].numpy()

    def take_words(self) -> Iterator[tuple[str, Tensor]]:
        """Yield site and packed weight as kernels read it, (W, O) int64, and forget each here.

        Rows of whole words are transposed in the memory they were read into, by way of one buffer: a new one for each
        site would lie elsewhere each time, and the process keeps every page that was touched once. numpy turns them,
        as torch would take a buffer of its own for it.
        """
        largest = max((self.tensors[f"{site}.bits"].numel() for site in self.sites), default=0)
        buffer = np.empty(largest // 8, np.int64)
        for site in self.sites:
            rows = self.tensors.pop(f"{site}.bits")
            if rows.shape[1] % 8 or sys.byteorder == "big":
                yield site, transposed(words_of_rows(rows.numpy()))
                continue
            words = rows.view(torch.int64)
            turned = buffer[: words.numel()].reshape(words.shape[::-1])
            turned[...] = words.numpy().T
            words = words.view(turned.shape)
            words.numpy()[...] = turned
            yield site, words

    def weight_scale(self, site: str) -> Tensor:
        """Return the scale of a binary linear's weight, float32 (O,); ones where the recipe has none."""
        stored = self.tensors.get(f"{site}.weight_scale")
        return torch.ones(self.sites[site][0]) if stored is None else stored.float()

    def take_weight_scale(self, site: str) -> Tensor:
        """Return what weight_scale() does, and forget it here."""
        scale = self.weight_scale(site)
        self.tensors.pop(f"{site}.weight_scale", None)
        return scale

    def float_shapes(self) -> dict[str, torch.Size]:
        """Return the shape of every other parameter by its name in the model's state dict."""
        return {name: self.tensors[name].shape for name in self._float_names()}

    def take_float_tensors(self) -> dict[str, Tensor]:
        """Return every other parameter in float32, and forget each here: float16 is let go as it is widened."""
        return {name: self.tensors.pop(name).float() for name in self._float_names()}

    def _float_names(self) -> list[str]:
        packed = packed_names(self.sites, self.recipe)
        return [name for name in self.tensors if name not in packed]


def write_packed(
    path: str | Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Path:
    """Write a packed file whole or not at all, after the checks that reading makes.

    Args:
        path: The file to write or replace.
        header: Everything but format, version and sha256.
        tensors: By name, on the CPU, contiguous.

    Returns:
        The path.

    Raises:
        PackedFileError: If the header and the tensors do not fit each other, or the file cannot be written.
    """
    path = Path(path)
    full = _full_header(header)
    try:
        check_header(full, dict(tensors))
        data = bytearray(safetensors.torch.save(dict(tensors), {"bvit": _json(full)}))
    except DamagedFile as error:
        raise PackedFileError(f"cannot pack into {path}: {error}") from error
    place = data.index(_NO_DIGEST.encode(), 8)
    data[place : place + 64] = hashlib.sha256(data).hexdigest().encode()
    try:
        write_bytes_atomic(path, memoryview(data))
    except RunError as error:
        raise PackedFileError(str(error)) from error
    return path


def read_packed(path: str | Path) -> PackedFile:
    """Read a packed file and check all of it: checksum, header, names, shapes, unused bits.

    No more memory is taken than the file has bytes, whatever it claims.

    Args:
        path: The file.

    Raises:
        PackedFileError: If there is none, or it is damaged, cut off, of another kind or version, or inconsistent.
    """
    path = Path(path)
    try:
        with open_regular(path.resolve(), MAX_FILE_BYTES) as file:
            header, tensors = _read(file)
        recipe = check_header(header, tensors)
    except FileNotFoundError:
        raise PackedFileError(f"no packed model at {path}; 'bvit pack RUN' writes one") from None
    except (DamagedFile, OSError, RuntimeError) as error:
        raise PackedFileError(f"packed model {path}: {shown(error)}") from error
    return PackedFile(path, header, recipe, tensors)


def transposed(words: np.ndarray) -> Tensor:
    """Turn packed rows (O, W) uint64 into what kernels read, (W, O) int64: torch has few uint64 operations."""
    return torch.from_numpy(np.ascontiguousarray(words.T).view(np.int64))


def container_bytes(
    header: Mapping[str, Any], shapes: Mapping[str, tuple[str, Iterable[int]]]
) -> int:
    """Return the bytes of a packed file that are not tensors: length, index of tensors and metadata.

    Args:
        header: As for write_packed.
        shapes: Name -> safetensors dtype ('F32', 'F16', 'U8') and shape of each tensor.
    """
    index: dict[str, Any] = {"__metadata__": {"bvit": _json(_full_header(header))}}
    end = 0
    order = sorted(shapes.items(), key=lambda item: (-DTYPES[item[1][0]].itemsize, item[0]))
    for name, (dtype, shape) in order:
        begin, end = end, end + math.prod(shape) * DTYPES[dtype].itemsize
        index[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    length = len(_json(index))
    return 8 + length + -length % 8


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _full_header(header: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "sha256": _NO_DIGEST, **header}


def _read(file: io.BufferedReader) -> tuple[dict[str, Any], dict[str, Tensor]]:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= size - 8:
        raise DamagedFile(f"is cut off or not a safetensors file ({size} bytes); {AGAIN}")
    if length > MAX_HEADER_BYTES:
        raise DamagedFile(
            f"claims a header of {length} bytes, at most {MAX_HEADER_BYTES} are read; {AGAIN}"
        )
    raw = file.read(length)
    index = _object(raw, "its index")
    metadata = index.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get("bvit"), str):
        raise DamagedFile("is a safetensors file, but no packed model; 'bvit pack RUN' writes one")
    header = _object(metadata["bvit"].encode("utf-8", "replace"), "its header")
    check_version(header)
    claimed = header.get("sha256")
    if not isinstance(claimed, str) or not re.fullmatch("[0-9a-f]{64}", claimed):
        raise DamagedFile(f"has no checksum; {AGAIN}")
    digest = hashlib.sha256(start + raw.replace(claimed.encode(), _NO_DIGEST.encode(), 1))
    tensors = _read_tensors(file, _layout(index, size - 8 - length), digest)
    if digest.hexdigest() != claimed:
        raise DamagedFile(f"does not match its checksum; {AGAIN}")
    return header, tensors


def _object(raw: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(raw, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{what} is no valid JSON ({shown(error)}); {AGAIN}") from error
    if not isinstance(value, dict):
        raise DamagedFile(f"{what} is no JSON object; {AGAIN}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _layout(index: dict[str, Any], payload: int) -> list[tuple[str, torch.dtype, list[int]]]:
    """Return name, dtype and shape of the tensors in file order, which fill the payload without a gap."""
    found = []
    for name, entry in index.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise DamagedFile(f"has no whole entry for tensor {shown(repr(name))}; {AGAIN}")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise DamagedFile(
                f"stores {shown(repr(name))} as {shown(repr(dtype))}; expected one of {', '.join(DTYPES)}"
            )
        if not naturals(shape) or not naturals(offsets) or len(offsets) != 2 or len(shape) > 8:
            raise DamagedFile(f"has no valid shape for tensor {shown(repr(name))}; {AGAIN}")
        found.append((offsets[0], offsets[1], name, DTYPES[dtype], shape))
    found.sort(key=lambda entry: entry[:3])
    end = 0
    for begin, stop, name, kind, shape in found:
        if begin != end or stop - begin != math.prod(shape) * kind.itemsize or stop > payload:
            raise DamagedFile(
                f"is cut off, or claims more than it holds: tensor {shown(repr(name))} of shape {shown(shape)} does not"
                f" fit into {payload} bytes; {AGAIN}"
            )
        end = stop
    if end != payload:
        raise DamagedFile(f"holds {payload} bytes of tensors and describes {end}; {AGAIN}")
    return [(name, kind, shape) for _, _, name, kind, shape in found]


def _read_tensors(
    file: io.BufferedReader, layout: list[tuple[str, torch.dtype, list[int]]], digest: Any
) -> dict[str, Tensor]:
    """Read each tensor into memory of torch's own, where a model can keep it."""
    tensors = {}
    for name, dtype, shape in layout:
        tensors[name] = torch.empty(shape, dtype=dtype)
        array = tensors[name].numpy()
        view = array.reshape(-1).view(np.uint8)
        if file.readinto(view.data) != view.size:
            raise DamagedFile(f"became shorter while it was read; {AGAIN}")
        digest.update(view)
        if sys.byteorder == "big":  # the file is little
            array.byteswap(inplace=True)
    return tensors
