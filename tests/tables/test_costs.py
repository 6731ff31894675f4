"""Parts of a ledger against sums by hand for DeiT-S, and sentences about published ratios."""

from __future__ import annotations

import pandas as pd
import pytest
import timm

from bvit_analysis import binarize, model_cost, tables
from bvit_analysis.costs import ModelCost
from bvit_analysis.costs.rows import KINDS
from bvit_analysis.errors import ConfigError
from bvit_analysis.tables.costs import OTHER, PARTS


@pytest.fixture(scope="module")
def cost() -> ModelCost:
    model = timm.create_model("deit_small_patch16_224")
    binarize(model, "baseline")
    return model_cost(model)


def test_every_kind_of_the_ledger_is_in_exactly_one_part() -> None:
    kinds = [kind for part in PARTS.values() for kind in part]
    assert sorted(kinds) == sorted(KINDS)


def test_sizes_of_deit_s_by_hand(cost: ModelCost) -> None:
    table = tables.size_by_part({"float": cost.twin, "binary": cost.table})
    value = table.set_index(["model", "part", "form"])["value"]
    assert value["float", "block linears", "FP32"] == 4 * 21_233_664
    assert value["binary", "block linears", "1 bit"] == 21_233_664 / 8
    assert ("binary", "block linears", "FP32") not in value.index
    assert value["binary", "patch embedding", "FP32"] == 4 * 295_296
    assert value["binary", "head", "FP32"] == 4 * 385_000
    assert value["float", "positions, class token", "FP32"] == 4 * (75_648 + 384)
    channels = 12 * (1152 + 384 + 1536 + 384)
    scales = 12 * (4 + 3 * 6)
    assert value["binary", "scales, biases", "FP32"] == 4 * (channels + scales + channels)
    totals = table.groupby("model")["value"].sum()
    figures = cost.figures(["everything else FP32"]).iloc[0]
    assert totals["float"] == figures["float_twin"] == 4 * 22_050_664
    assert totals["binary"] == figures["value"]


@pytest.mark.parametrize("divisor", [32, 64])
def test_operations_of_deit_s_by_hand(cost: ModelCost, divisor: int) -> None:
    table = tables.operations_by_part({"binary": cost.table}, binary_ops_per_op=divisor)
    value = table.set_index(["part", "form"])["value"]
    assert value["block linears", "1-bit product"] == 197 * 21_233_664 / divisor
    assert value["attention products", "1-bit product"] == 2 * 12 * 197**2 * 384 / divisor
    assert value["patch embedding", "float product"] == 196 * 768 * 384
    assert value["softmax", "element-wise"] == 4 * 12 * 6 * 197**2
    products = table.loc[table["form"] != "element-wise", "value"].sum()
    assert products == pytest.approx(cost.figures([f"matmul only /{divisor}"])["value"].iloc[0])
    assert table["value"].sum() - products == cost.table["elementwise_ops"].sum()


def test_a_foreign_ledger_is_shown_and_an_empty_one_is_empty() -> None:
    foreign = pd.DataFrame(
        {"kind": ["qkv", "mystery"], "parameters": [8, "x"], "float_macs": [5, 7]}
    )
    table = tables.operations_by_part({"foreign": foreign})
    assert table[["part", "value"]].values.tolist() == [["block linears", 5], [OTHER, 7]]
    assert tables.size_by_part({"foreign": foreign})["value"].tolist() == [32]
    assert tables.size_by_part({"none": pd.DataFrame()}).empty
    assert tables.size_by_part({}).empty
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        tables.operations_by_part({}, binary_ops_per_op=0)


def test_a_claim_is_met_or_the_nearest_is_named() -> None:
    figures = pd.DataFrame({"convention": ["a", "b", "c"], "ratio": [16.18, 13.0, 16.26]})
    table = tables.against_claim(figures, 16.2)
    assert table["convention"].tolist() == ["a", "c", "b"]
    assert table["agrees"].tolist() == [True, False, False]
    assert table["off"].tolist() == pytest.approx(
        [16.18 / 16.2 - 1, 16.26 / 16.2 - 1, 13 / 16.2 - 1]
    )
    assert tables.claim_finding(figures, 16.2) == "1 of 3 conventions gives 16.2x: 'a' (16.18x)."
    both = figures.assign(ratio=[16.18, 13.0, 16.23])
    assert tables.claim_finding(both, 16.2).startswith("2 of 3 conventions give 16.2x: 'a'")
    text = tables.claim_finding(figures, 17.7)
    assert text.startswith(
        "None of 3 conventions gives 17.7x; the nearest is 'c' with 16.26x, -8.1%"
    )
    assert "nothing is said" in tables.claim_finding(figures[:0], 17.7)


def test_deit_s_gives_16_2_under_one_convention_and_17_7_under_none(cost: ModelCost) -> None:
    figures = cost.figures()
    sizes = figures[figures["quantity"] == "size"]
    operations = figures[figures["quantity"] == "operations"]
    found = tables.against_claim(sizes, 16.2).query("agrees")["convention"].tolist()
    assert found == ["patch + head + LayerNorms FP32"]
    assert not tables.against_claim(operations, 17.7)["agrees"].any()
