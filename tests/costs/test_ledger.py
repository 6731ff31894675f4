"""Costs against products written by hand, torch's own counter, and the arithmetic published for DeiT-S."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bvit_analysis.config import RECIPES, Recipe
from bvit_analysis.convert import binarize
from bvit_analysis.costs import CONVENTIONS, Convention, ModelCost, model_cost
from bvit_analysis.errors import ConfigError, UnsupportedModelError
from tests.support.own_parts import Clamped, ClampedMeanShift, NeighbourShift, UniformRule
from tests.support.tiny_vit import tiny_vit

DEIT_S = "deit_small_patch16_224"


def small_vit(**changes: Any) -> nn.Module:
    """A ViT of one block: 2 x 2 patches and a class token, N = 5, D = 8, 2 heads, 32 hidden, 3 classes."""
    options: dict[str, Any] = {"img_size": 8, "patch_size": 4, "in_chans": 3, "embed_dim": 8}
    return tiny_vit(**(options | changes))


def ratio(cost: ModelCost, convention: str) -> float:
    return float(cost.figures([convention])["ratio"].iloc[0])


def value(cost: ModelCost, convention: str) -> float:
    return float(cost.figures([convention])["value"].iloc[0])


def by_site(cost: ModelCost) -> Any:
    return cost.table.set_index("site")


@pytest.fixture(scope="module")
def deit() -> ModelCost:
    with torch.device("meta"):  # costs need shapes, not numbers
        return model_cost(timm.create_model(DEIT_S))


@pytest.fixture(scope="module")
def binary_deit() -> ModelCost:
    model = timm.create_model(DEIT_S)
    binarize(model, recipe="baseline")
    return model_cost(model)


# The whole of DeiT-S


def test_deit_s_parameters(deit: ModelCost) -> None:
    parameters = deit.kinds()["parameters"]
    linears = parameters[["qkv", "proj", "fc1", "fc2"]].sum()
    assert linears == 12 * (384 * 1152 + 384 * 384 + 2 * 384 * 1536) == 21_233_664
    assert parameters["bias"] == 12 * (1152 + 384 + 1536 + 384) == 41_472
    assert parameters["norm"] == (2 * 12 + 1) * 2 * 384 == 19_200
    assert parameters["patch_embed"] == 3 * 16 * 16 * 384 + 384 == 295_296
    assert parameters["head"] == 384 * 1000 + 1000 == 385_000
    assert parameters["positions"] == 197 * 384 == 75_648
    assert parameters["tokens"] == 384
    assert parameters.sum() == 22_050_664
    assert value(deit, "everything else FP32") == 4 * 22_050_664


def test_deit_s_macs(deit: ModelCost) -> None:
    macs = deit.kinds()["float_macs"]
    assert macs[["qkv", "proj", "fc1", "fc2"]].sum() == 197 * 21_233_664
    assert macs[["qkv", "proj", "fc1", "fc2"]].sum() / 1e9 == pytest.approx(4.1830, abs=5e-5)
    assert macs["scores"] == macs["context"] == 12 * 6 * 197 * 197 * 64
    assert macs["scores"] / 1e9 == pytest.approx(0.1788, abs=5e-5)
    assert macs["patch_embed"] == 14 * 14 * 16 * 16 * 3 * 384
    assert macs["head"] == 384 * 1000
    assert macs.sum() / 1e9 == pytest.approx(4.599, abs=5e-4)
    assert deit.kinds()["binary_macs"].sum() == 0
    assert deit.tokens == 197


def test_binary_deit_s_size_is_16_18_times_smaller(binary_deit: ModelCost) -> None:
    name = "patch + head + LayerNorms FP32"
    assert value(binary_deit, name) == 21_233_664 / 8 + 4 * (295_296 + 385_000 + 19_200)
    assert value(binary_deit, name) / 1e6 == pytest.approx(5.452, abs=5e-4)
    assert round(ratio(binary_deit, name), 2) == 16.18


@pytest.mark.parametrize(
    ("convention", "megabytes", "times"),
    [
        ("patch + head FP32", 5.375, 16.4),
        ("float twin's rest FP32", 5.92, 14.9),
        ("float twin's rest FP16", 4.29, 20.6),
    ],
)
def test_binary_deit_s_sizes(
    binary_deit: ModelCost, convention: str, megabytes: float, times: float
) -> None:
    assert value(binary_deit, convention) / 1e6 == pytest.approx(megabytes, abs=5e-3)
    assert ratio(binary_deit, convention) == pytest.approx(times, abs=0.05)


def test_everything_else_counts_what_binarization_added(binary_deit: ModelCost) -> None:
    channels = 12 * (1152 + 384 + 1536 + 384)
    scales = 12 * (4 + 3 * 6)  # an input scale a linear; score, value and probability scales a head
    kinds = binary_deit.kinds()
    assert kinds.loc["activation", "parameters"] == 3 * channels
    assert kinds.loc["scale", "parameters"] == scales
    assert kinds.loc["scale", "derived_scales"] == channels
    rest = 22_050_664 - 21_233_664 + 3 * channels + scales + channels
    assert value(binary_deit, "everything else FP32") == 21_233_664 / 8 + 4 * rest
    assert value(binary_deit, "everything else FP16") == 21_233_664 / 8 + 2 * rest


@pytest.mark.parametrize(
    ("convention", "giga", "times"),
    [
        ("matmul only /64", 0.1291, 35.6),
        ("matmul only /32", 0.2001, 23.0),
        ("matmul only /64, context float", 0.3052, 15.1),
        ("matmul only /64, attention float", 0.4812, 9.6),
    ],
)
def test_binary_deit_s_operations(
    binary_deit: ModelCost, convention: str, giga: float, times: float
) -> None:
    assert value(binary_deit, convention) / 1e9 == pytest.approx(giga, abs=6e-5)
    assert ratio(binary_deit, convention) == pytest.approx(times, abs=0.05)


def test_elementwise_convention_adds_every_operation_on_both_sides(binary_deit: ModelCost) -> None:
    figures = binary_deit.figures(["matmul only /64", "with element-wise operations /64"])
    plain, full = figures.to_dict(orient="records")
    assert full["value"] - plain["value"] == binary_deit.table["elementwise_ops"].sum()
    assert full["float_twin"] - plain["float_twin"] == binary_deit.twin["elementwise_ops"].sum()


@pytest.mark.parametrize("shift", ["none", "static", "token_mean", "bottleneck"])
def test_no_named_convention_gives_17_7(shift: Any) -> None:
    with torch.device("meta"):
        model = timm.create_model(DEIT_S)
    model.to_empty(device="cpu")
    binarize(model, Recipe(shift=shift))
    cost = model_cost(model)
    operations = cost.figures().query("quantity == 'operations'")
    assert ((operations["ratio"] - 17.7).abs() > 0.5).all()


# One block by hand


def test_float_block_by_hand() -> None:
    cost = model_cost(small_vit())
    row = by_site(cost)
    width, hidden, scores = 5 * 8, 5 * 32, 2 * 5 * 5
    assert row.loc["blocks.0.attn.qkv", "float_macs"] == 5 * 8 * 24
    assert row.loc["blocks.0.attn.scores", "float_macs"] == 2 * 5 * 5 * 4
    assert row.loc["blocks.0.attn.context", "float_macs"] == 2 * 5 * 5 * 4
    assert row.loc["blocks.0.attn.proj", "float_macs"] == 5 * 8 * 8
    assert row.loc["blocks.0.mlp.fc1", "float_macs"] == 5 * 8 * 32
    assert row.loc["blocks.0.mlp.fc2", "float_macs"] == 5 * 32 * 8
    assert row.loc["patch_embed", "float_macs"] == 4 * (3 * 4 * 4) * 8
    assert row.loc["head", "float_macs"] == 8 * 3
    expected = {
        "patch_embed": 4 * 8,
        "positions": width,
        "tokens": 0,
        "norm": 3 * 8 * width,
        "scale": width,
        "softmax": 4 * scores,
        "bias": 5 * (24 + 8 + 32 + 8),
        "activation": 5 * hidden,
        "residual": 2 * width,
        "head": 3,
    }
    got = cost.kinds()["elementwise_ops"].to_dict()
    assert got == expected | dict.fromkeys(("qkv", "scores", "context", "proj", "fc1", "fc2"), 0)


def test_binary_block_by_hand() -> None:
    model = small_vit()
    binarize(model, recipe="baseline")
    cost = model_cost(model)
    row = by_site(cost)
    width, hidden, scores, outputs = 5 * 8, 5 * 32, 2 * 5 * 5, 5 * (24 + 8 + 32 + 8)
    assert row.loc["blocks.0.attn.qkv", "binary_macs"] == 5 * 8 * 24
    assert row.loc["blocks.0.attn.qkv", "binary_parameters"] == 8 * 24
    assert row.loc["blocks.0.attn.context", "binary_macs"] == 2 * 5 * 5 * 4
    assert row.loc["blocks.0.mlp.fc2", "binary_macs"] == 5 * 32 * 8
    kinds = cost.kinds()
    assert kinds["float_macs"].sum() == 4 * (3 * 4 * 4) * 8 + 8 * 3  # patch and head alone
    expected = {
        "norm": 3 * 8 * width,
        "sign": (1 + 3 + 1 + 1) * width + hidden + scores,  # qkv, q k v, proj, fc1; fc2; levels
        "softmax": 4 * scores,
        "scale": outputs + scores + width,  # linears, scores, context
        "bias": outputs,
        "shortcut": outputs + hidden,  # fc2 averages four copies first
        "activation": 3 * outputs,
        "residual": 2 * width,
    }
    got = kinds["elementwise_ops"].to_dict()
    assert {kind: got[kind] for kind in expected} == expected
    assert kinds["derived_scales"].sum() == 24 + 8 + 32 + 8


@pytest.mark.parametrize(
    ("shift", "parameters", "operations", "macs"),
    [
        ("static", 8, 5 * 8, 0),
        ("token_mean", 2 * 8, 2 * 5 * 8 + 2 * 8, 0),
        ("bottleneck", 8 + 2 * 8 * 2, 2 * 5 * 8 + 4 * 2 + 8, 2 * 8 * 2),
    ],
)
def test_shift_by_hand(shift: Any, parameters: int, operations: int, macs: int) -> None:
    model = small_vit()
    binarize(model, Recipe(shift=shift, shift_reduction=4))
    cost = model_cost(model)
    row = by_site(cost).loc["blocks.0.attn.k_sign.shift"]
    assert row[["kind", "parameters", "elementwise_ops", "float_macs"]].tolist() == [
        "shift",
        parameters,
        operations,
        macs,
    ]
    assert (cost.table["kind"] == "shift").sum() == 7  # four linears, and q, k, v


@pytest.mark.parametrize(
    ("shift", "parameters", "operations"),
    [
        (ClampedMeanShift, 2 * 8, 2 * 5 * 8 + 4 * 8),
        (Clamped(bound=0.5), 2 * 8, 2 * 5 * 8 + 4 * 8),
        (NeighbourShift, 8, 2 * 5 * 8),
    ],
)
def test_own_shift_by_hand(shift: Any, parameters: int, operations: int) -> None:
    plain, model = small_vit(), small_vit()
    binarize(plain, Recipe())
    binarize(model, Recipe(shift=shift))
    before, cost = model_cost(plain), model_cost(model)
    row = by_site(cost).loc["blocks.0.attn.k_sign.shift"]
    got = row[["kind", "parameters", "elementwise_ops", "float_macs"]].tolist()
    assert got == ["shift", parameters, operations, 0]
    assert (cost.table["kind"] == "shift").sum() == 7
    held = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in plain.parameters())
    assert cost.kinds().loc["shift", "parameters"] == held
    others = cost.table[cost.table["kind"] != "shift"].reset_index(drop=True)
    pd.testing.assert_frame_equal(others, before.table)
    pd.testing.assert_frame_equal(cost.twin, before.twin)


def test_own_attention_rule_by_hand() -> None:
    class Sharp(UniformRule):
        operations = 3

    for rule, each in ((UniformRule, 4), (Sharp, 4 + 3)):
        model = small_vit()
        binarize(model, Recipe(attention=rule))
        assert model_cost(model).kinds().loc["softmax", "elementwise_ops"] == each * 2 * 5 * 5


def test_plain_recipe_has_no_extras() -> None:
    plain = Recipe(
        weight_scale="none", activation_scale=False, shortcuts=False, rprelu=False, attention="boolean"
    )  # fmt: skip
    model = small_vit()
    binarize(model, plain)
    cost = model_cost(model)
    kinds = cost.kinds()
    assert not {"shortcut", "softmax", "shift"} & set(kinds.index)
    assert kinds.loc["activation", "elementwise_ops"] == 5 * 5 * 32  # the model's own GELU
    assert kinds.loc["scale", "elementwise_ops"] == 2 * 5 * 5 + 5 * 8
    assert kinds["derived_scales"].sum() == 0


# Second witness: torch's counter of what really runs


def counted_macs(model: nn.Module, img_size: int) -> int:
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # otherwise some kernels hide both products
    device = next(model.parameters()).device
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, img_size, img_size, device=device))
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def test_macs_of_deit_s_equal_torchs_count(deit: ModelCost) -> None:
    with torch.device("meta"):
        model = timm.create_model(DEIT_S)
    assert counted_macs(model, 224) == deit.table["float_macs"].sum()


@pytest.mark.parametrize("recipe", [None, *RECIPES, Recipe(shift="bottleneck", shift_reduction=4)])
def test_macs_of_a_small_model_equal_torchs_count(recipe: Any) -> None:
    model = small_vit(depth=2)
    if recipe is not None:
        binarize(model, recipe)
    table = model_cost(model).table
    assert counted_macs(model, 8) == table["float_macs"].sum() + table["binary_macs"].sum()


# Second witness on other networks and sizes: the float twin of every recipe is what torch counts in the float model

NETWORKS = [
    ("deit_tiny_patch16_224", {"img_size": 160}, 160),
    ("vit_tiny_patch16_224", {"reg_tokens": 4, "no_embed_class": True, "img_size": 96}, 96),
    ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg", "img_size": 64}, 64),
]


@pytest.mark.parametrize(("name", "options", "size"), NETWORKS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_twin_of_every_recipe_is_what_torch_counts(
    name: str, options: dict[str, Any], size: int, recipe: str
) -> None:
    model = timm.create_model(name, depth=2, num_classes=7, **options)
    counted = counted_macs(model, size)  # 2 FLOPs a MAC: exactly half of torch's number
    float_cost = model_cost(model, img_size=size)
    assert float_cost.table["float_macs"].sum() == counted
    binarize(model, recipe)
    cost = model_cost(model, img_size=size)
    assert cost.twin["float_macs"].sum() == counted
    products = cost.table.groupby("kind")[["float_macs", "binary_macs"]].sum().sum(axis=1)
    twin = cost.twin.groupby("kind")["float_macs"].sum()
    kinds = ["patch_embed", "qkv", "scores", "context", "proj", "fc1", "fc2", "head"]
    assert products[kinds].equals(twin[kinds])  # binarization moves MACs, and makes none
    assert cost.img_size == size


def test_one_block_of_deit_s_by_hand(binary_deit: ModelCost) -> None:
    n, d, hidden, heads = 197, 384, 1536, 6
    block = binary_deit.table[binary_deit.table["site"].str.startswith("blocks.3.")]
    twin = binary_deit.twin[binary_deit.twin["site"].str.startswith("blocks.3.")]
    linears = n * d * 3 * d + n * d * d + 2 * n * d * hidden
    products = 2 * n * n * d
    assert twin["float_macs"].sum() == linears + products == 378_391_296
    assert block["binary_macs"].sum() == 378_391_296
    assert block["float_macs"].sum() == 0
    outputs = 3 * d + d + hidden + d
    weights = d * (3 * d) + d * d + 2 * d * hidden
    norms = 2 * 2 * d
    assert twin["parameters"].sum() == weights + outputs + norms == 1_774_464
    assert block["binary_parameters"].sum() == weights == 1_769_472
    added = 3 * outputs + 4 + 3 * heads  # RPReLU; input scales; scales of scores, values and bits
    assert block["parameters"].sum() == 1_774_464 + added
    assert block["derived_scales"].sum() == outputs
    scores = heads * n * n
    element_wise = {
        "norm": 2 * 8 * n * d,
        "sign": n * (d + 3 * d + d + d + hidden) + scores,
        "softmax": 4 * scores,
        "scale": n * outputs + scores + n * d,
        "bias": n * outputs,
        "shortcut": n * outputs + n * hidden,  # fc2 averages four copies first
        "activation": 3 * n * outputs,
        "residual": 2 * n * d,
    }
    got = block.groupby("kind")["elementwise_ops"].sum()
    assert got[got > 0].to_dict() == element_wise


def test_stored_bits_of_deit_s_by_hand(binary_deit: ModelCost) -> None:
    stored = binary_deit.stored()
    channels = 12 * (1152 + 384 + 1536 + 384)
    rest = 22_050_664 - 21_233_664 + 3 * channels + 12 * (4 + 18) + channels
    assert stored["bits"].sum() == 21_233_664 + 32 * rest
    assert stored["bytes"].sum() == value(binary_deit, "everything else FP32")
    assert binary_deit.stored(16)["bits"].sum() == 21_233_664 + 16 * rest
    row = stored.set_index("site").loc["blocks.0.attn.qkv"]
    assert row[["bits", "bytes"]].tolist() == [384 * 1152, 384 * 1152 / 8]
    with pytest.raises(ConfigError, match="float_bits must be at least 1, got 0"):
        binary_deit.stored(0)


# Fields of a convention, each by hand on DeiT-S

LINEARS, PRODUCT, PATCH, HEAD = 4_183_031_808, 178_831_872, 57_802_752, 384_000


def own(**fields: Any) -> Convention:
    return Convention(name="own", description="by hand", **fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (LINEARS + 2 * PRODUCT) / 64 + PATCH + HEAD),
        ({"attention_planes": 3}, (LINEARS + 4 * PRODUCT) / 64 + PATCH + HEAD),
        (
            {"counted_as_additions": frozenset({"context"})},
            (LINEARS + PRODUCT) / 64 + PRODUCT / 2 + PATCH + HEAD,
        ),
        (
            {"as_binary": frozenset({"patch_embed"})},
            (LINEARS + 2 * PRODUCT + PATCH) / 64 + HEAD,
        ),
        (
            {"as_binary": frozenset({"patch_embed", "head"}), "binary_ops_per_op": 32},
            (LINEARS + 2 * PRODUCT + PATCH + HEAD) / 32,
        ),
        ({"as_int8": frozenset({"patch_embed"})}, (LINEARS + 2 * PRODUCT) / 64 + PATCH / 8 + HEAD),
        (
            {"as_int8": frozenset({"head"}), "binary_ops_per_op": 32},
            (LINEARS + 2 * PRODUCT) / 32 + PATCH + HEAD / 4,
        ),
        ({"ops_per_mac": 2}, 2 * ((LINEARS + 2 * PRODUCT) / 64 + PATCH + HEAD)),
    ],
)
def test_operations_fields_by_hand(
    binary_deit: ModelCost, fields: dict[str, Any], expected: float
) -> None:
    figure = binary_deit.figures([own(quantity="operations", **fields)]).iloc[0]
    assert figure["value"] == expected
    macs = LINEARS + 2 * PRODUCT + PATCH + HEAD
    assert figure["float_twin"] == fields.get("ops_per_mac", 1) * macs  # the twin stays float


@pytest.mark.parametrize(("patch", "megabytes"), [("binary", 4.78), ("head", 4.43), ("both", 3.29)])
def test_sizes_with_binary_patch_and_head(
    binary_deit: ModelCost, patch: str, megabytes: float
) -> None:
    kinds = {"binary": {"patch_embed"}, "head": {"head"}, "both": {"patch_embed", "head"}}[patch]
    size = own(quantity="size", added=False, as_binary=frozenset(kinds))
    weights = {"patch_embed": 768 * 384, "head": 384 * 1000}
    bits = sum(weights[kind] for kind in kinds)
    by_hand = (21_233_664 + bits) / 8 + 4 * (22_050_664 - 21_233_664 - bits)
    got = binary_deit.figures([size])["value"].iloc[0]
    assert got == by_hand
    assert got / 1e6 == pytest.approx(megabytes, abs=5e-3)


def test_size_fields_by_hand(binary_deit: ModelCost) -> None:
    int8 = own(quantity="size", added=False, as_int8=frozenset({"head"}))
    by_hand = 21_233_664 / 8 + 4 * (22_050_664 - 21_233_664 - 384_000) + 384_000
    assert binary_deit.figures([int8])["value"].iloc[0] == by_hand
    scales = own(quantity="size", added_kinds=frozenset({"scale"}))
    by_hand = 21_233_664 / 8 + 4 * (22_050_664 - 21_233_664 + 264 + 41_472)
    assert binary_deit.figures([scales])["value"].iloc[0] == by_hand


def test_a_ledger_of_an_older_run_still_sums_up(binary_deit: ModelCost) -> None:
    older = binary_deit.table.drop(columns="bias_parameters")
    size = own(quantity="size")
    assert size.total(older, binary_deit.twin) == size.total(binary_deit.table, binary_deit.twin)


def test_element_wise_work_in_the_binary_model_alone(binary_deit: ModelCost) -> None:
    figure = binary_deit.figures(
        [own(quantity="operations", elementwise=True, twin_elementwise=False)]
    ).iloc[0]
    assert figure["float_twin"] == LINEARS + 2 * PRODUCT + PATCH + HEAD
    products = (LINEARS + 2 * PRODUCT) / 64 + PATCH + HEAD
    assert figure["value"] == products + binary_deit.table["elementwise_ops"].sum()


# Invariants

VARIANTS = [
    {},
    {"class_token": False, "global_pool": "avg", "fc_norm": True},
    {"reg_tokens": 4, "no_embed_class": True},
    {"init_values": 1e-5, "qkv_bias": False},
    {"qk_norm": True, "num_classes": 0},
    {"in_chans": 1, "pre_norm": True},
]


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("recipe", ["baseline", "binaryvit"])
def test_each_parameter_is_counted_once(changes: dict[str, Any], recipe: str) -> None:
    options: dict[str, Any] = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2}  # fmt: skip
    model = timm.create_model("vit_tiny_patch16_224", **(options | changes))
    before = model_cost(model)
    assert before.table["parameters"].sum() == sum(p.numel() for p in model.parameters())
    assert before.table["site"].is_unique
    binarize(model, recipe)
    after = model_cost(model)
    assert after.table["parameters"].sum() == sum(p.numel() for p in model.parameters())
    assert after.table["site"].is_unique
    assert after.twin.equals(before.table)
    numbers = after.table.select_dtypes("number").sum()
    assert (after.kinds().sum() == numbers).all()  # no kind is left out of the summary
    assert (after.figures()["float_twin"].to_numpy() == before.figures()["float_twin"].to_numpy()).all()  # fmt: skip


def test_a_tied_weight_is_stored_once() -> None:
    model = small_vit(depth=2)
    model.blocks[1].attn.proj.weight = model.blocks[0].attn.proj.weight
    cost = model_cost(model)
    assert cost.table["parameters"].sum() == sum(p.numel() for p in model.parameters())
    assert by_site(cost).loc["blocks.1.attn.proj", "parameters"] == 0
    assert by_site(cost).loc["blocks.1.attn.proj", "float_macs"] == 5 * 8 * 8


def test_distilled_deit_has_two_heads_and_two_tokens() -> None:
    options: dict[str, Any] = {"img_size": 32, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 3}  # fmt: skip
    model = timm.create_model("deit_tiny_distilled_patch16_224", **options)
    cost = model_cost(model)
    assert cost.tokens == 2 * 2 + 2
    assert cost.table["parameters"].sum() == sum(p.numel() for p in model.parameters())
    assert counted_macs(model, 32) == cost.table["float_macs"].sum()


def test_image_size_sets_the_tokens_and_leaves_parameters() -> None:
    model = small_vit()
    assert model_cost(model, img_size=8).table.equals(model_cost(model).table)
    larger = model_cost(model, img_size=16)
    assert larger.tokens == 4 * 4 + 1
    assert larger.table["parameters"].equals(model_cost(model).table["parameters"])
    for size in (10, 0, -4):
        with pytest.raises(ConfigError, match=rf"multiple of the patch size \(4, 4\), got {size}"):
            model_cost(model, img_size=size)


def test_counting_changes_nothing() -> None:
    model = small_vit().train()
    binarize(model, "binaryvit")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model_cost(model)
    assert model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


# What is printed and recorded


def test_table_goes_into_a_run_record() -> None:
    rows = model_cost(small_vit()).table.to_dict(orient="records")
    assert json.loads(json.dumps(rows)) == rows
    assert list(rows[0]) == [
        "site",
        "kind",
        "parameters",
        "binary_parameters",
        "bias_parameters",
        "derived_scales",
        "float_macs",
        "binary_macs",
        "elementwise_ops",
    ]


def test_summary_is_a_readable_table(binary_deit: ModelCost) -> None:
    text = binary_deit.summary()
    lines = text.splitlines()
    assert lines[0] == "One image, 197 tokens"
    assert max(len(line) for line in lines) <= 110
    assert all(name in text for name in CONVENTIONS)
    assert "patch + head + LayerNorms FP32            5.452 MB     88.203 MB   16.18x" in lines
    assert "matmul only /64                       0.1291 G OPs  4.5989 G OPs   35.61x" in lines
    total = next(line for line in lines if line.startswith("total"))
    assert total.split()[1:3] == ["22,175,344", "21,233,664"]
    assert binary_deit.summary(["matmul only /32"]).count("/32") == 1


def test_own_convention_and_wrong_names(deit: ModelCost) -> None:
    own = Convention(name="mine", description="8-bit", quantity="size", float_bits=8)
    assert deit.figures([own])["ratio"].tolist() == [4.0]
    with pytest.raises(ConfigError, match=r"unknown convention .* did you mean 'matmul only /64'"):
        deit.figures(["matmul only /63"])
    with pytest.raises(ConfigError, match="expected a list of conventions"):
        deit.figures("matmul only /64")
    for field in ("binary_ops_per_op", "ops_per_mac", "attention_planes", "float_bits"):
        with pytest.raises(ConfigError, match=f"{field} must be at least 1, got 0"):
            Convention(name="x", description="x", quantity="operations", **{field: 0})
    head = frozenset({"head"})
    with pytest.raises(ConfigError, match="head in both as_int8 and as_binary"):
        Convention(name="x", description="x", quantity="size", as_int8=head, as_binary=head)


def test_other_architectures_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="without 'patch_embed'"):
        model_cost(nn.Linear(2, 2))
    model = small_vit()
    model.extra = nn.Linear(2, 2)
    with pytest.raises(
        UnsupportedModelError, match=r"2 parameters belong to no known site \(extra.weight"
    ):
        model_cost(model)
    model = small_vit()
    model.blocks[0].mlp.fc1 = nn.Conv2d(1, 1, 1)
    with pytest.raises(UnsupportedModelError, match=r"blocks.0.mlp.fc1 of type Conv2d"):
        model_cost(model)
    model = small_vit()
    binarize(model, "asm")
    model.blocks[0].attn.qkv.sign.shift = nn.Linear(8, 8)
    with pytest.raises(UnsupportedModelError, match=r"qkv.sign.shift of type Linear"):
        model_cost(model)
