"""Weights that a model starts from: what they are made for, how they are loaded, and one line where they do not fit."""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bvit_analysis.config import ModelConfig
from bvit_analysis.convert import build_model
from bvit_analysis.errors import ConfigError
from bvit_analysis.pretrained import describe_weights, model_preprocessing
from tests.support.image_folders import SHAPE, save_weights


def small(name: str = "deit_small_patch16_224", **changes: object) -> ModelConfig:
    return ModelConfig(name=name, **{**SHAPE, **changes})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(tmp_path_factory.mktemp("weights") / "five.safetensors", 5)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(
    "name",
    [
        "deit_small_patch16_224",
        "vit_tiny_patch16_224",
        "vit_base_patch16_clip_224.openai",
        "vit_small_patch16_224.augreg_in21k",
        "vit_small_patch14_dinov2",
    ],
)
def test_preprocessing_is_what_timm_resolves_for_the_model(name: str, file: Path) -> None:
    from timm import create_model
    from timm.data import resolve_model_data_config

    with torch.device("meta"):
        expected = resolve_model_data_config(create_model(name))
    for config in (ModelConfig(name=name, pretrained=True), small(name, checkpoint=str(file))):
        found = dataclasses.asdict(model_preprocessing(config))
        assert found == {key: expected[key] for key in found}
    assert model_preprocessing(ModelConfig(name=name)) is None


def test_mean_and_std_differ_between_the_models_of_timm() -> None:
    def mean(name: str) -> tuple[float, ...]:
        return model_preprocessing(ModelConfig(name=name, pretrained=True)).mean

    assert mean("vit_tiny_patch16_224") == (0.5, 0.5, 0.5)
    assert mean("deit_small_patch16_224") == (0.485, 0.456, 0.406)


def test_the_configuration_beside_a_file_goes_before_the_names(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "model.safetensors", 3)
    own = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": own | {"url": "http://x"}}))
    config = small(checkpoint=str(path))
    found = model_preprocessing(config)
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (found.interpolation, found.crop_pct) == ("bilinear", 0.9)
    from timm.data import resolve_model_data_config

    model = build_model(config, img_size=16, in_chans=3, num_classes=3)
    assert resolve_model_data_config(model)["std"] == [0.4, 0.5, 0.6]
    for wrong in ({"std": [0.5, 0, 0.5]}, {"mean": ["a", 1, 2]}, {"interpolation": "best"}):
        (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": own | wrong}))
        with pytest.raises(ConfigError, match=r"configuration of .*model.safetensors"):
            model_preprocessing(config)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot read .*config.json"):
        model_preprocessing(config)


def test_a_grey_file_is_not_described_by_a_configuration_of_colours(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "grey.safetensors", 3, in_chans=1)
    config = small(checkpoint=str(path))
    assert describe_weights(config).in_chans == 1
    assert model_preprocessing(config) is None
    model = build_model(config, img_size=16, in_chans=1, num_classes=3)
    state = load_file(path)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_file_is_loaded_to_the_bit_and_no_network_is_asked(file: Path, no_network: None) -> None:
    config = small(checkpoint=str(file), pretrained=True)
    model = build_model(config, img_size=16, in_chans=3, num_classes=5)
    state, found = load_file(file), model.state_dict()
    assert state.keys() == found.keys()
    assert all(torch.equal(value, state[name]) for name, value in found.items())
    assert "state_dict" not in model.pretrained_cfg


@pytest.mark.parametrize("classes", [3, 7])
def test_only_the_head_is_new_where_it_does_not_fit(file: Path, classes: int) -> None:
    assert describe_weights(small(checkpoint=str(file))).num_classes == 5
    model = build_model(small(checkpoint=str(file)), img_size=16, in_chans=3, num_classes=classes)
    state = load_file(file)
    new = {
        name
        for name, value in model.state_dict().items()
        if value.shape != state[name].shape or not torch.equal(value, state[name])
    }
    assert new == {"head.weight", "head.bias"}


def test_weights_without_a_head_have_no_classes(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "body.safetensors", 0)
    assert describe_weights(small(checkpoint=str(path))).num_classes == 0
    dino = ModelConfig(name="vit_small_patch14_dinov2", pretrained=True)
    assert describe_weights(dino).num_classes == 0


def test_positions_follow_the_size_of_the_images(file: Path) -> None:
    model = build_model(small(checkpoint=str(file)), img_size=32, in_chans=3, num_classes=5)
    assert model.pos_embed.shape == (1, 17, 32)


def pickled(path: Path) -> Path:
    torch.save({"head.weight": torch.zeros(2)}, path)
    return path


def foreign(path: Path) -> Path:
    save_file({"conv1.weight": torch.zeros(2, 2)}, path)
    return path


def text(path: Path) -> Path:
    path.write_text("weights")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: pickled(folder / "w.pth"), "no safetensors file.*weights_only"),
        (lambda folder: pickled(folder / "w.safetensors"), "no safetensors file"),
        (lambda folder: text(folder / "w.safetensors"), "no safetensors file"),
        (lambda folder: foreign(folder / "w.safetensors"), "has no patch_embed.*conv1.weight"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: folder / "none.safetensors", "is missing"),
    ],
)
def test_files_that_are_no_weights_end_in_one_line(tmp_path: Path, make, message: str) -> None:
    config = small(checkpoint=str(make(tmp_path)))
    for use in (
        lambda: model_preprocessing(config),
        lambda: build_model(config, img_size=16, in_chans=3, num_classes=2),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", [5, 3])
@pytest.mark.parametrize(
    "changes",
    [{"depth": 2}, {"embed_dim": 64}, {"num_heads": 3}, {"name": "vit_tiny_patch16_rope"}],
)
def test_weights_of_another_model_end_in_one_line(
    file: Path, changes: dict[str, object], classes: int
) -> None:
    # with another head timm is not strict and would leave what is missing random
    config = small(**{"checkpoint": str(file), **changes})
    with pytest.raises(ConfigError) as caught:
        build_model(config, img_size=16, in_chans=3, num_classes=classes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weights", [{}, {"pretrained": True}])
def test_a_file_of_fewer_blocks_is_named(tmp_path: Path, weights: dict[str, object]) -> None:
    path = save_weights(tmp_path / "w.safetensors", 5)
    config = small(checkpoint=str(path), depth=3, **weights)
    with pytest.raises(ConfigError, match=r"lacks 24 tensors \(blocks.1.attn.proj.bias"):
        build_model(config, img_size=16, in_chans=3, num_classes=4)


def test_what_timm_cannot_build_or_find_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    with pytest.raises(ConfigError, match=r"cannot build .*divisible by num_heads"):
        build_model(small(num_heads=5), img_size=16, in_chans=3, num_classes=2)
    for name, words in (("vit_tiny_patch16_224.nobody", "nobody"), ("deit_smal_patch16", "deit_")):
        with pytest.raises(ConfigError, match=words) as caught:
            model_preprocessing(ModelConfig(name=name, pretrained=True))
        assert "\n" not in str(caught.value)

    def offline(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError("cannot find the file on the Hub\nand not in the cache")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ConfigError, match=r"no pretrained weights .*model.checkpoint") as caught:
        build_model(small(pretrained=True), img_size=16, in_chans=3, num_classes=2)
    assert "\n" not in str(caught.value)
