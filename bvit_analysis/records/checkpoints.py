"""Checkpoints: folders that are complete and checksummed or do not count; no pickle anywhere."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from bvit_analysis.errors import CheckpointError
from bvit_analysis.files import (
    DamagedFile,
    RunWarning,
    open_regular,
    read_json,
    sync_folder,
    write_fault,
    write_synced,
)
from bvit_analysis.records.format import CHECKPOINTS

SCHEMA_VERSION = 1
"Of state.json and manifest.json; any other is refused."
TENSORS, STATE, MANIFEST = "state.safetensors", "state.json", "manifest.json"
MODEL, OPTIMIZER, REGULARIZER, WATCH = "model", "optimizer", "regularizer", "watch"
"Whose a tensor of a training is: what its name begins with, before a dot."

MAX_TENSOR_BYTES = 2**40
MAX_HEADER_BYTES = 10 * 2**20
MAX_STATE_BYTES = 16 * 2**20
_SLACK_BYTES = 64 * 2**10  # headers, JSON and the blocks that folders take

# The plain name is a checkpoint; '.old' is one that is just being replaced by another of its step.
_CKPT = "ckpt-"
_COMPLETE = re.compile(rf"{_CKPT}(\d{{8,}})(\.old)?")
_LEFTOVER = re.compile(rf"{_CKPT}\d{{8,}}\.(tmp|gone)-[0-9a-f-]+")


@dataclass(frozen=True)
class Checkpoint:
    """What was saved at one step."""

    step: int
    "Applied optimizer steps."
    tensors: dict[str, Tensor]
    "On the CPU, in memory of their own."
    state: dict[str, Any]
    "As JSON gives it back: tuples have become lists."
    path: Path
    "The folder it was read from."


def save_checkpoint(
    run_dir: str | Path,
    step: int,
    tensors: dict[str, Tensor],
    state: dict[str, Any],
    *,
    keep_last: int = 2,
    best_step: int | None = None,
) -> Path:
    """Store a checkpoint so that a crash at any moment leaves a complete one, and drop old ones.

    Args:
        run_dir: The run folder; made if it is missing. Its writer must be the caller.
        step: Applied optimizer steps.
        tensors: Name to tensor; any dtype and device, shared memory is stored once a name.
        state: JSON-ready data with text keys; NaN and infinity are allowed.
        keep_last: How many of the newest stay, at least 1.
        best_step: The checkpoint of this step stays too.

    Returns:
        The folder, `checkpoints/ckpt-<step>`.

    Raises:
        CheckpointError: If it cannot be stored; those stored earlier are intact.
    """
    if step < 0 or keep_last < 1:
        raise CheckpointError(
            f"step must be at least 0 and keep_last at least 1, got {step} and {keep_last}"
        )
    owned = _owned(tensors)
    text = _state_text(step, state)
    need = sum(_size(tensor) for tensor in owned.values()) + len(text) + _SLACK_BYTES
    folder = Path(run_dir) / CHECKPOINTS
    final = folder / f"{_CKPT}{step:08d}"
    hidden = folder / f"{final.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_half_checkpoints(run_dir)
        if shutil.disk_usage(folder).free < need:
            raise OSError(errno.ENOSPC, "No space left on device")
        hidden.mkdir()
        _write_files(hidden, step, owned, text)
        _publish(hidden, final)
        _retire(folder, step, keep_last, best_step)
    except (OSError, SafetensorError, DamagedFile) as error:
        shutil.rmtree(hidden, ignore_errors=True)
        raise write_fault(final, need, _as_os_error(error), CheckpointError) from error
    return final


def load_checkpoint(run_dir: str | Path, *, step: int | None = None) -> Checkpoint | None:
    """Read the newest checkpoint that is complete and matches its checksums.

    Args:
        run_dir: The run folder.
        step: Read the checkpoint of this step alone, for example the best one; None the newest.

    Returns:
        The checkpoint, or None if there is none at all. Each damaged one that was passed over is
        named in a RunWarning.

    Raises:
        CheckpointError: If there are checkpoints and none can be trusted, or the newest was written
            by another schema version; nothing is changed or removed.
    """
    folder = Path(run_dir) / CHECKPOINTS
    found = [path for path in _complete(folder) if step is None or _step_of(path) == step]
    reasons = []
    for path in found:
        try:
            checkpoint = _read(path)
        except DamagedFile as error:
            reasons.append(f"{path.name}: {error}")
            continue
        for reason in reasons:
            warnings.warn(
                f"checkpoint in {folder} is damaged, {path.name} is used instead; {reason}",
                RunWarning,
                stacklevel=2,
            )
        return checkpoint
    if reasons:
        raise CheckpointError(
            f"none of the {len(reasons)} checkpoints in {folder} can be trusted "
            f"({'; '.join(reasons)}); restore one from a copy, or start a new run in another folder"
        )
    return None


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _owned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    owned: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise CheckpointError(
                f"checkpoint entry {name!r} must be a dense tensor, got {type(tensor).__name__}; "
                "put other values into the state"
            )
        if not isinstance(name, str) or name == "__metadata__":
            raise CheckpointError(f"checkpoint entry name {name!r} is not allowed; choose another")
        copy = tensor.detach().cpu().contiguous()
        memory = copy.untyped_storage().data_ptr()
        # safetensors refuses tensors that overlap, tied weights for example.
        if memory and memory in seen:
            copy = copy.clone()
        seen.add(memory)
        owned[name] = copy
    return owned


def _check_json(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise CheckpointError(f"{where} has the key {key!r}; expected text keys only")
            _check_json(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            _check_json(item, f"{where}[{position}]")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise CheckpointError(
            f"{where} is a {type(value).__name__}; expected JSON data (None, bool, int, float, str, "
            "list, dict); put tensors among the tensors"
        )


def _state_text(step: int, state: dict[str, Any]) -> bytes:
    _check_json(state, "state")
    record = {"schema_version": SCHEMA_VERSION, "step": step, "state": state}
    # NaN is kept: this file is read by Python only, and a resumed run must see what was saved.
    text = json.dumps(record, indent=1).encode()
    if len(text) > MAX_STATE_BYTES:
        raise CheckpointError(
            f"state takes {len(text)} bytes as JSON, at most {MAX_STATE_BYTES} are read back; put "
            "large data among the tensors"
        )
    return text


def _as_os_error(error: Exception) -> OSError:
    if isinstance(error, OSError):
        return error
    if isinstance(error, DamagedFile):
        return OSError(errno.EIO, f"what was just written {error}")
    # safetensors tells of a failed write in words only: "I/O error: ... (os error 28)".
    match = re.search(r"os error (\d+)", str(error))
    code = int(match.group(1)) if match else errno.EIO
    return OSError(code, os.strerror(code) if match else str(error).splitlines()[0])


def _sha256(path: Path, limit: int) -> tuple[str, int]:
    with open_regular(path, limit) as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size


def _write_files(hidden: Path, step: int, tensors: dict[str, Tensor], text: bytes) -> None:
    safetensors.torch.save_file(tensors, str(hidden / TENSORS))
    handle = os.open(hidden / TENSORS, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    write_synced(hidden / STATE, text)
    files = {}
    for name in (TENSORS, STATE):
        digest, size = _sha256(hidden / name, MAX_TENSOR_BYTES)
        files[name] = {"sha256": digest, "bytes": size}
    manifest = {"schema_version": SCHEMA_VERSION, "step": step, "files": files}
    # Last, so that a folder with a manifest is one whose files were all written.
    write_synced(hidden / MANIFEST, json.dumps(manifest, indent=1).encode())
    sync_folder(hidden)


def _publish(hidden: Path, final: Path) -> None:
    old = final.with_name(f"{final.name}.old")
    if final.exists():
        # A resumed run is back at a step it had saved. Under either name the old one still counts.
        if old.exists():
            _remove(old)
        final.rename(old)
    hidden.rename(final)
    sync_folder(final.parent)
    if old.exists():
        _remove(old)


def _retire(folder: Path, step: int, keep_last: int, best_step: int | None) -> None:
    past = []
    for path in _complete(folder):
        if _step_of(path) > step:
            _remove(path)  # it was passed over as damaged when the run went on from before it
        else:
            past.append(path)
    for path in past[keep_last:]:
        if _step_of(path) != best_step:
            _remove(path)


def _remove(path: Path) -> None:
    # Renamed first: what is half removed must not look like a checkpoint.
    gone = path.with_name(f"{path.name.removesuffix('.old')}.gone-{secrets.token_hex(4)}")
    path.rename(gone)
    _delete(gone)


def _delete(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def half_checkpoints(run_dir: str | Path) -> list[Path]:
    """Return what a killed process left of checkpoints that it was writing, replacing or removing."""
    folder = Path(run_dir) / CHECKPOINTS
    if folder.is_symlink() or not folder.is_dir():
        return []
    names = {path.name for path in folder.iterdir()}
    replaced = {name for name in names if name.removesuffix(".old") in names - {name}}
    return sorted(
        folder / name
        for name in names
        if _LEFTOVER.fullmatch(name) or (_COMPLETE.fullmatch(name) and name in replaced)
    )


def remove_half_checkpoints(run_dir: str | Path) -> None:
    """Remove what a killed process left of checkpoints; the caller must be the writer of the run."""
    for path in half_checkpoints(run_dir):
        with contextlib.suppress(OSError, DamagedFile, CheckpointError):
            if path.suffix == ".old":
                _read(path.with_suffix(""))  # a copy goes only where what replaced it is whole
            _delete(path)


def _step_of(path: Path) -> int:
    match = _COMPLETE.fullmatch(path.name)
    return int(match.group(1)) if match else -1


def _complete(folder: Path) -> list[Path]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _COMPLETE.fullmatch(path.name)]
    return sorted(found, key=lambda path: (-_step_of(path), path.name))


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path, MAX_STATE_BYTES)
    except FileNotFoundError:
        raise DamagedFile(f"{path.name} is missing") from None
    except DamagedFile as error:
        raise DamagedFile(f"{path.name} {error}") from error
    version = record.get("schema_version")
    if type(version) is int and version != SCHEMA_VERSION:
        cure = "update bvit_analysis" if version > SCHEMA_VERSION else "use the older version"
        raise CheckpointError(
            f"checkpoint {path.parent} has schema version {version}, this bvit_analysis reads "
            f"{SCHEMA_VERSION}; {cure} to go on with it"
        )
    return record


def _read(path: Path) -> Checkpoint:
    if path.is_symlink() or not path.is_dir():
        raise DamagedFile("is not a folder of its own")
    manifest = _read_record(path / MANIFEST)
    files = manifest.get("files")
    if not isinstance(files, dict) or set(files) != {TENSORS, STATE}:
        raise DamagedFile(f"{MANIFEST} does not list just {TENSORS} and {STATE}")
    for name, entry in files.items():
        try:
            digest, size = _sha256(path / name, MAX_TENSOR_BYTES)
        except FileNotFoundError:
            raise DamagedFile(f"{name} is missing") from None
        except DamagedFile as error:
            raise DamagedFile(f"{name} {error}") from error
        if entry != {"sha256": digest, "bytes": size}:
            raise DamagedFile(f"{name} does not match its checksum in {MANIFEST}")
    record = _read_record(path / STATE)
    state = record.get("state")
    if record.get("step") != _step_of(path) or not isinstance(state, dict):
        raise DamagedFile(f"{STATE} is not of step {_step_of(path)}")
    return Checkpoint(_step_of(path), _read_tensors(path / TENSORS), state, path)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    with open_regular(path, MAX_TENSOR_BYTES) as file:
        header = int.from_bytes(file.read(8), "little")
    if header > MAX_HEADER_BYTES:
        raise DamagedFile(f"{path.name} claims a header of {header} bytes")
    try:
        tensors = safetensors.torch.load_file(str(path))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DamagedFile(f"{path.name} cannot be read ({type(error).__name__})") from error
    # What load_file gives is a view of the file, which retention may remove.
    return {name: tensor.clone() for name, tensor in tensors.items()}


def prefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return tensors under names that begin with a prefix and a dot; part() takes it off again."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix and a dot, without it."""
    start = f"{prefix}."
    return {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}
