"""Checkpoints: exact round trips, and whatever breaks, the newest complete one is found or the run stops."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from bvit_analysis.errors import CheckpointError
from bvit_analysis.records import RunWarning, checkpoints
from bvit_analysis.records.checkpoints import Checkpoint, load_checkpoint, save_checkpoint


def _tensors(step: int) -> dict[str, Tensor]:
    return {"w": torch.full((64, 8), float(step)), "n": torch.tensor(step)}


def _save(run_dir: Path, step: int, **options: Any) -> Path:
    return save_checkpoint(run_dir, step, _tensors(step), {"step": step}, **options)


def _load(run_dir: Path, **options: Any) -> Checkpoint:
    checkpoint = load_checkpoint(run_dir, **options)
    assert checkpoint is not None
    assert checkpoint.state == {"step": checkpoint.step}
    for name, tensor in _tensors(checkpoint.step).items():
        assert torch.equal(checkpoint.tensors[name], tensor)
    return checkpoint


def _names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


# Round trips ----------------------------------------------------------------------------------


def _bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path: Path) -> None:
    noise = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    shared = torch.arange(12.0)
    tensors = {
        "float32": noise,
        "float64": noise.double() / 3,
        "bfloat16": noise.bfloat16(),
        "float16": noise.half(),
        "special": torch.tensor([math.nan, math.inf, -0.0, 1e-45]),
        "bool": noise > 0,
        "uint8": torch.arange(256, dtype=torch.uint8),
        "int8": torch.arange(-128, 128, dtype=torch.int8),
        "int16": torch.tensor([-(2**15)], dtype=torch.int16),
        "int32": torch.tensor([2**31 - 1], dtype=torch.int32),
        "int64": torch.tensor([2**62 + 1]),
        "scalar": torch.tensor(3.5),
        "scalar bool": torch.tensor(True),
        "empty": torch.empty(0, 3),
        "other empty": torch.empty(0, dtype=torch.int64),
        "transposed": noise.t(),
        "strided": noise[::2, ::3],
        "expanded": torch.ones(1).expand(4),
        "parameter": torch.nn.Parameter(noise.clone()),
        "whole": shared,
        "same": shared,
        "head": shared[:6],
        "tail": shared[6:],
    }
    save_checkpoint(tmp_path, 3, tensors, {})
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        back = found.tensors[name]
        assert back.dtype == tensor.dtype, name
        assert back.shape == tensor.shape, name
        assert _bits(back) == _bits(tensor.detach()), name
    found.tensors["head"].zero_()
    assert found.tensors["whole"].sum() == shared.sum()


def test_state_is_json_and_exact(tmp_path: Path) -> None:
    state = {
        "f": 0.1 + 0.2,
        "tiny": 5e-324,
        "nan": math.nan,
        "inf": -math.inf,
        "big": 2**80,
        "none": None,
        "list": [1, [True, "\u00fc\n"]],
        "nested": {"": {}},
    }
    save_checkpoint(tmp_path, 0, {}, state | {"tuple": (1, 2)})
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert math.isnan(found.state.pop("nan"))
    del state["nan"]
    assert found.state == state | {"tuple": [1, 2]}


@pytest.mark.parametrize(
    ("tensors", "state", "text"),
    [
        ({}, {"a": {1: 2}}, "expected text keys"),
        ({}, {"a": [torch.zeros(1)]}, r"state\.a\[0\] is a Tensor"),
        ({}, {"a": object()}, "expected JSON data"),
        ({"a": 3}, {}, "'a' must be a dense tensor, got int"),
        ({"a": torch.zeros(2, 2).to_sparse()}, {}, "dense tensor"),
        ({"__metadata__": torch.zeros(1)}, {}, "not allowed"),
        ({}, {"a": "x" * (16 * 2**20)}, "at most"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    tmp_path: Path, tensors: dict, state: dict, text: str
) -> None:
    with pytest.raises(CheckpointError, match=text):
        save_checkpoint(tmp_path, 1, tensors, state)
    assert not list(tmp_path.iterdir())


def test_odd_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="at least"):
        _save(tmp_path, -1)
    with pytest.raises(CheckpointError, match="at least"):
        _save(tmp_path, 1, keep_last=0)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    assert load_checkpoint(tmp_path) is None
    _save(tmp_path, 5)
    assert load_checkpoint(tmp_path, step=4) is None


# Retention ------------------------------------------------------------------------------------


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50):
        _save(tmp_path, step, best_step=20 if step >= 20 else None)
    assert _names(tmp_path) == ["ckpt-00000020", "ckpt-00000040", "ckpt-00000050"]
    assert _load(tmp_path, step=20).step == 20
    _save(tmp_path, 60, best_step=60, keep_last=1)
    assert _names(tmp_path) == ["ckpt-00000060"]
    assert _load(tmp_path).step == 60


def test_steps_beyond_eight_digits_sort_by_number(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        _save(tmp_path, step)
    assert _load(tmp_path).step == 100_000_000


def test_a_step_saved_again_replaces_the_earlier_one(tmp_path: Path) -> None:
    _save(tmp_path, 10)
    path = save_checkpoint(tmp_path, 10, {}, {"again": True})
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.state == {"again": True}
    assert _names(tmp_path) == [path.name]


def test_leftovers_are_ignored_and_cleaned_by_the_next_save(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(_save(tmp_path, 10), folder / "ckpt-00000099.tmp-12-abcdef01")
    shutil.copytree(folder / "ckpt-00000010", folder / "ckpt-00000098.gone-abcdef01")
    (folder / "notes.txt").write_text("mine")
    assert _load(tmp_path).step == 10
    _save(tmp_path, 20)
    assert _names(tmp_path) == ["ckpt-00000010", "ckpt-00000020", "notes.txt"]


# Damage ---------------------------------------------------------------------------------------


def _bit(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "one bit at the start": lambda data: _bit(data, 0),
    "one bit in the middle": lambda data: _bit(data, len(data) // 2),
    "one bit at the end": lambda data: _bit(data, len(data) - 1),
    "ten bytes less": lambda data: data[:-10],
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "middle third zeroed": lambda data: (
        data[: len(data) // 3] + b"\0" * (len(data) // 3) + data[2 * (len(data) // 3) :]
    ),
}


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_is_named_and_the_one_before_used(
    tmp_path: Path, name: str, damage: str
) -> None:
    _save(tmp_path, 10)
    file = _save(tmp_path, 20) / name
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.warns(RunWarning, match=rf"ckpt-00000010 is used.*ckpt-00000020: {name}"):
        assert _load(tmp_path).step == 10


@pytest.mark.parametrize("damage", list(DAMAGES)[3:])
def test_a_damaged_manifest_counts_as_damage(tmp_path: Path, damage: str) -> None:
    _save(tmp_path, 10)
    file = _save(tmp_path, 20) / "manifest.json"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.warns(RunWarning, match=r"ckpt-00000020: manifest\.json"):
        assert _load(tmp_path).step == 10


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../x": {"sha256": "", "bytes": 0}}},
        {"files": {}},
        {"files": None},
        {"files": {"state.safetensors": {}, "state.json": {}, "../x": {}}},
        {"files": {"state.safetensors": 3, "state.json": [1]}},
    ],
)
def test_a_manifest_that_lists_other_files_is_damaged(tmp_path: Path, change: dict) -> None:
    _save(tmp_path, 10)
    file = _save(tmp_path, 20) / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.warns(RunWarning, match="ckpt-00000020"):
        assert _load(tmp_path).step == 10


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "state.safetensors"])
@pytest.mark.parametrize("form", ["missing", "link", "pipe", "folder"])
def test_missing_and_special_files_are_damage(tmp_path: Path, name: str, form: str) -> None:
    _save(tmp_path, 10)
    file = _save(tmp_path, 20) / name
    file.rename(tmp_path / "elsewhere")
    if form == "link":
        file.symlink_to(tmp_path / "elsewhere")
    elif form == "pipe":
        os.mkfifo(file)
    elif form == "folder":
        file.mkdir()
    with pytest.warns(RunWarning, match=rf"ckpt-00000020: {name}"):
        assert _load(tmp_path).step == 10


def test_a_linked_checkpoint_is_damage(tmp_path: Path) -> None:
    _save(tmp_path, 10)
    path = _save(tmp_path, 20)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.warns(RunWarning, match="not a folder of its own"):
        assert _load(tmp_path).step == 10


def test_a_checkpoint_under_another_step_is_damage(tmp_path: Path) -> None:
    path = _save(tmp_path, 10)
    shutil.copytree(path, path.with_name("ckpt-00000030"))
    with pytest.warns(RunWarning, match="not of step 30"):
        assert _load(tmp_path).step == 10


def test_a_header_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    _save(tmp_path, 10)
    path = _save(tmp_path, 20)
    data = (10 * 2**30).to_bytes(8, "little") + b"{}"
    (path / "state.safetensors").write_bytes(data)
    manifest = json.loads((path / "manifest.json").read_text())
    digest = hashlib.sha256(data).hexdigest()
    manifest["files"]["state.safetensors"] = {"sha256": digest, "bytes": len(data)}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(RunWarning, match="claims a header"):
        assert _load(tmp_path).step == 10


def test_all_bad_stops_and_touches_nothing(tmp_path: Path) -> None:
    for step in (10, 20):
        (_save(tmp_path, step) / "state.safetensors").write_bytes(b"")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(
        CheckpointError, match="none of the 2 checkpoints .* can be trusted"
    ) as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_another_schema_version_is_refused_not_passed_over(tmp_path: Path) -> None:
    _save(tmp_path, 10)
    file = _save(tmp_path, 20) / "manifest.json"
    file.write_text(file.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(CheckpointError, match="schema version 2, .* reads 1; update"):
        load_checkpoint(tmp_path)


def test_going_on_from_before_a_damaged_one_retires_it(tmp_path: Path) -> None:
    _save(tmp_path, 10)
    (_save(tmp_path, 20) / "state.json").write_text("")
    _save(tmp_path, 15)
    assert _names(tmp_path) == ["ckpt-00000010", "ckpt-00000015"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _load(tmp_path).step == 15


# Faults while saving --------------------------------------------------------------------------


class _Killed(BaseException):
    """Stands for a kill: nothing cleans up after it."""


def _save_with_fault(
    patch: pytest.MonkeyPatch,
    run_dir: Path,
    step: int,
    last: int,
    fault: BaseException,
    after: bool,
) -> int:
    calls = 0

    def guarded(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != last:
                return function(*args, **kwargs)
            if after:
                function(*args, **kwargs)
            raise fault

        return call

    for owner, name in (
        (os, "open"),
        (os, "write"),
        (os, "fsync"),
        (os, "unlink"),
        (os, "rmdir"),
        (Path, "mkdir"),
        (Path, "rename"),
        (safetensors.torch, "save_file"),
    ):
        patch.setattr(owner, name, guarded(getattr(owner, name)))
    with contextlib.suppress(_Killed, CheckpointError):
        _save(run_dir, step, keep_last=1)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["kill", "error"])
@pytest.mark.parametrize("again", [False, True], ids=["next step", "same step"])
def test_a_fault_at_any_file_operation_leaves_a_complete_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, after: bool, again: bool
) -> None:
    fault = _Killed() if kind == "kill" else OSError(errno.EIO, "Input/output error")
    new = 10 if again else 20
    last, calls = 0, 1
    while calls >= last:  # until no operation is left to fail
        last += 1
        run_dir = tmp_path / f"r{last}"
        _save(run_dir, 10)
        with monkeypatch.context() as patch:
            calls = _save_with_fault(patch, run_dir, new, last, fault, after)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert _load(run_dir).step in (10, new)
        _save(run_dir, 30, keep_last=1)
        assert _names(run_dir) == ["ckpt-00000030"]
    assert last > 15


def _fail(code: int) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("name", ["fsync", "write"])
@pytest.mark.parametrize("code", [errno.EXDEV, errno.EACCES])
def test_faults_surface_with_path_and_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    _save(tmp_path, 10)
    with monkeypatch.context() as patch:
        patch.setattr(os, name, _fail(code))
        with pytest.raises(CheckpointError, match=f"cannot write .*ckpt-.*{os.strerror(code)}"):
            _save(tmp_path, 20)
    assert _names(tmp_path) == ["ckpt-00000010"]
    assert _load(tmp_path).step == 10


def test_too_little_space_is_seen_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(tmp_path, 10)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(CheckpointError, match=r"No space left for .*need \d+ bytes, have 1000 in"):
        _save(tmp_path, 20)
    assert _names(tmp_path) == ["ckpt-00000010"]


@pytest.mark.parametrize("seen_before", [True, False])
def test_a_really_full_disk(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, seen_before: bool
) -> None:
    _save(small_disk, 10)
    big = {"w": torch.zeros(400_000)}
    with monkeypatch.context() as patch:
        if not seen_before:
            # Another program takes the space between the look and the write.
            patch.setattr(checkpoints.shutil, "disk_usage", _roomy(small_disk))
        with pytest.raises(CheckpointError, match="No space left for .*need 166") as caught:
            save_checkpoint(small_disk, 20, big, {})
    assert "\n" not in str(caught.value)
    assert _names(small_disk) == ["ckpt-00000010"]
    assert _load(small_disk).step == 10
    _save(small_disk, 20)
    assert _load(small_disk).step == 20


def _roomy(path: Path) -> Callable[[Path], Any]:
    usage = shutil.disk_usage(path)
    return lambda place: usage._replace(free=2**40)


def test_the_system_temp_folder_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr("tempfile.tempdir", None)
    _save(tmp_path / "run", 1)
    assert _load(tmp_path / "run").step == 1
