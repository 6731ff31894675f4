"""What may differ where a run is taken up again: nothing that could change a bit, and nothing else is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bvit_analysis.config import RECIPES, DataConfig, ModelConfig, RunConfig, get_scale
from bvit_analysis.errors import ConfigError, DataError
from bvit_analysis.records import load_run
from bvit_analysis.training.models import check_devices, teacher_folder, teacher_run_id
from bvit_analysis.training.run import train
from tests.support.image_folders import SHAPE, make_pictures, save_weights
from tests.support.tiny_run import differing, tiny


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures"), {"train": 8, "val": 4})


def config_of(pictures: Path | str, **data: object) -> RunConfig:
    small = {"batch_size": 6, "warmup_steps": 1, "calibration_images": 6, "checkpoint_every": 2}
    config = tiny(steps=4, **small)
    return dataclasses.replace(
        config,
        data=DataConfig(name="torch/image_folder", root=str(pictures), img_size=16, **data),
        model=ModelConfig(**SHAPE),
        teacher=dataclasses.replace(config.training, steps=2),
    )


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config_of(pictures), tmp_path_factory.mktemp("whole") / "run", progress=False)


def stop_at(monkeypatch: pytest.MonkeyPatch, config: RunConfig, folder: Path, moment: int) -> None:
    """Train, teacher first, until a step of the run itself fails."""
    count = iter(range(100))
    original = torch.optim.AdamW.step

    def step(self, closure=None):
        if next(count) == moment + config.teacher.steps:
            raise ZeroDivisionError
        return original(self, closure)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(ZeroDivisionError):
            train(config, folder, progress=False)


def changed(config: RunConfig, section: str, **values: object) -> RunConfig:
    return dataclasses.replace(
        config, **{section: dataclasses.replace(getattr(config, section), **values)}
    )


HARMLESS: dict[str, Callable[[RunConfig, Path], RunConfig]] = {
    "workers": lambda config, _: changed(config, "data", workers=1),
    "relative path": lambda config, pictures: changed(
        config, "data", root=os.path.relpath(pictures)
    ),
    "path with dots": lambda config, pictures: changed(
        config, "data", root=f"{pictures}/train/../"
    ),
    "checkpoints": lambda config, _: changed(config, "training", checkpoint_every=1),
}


@pytest.mark.processes
@pytest.mark.parametrize("what", HARMLESS)
def test_what_cannot_change_a_bit_does_not_forbid_a_resume(
    pictures: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    config = config_of(pictures)
    folder = tmp_path / "run"
    stop_at(monkeypatch, config, folder, 3)
    teachers = sorted(path.name for path in tmp_path.iterdir())
    other = HARMLESS[what](config, pictures)
    assert other != config
    train(other, folder, progress=False)
    assert (
        sorted(path.name for path in tmp_path.iterdir()) == teachers
    )  # nor is another one trained
    assert differing(whole, folder) == []
    assert train(other, whole, progress=False) == whole


def test_a_relative_path_is_the_same_seen_from_another_folder(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures.parent)
    folder = train(config_of(pictures.name), tmp_path / "run", progress=False)
    monkeypatch.chdir(tmp_path)
    assert train(config_of(pictures), folder, progress=False) == folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: changed(config, "data", img_size=24), "data.img_size: 16 there, 24"),
        (lambda config: changed(config, "training", threads=2), "training.threads: 1 there, 2"),
        (lambda config: changed(config, "teacher", steps=9), "teacher.steps: 2 there, 9"),
        (lambda config: changed(config, "data", root="elsewhere"), "data.root: .*elsewhere"),
    ],
)
def test_what_can_change_a_bit_is_refused(whole: Path, pictures: Path, change, message) -> None:
    with pytest.raises(ConfigError, match=message):
        train(change(config_of(pictures)), whole, progress=False)


def test_other_images_and_another_preparation_are_refused(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = make_pictures(tmp_path / "pictures", {"train": 8, "val": 4})
    config = config_of(copy)
    folder = tmp_path / "run"
    stop_at(monkeypatch, config, folder, 3)
    (copy / "train" / "ant" / "Thumbs.db").write_bytes(b"x")  # is no image
    extra = copy / "train" / "ant" / "more.png"
    extra.write_bytes((copy / "train" / "ant" / "0.png").read_bytes())
    with pytest.raises(DataError, match="not those that .* began with"):
        train(config, folder, progress=False)
    extra.unlink()
    info = json.loads((folder / "run.json").read_text())
    for entry, words in (
        ({**info["preprocessing"], "mean": [0.5, 0.5, 0.5]}, r"mean \(0.5, 0.5, 0.5\)"),
        ({"mean": 1}, "preprocessing is damaged"),
        ([], "preprocessing is damaged"),
    ):
        (folder / "run.json").write_text(json.dumps(info | {"preprocessing": entry}))
        with pytest.raises(DataError, match=words) as caught:
            train(config, folder, progress=False)
        assert "\n" not in str(caught.value)
    # a run of a release that recorded none did what is still done for models without weights
    del info["preprocessing"], info["data_root"]
    (folder / "run.json").write_text(json.dumps(info))
    train(config, folder, progress=False)
    assert load_run(folder).state == "finished"


def test_a_run_of_older_preparation_with_weights_is_refused(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_weights(tmp_path / "w.safetensors", 3, name="vit_tiny_patch16_224")
    config = dataclasses.replace(
        config_of(pictures), model=ModelConfig(checkpoint=str(path), **SHAPE)
    )
    folder = tmp_path / "run"
    stop_at(monkeypatch, config, folder, 1)
    info = json.loads((folder / "run.json").read_text())
    del info["preprocessing"]
    (folder / "run.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"began with .*0.485.*now they have \(0.5, 0.5, 0.5\)"):
        train(config, folder, progress=False)


def test_a_teacher_has_one_id_whatever_cannot_change_its_bits() -> None:
    for scale in ("smoke", "laptop", "bench"):
        config = dataclasses.replace(get_scale(scale), recipe=RECIPES["asm"])
        elsewhere = changed(config, "data", root="/somewhere/else", workers=3)
        assert teacher_run_id(elsewhere) == teacher_run_id(config)
        assert teacher_run_id(changed(config, "data", img_size=27)) != teacher_run_id(config)


def test_the_teacher_of_another_release_is_found_by_what_it_is(
    whole: Path, pictures: Path, tmp_path: Path
) -> None:
    """A release that adds a setting gives another id; the shipped teacher is of one that had fewer."""
    shipped = Path(__file__).parents[2] / "data" / "runs"
    laptop = dataclasses.replace(get_scale("laptop"), recipe=RECIPES["asm"])
    (there,) = shipped.glob("teacher-*")
    assert teacher_folder(laptop, shipped) == there
    config = config_of(pictures)
    (mine,) = whole.parent.glob("teacher-*")
    shutil.copytree(mine, tmp_path / "teacher-of-old")
    (tmp_path / "teacher-damaged").mkdir()
    (tmp_path / "teacher-damaged" / "run.json").write_text("{")
    assert teacher_folder(config, tmp_path) == tmp_path / "teacher-of-old"
    other = changed(config, "teacher", steps=3)
    assert teacher_folder(other, tmp_path) == tmp_path / teacher_run_id(other)


def test_a_teacher_of_other_images_is_refused(whole: Path, pictures: Path, tmp_path: Path) -> None:
    (mine,) = whole.parent.glob("teacher-*")
    shutil.copytree(mine, tmp_path / mine.name)
    info = json.loads((mine / "run.json").read_text())
    (tmp_path / mine.name / "run.json").write_text(json.dumps(info | {"data_fingerprint": "0"}))
    with pytest.raises(DataError, match=f"not those that .*{mine.name} began with"):
        train(config_of(pictures), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["cuda:99", "cdua", "meta", "cuda:x"])
def test_devices_that_are_not_here_end_in_one_line(device: str) -> None:
    for section in ("training", "teacher"):
        config = changed(tiny(), section, device=device)
        with pytest.raises(ConfigError, match=f"{section}.device is '{device}'") as caught:
            check_devices(config)
        assert "\n" not in str(caught.value)
    check_devices(tiny())


def test_a_missing_device_is_refused_before_a_teacher_is_trained(tmp_path: Path) -> None:
    config = changed(tiny(), "training", device="cuda:99")
    with pytest.raises(ConfigError, match="use --set training.device=cpu"):
        train(config, tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []
