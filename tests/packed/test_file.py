"""Packed files: round trips to the bit, sizes, and refusal of everything that is not whole and ours."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import re
import resource
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

import bvit_analysis as bv
from bvit_analysis.cli import main
from bvit_analysis.config import ModelConfig, Recipe, get_recipe, get_scale, to_dict
from bvit_analysis.convert import binarize, build_model, calibrate
from bvit_analysis.costs import model_cost
from bvit_analysis.errors import ConfigError, PackedFileError, RunError
from bvit_analysis.layers import BinaryLinear
from bvit_analysis.packed.bits import pack_signs, unpack_rows, words_of_rows
from bvit_analysis.packed.file import PackedFile, read_packed
from bvit_analysis.packed.model import (
    build_skeleton,
    load_packed,
    predicted_bytes,
    save_packed,
)
from bvit_analysis.packed.run import model_of_run, unpack
from bvit_analysis.records import RunWriter
from bvit_analysis.records.checkpoints import save_checkpoint
from bvit_analysis.runtime import model as runtime_model

RECIPES = {
    "baseline": get_recipe("baseline"),
    "asm": get_recipe("asm"),
    "grs": get_recipe("grs"),
    "binaryvit": get_recipe("binaryvit"),
    "centred": Recipe(centre_weights=True),
    "no weight scale": Recipe(weight_scale="none"),
    "no scale at all": Recipe(weight_scale="none", activation_scale=False),
    "centred without scale": Recipe(weight_scale="none", centre_weights=True),
    "static": Recipe(shift="static"),
    "bottleneck": Recipe(shift="bottleneck", shift_reduction=4),
    "boolean": Recipe(attention="boolean"),
    "no shortcut": Recipe(shortcuts=False),
    "no rprelu": Recipe(rprelu=False),
    "clip": Recipe(activation_gradient="clip"),
}
SMALL = ModelConfig(patch_size=7, embed_dim=20, depth=2, num_heads=2)
"20 is neither a multiple of 8 nor of 64."

FAMILY = {
    "deit_tiny_patch16_224": {},
    "deit_small_distilled_patch16_224": {},
    "vit_wee_patch16_reg1_gap_256": {},  # a register, no class token, mean pooling, layer scale
    "vit_base_patch16_224_miil": {},  # no bias in qkv
    "vit_medium_patch16_gap_240": {},
    "vit_base_patch16_clip_224": {},  # a norm before the blocks, no bias in the stem
    "vit_small_patch14_reg4_dinov2": {"patch_size": 14},
}
"Names of timm with what is theirs alone; sizes are changed to small ones."


def shaken(model: nn.Module, recipe: str | Recipe) -> nn.Module:
    """Binarize, then give every parameter a value of its own, zeros and equal rows among the weights."""
    binarize(model, recipe)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.02 if name.endswith("weight") else 0.1))
        for module in model.modules():
            if isinstance(module, BinaryLinear):
                module.weight[0, :2] = torch.tensor([0.0, -0.0])
                module.weight[1] = -1.0
    return model.eval()


def small(recipe: str | Recipe = "binaryvit") -> nn.Module:
    torch.manual_seed(0)
    return shaken(build_model(SMALL, img_size=28, in_chans=1, num_classes=10), recipe)


def images(count: int = 6, channels: int = 1, side: int = 28) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, side, side, generator=generator)


def meta(recipe: str | Recipe = "binaryvit") -> dict:
    return {
        "model": "vit_tiny_patch16_224",
        "recipe": recipe,
        "data": {
            "mean": (0.25,),
            "std": np.array([0.5]),
            "class_names": [f"class {i}" for i in range(10)],
        },
        "source": {"run_id": "unit", "commit": "abc", "step": 7},
    }


@pytest.fixture
def packed(tmp_path) -> Path:
    return save_packed(small(), tmp_path / "model.bvit", meta=meta())


# Round trips ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_comes_back_with_the_same_outputs(name, tmp_path):
    recipe = RECIPES[name]
    model = small(recipe)
    loaded = load_packed(save_packed(model, tmp_path / "m.bvit", meta=meta(recipe)))
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(images()), model(images()))
    assert set(model.state_dict()) == {
        key for key in loaded.state_dict() if not key.endswith("fixed_scale")
    }


@pytest.mark.parametrize("name", FAMILY)
def test_every_model_comes_back_with_the_same_outputs(name, tmp_path):
    config = ModelConfig(
        **(
            {"name": name, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
            | FAMILY[name]
        )
    )
    side = 4 * config.patch_size
    model = shaken(build_model(config, img_size=side, in_chans=3, num_classes=5), "asm")
    # The model's name is its own.
    path = save_packed(model, tmp_path / "m.bvit", meta={"recipe": "asm"})
    assert read_packed(path).header["model"]["name"] == name
    x = images(2, 3, side)
    with torch.no_grad():
        assert torch.equal(load_packed(path)(x), model(x))
    assert path.stat().st_size == pytest.approx(predicted_bytes(model), rel=0.005)


def test_float16_equals_the_model_after_rounding(tmp_path):
    model = small()
    path = save_packed(model, tmp_path / "m.bvit", meta=meta(), float_dtype="float16")
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for module in rounded.modules():
            if isinstance(module, BinaryLinear):
                signs = torch.where(module.latent() >= 0, 1.0, -1.0)
                scale = module.weight_scale().squeeze(1).half().float()
                module.weight, module.fixed_scale = nn.Parameter(signs), scale
        for parameter in rounded.parameters():
            parameter.copy_(parameter.half().float())  # signs stay what they are
        loaded = load_packed(path)
        assert torch.equal(loaded(images()), rounded(images()))
        assert not torch.equal(loaded(images()), model(images()))
    assert path.stat().st_size < 0.8 * len(
        save_packed(model, tmp_path / "n.bvit", meta=meta()).read_bytes()
    )
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}


def test_a_loaded_model_packs_into_the_same_bytes(packed, tmp_path):
    again = save_packed(load_packed(packed), tmp_path / "n.bvit", meta=read_packed(packed).header)
    assert again.read_bytes() == packed.read_bytes()


@pytest.mark.parametrize("recipe", ["binaryvit", RECIPES["centred without scale"]])
def test_an_unpacked_state_dict_loads_into_a_binarized_model(recipe, tmp_path):
    model = small(recipe)
    path = save_packed(model, tmp_path / "m.bvit", meta=meta(recipe))
    out = unpack(path, tmp_path / "m.safetensors")
    other = build_model(SMALL, img_size=28, in_chans=1, num_classes=10)
    binarize(other, recipe)
    other.load_state_dict(safetensors.torch.load_file(out))
    with torch.no_grad():
        assert torch.equal(other.eval()(images()), model(images()))


def test_saving_and_loading_leave_model_and_generators_alone(packed, tmp_path):
    model = small().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    save_packed(model, tmp_path / "n.bvit", meta=meta())
    load_packed(packed)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_loaded_model_owns_its_parameters(packed):
    model = load_packed(packed)
    packed.unlink()
    assert not any(value.is_meta for value in model.state_dict().values())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert bv.load_packed is load_packed
    assert bv.save_packed is save_packed


def test_what_a_runtime_reads(packed):
    model, file = small(), read_packed(packed)
    assert file.recipe == get_recipe("binaryvit")
    assert file.header["data"]["mean"] == [0.25]
    assert file.header["source"]["run_id"] == "unit"
    layers = {name: m for name, m in model.named_modules() if isinstance(m, BinaryLinear)}
    assert file.sites == {name: tuple(layer.weight.shape) for name, layer in layers.items()}
    with torch.no_grad():
        for name, layer in layers.items():
            signs = np.where(layer.latent().numpy() >= 0, 1, -1)
            np.testing.assert_array_equal(unpack_rows(file.rows(name), signs.shape[1]), signs)
            np.testing.assert_array_equal(words_of_rows(file.rows(name)), pack_signs(signs))
            assert torch.equal(file.weight_scale(name), layer.weight.abs().mean(1))
    rest = {n for n in model.state_dict() if n.removesuffix(".weight") not in layers}
    assert set(file.float_shapes()) == rest
    skeleton = build_skeleton(file)
    assert all(value.is_meta for value in skeleton.parameters())


@pytest.mark.parametrize("width", [20, 64])
def test_words_that_are_taken_are_those_of_the_rows_turned(width, tmp_path):
    config = ModelConfig(patch_size=7, embed_dim=width, depth=1, num_heads=2)
    model = shaken(build_model(config, img_size=28, in_chans=1, num_classes=10), "asm")
    file = read_packed(save_packed(model, tmp_path / "m.bvit", meta=meta("asm")))
    found = {name: words_of_rows(file.rows(name)).T for name in file.sites}
    places = {name: file.tensors[f"{name}.bits"].data_ptr() for name in file.sites}
    for name, taken in file.take_words():
        assert taken.is_contiguous()
        np.testing.assert_array_equal(taken.numpy().view(np.uint64), found.pop(name))
        # Rows of 20 or 80 columns have no room for whole words.
        assert (taken.data_ptr() == places[name]) == (width == 64)
        assert torch.equal(file.weight_scale(name), file.take_weight_scale(name))
    assert found == {}
    shapes, stored = file.float_shapes(), dict(file.tensors)
    taken = file.take_float_tensors()
    assert shapes == {name: value.shape for name, value in taken.items()}
    assert all(value is stored[name] for name, value in taken.items())
    assert file.tensors == {}


@pytest.mark.parametrize("recipe", ["binaryvit", RECIPES["no scale at all"]])
def test_what_a_runtime_holds_is_what_was_read(recipe, tmp_path, monkeypatch):
    config = ModelConfig(patch_size=7, embed_dim=64, depth=2, num_heads=2)
    model = shaken(build_model(config, img_size=28, in_chans=1, num_classes=10), recipe)
    path = save_packed(model, tmp_path / "m.bvit", meta=meta(recipe))
    places, files = {}, []

    def read(path):
        files.append(read_packed(path))
        for name, value in files[-1].tensors.items():
            places[value.data_ptr()] = name
        return files[-1]

    monkeypatch.setattr(runtime_model, "read_packed", read)
    runtime = runtime_model.load_runtime(path, backend="numpy")
    assert files[0].tensors == {}  # nothing is kept beside the model
    held = {**dict(runtime.named_parameters()), **dict(runtime.named_buffers())}
    copied = {name.rpartition(".")[2] for name in held if held[name].data_ptr() not in places}
    # Only what is computed from two or more stored values is new; a scale lies where the stored one lay.
    computed = {"bias", "score_scale", "level", "value_scale"}
    assert copied <= computed if recipe == "binaryvit" else copied <= {*computed, "scale"}
    with torch.no_grad():
        assert torch.equal(runtime(images()), model(images()))


@pytest.mark.slow
def test_a_runtime_shares_nothing_with_the_model_it_was_made_from(packed):
    for model in (small(), load_packed(packed), load_packed_without_scales(packed.parent)):
        theirs = {value.data_ptr() for value in model.state_dict().values()}
        runtime = runtime_model.load_runtime(model, backend="numpy")
        assert not theirs & {value.data_ptr() for value in runtime.state_dict().values()}


def load_packed_without_scales(folder: Path) -> nn.Module:
    recipe = Recipe(activation_scale=False)  # so the output's scale is the weight's alone
    return load_packed(save_packed(small(recipe), folder / "w.bvit", meta=meta(recipe)))


def test_another_reader_of_safetensors_reads_it(packed):
    with safetensors.safe_open(str(packed), "pt") as file:
        assert json.loads(file.metadata()["bvit"])["format"] == "bvit-packed"
        assert file.get_tensor("blocks.0.mlp.fc1.bits").shape == (80, 3)


def test_nothing_is_pickled(packed, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    load_packed(packed)


# Sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("width", ["float32", "float16"])
@pytest.mark.parametrize("name", RECIPES)
def test_the_ledger_predicts_the_bytes_on_disk(name, width, tmp_path):
    recipe = RECIPES[name]
    config = ModelConfig(patch_size=7, embed_dim=64, depth=2, num_heads=2)
    model = shaken(build_model(config, img_size=28, in_chans=1, num_classes=10), recipe)
    path = save_packed(model, tmp_path / "m.bvit", meta=meta(recipe), float_dtype=width)
    # Rows are whole bytes here, so nothing is left to tolerate.
    assert path.stat().st_size == predicted_bytes(model, width, meta=meta(recipe))
    assert path.stat().st_size == pytest.approx(
        predicted_bytes(model, width, meta={"recipe": recipe}), rel=0.02
    )


def deit_small(recipe: str) -> nn.Module:
    torch.manual_seed(0)
    name = "deit_small_patch16_224"
    model = build_model(ModelConfig(name=name), img_size=224, in_chans=3, num_classes=1000)
    assert sum(p.numel() for p in model.parameters()) == 22_050_664
    binarize(model, recipe)
    calibrate(model, images(2, 3, 224))
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "width", "ratio"), [("baseline", "float32", 13.3), ("binaryvit", "float16", 18.1)]
)
def test_deit_small_in_bytes(recipe, width, ratio, tmp_path):
    model = deit_small(recipe)
    path = save_packed(model, tmp_path / "m.bvit", meta={"recipe": recipe}, float_dtype=width)
    found = path.stat().st_size
    assert found == pytest.approx(predicted_bytes(model, width), rel=0.005)
    assert 22_050_664 * 4 / found == pytest.approx(ratio, abs=0.1)
    # By hand: 12 blocks of 1,769,472 weights, a bit each, and (1152 + 384 + 1536 + 384) scales of rows.
    file = read_packed(path)
    bits = sum(file.tensors[f"{site}.bits"].numel() for site in file.sites)
    assert bits == 12 * 1_769_472 // 8 == 2_654_208
    assert sum(len(file.weight_scale(site)) for site in file.sites) == 12 * 3456
    if width == "float32":
        loaded = load_packed(path)
        with torch.no_grad():
            assert torch.equal(loaded(images(2, 3, 224)), model(images(2, 3, 224)))
    table = model_cost(model).table
    assert sum(value.numel() for value in file.take_float_tensors().values()) == int(
        (table["parameters"] - table["binary_parameters"]).sum()
    )


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "number"), [("baseline", 10), ("binaryvit", 100)])
def test_deit_small_gives_identical_logits(recipe, number, tmp_path):
    model = deit_small(recipe)
    loaded = load_packed(save_packed(model, tmp_path / "m.bvit", meta={"recipe": recipe}))
    with torch.no_grad():
        for batch in images(number, 3, 224).split(10):
            assert torch.equal(loaded(batch), model(batch))


# What cannot be saved -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "told", "where"),
    [
        ("asm", "baseline", "shift"),
        (Recipe(attention="boolean"), Recipe(), "rule"),
        (Recipe(centre_weights=True), Recipe(), "centred"),
        (Recipe(weight_scale="none"), Recipe(), "scaled"),
        (Recipe(shortcuts=False), Recipe(), "shortcut"),
        (Recipe(rprelu=False), Recipe(), "activation"),
    ],
)
def test_a_model_that_is_not_what_meta_says_is_refused(made, told, where, tmp_path):
    with pytest.raises(PackedFileError, match=f"not what meta says: .*{where}"):
        save_packed(small(made), tmp_path / "m.bvit", meta=meta(told))
    assert list(tmp_path.iterdir()) == []


def test_changes_that_a_header_cannot_hold_are_refused(tmp_path):
    changed = small()
    changed.norm.eps = 1e-3
    with pytest.raises(PackedFileError, match=r"norm\.eps is 0\.001"):
        save_packed(changed, tmp_path / "m.bvit", meta=meta())
    with pytest.raises(PackedFileError, match="not what meta says"):
        save_packed(
            small(), tmp_path / "m.bvit", meta=meta() | {"model": "vit_wee_patch16_reg1_gap_256"}
        )
    tall = build_model(SMALL, img_size=28, in_chans=1, num_classes=10)
    binarize(tall, "asm")
    tall.patch_embed.img_size = (28, 14)
    with pytest.raises(PackedFileError, match="expected a square"):
        save_packed(tall, tmp_path / "m.bvit", meta=meta("asm"))


def test_dropout_makes_no_difference(tmp_path):
    config = ModelConfig(patch_size=7, embed_dim=16, depth=2, num_heads=2, drop_path=0.3)
    model = shaken(build_model(config, img_size=28, in_chans=1, num_classes=10), "asm")
    loaded = load_packed(save_packed(model, tmp_path / "m.bvit", meta=meta("asm")))
    with torch.no_grad():
        assert torch.equal(loaded(images()), model(images()))


def test_other_mistakes_are_one_line(tmp_path):
    path = tmp_path / "m.bvit"
    floats = build_model(SMALL, img_size=28, in_chans=1, num_classes=10)
    with pytest.raises(PackedFileError, match=r"call binarize\(\) first"):
        save_packed(floats, path, meta=meta())
    with pytest.raises(PackedFileError, match=r"call model.float\(\)"):
        save_packed(small().double(), path, meta=meta())
    with pytest.raises(PackedFileError, match="meta must have 'recipe'"):
        save_packed(small(), path, meta={})
    with pytest.raises(ConfigError, match="did you mean 'asm'"):
        save_packed(small(), path, meta=meta("asn"))
    with pytest.raises(PackedFileError, match="did you mean 'float16'"):
        save_packed(small(), path, meta=meta(), float_dtype="float17")
    with pytest.raises(PackedFileError, match=r"data\.mean has 3 entries, expected 1"):
        save_packed(small(), path, meta=meta() | {"data": {"mean": [0.5] * 3}})
    with pytest.raises(PackedFileError, match="flat object"):
        save_packed(small(), path, meta=meta() | {"source": {"loss": [1.0]}})
    large = small()
    with torch.no_grad():
        large.head.bias[0] = 1e6
    with pytest.raises(PackedFileError, match="head.bias has values beyond"):
        save_packed(large, path, meta=meta(), float_dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(packed, small_disk):
    model = small()
    kept = save_packed(model, small_disk / "model.bvit", meta=meta())
    before = kept.read_bytes()
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "filler").write_bytes(b"x" * (free - 8192))
    with pytest.raises(PackedFileError, match="No space left"):
        save_packed(model, kept, meta=meta())
    assert kept.read_bytes() == before
    assert {path.name for path in small_disk.iterdir()} == {"model.bvit", "filler"}


# What is not read -----------------------------------------------------------------------------------------------------


def refusal(path: Path, *, load: bool = True) -> str:
    """Read a file that must be refused, with little memory, and return the one line."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(PackedFileError) as caught:
            load_packed(path) if load else read_packed(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 900
    assert str(path) in text
    assert peak < 32 * 2**20
    # KiB on Linux; what torch takes is seen only here.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 * 2**10
    return text


def forged(path: Path, change=None, *, index=None, payload: bytes | None = None) -> Path:
    """Rewrite a packed file with another header, index or payload, and a checksum that fits."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    entries = json.loads(raw[8 : 8 + length])
    header = json.loads(entries["__metadata__"]["bvit"])
    body = raw[8 + length :] if payload is None else payload
    if change:
        change(header)
    entries["__metadata__"]["bvit"] = json.dumps(header | {"sha256": "0" * 64})
    if index:
        index(entries)
    return sealed(path, json.dumps(entries), body)


def sealed(path: Path, text: str, body: bytes) -> Path:
    data = bytearray(struct.pack("<Q", len(text.encode())) + text.encode() + body)
    place = data.find(b"0" * 64)
    if place >= 0:
        data[place : place + 64] = hashlib.sha256(data).hexdigest().encode()
    path.write_bytes(data)
    return path


def test_a_forged_file_without_a_change_is_read(packed):
    assert isinstance(read_packed(forged(packed)), PackedFile)
    load_packed(packed)


def test_any_changed_byte_is_refused(packed):
    raw = packed.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    rng = np.random.default_rng(0)
    header = rng.integers(8, 8 + length, 150).tolist()
    places = [*range(8), *header, *rng.integers(8 + length, len(raw), 100).tolist(), len(raw) - 1]
    for place in places:
        data = bytearray(raw)
        data[place] ^= int(rng.integers(1, 256))
        packed.write_bytes(data)
        with pytest.raises(PackedFileError) as caught:
            read_packed(packed)
        assert "\n" not in str(caught.value)


def test_a_cut_off_or_longer_file_is_refused(packed):
    raw = packed.read_bytes()
    rng = np.random.default_rng(0)
    for end in (0, 1, 7, 8, 9, 100, *rng.integers(0, len(raw), 40).tolist(), len(raw) - 1):
        packed.write_bytes(raw[:end])
        refusal(packed, load=False)
    packed.write_bytes(raw + b"\0")
    refusal(packed, load=False)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "model.bvit"
    assert "no packed model" in refusal(path)
    safetensors.torch.save_file({"head.weight": torch.ones(3)}, str(path))
    assert "is a safetensors file, but no packed model" in refusal(path)
    safetensors.torch.save_file({"a": torch.ones(3)}, str(path), {"bvit": '{"format": "other"}'})
    assert "has format 'other', expected 'bvit-packed'" in refusal(path)
    torch.save({"a": torch.ones(3)}, path)
    refusal(path)
    for data in (b"", b"\0" * 100, b"\xff" * 100, b"GIF89a" * 20):
        path.write_bytes(data)
        assert "not a safetensors file" in refusal(path) or "JSON" in refusal(path)
    assert "not a regular file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")


def test_a_link_is_followed(packed, tmp_path):
    (tmp_path / "link.bvit").symlink_to(packed)
    load_packed(tmp_path / "link.bvit")


def test_a_future_version_says_what_to_do(packed):
    text = refusal(forged(packed, lambda header: header.update(version=2, extra=1)))
    assert "has version 2, this bvit_analysis reads 1; update bvit_analysis" in text
    for version in (0, -1, "1", True, None, 1.0):
        forged(packed, lambda header, version=version: header.update(version=version))
        assert "expected 1" in refusal(packed)


def test_a_header_that_is_not_json_is_refused(packed):
    raw = packed.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    text, body = raw[8 : 8 + length].decode(), raw[8 + length :]
    for wrong in (
        "[]",
        "[" * 100_000,
        "1" * 10_000,
        "null",
        '{"__metadata__": {"bvit": 3}}',
        '{"__metadata__": 3}',
        '{"__metadata__": {"bvit": "{}"}}',
        '{"__metadata__": {"bvit": "[]"}}',
        text[:-3],
        text.replace('"dtype"', '"dtypo"', 1),
        text.replace("{", '{"__metadata__":{},', 1),
        text.replace('\\"depth\\":2', '\\"depth\\":NaN'),
    ):
        refusal(sealed(packed, wrong, body))


def test_names_that_are_there_twice_are_refused(packed):
    raw = packed.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    text, body = raw[8 : 8 + length].decode(), raw[8 + length :]
    site = '\\"blocks.0.attn.qkv\\":{\\"out\\":60,\\"in\\":20}'
    assert site in text
    assert "twice" in refusal(sealed(packed, text.replace(site, f"{site},{site}"), body))
    entry = re.search(r'"norm\.bias":\{[^}]*\}', text)
    assert entry
    assert "twice" in refusal(
        sealed(packed, text.replace(entry[0], f"{entry[0]},{entry[0]}"), body)
    )


HOSTILE_MODELS = {
    "unknown": {"name": "vit_tyni_patch16_224"},
    "another family": {"name": "resnet18"},
    "not supported": {"name": "swin_tiny_patch4_window7_224"},
    "hub": {"name": "hf-hub:somebody/model"},
    "folder": {"name": "../x"},
    "local": {"name": "local-dir:/tmp"},
    "module": {"name": "os.system"},
    "number": {"name": 3},
    "long": {"name": "v" * 1_000_000},
    "lines": {"name": "vit\nerror: all is well"},
    "deep": {"depth": 10**6},
    "deeper": {"depth": 10**30},
    "wide": {"embed_dim": 2**16},
    "wider": {"embed_dim": 10**12},
    "one block": {"depth": 1},
    "heads": {"num_heads": 3},
    "many heads": {"num_heads": 4096},
    "large": {"img_size": 2**14 - 2},
    "odd": {"img_size": 29},
    "channels": {"in_chans": 4096},
    "classes": {"num_classes": 2**20},
    "none": {"num_classes": 0},
    "negative": {"patch_size": -7},
    "true": {"depth": True},
    "fraction": {"embed_dim": 20.0},
    "pretrained": {"pretrained": True},
    "checkpoint": {"checkpoint": "/etc/passwd"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE_MODELS)
def test_a_hostile_model_is_refused(name, packed):
    def change(header):
        header["data"] = {}
        header["model"].update(HOSTILE_MODELS[name])

    refusal(forged(packed, change))


HOSTILE_HEADERS = {
    "model": lambda h: h.update(model=[]),
    "no model": lambda h: h.pop("model"),
    "recipe": lambda h: h.update(recipe="binaryvit"),
    "recipe field": lambda h: h["recipe"].update(hook="os.system"),
    "recipe value": lambda h: h["recipe"].update(shift="__import__"),
    "recipe list": lambda h: h["recipe"].update(shift=["static"]),
    "recipe type": lambda h: h["recipe"].update(shortcuts="yes"),
    "other recipe": lambda h: h.update(recipe=to_dict(get_recipe("baseline"))),
    "large bottleneck": lambda h: h["recipe"].update(shift="bottleneck", shift_reduction=1),
    "no scale": lambda h: h["recipe"].update(weight_scale="none"),
    "width": lambda h: h.update(float_dtype="float16"),
    "width list": lambda h: h.update(float_dtype=["float32"]),
    "width name": lambda h: h.update(float_dtype="object"),
    "no data": lambda h: h.pop("data"),
    "data": lambda h: h.update(data={"mean": ["x"]}),
    "data field": lambda h: h.update(data={"path": "../x"}),
    "infinite data": lambda h: h["data"].update(std=[10**400]),
    "names": lambda h: h["data"].update(class_names=[1] * 10),
    "source": lambda h: h.update(source={"a": {"b": 1}}),
    "sites": lambda h: h.update(sites=[]),
    "no sites": lambda h: h.update(sites={}),
    "a site less": lambda h: h["sites"].pop("blocks.0.attn.qkv"),
    "path as site": lambda h: h["sites"].update({"../x": h["sites"].pop("blocks.0.attn.qkv")}),
    "long site": lambda h: h["sites"].update({"a" * 10**6: h["sites"].pop("blocks.0.attn.qkv")}),
    "large site": lambda h: h["sites"]["blocks.0.attn.qkv"].update(out=2**40),
    "narrow site": lambda h: h["sites"]["blocks.0.attn.qkv"].update({"in": 17}),
    "negative site": lambda h: h["sites"]["blocks.0.attn.qkv"].update(out=-1),
    "site": lambda h: h["sites"].update({"blocks.0.attn.qkv": None}),
    "field": lambda h: h.update(code="print(1)"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_a_hostile_header_is_refused(name, packed):
    refusal(forged(packed, HOSTILE_HEADERS[name]))


def renamed(old: str, new: str):
    return lambda index: index.update({new: index.pop(old)})


HOSTILE_INDEXES = {
    "path": renamed("norm.bias", "../x"),
    "absolute": renamed("norm.bias", "/etc/passwd"),
    "dunder": renamed("norm.bias", "norm.__class__"),
    "other": renamed("norm.bias", "norm.shift"),
    "no name": renamed("norm.bias", ""),
    "latent": renamed("blocks.0.attn.qkv.weight_scale", "blocks.0.attn.qkv.weight"),
    "fixed": renamed("norm.bias", "blocks.0.attn.qkv.fixed_scale"),
    "huge": lambda i: i["norm.bias"].update(shape=[2**62]),
    "huge and agreed": lambda i: i["norm.bias"].update(shape=[2**34], data_offsets=[0, 2**36]),
    "product": lambda i: i["norm.bias"].update(shape=[2**33, 2**33, 0]),
    "product of nothing": lambda i: i.update(
        more={"dtype": "F32", "shape": [2**33, 2**33, 0], "data_offsets": [0, 0]}
    ),
    "dimensions": lambda i: i["norm.bias"].update(shape=[1] * 70 + [20]),
    "shape": lambda i: i["norm.bias"].update(shape=[4, 5]),
    "negative": lambda i: i["norm.bias"].update(shape=[-20]),
    "boolean": lambda i: i["norm.bias"].update(shape=[True, 20]),
    "text": lambda i: i["norm.bias"].update(shape="20"),
    "kind": lambda i: i["norm.bias"].update(dtype="I32"),
    "kind list": lambda i: i["norm.bias"].update(dtype=["F32"]),
    "bytes": lambda i: i["norm.bias"].update(dtype="U8", shape=[80]),
    "halves": lambda i: i["norm.bias"].update(dtype="F16", shape=[40]),
    "overlap": lambda i: i["norm.bias"].update(data_offsets=i["norm.weight"]["data_offsets"]),
    "gone": lambda i: i.pop("norm.bias"),
    "entry": lambda i: i.update({"norm.bias": [1, 2]}),
    "more": lambda i: i["norm.bias"].update(strides=[0]),
    "empty": lambda i: i.update(more={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE_INDEXES)
def test_a_hostile_index_is_refused(name, packed):
    refusal(forged(packed, index=HOSTILE_INDEXES[name]))


def test_bits_after_the_last_column_are_refused(packed):
    raw = packed.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    entry = json.loads(raw[8 : 8 + length])["blocks.0.attn.qkv.bits"]
    body = bytearray(raw[8 + length :])
    body[entry["data_offsets"][1] - 1] |= 0x80  # 20 columns take 4 bits of the third byte
    assert "has bits after its 20 columns" in refusal(forged(packed, payload=bytes(body)))


def test_a_huge_header_is_not_read(tmp_path):
    path = tmp_path / "model.bvit"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**33))
        file.truncate(2**34)  # sparse
    assert "claims a header" in refusal(path)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2))
        file.truncate(2**37)
    assert "too large" in refusal(path)


# Runs and commands ----------------------------------------------------------------------------------------------------


def make_run(folder: Path, *, recipe: str | None = "asm") -> nn.Module:
    """Record a run with one checkpoint of a shaken model, as a training leaves it."""
    smoke = get_scale("smoke")
    config = to_dict(smoke) | {"recipe": to_dict(get_recipe(recipe)) if recipe else None}
    torch.manual_seed(0)
    model = build_model(smoke.model, img_size=28, in_chans=1, num_classes=10)
    if recipe:
        shaken(model, recipe)
    with RunWriter(folder, info={"run_id": folder.name, "config": config, "sites": []}) as writer:
        writer.write_status("finished", 40, 40)
    return model


def checkpoint(folder: Path, model: nn.Module) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    save_checkpoint(folder, 40, tensors | {"optimizer.0.step": torch.ones(1)}, {})


@pytest.mark.parametrize("width", ["float32", "float16"])
def test_pack_and_unpack_a_run_by_command(width, tmp_path, capsys):
    run, out, state = tmp_path / "asm-seed0", tmp_path / "m.bvit", tmp_path / "m.safetensors"
    model = make_run(run)
    checkpoint(run, model)
    assert main(["pack", str(run), "--out", str(out), "--dtype", width]) == 0
    text = capsys.readouterr().out
    assert f"{out.stat().st_size:,} bytes ({width}" in text
    assert "1.0000 of them predicted" in text
    file = read_packed(out)
    assert file.header["source"]["run_id"] == "asm-seed0"
    assert file.header["source"]["step"] == 40
    assert file.header["data"]["mean"] == [0.2861]
    assert len(file.header["data"]["class_names"]) == 10
    assert main(["unpack", str(out), "--out", str(state)]) == 0
    assert "blocks.0.attn.qkv.fixed_scale" in safetensors.torch.load_file(state)
    if width == "float32":
        with torch.no_grad():
            assert torch.equal(load_packed(out)(images()), model(images()))


def test_runs_that_cannot_be_packed(tmp_path, capsys):
    model = make_run(tmp_path / "bare")
    with pytest.raises(RunError, match="has no checkpoints .*train it again"):
        model_of_run(tmp_path / "bare")
    floats = make_run(tmp_path / "teacher", recipe=None)
    checkpoint(tmp_path / "teacher", floats)
    with pytest.raises(RunError, match="has no binary model"):
        model_of_run(tmp_path / "teacher")
    make_run(tmp_path / "other", recipe="baseline")
    checkpoint(tmp_path / "other", model)
    with pytest.raises(RunError, match="does not fit the run's configuration"):
        model_of_run(tmp_path / "other")
    assert main(["pack", str(tmp_path / "nowhere")]) == 2
    assert main(["unpack", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
