"""The catalogue: every fact of a measure once, of the form that it must have, and as the formulas give it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bvit_analysis.config import RECIPE_ORDER, RECIPES
from bvit_analysis.errors import ConfigError
from bvit_analysis.files import DamagedFile
from bvit_analysis.plots import look
from bvit_analysis.records import FLIP_BACK_STEPS, MEASURES, SCHEMAS, SITE_METRICS, Measure
from bvit_analysis.records.columns import NEAR_ZERO, catalogued
from bvit_analysis.records.measure import RESERVED, measure_from
from bvit_analysis.tables import ATLAS_METRICS, METRICS
from bvit_analysis.tables.chance import GAUSSIAN_NULLS
from bvit_analysis.tables.selection import preset_parts

MINE: dict[str, Any] = {"name": "mine", "kind": "weight", "words": "mine", "unit": "apples"}


def test_nulls_equal_those_of_a_large_gaussian_sample() -> None:
    w = np.random.default_rng(0).standard_normal(2_000_000)
    u = w / np.abs(w).mean()
    kurtosis = stats.kurtosis(u, fisher=False)
    sign = np.where(w >= 0, 1.0, -1.0)
    sample = {
        "bimodality_coefficient": (stats.skew(u) ** 2 + 1) / kurtosis,
        "kurtosis": kurtosis,
        "otsu_ratio": np.abs(u).mean() ** 2 / (u**2).mean(),
        "valley_depth": 0.0,
        "binarization_error": 1 - np.corrcoef(w, sign)[0, 1] ** 2,
        "twin_agreement": (sign == np.roll(sign, 1)).mean(),
    }
    sample |= {f"mass_near_zero_{name}": (np.abs(u) < d).mean() for name, d in NEAR_ZERO.items()}
    assert set(sample) == set(GAUSSIAN_NULLS)
    for name, value in sample.items():
        assert MEASURES[name].null == pytest.approx(value, rel=0.01, abs=2e-3), name
        assert MEASURES[name].null_words


def test_columns_of_the_record_are_the_catalogue() -> None:
    assert SCHEMAS["sites"].names == ["step", "site_id", *SITE_METRICS]
    for kind, name in (("scalars", "scalar"), ("timings", "timing")):
        wanted = [one.name for one in MEASURES.values() if one.kind == name]
        assert SCHEMAS[kind].names == ["step", *wanted]
    assert {f"flip_back_{k}" for k in FLIP_BACK_STEPS} <= set(SITE_METRICS)
    assert not RESERVED & set(MEASURES)
    for name, one in MEASURES.items():
        assert one.name == name
        assert one.sentence or one.kind not in ("weight", "activation")
        assert json.loads(json.dumps(one.facts(), allow_nan=False))
        assert measure_from(one.facts()) == one


def test_views_of_the_catalogue_hold_its_own_objects() -> None:
    assert all(ATLAS_METRICS[name] is MEASURES[name] for name in ATLAS_METRICS)
    assert all(one.measure is MEASURES[one.measure.name] for one in METRICS.values())
    assert len({one.measure.name for one in METRICS.values()}) == len(METRICS)
    assert list(METRICS)[:3] == ["test_accuracy", "validation_accuracy", "late_flip_rate"]


def test_claims_are_those_of_the_paper() -> None:
    """2305.14730: GRS against oscillation and for bimodality, ASM for the information of activations, both for accuracy."""
    claimed = {
        name: {recipe for recipe in RECIPES if one.moved_by & preset_parts(recipe)}
        for name, one in METRICS.items()
    }
    grs, asm = {"grs", "binaryvit"}, {"asm", "binaryvit"}
    assert claimed["test_accuracy"] == grs | asm
    assert claimed["late_flip_rate"] == claimed["bimodality_coefficient"] == grs
    assert claimed["sign_entropy_bits"] == claimed["twin_agreement"] == asm
    directions = {name: one.better for name, one in METRICS.items()}
    assert {name for name, sign in directions.items() if sign > 0} == {
        *("test_accuracy", "validation_accuracy", "bimodality_coefficient", "otsu_ratio"),
        *("sign_entropy_bits", "twin_agreement"),
    }
    assert 0 not in directions.values()


def test_every_recipe_has_its_place_colour_and_marker() -> None:
    assert {*RECIPES, "float"} == set(RECIPE_ORDER)
    for looks in (look.RECIPE_COLOURS, look.RECIPE_MARKERS):
        assert list(looks) == list(RECIPE_ORDER)
        assert len(set(looks.values())) == len(looks)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"name": "Mine"}, "lower-case letter"),
        ({"name": "=1+1"}, "lower-case letter"),
        ({"name": "a" * 61}, "at most 60"),
        ({"name": "site"}, "another column of the tables"),
        ({"kind": "wieght"}, "did you mean 'weight'"),
        ({"words": ""}, "must not be empty"),
        ({"unit": "a\nb"}, "printable text"),
        ({"sentence": "x" * 501}, "at most 500"),
        ({"low": 1.0, "high": 0.0}, "low must be below high"),
        ({"low": math.nan}, "low must be a number"),
        ({"low": 0.0, "null": -1.0}, "lies outside at least 0"),
        ({"null": math.inf}, "lies outside"),
        ({"better": 2}, "better must be -1, 0 or 1"),
        ({"moved_by": "shift"}, "moved_by must be of"),
        ({"moved_by": frozenset({"luck"})}, "moved_by must be of"),
        ({"margin": -1.0}, "margin must be at least 0"),
        ({"scale": "cubic"}, "unknown scale"),
        ({"form": ".1000000d"}, "form must be a format"),
        ({"in_atlas": "yes"}, "true or false"),
    ],
)
def test_a_wrong_fact_is_one_clear_error(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        Measure(**{**MINE, **change})
    assert "\n" not in str(caught.value)
    if "moved_by" not in change:  # of a stranger, parts that nobody knows make no claim
        with pytest.raises(DamagedFile):
            measure_from({**MINE, **change})


def test_a_strangers_facts_are_taken_as_far_as_they_are_known() -> None:
    facts = {**MINE, "low": None, "high": 1, "colour_of_the_next_release": "red"}
    one = measure_from({**facts, "moved_by": ["shift", "a part of the next release"]})
    assert (one.low, one.high, one.moved_by) == (-math.inf, 1, frozenset({"shift"}))
    for wrong in (None, [], "x", {}, {**MINE, "moved_by": {"a": 1}}, {**MINE, "null": 10**400}):
        with pytest.raises(DamagedFile):
            measure_from(wrong)


def test_ranges_forgive_rounding_and_nothing_else() -> None:
    share = dataclasses.replace(Measure(**MINE), low=0.0, high=1.0)
    held = [0.0, 1.0, float(np.float32(1) + np.finfo(np.float32).eps), -1e-7]
    assert [share.holds(value) for value in held] == [True] * 4
    others = [1.001, -0.001, math.nan, math.inf, -math.inf, 10**400]
    assert [share.holds(value) for value in others] == [False] * 6
    assert share.label == "mine (apples)"
    assert share.title == "Mine"
    assert Measure(**MINE, low=0.0).range_words() == "at least 0"
    assert not Measure(**MINE).holds(math.inf)


def test_an_unknown_catalogue_name_is_named() -> None:
    assert catalogued("kurtosis")[0] is MEASURES["kurtosis"]
    with pytest.raises(ConfigError, match="did you mean 'kurtosis'"):
        catalogued("kurtoses")


# One place ---------------------------------------------------------------------------------------

_ENTRY = """        _distribution(
            name="tail_share",
            words="tails",
            unit="share of weights with |u| > 2",
            sentence="Latent weights far from the sign's boundary.",
            **_SHARE,
            null=math.erfc(2 * math.sqrt(1 / math.pi)),
        ),
"""
_SCRIPT = """
import dataclasses, json, math, sys
from pathlib import Path
import torch, timm
from torch.nn import functional
from bvit_analysis import tables
from bvit_analysis.config import WatchConfig
from bvit_analysis.convert import binarize, calibrate
from bvit_analysis.records import load_run
from bvit_analysis.tables import csv_text
from bvit_analysis.watch import Watch

root = Path(sys.argv[1])
for recipe in ("baseline", "grs"):
    for seed in range(3):
        torch.manual_seed(seed)
        model = timm.create_model("vit_tiny_patch16_224", img_size=14, patch_size=7, embed_dim=16,
            depth=1, num_heads=2, in_chans=1, num_classes=3)
        binarize(model, recipe)
        calibrate(model, torch.randn(6, 1, 14, 14))
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=5e-3)
        config = {"recipe": {"name": recipe, "shift": "none",
            "regularization": "resilient" if recipe == "grs" else "none"}, "seed": seed}
        info = {"kind": "binary", "config": config, "seed": seed}
        often = WatchConfig(flips_every=1, distribution_every=1, activation_every=1)
        with Watch(model, root / f"{recipe}-{seed}", config=often, info=info) as watch:
            for step in range(2):
                functional.cross_entropy(model(torch.randn(4, 1, 14, 14)),
                    torch.randint(0, 3, (4,))).backward()
                optimizer.step()
                optimizer.zero_grad()
                watch.step(loss=1.0)
runs = tables.load_runs([root])
weight = model.blocks[0].mlp.fc2.weight.detach()
u = weight / weight.abs().mean(dim=1, keepdim=True)
last = runs[-1].sites.query("step == 2 and site == 'blocks.0.mlp.fc2'")["tail_share"].iloc[0]
table = tables.run_table(runs)
old = load_run(sys.argv[2])
print(json.dumps({
    "by hand": float((u.abs() > 2).double().mean()),
    "run": float(last),
    "declared": json.loads((root / "grs-0" / "run.json").read_text())["columns"]["sites"],
    "own": json.loads((root / "grs-0" / "run.json").read_text())["measures"],
    "atlas": tables.site_atlas(runs[0], "tail_share").grid.tolist(),
    "offered": list(tables.ATLAS_METRICS),
    "ablation": tables.ablation_table(runs, "tail_share")[["mean", "null"]].to_dict("list"),
    "compared": sorted(set(tables.verdict_table(runs)["metric"])),
    "csv": csv_text(table).splitlines()[0],
    "old rows": len(old.sites),
    "old": int(old.sites["tail_share"].notna().sum()),
}))
"""


@pytest.mark.slow
def test_a_measure_is_added_at_one_place(tmp_path: Path) -> None:
    """An entry of the catalogue and the instrument that fills it, two files, and every table has it."""
    root = Path(__file__).parents[2]
    shutil.copytree(root / "bvit_analysis", tmp_path / "bvit_analysis")
    touched = {
        "records/columns.py": ('        _weight(\n            name="weight_scale",\n', _ENTRY),
        "instruments/bimodality.py": ('        "valley_depth",\n', '        "tail_share",\n'),
    }
    fill = "                otsu_ratio=otsu_ratio(size),\n"
    for name, (mark, text) in touched.items():
        path = tmp_path / "bvit_analysis" / name
        code = path.read_text()
        assert code.count(mark) == 1
        assert fill not in code or code.count(fill) == 1
        more = "                tail_share=float((u.abs() > 2).double().mean()),\n"
        path.write_text(code.replace(mark, text + mark).replace(fill, fill + more))
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path), str(root / "data/runs/grs-seed0")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["run"] == pytest.approx(found["by hand"], rel=1e-6)
    assert "tail_share" in found["declared"]
    assert found["own"] == []
    assert np.isfinite(found["atlas"]).all()
    assert "tail_share" in found["offered"]
    null = math.erfc(2 * math.sqrt(1 / math.pi))
    assert found["ablation"]["null"] == pytest.approx([null, null])
    assert all(0 < mean < 1 for mean in found["ablation"]["mean"])
    assert "tail_share" in found["compared"]
    assert '"tail_share"' in found["csv"]
    assert (found["old rows"], found["old"]) == (1360, 0)
