"""Image folders as people have them: names of parts, levels, what is beside the images, and what is said of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bvit_analysis.config import DataConfig
from bvit_analysis.data import Dataset, load_dataset
from bvit_analysis.data.image_folder import find_images, find_layout, fingerprint, part_of
from bvit_analysis.errors import DataError
from tests.support.image_folders import CLASSES, make_pictures


def load(root: Path) -> Dataset:
    return load_dataset(DataConfig(name="torch/image_folder", root=str(root), img_size=16))


def refused(root: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_names_of_parts() -> None:
    names = {
        "train": ("train", "Train", "TRAINING", "train_set", "training-set", "Train Images"),
        "validation": ("val", "Val", "valid", "validation", "Validation_Set", "val2017", "eval"),
        "test": ("test", "TEST", "testing", "test_images", "imgs-test", "testset"),
    }
    for part, ways in names.items():
        assert [part_of(way) for way in ways] == [part] * len(ways)
    for other in ("cat", "trainer", "valley", "contest", "images", "data", "freight train", "1"):
        assert part_of(other) is None


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("Train", "Val", "Test"), ("TRAINING", "valid", "test_set"), ("train2017", "Validation", "t")],
)
def test_parts_are_found_by_any_common_name(
    tmp_path: Path, train: str, validation: str, test: str
) -> None:
    test = "testing" if test == "t" else test
    dataset = load(make_pictures(tmp_path, {train: 4, validation: 2, test: 1}))
    assert dataset.class_names == CLASSES
    sizes = [len(dataset.split(name)) for name in ("train", "validation", "test")]
    assert sizes == [12, 6, 3]
    assert dataset.notes == ()


def test_two_folders_for_one_part_are_refused(tmp_path: Path) -> None:
    make_pictures(tmp_path, {"train": 4, "val": 2, "Validation": 1})
    refused(tmp_path, "two folders for its validation images, 'Validation' and 'val'; rename one")


@pytest.mark.parametrize(
    "parts", [("Train", "Val"), ("training", "test_set"), ("A/train", "A/Val")]
)
def test_a_root_one_level_too_high_is_refused(tmp_path: Path, parts: tuple[str, str]) -> None:
    make_pictures(tmp_path / "flowers", dict.fromkeys(parts, 2))
    inner = tmp_path / "flowers" / "A" if "/" in parts[0] else tmp_path / "flowers"
    refused(inner.parent, f"one level too high.*use {inner} as root")


def test_parts_deep_inside_classes_are_refused(tmp_path: Path) -> None:
    for name in ("roses", "tulips"):
        make_pictures(tmp_path / name / "pictures", {"Train": 2}, classes=("x",))
        (tmp_path / name / "pictures" / "Train" / "0.png").write_bytes(b"")
    refused(tmp_path, "class 'roses' .*pictures.Train, which has the name of a part")


def test_parts_that_would_be_classes_are_refused(tmp_path: Path) -> None:
    make_pictures(tmp_path / "train", {"train": 2, "Val": 2})
    refused(tmp_path, "would be 'Val', 'train', which are names of parts|one level too high")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make_pictures(tmp_path, {"train": 4, "val": 2}, classes=("bus", "car", "train"))
    assert load(tmp_path).class_names == ("bus", "car", "train")


def test_one_class_is_refused(tmp_path: Path) -> None:
    refused(make_pictures(tmp_path / "a", {"train": 9}, classes=("ant",)), "one class, 'ant'.*add")
    refused(make_pictures(tmp_path / "b", {"": 9}, classes=("ant",)), "one class, 'ant'")
    # a root too high without names of parts
    inner = make_pictures(tmp_path / "c" / "pictures", {"": 9})
    refused(tmp_path / "c", f"one class, 'pictures'.*use {inner} as root")


def test_classes_that_differ_in_case_are_named(tmp_path: Path) -> None:
    make_pictures(tmp_path, {"train": 4, "val": 2})
    (tmp_path / "val" / "bee").rename(tmp_path / "val" / "Bee")
    refused(tmp_path, "class 'bee' of .* is missing in .*val; it is written 'Bee' there")


def test_other_endings_of_jpeg_are_read(tmp_path: Path) -> None:
    make_pictures(tmp_path, {"train": 4})
    for number, path in enumerate(sorted(tmp_path.rglob("*.png"))):
        if number % 4:
            path.rename(path.with_suffix(".jfif"))
    dataset = load(tmp_path)
    assert sum(len(dataset.split(name)) for name in ("train", "validation", "test")) == 12
    assert dataset.notes == ()


def litter(root: Path) -> None:
    """What lies about in the image folders of the world."""
    bee = root / "train" / "bee"
    for name in ("Thumbs.db", ".DS_Store", "._0.png", "notes.txt", "labels.csv", "README"):
        (bee / name).write_bytes(b"x")
    (bee / "gone.png").symlink_to(root / "nowhere.png")
    (bee / "around").symlink_to(bee)
    os.mkfifo(bee / "pipe.png")
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (root / "train" / name).mkdir()
        shutil.copy(bee / "0.png", root / "train" / name / "0.png")
    (bee / ".cache").mkdir()
    (root / "train" / "index.html").write_bytes(b"x")
    (root / "annotations").mkdir()
    (root / "LICENSE").write_bytes(b"x")


def test_what_is_not_read_is_counted_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_pictures(tmp_path, {"train": 4, "val": 2})
    clean = load(root)
    assert capsys.readouterr().err == ""
    litter(root)
    dataset = load(root)
    said = capsys.readouterr().err
    for words in (
        f"not read in {root}: the folders 'annotations' and files that are in no class folder (1)",
        "train: the folders '.ipynb_checkpoints', '__MACOSX' and files that are in no class folder (1)",
        f"10 of 22 entries of {root / 'train'} are not read: ",
        *("broken links (1)", "folders that lead back to where they are (1)", "hidden folders (1)"),
        *("hidden, or left by a system (3)", "named .csv (1)", "named .txt (1)"),
        *("without an ending (1)", "no plain files (1)"),
    ):
        assert words in said
    assert said.count("\n") == len(dataset.notes) == 3
    # nothing else has changed: labels are not shifted, and what is not read is no part of the data
    assert dataset.class_names == clean.class_names
    assert dataset.fingerprint == clean.fingerprint
    for name in ("train", "validation", "test"):
        one, other = clean.split(name), dataset.split(name)
        assert one.labels.tolist() == other.labels.tolist()
        assert bool((one.images == other.images).all())


def test_a_class_without_images_says_what_it_has(tmp_path: Path) -> None:
    root = make_pictures(tmp_path, {"train": 2})
    for path in (root / "train" / "bee").iterdir():
        path.rename(path.with_suffix(".heic"))
    refused(root, r"class 'bee' of .*train has no images, but named .heic \(2\);")


def test_images_are_listed_as_torchvision_lists_them(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    root = make_pictures(tmp_path, {"train": 3})
    for inner in ("z", "a/b", "0"):
        folder = root / "train" / "bee" / inner
        folder.mkdir(parents=True)
        shutil.copy(root / "train" / "ant" / "0.png", folder / "5.png")
    layout = find_layout(root)
    expected = ImageFolder(str(root / "train")).samples
    assert find_images(layout.train, layout.class_names).samples == expected


def test_the_fingerprint_is_that_of_a_walk_over_names_and_sizes(tmp_path: Path) -> None:
    import hashlib

    root = make_pictures(tmp_path, {"train": 3, "val": 1})
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            line = f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n"
            digest.update(line.encode())
    assert load(root).fingerprint == digest.hexdigest()[:16]
    paths = [str(path) for path in root.rglob("*.png")]
    assert fingerprint(root, paths) == digest.hexdigest()[:16]
