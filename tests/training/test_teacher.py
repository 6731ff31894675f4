"""The float teacher: given where its head fits, trained or refused where it does not, and its accuracies recorded."""

from __future__ import annotations

import dataclasses
import re
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bvit_analysis.cli import main
from bvit_analysis.config import DataConfig, ModelConfig, RunConfig, WatchConfig, get_recipe
from bvit_analysis.data import load_dataset
from bvit_analysis.errors import ConfigError
from bvit_analysis.packed.run import model_of_run
from bvit_analysis.pretrained import model_preprocessing
from bvit_analysis.records import load_run
from bvit_analysis.records.checkpoints import MODEL, load_checkpoint, part
from bvit_analysis.training.models import build, teacher_config
from bvit_analysis.training.run import train
from bvit_analysis.training.sweep import ablate
from bvit_analysis.training.teacher import teacher_origin
from tests.support.image_folders import SHAPE, make_pictures, save_weights
from tests.support.tiny_run import tiny

PICTURES = {"train": 8, "val": 4}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures"), PICTURES, suffix=".jpg")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("weights")
    return {count: save_weights(folder / f"{count}.safetensors", count) for count in (3, 7, 0)}


def config_of(pictures: Path, checkpoint: Path | str = "", **changes: object) -> RunConfig:
    training = dataclasses.replace(tiny().training, steps=3, batch_size=6, warmup_steps=1)
    training = dataclasses.replace(training, calibration_images=6)
    base = RunConfig(
        recipe=get_recipe("binaryvit"),
        data=DataConfig(name="torch/image_folder", root=str(pictures), img_size=16),
        model=ModelConfig(
            name="deit_small_patch16_224", checkpoint=str(checkpoint), pretrained=True, **SHAPE
        ),
        training=training,
        watch=WatchConfig(flips_every=1, trajectory_weights=2),
    )
    return dataclasses.replace(base, **changes)


def arguments(pictures: Path, checkpoint: Path, out: Path) -> list[str]:
    settings = {
        "data.img_size": 16,
        "data.workers": 0,
        "model.checkpoint": checkpoint,
        **{f"model.{name}": value for name, value in SHAPE.items()},
        "training.steps": 3,
        "training.batch_size": 6,
        "training.calibration_images": 6,
        "watch.flips_every": 1,
    }
    given = [text for pair in settings.items() for text in ("--set", "{}={}".format(*pair))]
    return ["train", "--scale", "imagenet", "--data", str(pictures), "--out", str(out), *given]


# The preset, by its command line --------------------------------------------------------------------------------------


def test_imagenet_on_three_classes_is_refused_in_one_line_before_the_first_step(
    pictures: Path, weights: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    given = ["train", "--scale", "imagenet", "--data", str(pictures), "--out", str(out)]
    assert main(given) == 2  # timm's weights, which nobody asks for to know this
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: timm's weights of deit_small[^\n]+for 1000 classes[^\n]+\n", said)
    for command in ([], ["ablate", "--recipes", "baseline,asm", "--seeds", "1"]):
        given = arguments(pictures, weights[7], out)
        assert main([*(command or given[:1]), *given[1:]]) == 2
        said = capsys.readouterr()
        assert re.fullmatch(r"error: [^\n]+\n", said.err)
        assert "for 7 classes" in said.err
        assert f"{pictures} has 3" in said.err
        assert "--set teacher.steps=" in said.err
        assert said.out == ""
        assert not out.exists()


def test_imagenet_on_three_classes_trains_with_a_teacher_that_fits(
    pictures: Path, weights: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(pictures, weights[3], tmp_path), "--quiet"]) == 0
    (folder,) = (tmp_path / "imagenet").iterdir()  # no teacher was trained beside it
    run = load_run(folder)
    assert run.state == "finished"
    assert run.scalars["step"].tolist() == [1, 2, 3]
    assert_accuracies(run.info["teacher"], weights[3], pictures)
    assert run.result["teacher_test_accuracy"] == run.info["teacher"]["teacher_test_accuracy"]


def assert_accuracies(figures: dict[str, object], path: Path, pictures: Path) -> None:
    """The recorded accuracies are those of the file, counted again from its own logits."""
    from timm import create_model

    model = create_model("deit_small_patch16_224", num_classes=3, img_size=16, **SHAPE).eval()
    model.load_state_dict(load_file(path))
    dataset = load_dataset(config_of(pictures).data)
    for name in ("validation", "test"):
        split = dataset.split(name)
        pixels = split.images.double() / 255
        mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (dataset.mean, dataset.std))
        with torch.no_grad():
            right = model(((pixels - mean) / std).float()).argmax(1) == split.labels
        assert figures[f"teacher_{name}_accuracy"] == pytest.approx(right.double().mean().item())


def test_imagenet_on_three_classes_trains_its_teacher_where_it_is_told_how(
    pictures: Path, weights: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(pictures, weights[7], tmp_path)
    for setting in ("steps=30", "batch_size=12", "warmup_steps=2", "evaluate_every=30"):
        given += ["--set", f"teacher.{setting}"]
    assert main([*given, "--quiet"]) == 0
    folder = tmp_path / "imagenet" / "binaryvit-seed0"
    run = load_run(folder)
    teacher = load_run(folder.parent / run.info["teacher"]["teacher"])
    assert run.info["teacher"]["teacher_test_accuracy"] == teacher.result["test_accuracy"]
    assert (
        run.info["teacher"]["teacher_validation_accuracy"] == teacher.result["validation_accuracy"]
    )


def test_a_teacher_that_is_trained_begins_with_the_weights_given(
    pictures: Path, weights: dict[int, Path]
) -> None:
    config = config_of(pictures, weights[7], teacher=tiny().teacher)
    begun = build(teacher_config(config), load_dataset(config.data)).state_dict()
    state = load_file(weights[7])
    head = {"head.weight", "head.bias"}
    assert all(torch.equal(value, state[name]) for name, value in begun.items() if name not in head)
    assert begun["head.weight"].shape == (3, 32)


# Where a teacher comes from -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "changes", "expected"),
    [
        (3, {}, "given"),
        (3, {"teacher": tiny().teacher}, "given"),
        (7, {"teacher": tiny().teacher}, "trained"),
        (0, {"teacher": tiny().teacher}, "trained"),
        (7, {"recipe": dataclasses.replace(get_recipe("asm"), distillation=False)}, "given"),
        (7, {"recipe": None}, "none"),
        (7, {}, "for 7 classes"),
        (0, {}, "without a head"),
    ],
)
def test_origin(
    pictures: Path,
    weights: dict[int, Path],
    classes: int,
    changes: dict[str, object],
    expected: str,
) -> None:
    config = config_of(pictures, weights[classes], **changes)
    dataset = load_dataset(config.data, model_preprocessing(config.model))
    if " " not in expected:
        assert teacher_origin(config, dataset) == expected
        return
    with pytest.raises(ConfigError, match=expected) as caught:
        teacher_origin(config, dataset)
    assert "\n" not in str(caught.value)


def test_origin_of_timms_own_weights(pictures: Path) -> None:
    dataset = load_dataset(config_of(pictures).data)
    thousand = dataclasses.replace(dataset, num_classes=1000)
    config = config_of(pictures)
    assert teacher_origin(config, thousand) == "given"
    with pytest.raises(ConfigError, match="timm's weights of deit_small.*for 1000 classes"):
        teacher_origin(config, dataset)
    dino = dataclasses.replace(config.model, name="vit_small_patch14_dinov2")
    with pytest.raises(ConfigError, match="without a head"):
        teacher_origin(dataclasses.replace(config, model=dino), thousand)
    alone = dataclasses.replace(config, model=dataclasses.replace(config.model, pretrained=False))
    assert teacher_origin(alone, dataset) == "none"
    assert teacher_origin(dataclasses.replace(alone, teacher=tiny().teacher), dataset) == "trained"


# Runs -----------------------------------------------------------------------------------------------------------------


def test_no_network_is_asked_where_there_is_a_file(
    pictures: Path,
    weights: dict[int, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    given = train(config_of(pictures, weights[3]), tmp_path / "given", progress=False)
    assert load_run(given).state == "finished"
    short = dataclasses.replace(tiny().teacher, steps=2, batch_size=6, warmup_steps=0)
    fitted = config_of(pictures, weights[7], teacher=short)
    train(fitted, tmp_path / "trained", progress=False)
    labels = dataclasses.replace(get_recipe("asm"), distillation=False)
    config = config_of(pictures, weights[7], recipe=labels)
    folder = train(config, tmp_path / "labels", progress=False)
    # its head is new, which is said: there is no accuracy to speak of
    assert "has a head for 7 classes; a new one for 3 is learned" in capsys.readouterr().err
    assert set(load_run(folder).info["teacher"]) == {"teacher_sha256"}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_base_patch16_clip_224.openai"])
def test_images_are_prepared_as_the_model_expects(
    pictures: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    from bvit_analysis.training import loop

    path = save_weights(tmp_path / "w.safetensors", 3, name=name)
    config = config_of(pictures, path)
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, name=name),
        data=dataclasses.replace(config.data, augmentation=False),
    )
    seen = []
    original = loop._loss
    monkeypatch.setattr(loop, "_loss", lambda *given: seen.append(given[3]) or original(*given))
    folder = train(config, tmp_path / "run", progress=False)
    expected = resolve_data_config(pretrained_cfg=get_pretrained_cfg(name).to_dict())
    recorded = load_run(folder).info["preprocessing"]
    for field in ("mean", "std"):
        assert tuple(recorded[field]) == expected[field]
    # a packed file of the run prepares images the same way
    packed = model_of_run(folder)[1]["data"]
    assert (tuple(packed["mean"]), tuple(packed["std"])) == (expected["mean"], expected["std"])
    pixels = load_dataset(config.data).train.images
    mean, std = (torch.tensor(expected[field]).view(-1, 1, 1) for field in ("mean", "std"))
    prepared = (pixels / 255 - mean) / std
    for images in seen:
        for image in images:
            assert (prepared - image).abs().amax(dim=(1, 2, 3)).min() < 1e-5


def test_grey_images_are_prepared_as_the_colours_together(tmp_path: Path) -> None:
    name = "deit_small_patch16_224"
    path = save_weights(tmp_path / "w.safetensors", 10, name=name, img_size=28, patch_size=7)
    model = ModelConfig(name=name, checkpoint=str(path), **{**SHAPE, "patch_size": 7})
    data = DataConfig(train_limit=8, evaluation_limit=4)
    dataset = load_dataset(data, model_preprocessing(model))
    assert dataset.mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))
    assert dataset.std == pytest.approx(((0.229 + 0.224 + 0.225) / 3,))
    assert load_dataset(data).mean == (0.2861,)
    grey = save_weights(tmp_path / "g.safetensors", 10, in_chans=1, img_size=28, patch_size=7)
    model = dataclasses.replace(model, checkpoint=str(grey))
    assert load_dataset(data, model_preprocessing(model)).mean == (0.2861,)


def test_a_run_goes_on_with_the_teacher_that_it_began_with(
    pictures: Path, weights: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(weights[3].read_bytes())
    config = config_of(pictures, path)
    whole = train(config, tmp_path / "whole", progress=False)
    count = iter(range(100))
    original = torch.optim.AdamW.step

    def step(self, closure=None):
        if next(count) == 1:
            raise ZeroDivisionError
        return original(self, closure)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(ZeroDivisionError):
            train(config, tmp_path / "run", progress=False)
    state = load_file(path)
    save_file({name: value + 1 for name, value in state.items()}, path)
    with pytest.raises(ConfigError, match="began with another teacher"):
        train(config, tmp_path / "run", progress=False)
    # the same weights elsewhere are the same teacher
    moved = config_of(pictures, weights[3])
    train(moved, tmp_path / "run", progress=False)
    one, other = (
        part(load_checkpoint(folder).tensors, MODEL) for folder in (whole, tmp_path / "run")
    )
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert load_run(tmp_path / "run").info["teacher"] == load_run(whole).info["teacher"]


def test_a_teacher_no_better_than_guessing_is_said(
    pictures: Path, weights: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config_of(pictures, weights[3]), tmp_path / "run", progress=False)
    accuracy = load_run(tmp_path / "run").info["teacher"]["teacher_validation_accuracy"]
    assert accuracy < 0.9
    said = capsys.readouterr().err
    assert f"the teacher is right on {accuracy:.1%} of 2 validation images, where guessing" in said
    assert "(ant, bee, cat, ...)" in said


@pytest.mark.processes
@pytest.mark.slow
def test_an_ablation_over_given_weights_trains_no_teacher(
    pictures: Path, weights: dict[int, Path], tmp_path: Path
) -> None:
    base = config_of(pictures, weights[3], teacher=tiny().teacher)
    folders = ablate(base, tmp_path, recipes=["baseline"], seeds=[0], progress=False)
    assert [folder.name for folder in folders] == ["baseline-seed0"]
    assert [path.name for path in tmp_path.iterdir()] == ["baseline-seed0"]


def test_a_batch_that_the_images_cannot_fill_is_refused_before_a_teacher_is_trained(
    pictures: Path, weights: dict[int, Path], tmp_path: Path
) -> None:
    # the preset's 512 on a small folder
    config = config_of(pictures, weights[7], teacher=tiny().teacher)
    large = dataclasses.replace(config.training, batch_size=512)
    with pytest.raises(ConfigError, match=r"from 1 to the 22 training images, got 512"):
        train(dataclasses.replace(config, training=large), tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []
