"""Damaged and hostile run folders, each wrong in one way, and a child process that reads all of them.

``python -m tests.support.hostile FOLDER`` makes them, reads them with everything that reads runs, and prints as JSON what
each took. What it makes is data alone: nothing here damages anything outside of its folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bvit_analysis.records.parts import _digest, encode_part
from tests.support.synthetic_run import make_run

SURROGATE = "a\ud800b"
MARKUP = "<script>alert(1)</script>\n\"'&<img src=http://e.invalid/x onerror=alert(2)>"
GOOD = "good-run"
Variant = Callable[[Path], None]


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def _text(name: str, text: str | bytes) -> Variant:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return lambda run: _replace(run / name, data)


def _replace(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def _said(file: str, *keys: str | int, **changes: Any) -> Variant:
    """Change what a JSON file says at a place."""

    def change(run: Path) -> None:
        data = json.loads((run / file).read_text())
        place = data
        for key in keys:
            place = place[key]
        place.update(changes)
        (run / file).write_text(json.dumps(data))

    return change


def _part(run: Path, kind: str) -> Path:
    return next((run / kind).glob("part-*"))


def _edited(kind: str, *, extra: bool = True, **columns: Any) -> Variant:
    """Add a part whose columns were changed, its digests right."""

    def change(run: Path) -> None:
        table = pq.read_table(_part(run, kind))
        for name, value in columns.items():
            if value is None:
                table = table.drop_columns([name])
                continue
            array = pa.array([value] * len(table)) if not isinstance(value, pa.Array) else value
            at = table.schema.get_field_index(name)
            table = (
                table.append_column(name, array) if at < 0 else table.set_column(at, name, array)
            )
        target = run / kind / "part-000070.parquet" if extra else _part(run, kind)
        target.write_bytes(encode_part(kind, table, run.name))

    return change


def _noted(note: Any, *, kind: str = "sites", raw: bytes | None = None) -> Variant:
    def change(run: Path) -> None:
        table = pq.read_table(_part(run, kind))
        text = raw if raw is not None else json.dumps(note).encode()
        with pq.ParquetWriter(run / kind / "part-000070.parquet", table.schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({b"bvit": text})

    return change


def _whole(kind: str, table: pa.Table, name: str = "part-000070.parquet") -> Variant:
    """Add a part of a table of one's own, its digests right where they can be made in a moment."""

    def change(run: Path) -> None:
        digests = {
            column: ""
            if pa.types.is_dictionary(table.schema.field(column).type)
            else _digest(table.column(column))
            for column in table.column_names
        }
        note = {"kind": kind, "schema_version": 1, "run_id": run.name, "digests": digests}
        options: dict[str, Any] = {"compression": "zstd", "store_schema": False}
        with pq.ParquetWriter(run / kind / name, table.schema, **options) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({"bvit": json.dumps(note)})

    return change


def _zeros(rows: int, kind: str) -> pa.Table:
    """Return rows that are all alike: next to nothing on disk."""
    columns: dict[str, pa.Array] = {
        "step": pa.array(np.zeros(rows, np.int64)),
        "site_id": pa.array(np.zeros(rows, np.int16)),
    }
    if kind == "sites":
        columns |= {"flip_rate": pa.array(np.zeros(rows, np.float32))}
    if kind == "trajectories":
        columns |= {"index": pa.array(np.zeros(rows, np.int64))}
        columns |= {
            name: pa.array(np.zeros(rows, np.float32)) for name in ("latent", "gradient")
        } | {"sign": pa.array(np.ones(rows, np.int8))}
    return pa.table(columns)


def _lists(rows: int, length: int) -> pa.Table:
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * length)
    values = pa.array(np.zeros(rows * length, np.int64))
    return pa.table(
        {
            "step": pa.array(np.arange(rows)),
            "site_id": pa.array(np.zeros(rows, np.int16)),
            "n": pa.array(np.full(rows, 9)),
            "counts": pa.ListArray.from_arrays(offsets, values),
        }
    )


def _long_texts(rows: int, length: int) -> pa.Table:
    text = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(rows, np.int32)), pa.array(["k" * length])
    )
    return pa.table(
        {
            "step": pa.array(np.arange(rows)),
            "site_id": pa.array(np.zeros(rows, np.int16)),
            "kind": text,
            "lo": pa.array(np.zeros(rows)),
            "hi": pa.array(np.ones(rows)),
            "counts": pa.array([[1]] * rows),
        }
    )


def _many_parts(run: Path) -> None:
    make = _whole("sites", _zeros(200_000, "sites"), "part-000100.parquet")
    make(run)
    data = (run / "sites" / "part-000100.parquet").read_bytes()
    for number in range(101, 140):
        (run / "sites" / f"part-{number:06d}.parquet").write_bytes(data)


def _more_parts(run: Path) -> None:
    part = _part(run, "scalars")
    for number in range(5000):
        os.link(part, part.with_name(f"part-{number + 100:06d}.parquet"))


def _hole(name: str) -> Variant:
    """Make a file of a tebibyte that takes no room."""

    def change(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        with (run / name).open("wb") as file:
            file.truncate(2**40)

    return change


# Archives ----------------------------------------------------------------------------------------


def _npy(shape: str, descr: str = "|u1", body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + body


def _archive(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return sink.getvalue()


def _counts_path(run: Path) -> Path:
    return sorted((run / "counts").glob("*.npz"))[0]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as found:
        return {name: found[name] for name in found.files}


def _in_counts(method: int = zipfile.ZIP_DEFLATED, **changes: Any) -> Variant:
    return lambda run: _in_archive(_counts_path(run), changes, method)


def _in_attention(method: int = zipfile.ZIP_DEFLATED, **changes: Any) -> Variant:
    return lambda run: _in_archive(run / "examples" / "attention.npz", changes, method)


def _in_archive(path: Path, changes: dict[str, Any], method: int) -> None:
    members: dict[str, bytes] = {}
    for name, array in _arrays(path).items():
        value = changes.pop(name, array)
        if isinstance(value, bytes):
            members[name] = value
            continue
        sink = io.BytesIO()
        np.save(sink, value(array) if callable(value) else value, allow_pickle=True)
        members[name] = sink.getvalue()
    members |= {name: value for name, value in changes.items() if isinstance(value, bytes)}
    path.write_bytes(_archive(members, method))


def _weights_of_zeros(run: Path) -> None:
    """Claim a site of 8192 x 8192 weights whose counts are zeros: 0.7 GB from less than one MB."""
    side = 2**13
    _said("run.json", "sites", 0, shape=[side, side], n_weights=side * side)(run)
    path, members = _counts_path(run), {}
    for name, kind in (
        ("gross", "<i4"),
        ("late", "<i4"),
        ("first_sign", "|i1"),
        ("last_sign", "|i1"),
    ):
        members[name] = (f"({side}, {side})", kind, side * side * int(kind[-1]))
    members["steps"] = ("()", "<i8", 8)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (shape, kind, size) in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(_npy(shape, kind))
                for _ in range(max(1, size // 2**22)):
                    member.write(b"\0" * min(size, 2**22))


def _many_members(run: Path) -> None:
    with zipfile.ZipFile(_counts_path(run), "w") as archive:
        for number in range(60_000):
            archive.writestr(str(number), b"")


def _linked(name: str, target: str) -> Variant:
    def change(run: Path) -> None:
        path = run / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.symlink_to(target)

    return change


def _pipe(name: str) -> Variant:
    def change(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return change


def _file_for_folder(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("x")


def _folder(name: str) -> Variant:
    def change(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()

    return change


def _from_other(name: str) -> Variant:
    """Take a file of the good run."""
    return lambda run: shutil.copy(run.parent / GOOD / name, run / name) and None


def _cut(name: str, size: int) -> Variant:
    def change(run: Path) -> None:
        path = next(run.glob(name))
        path.write_bytes(path.read_bytes()[:size])

    return change


def _left_by_a_kill(run: Path) -> None:
    (run / "lock").write_text(json.dumps({"pid": 2**22 - 1, "host": "gone", "created": 0}))
    (run / ".status.json.1-abc.tmp").write_text("{")
    (run / "sites" / ".part-000009.parquet.1-abc.tmp").write_bytes(b"PAR1")


_SITE = ("run.json", "sites", 0)
_RECIPE = ("run.json", "config", "recipe")

VARIANTS: dict[str, Variant] = {
    # run.json
    "info-missing": lambda run: (run / "run.json").unlink(),
    "info-empty": _text("run.json", ""),
    "info-no-json": _text("run.json", "{'a': 1}"),
    "info-half": _cut("run.json", 200),
    "info-list": _text("run.json", "[1]"),
    "info-deep-400": _said("run.json", config=_deep(400)),
    "info-deep-5000": _text("run.json", '{"a":' * 5000 + "1" + "}" * 5000),
    "info-deep-lists": _text(
        "run.json", '{"schema_version": 1, "x": ' + "[" * 500 + "]" * 500 + "}"
    ),
    "info-latin-1": _text("run.json", b'{"run_id": "\xe9"}'),
    "info-zero-bytes": _text("run.json", b"\0" * 4096),
    "info-long-number": _text("run.json", '{"schema_version": ' + "1" * 5000 + "}"),
    "info-too-large": _text("run.json", '{"a": "' + "x" * (17 * 2**20) + '"}'),
    "info-link": _linked("run.json", "/etc/hostname"),
    "info-pipe": _pipe("run.json"),
    "info-folder": _folder("run.json"),
    "version-2": _said("run.json", schema_version=2),
    "version-true": _said("run.json", schema_version=True),
    "version-huge": _said("run.json", schema_version=10**400),
    "version-markup": _said("run.json", schema_version=MARKUP),
    "id-path": _said("run.json", run_id="../../etc/passwd"),
    "id-number": _said("run.json", run_id=7),
    "id-markup": _said("run.json", run_id=MARKUP),
    "config-list": _said("run.json", config=[1]),
    "config-recipe-list": _said("run.json", "config", recipe=[1, 2]),
    "config-data-number": _said("run.json", "config", data=3),
    "config-all-lists": _said("run.json", "config", training=[[1]], model=[], watch="x", data=None),
    "recipe-name-list": _said(*_RECIPE, name=["a"]),
    "recipe-name-surrogate": _said(*_RECIPE, name=SURROGATE),
    "recipe-name-3mb": _said(*_RECIPE, name="n" * 3_000_000),
    "recipe-name-markup": _said(*_RECIPE, name=MARKUP),
    "recipe-name-empty": _said(*_RECIPE, name=""),
    "recipe-name-number": _said(*_RECIPE, name=10**400),
    "recipe-shift-object": _said(*_RECIPE, shift={"a": 1}, regularization=[1]),
    "recipe-key-surrogate": _said(*_RECIPE, **{SURROGATE: 1}),
    "seed-list": _said("run.json", seed=[1]),
    "seed-object": _said("run.json", seed={"a": 1}),
    "seed-huge": _said("run.json", seed=10**400),
    "seed-text": _said("run.json", seed="x"),
    "seed-infinite": _said("run.json", seed=float("inf")),
    "seed-in-config": _said("run.json", "config", seed=10**400),
    "kind-list": _said("run.json", kind=[1]),
    "kind-markup": _said("run.json", kind=MARKUP),
    "versions-list": _said("run.json", versions=[1]),
    "versions-deep": _said("run.json", versions=_deep(40)),
    "hardware-text": _said("run.json", hardware="cpu threads device"),
    "hardware-cells": _said("run.json", hardware={"cpu": {"a": 1}, "threads": [1]}),
    "costs-text": _said("run.json", costs="x"),
    "costs-numbers": _said("run.json", costs=[1, 2]),
    "costs-nested": _said("run.json", costs=[{"kind": ["qkv"], "parameters": {"a": 1}}]),
    "costs-huge": _said("run.json", costs=[{"kind": "qkv", "parameters": 10**400}]),
    "costs-infinite": _said("run.json", costs=[{"kind": "qkv", "parameters": float("inf")}]),
    "measures-text": _said("run.json", measures="x"),
    "measures-many": _said("run.json", measures=[{"name": "m"}] * 400),
    "measures-wrong": _said("run.json", measures=[1, None, {"name": 3}, {"name": "step"}]),
    "measures-wider": _said(
        "run.json",
        measures=[{"name": "flip_rate", "kind": "weight", "words": "x", "unit": "y", "low": -9}],
    ),
    "columns-list": _said("run.json", columns=[1]),
    "columns-strange": _said("run.json", columns={"sites": [1, MARKUP, "../x", "a", "a"]}),
    "sites-object": _said("run.json", sites={"a": 1}),
    "sites-many": _said(
        "run.json",
        sites=[
            {"site_id": n, "site": str(n), "kind": "weight", "shape": [1]} for n in range(40_000)
        ],
    ),
    "site-negative": _said(*_SITE, shape=[-1, 4]),
    "site-huge": _said(*_SITE, shape=[2**30, 2**30]),
    "site-deep": _said(*_SITE, shape=[[1]]),
    "site-name-3mb": _said(*_SITE, site="s" * 3_000_000),
    "site-name-surrogate": _said(*_SITE, site=SURROGATE),
    "site-name-markup": _said(*_SITE, site=MARKUP),
    "site-twice": _said(*_SITE, site_id=1),
    "site-kind": _said(*_SITE, kind=[1]),
    "site-kind-markup": _said(*_SITE, kind=MARKUP),
    "site-n-weights": _said(*_SITE, n_weights=10**400),
    # status.json and result.json
    "status-missing": lambda run: (run / "status.json").unlink(),
    "status-list": _text("status.json", "[]"),
    "status-deep": _said("status.json", error=_deep(400)),
    "status-pipe": _pipe("status.json"),
    "status-other-run": _said("status.json", run_id="other"),
    "status-heartbeat-huge": _said("status.json", state="running", heartbeat=10**400, host="x"),
    "status-heartbeat-nan": _said("status.json", state="running", heartbeat=float("nan")),
    "status-state": _said("status.json", state=MARKUP),
    "status-state-list": _said("status.json", state=["finished"]),
    "status-step-huge": _said("status.json", step=10**400),
    "status-step-text": _said("status.json", step="9"),
    "status-total-list": _said("status.json", total_steps=[1]),
    "status-error-long": _said("status.json", state="failed", error="e" * 5_000_000),
    "status-error-object": _said("status.json", state="failed", error={"a": SURROGATE}),
    "status-owner": _said("status.json", state="running", pid="x", host=[1], pid_started={}),
    "result-accuracy-percent": _said("result.json", test_accuracy=79.38),
    "result-accuracy-list": _said("result.json", test_accuracy=[0.5]),
    "result-accuracy-huge": _said("result.json", test_accuracy=10**400),
    "result-accuracy-nan": _said("result.json", test_accuracy=float("nan")),
    "result-count-text": _said("result.json", test_count=MARKUP),
    "result-count-huge": _said("result.json", test_count=10**400),
    "result-other-run": _from_other("result.json"),
    "result-list": _text("result.json", "[1]"),
    "left-by-a-kill": _left_by_a_kill,
    # parts
    "part-empty": _text("sites/part-000070.parquet", ""),
    "part-half": _cut("sites/part-*", 900),
    "part-text": _text("scalars/part-000070.parquet", "step,loss\n1,2\n"),
    "part-pipe": _pipe("sites/part-000070.parquet"),
    "part-folder": _folder("sites/part-000070.parquet"),
    "part-link": _linked("sites/part-000070.parquet", "/etc/hostname"),
    "part-of-another-run": lambda run: _from_other_part(run, "sites"),
    "part-name": _text("sites/part-1.parquet", "x"),
    "part-name-upper": _text("sites/PART-000001.PARQUET", "x"),
    "part-hole": _hole("sites/part-000070.parquet"),
    "parts-5000": _more_parts,
    "status-hole": _hole("status.json"),
    "stray-hole": _hole("notes.bin"),
    "kind-is-a-file": lambda run: _file_for_folder(run / "sites"),
    "kind-is-a-link": _linked("sites", "/etc"),
    "note-list": _noted([]),
    "note-deep": _noted(None, raw=b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
    "note-no-json": _noted(None, raw=b"\xff\xfe"),
    "note-digests": _noted({"kind": "sites", "schema_version": 1, "digests": [1]}),
    "note-other-kind": _noted({"kind": "scalars", "schema_version": 1, "digests": {}}),
    "note-id-list": _noted({"kind": "sites", "schema_version": 1, "run_id": [1], "digests": {}}),
    "column-missing": _whole("sites", pa.table({"step": [1], "flip_rate": [0.5]})),
    "column-text": _edited("sites", flip_rate="a"),
    "column-list": _edited("sites", flip_rate=[1.0]),
    "column-many": _whole("sites", pa.table({f"c{n}": [1.0] for n in range(3000)})),
    "column-own-markup": _edited("sites", **{MARKUP: 1.0}),
    "column-own-huge-name": _edited("sites", **{"n" * 100_000: 1.0}),
    "column-own-infinite": _edited("sites", mine=float("inf")),
    "value-flip-rate": _edited("sites", flip_rate=pa.scalar(-3.0).as_py()),
    "value-bimodality": _edited("sites", bimodality_coefficient=55.0),
    "value-accuracy": _edited("scalars", accuracy=79.38),
    "value-loss-infinite": _edited("scalars", loss=float("inf")),
    "value-loss-nan": _edited("scalars", extra=False, loss=float("nan")),
    "value-step-negative": _edited("sites", step=-5),
    "value-step-huge": _edited("scalars", step=2**60),
    "value-site-unknown": _edited("sites", site_id=9000),
    "rows-scalars": _whole("scalars", pa.table({"step": pa.array(np.zeros(8_000_000, np.int64))})),
    "rows-sites": _whole("sites", _zeros(4_000_000, "sites")),
    "rows-trajectories": _whole("trajectories", _zeros(4_000_000, "trajectories")),
    "rows-in-many-parts": _many_parts,
    "lists-long": _whole("channels", _lists(1, 5_000_000)),
    "lists-many": _whole("channels", _lists(3_000_000, 0)),
    "texts-long": _whole("histograms", _long_texts(3000, 3_000_000)),
    # archives
    "counts-empty": lambda run: _counts_path(run).write_bytes(b"") and None,
    "counts-half": _cut("counts/*.npz", 500),
    "counts-no-archive": lambda run: _counts_path(run).write_bytes(b"x" * 999) and None,
    "counts-members": _many_members,
    "counts-lzma": _in_counts(zipfile.ZIP_LZMA),
    "counts-pickle": _in_counts(gross=np.array([[{}]], dtype=object)),
    "counts-negative-shape": _in_counts(gross=_npy("(-1, 32)", "<i4")),
    "counts-zeros": _weights_of_zeros,
    "counts-more-than-steps": _in_counts(gross=lambda old: old + 10**6),
    "counts-late-above-gross": _in_counts(late=lambda old: old + 10**6),
    "counts-signs": _in_counts(first_sign=lambda old: old * 0),
    "counts-other-run": lambda run: _from_other_counts(run),
    "counts-id-huge": _in_counts(run_id=_npy("(900000000,)")),
    "counts-folder-link": _linked("counts", "/etc"),
    "attention-negative-images": _in_attention(
        images=_npy("(-1, 1, 28, 28)", body=b"\0" * 30_000_000)
    ),
    "attention-negative-names": _in_attention(sites=_npy("(-1,)", body=b"\0" * 30_000_000)),
    "attention-negative-bits": _in_attention(bits=_npy("(3, 1, -2, 17, 17)")),
    "attention-huge": _in_attention(bits=_npy("(4000000000, 4, 4, 4000, 4000)")),
    "attention-overflow": _in_attention(images=_npy("(4294967296, 4294967296, 1, 1)")),
    "attention-labels": _in_attention(labels=_npy("(-3,)", "<i8")),
    "attention-names-bytes": _in_attention(sites=_npy("(1,)", body=b"\xff")),
    "attention-name-long": _in_attention(sites=_npy("(900000,)", body=b"n" * 900_000)),
    "attention-names-many": _in_attention(sites=_npy("(900000,)", body=b"\n" * 900_000)),
    "attention-scores-nan": _in_attention(scores=lambda old: old * np.float16("nan")),
    "attention-scores-high": _in_attention(scores=lambda old: old + np.float16(55)),
    "attention-lzma": _in_attention(zipfile.ZIP_LZMA),
    "attention-header": _in_attention(bits=_npy("(1,)", version=b"\x09\x00")),
    "attention-header-code": _in_attention(bits=_npy("__import__('os').abort()")),
    "attention-header-long": _in_attention(bits=_npy("(" + "1," * 30_000 + ")")),
    "attention-folder-link": _linked("examples", "/etc"),
}
"What is done to a sound run, by the name of the run that it becomes."


def _from_other_part(run: Path, kind: str) -> None:
    shutil.copy(_part(run.parent / GOOD, kind), run / kind / "part-000070.parquet")


def _from_other_counts(run: Path) -> None:
    shutil.copy(_counts_path(run.parent / GOOD), _counts_path(run))


def make_runs(folder: Path) -> dict[str, Path]:
    """Make every variant below a folder, a sound run beside them, and links and names that are hard to read.

    Returns:
        Name of the variant to its run folder.
    """
    make_run(folder / GOOD, steps=4, blocks=1)
    sound = make_run(folder / "sound", steps=4, blocks=1, recipe="binaryvit", seed=1)
    made = {}
    for number, (name, change) in enumerate(VARIANTS.items()):
        run = made[name] = folder / f"bad-{number:03d}-{name}"
        shutil.copytree(sound, run)
        _rename(run, sound.name)
        change(run)
    shutil.rmtree(sound)
    strange = folder / os.fsdecode(b"name-\xff-\xe9\n")
    shutil.copytree(folder / GOOD, strange)
    made["name-bytes"] = strange
    (folder / "link-round").symlink_to(folder)
    (folder / "link-nowhere").symlink_to(folder / "nowhere")
    return made


def _rename(run: Path, old: str) -> None:
    """Give a copy of a run its own id, in every file that carries one."""
    for path in run.glob("*.json"):
        path.write_text(path.read_text().replace(old, run.name))
    for path in run.glob("*/part-*.parquet"):
        table = pq.ParquetFile(path).read()
        path.write_bytes(encode_part(path.parent.name, table, run.name))
    for path in [*run.glob("counts/*.npz"), *run.glob("examples/*.npz")]:
        arrays = _arrays(path) | {"run_id": np.frombuffer(run.name.encode(), np.uint8)}
        np.savez_compressed(path, **arrays)


# Reading -----------------------------------------------------------------------------------------


def read(run: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield everything that reads one run, by name."""
    from bvit_analysis import tables
    from bvit_analysis.records import SCHEMAS, load_run

    opened = load_run(run)
    yield "repr", lambda: (repr(opened), opened.step, opened.label, opened.measures)
    for kind in SCHEMAS:
        yield kind, lambda kind=kind: getattr(opened, kind)  # type: ignore[misc]
    yield "result", lambda: opened.result
    yield "attention", lambda: opened.attention
    yield "costs", lambda: tables.size_by_part({"a": opened.costs})
    yield "flips", lambda: tables.flip_totals(opened)
    yield "inventory", lambda: tables.inventory(opened)
    yield "config", lambda: tables.config_table(opened)
    yield "damage", lambda: tables.damage(opened)
    yield "describe", lambda: tables.describe_runs([opened])
    yield "table", lambda: tables.run_table([opened])
    yield "summary", lambda: tables.site_summary(opened, ["flip_rate"])
    yield "scalar frame", lambda: tables.scalar_frame([opened])


def read_all(folder: Path) -> dict[str, Any]:
    """Read every run below a folder alone and all together; return seconds, faults and the peak of memory."""
    from bvit_analysis import tables
    from bvit_analysis.errors import BvitError
    from bvit_analysis.records import find_runs

    seconds: dict[str, float] = {}
    bugs: list[str] = []
    refused: list[str] = []
    peaks: dict[str, int] = {}

    def peak() -> int:
        # Not ru_maxrss, which begins with what the parent had when it started this process.
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) // 1024

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.process_time()  # other work on this machine is no fault of a run
        try:
            yield
        except BvitError as error:
            refused.append(name)
            if "\n" in str(error) or not str(error):
                bugs.append(f"{name}: its error is not one line")
        except Exception as error:
            bugs.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
        seconds[name] = seconds.get(name, 0.0) + time.process_time() - began
        peaks[name] = peak()

    for run in sorted(path for path in folder.iterdir() if path.name.startswith(("bad-", "name-"))):
        name = os.fsencode(run.name).decode("ascii", "replace")
        calls: list[tuple[str, Callable[[], object]]] = []
        with timed(name):
            calls = list(read(run))
        for what, call in calls:
            with timed(f"{name} / {what}"):
                call()
    runs: list[Any] = []
    with timed("load_runs"):
        runs = tables.load_runs([folder])
    with timed("run_table"):
        table = tables.run_table(runs[::4])
        tables.ablation_table(table)
        tables.finding(table, "test_accuracy")
    with timed("comparability"):
        tables.comparability(runs)
        tables.pair_of_seed(runs, "grs")
    with timed("inventory of all"):
        tables.inventory(runs)
        tables.config_table(runs)
    with timed("site_frame"):
        tables.site_frame(runs, ["flip_rate"], kind="weight")
        tables.scalar_frame(runs)
    planned: dict[str, int] = {}
    with timed("plan"):
        jobs = plan_all(folder)
        refused_jobs = sum(job.refused is not None for job in jobs)
        planned |= {"executed": len(jobs) - refused_jobs, "refused": refused_jobs}
    found = len(find_runs(folder))
    return {
        "seconds": {name: round(taken, 3) for name, taken in seconds.items() if taken > 0.5},
        "bugs": bugs,
        "refused": refused,
        "peak_mib": peak(),
        "peaks": peaks,
        "together": len(runs),
        "planned": planned,
        "found": found,
    }


def plan_all(folder: Path) -> list[Any]:
    """Plan one execution a run over everything below a folder, as ``bvit notebooks FOLDER --each-run`` does."""
    from bvit_analysis.suite import estimate, plan
    from bvit_analysis.suite.plan_file import find_run_folders
    from tests.support.notebooks import write_notebook

    notebook = write_notebook(folder.parent / "look.ipynb", "1", parameters="runs: list[str] = []")
    jobs = plan([notebook], find_run_folders([str(folder)], Path()), {}, each_run=True)
    estimate(jobs, folder.parent / "out")
    return jobs


if __name__ == "__main__":
    resource.setrlimit(
        resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30)
    )  # a mistake here spares the machine
    warnings.simplefilter("ignore")
    print(json.dumps(read_all(Path(sys.argv[1]))))
