"""Tables of the benchmark: ratios by hand, Amdahl's arithmetic, and records that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bvit_analysis import tables
from bvit_analysis.errors import ConfigError
from tests.support.packed_record import ACCOUNT, make_record

SHIPPED = sorted((Path(__file__).parents[2] / "data" / "benchmarks").glob("*.json"))


def test_savings_are_the_rival_over_the_packed_model() -> None:
    benchmark = tables.packed_benchmark(make_record())
    found = tables.packed_savings(benchmark, "DeiT-S").set_index(["quantity", "against"])["ratio"]
    assert list(dict.fromkeys(found.index.get_level_values(0))) == list(tables.SAVINGS)
    assert found["bytes on disk", "FP32"] == 80 / 5
    assert found["size, by ledger", "INT8"] == 25 / 5
    assert found["operations, by ledger", "BF16"] == 30
    assert found["peak memory", "BF16"] == 40 / 5
    assert found["latency", "INT8"] == 20 / 10
    assert tables.packed_savings(benchmark, "another").empty


def test_what_was_not_measured_is_left_out() -> None:
    record = make_record()
    record["models"] = [row for row in record["models"] if row["way"] != "INT8"]
    record["memory"] = []
    found = tables.packed_savings(tables.packed_benchmark(record), "DeiT-S")
    assert "peak memory" not in set(found["quantity"])
    assert set(found.loc[found["quantity"] == "latency", "against"]) == {"FP32", "BF16"}


def test_account_keeps_every_millisecond_and_obeys_amdahl() -> None:
    account = tables.packed_account(tables.packed_benchmark(make_record()), "DeiT-S", batch=32)
    for way, parts in ACCOUNT.items():
        assert account[way].sum() == sum(parts.values())
    assert list(account.index) == [
        "block linears",
        "head",
        "norms",
        "activation functions",
        "shifts, signs",
    ]
    law = tables.amdahl(account)
    assert law.loc["binarized", "times"] == pytest.approx((60 + 4) / (2 + 1))
    assert law.loc["stayed float", "times"] == pytest.approx(16 / 7)
    assert law.loc["whole", "times"] == 8
    assert law.loc["whole if the binarized parts took no time", "times"] == pytest.approx(80 / 7)
    f, s, rest = 64 / 80, 64 / 3, 16 / 7
    assert 1 / ((1 - f) / rest + f / s) == pytest.approx(law.loc["whole", "times"])


def test_finding_names_what_is_missed() -> None:
    benchmark = tables.packed_benchmark(make_record())
    assert tables.packed_finding(benchmark).startswith("1 of 2 goals met. Missed: peak (DeiT-S)")
    record = make_record()
    record["goals"] = []
    assert "Nothing" in tables.packed_finding(tables.packed_benchmark(record))
    assert "a CPU, 2 cores; torch 2, numba 0" in benchmark.where


def test_a_file_is_read_and_what_is_no_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(json.dumps(make_record()), encoding="utf-8")
    assert len(tables.packed_benchmark(path).models) == 12
    for text in ("{", "[]", '{"format": "other"}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match="benchmarks.packed_inference --json"):
            tables.packed_benchmark(path)
    record = make_record()
    del record["models"][0]["times_packed"]
    for row in record["models"]:
        row.pop("times_packed", None)
    with pytest.raises(ConfigError, match="table models lacks times_packed"):
        tables.packed_benchmark(record)


def test_the_newest_record_near_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tables.packed, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    with pytest.raises(ConfigError, match="found no record of a benchmark in data/benchmarks or"):
        tables.shipped_benchmark()
    (tmp_path / "data" / "benchmarks").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    for name in ("2026-01-01-a.json", "2026-02-01-a.json"):
        (tmp_path / "data" / "benchmarks" / name).write_text("{}", encoding="utf-8")
    assert tables.shipped_benchmark().name == "2026-02-01-a.json"
    monkeypatch.chdir(tmp_path / "notebooks")
    assert tables.shipped_benchmark().name == "2026-02-01-a.json"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_shipped_record_is_whole(path: Path) -> None:
    benchmark = tables.packed_benchmark(path)
    assert benchmark.machine["git_commit"]
    assert set(benchmark.models["model"]) == {"DeiT-S", "Fashion-MNIST"}
    for batch in (1, 32):
        savings = tables.packed_savings(benchmark, "DeiT-S", batch=batch)
        assert len(savings) == len(tables.SAVINGS) * len(tables.RIVALS)
        # two witnesses: the clock of the whole pass, and the clocks of its parts
        account = tables.packed_account(benchmark, "DeiT-S", batch=batch)
        times = benchmark.models.query("model == 'DeiT-S' and batch == @batch and threads == 1")
        for way, ms in times.set_index("way")["ms"].items():
            if way in account:
                assert account[way].sum() == pytest.approx(ms, rel=0.5)
