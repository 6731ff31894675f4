"""What a folder of images must look like before anything learns from it: parts, classes, fingerprint.

Readers of image folders take whatever they find: a class that is missing in one part shifts the labels
of all that follow, a root one level too high makes classes of "train" and "val". Here these are errors.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from bvit_analysis.errors import DataError

PART_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"The folder names of each part; the first that exists is taken."

_ALL_PART_NAMES = {name for names in PART_NAMES.values() for name in names}


@dataclass(frozen=True, kw_only=True)
class FolderLayout:
    """Where the parts of an image folder are.

    Without a train folder the root itself is the training part. A single held-out part is the test split
    whatever its name, so that figures which are reported were never chosen by: ImageNet has train/ and val/.
    """

    train: Path
    validation: Path | None
    test: Path | None
    class_names: tuple[str, ...]
    "Sorted; the index is the label, in every part."


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir())


def _class_names(part: Path) -> tuple[str, ...]:
    folders = _folders(part)
    hidden = [folder for folder in folders if folder.name.startswith(".")]
    if hidden:
        raise DataError(f"{hidden[0]} would be read as a class of its own; remove it")
    if not folders:
        raise DataError(
            f"{part} has no class folders; sort its images into one folder per class "
            f"({part.name}/cat/1.png), as for every part"
        )
    return tuple(folder.name for folder in folders)


def _check_level(root: Path) -> None:
    for folder in _folders(root):
        inner = sorted(entry.name for entry in _folders(folder) if entry.name in _ALL_PART_NAMES)
        if inner:
            raise DataError(
                f"{root} is one level too high: '{inner[0]}' is inside {folder}; use {folder} as root"
            )


def find_layout(root: Path) -> FolderLayout:
    """Find the parts of an image folder and check that they agree on the classes.

    Args:
        root: Folder with train/, val/ and test/ (each optional but train), each with a folder per class;
            or a folder per class alone.

    Raises:
        DataError: If the folder is missing, holds no classes, is a level too high or too low, or if a
            class is missing from a part, or is found in it only.
    """
    if not root.is_dir():
        raise DataError(f"the data folder {root} does not exist; check DataConfig.root")
    found = {
        part: next((root / name for name in names if (root / name).is_dir()), None)
        for part, names in PART_NAMES.items()
    }
    if found["train"] is None and any(found.values()):
        raise DataError(f"{root} has {_listed(found)} but no 'train' folder; add one")
    _check_level(root)
    train = found["train"] or root
    names = _class_names(train)
    for part in ("validation", "test"):
        folder = found[part]
        if folder is None:
            continue
        others = _class_names(folder)
        for missing in sorted(set(names) - set(others)):
            raise DataError(
                f"class '{missing}' of {train} is missing in {folder}; add it, or remove it from both"
            )
        for extra in sorted(set(others) - set(names)):
            raise DataError(
                f"class '{extra}' of {folder} is missing in {train}; add it or remove it"
            )
    test = found["test"] or found["validation"]
    validation = found["validation"] if found["test"] else None
    return FolderLayout(train=train, validation=validation, test=test, class_names=names)


def _listed(found: dict[str, Path | None]) -> str:
    return ", ".join(f"'{folder.name}'" for folder in found.values() if folder is not None)


def folder_fingerprint(root: Path) -> str:
    """Return 16 hexadecimal digits that change when a file is added, removed, renamed or resized.

    Contents are not read, so that a million files take seconds.
    """
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            size = path.stat().st_size if path.exists() else -1  # a dangling link
            digest.update(f"{path.relative_to(root).as_posix()}\0{size}\n".encode())
    return digest.hexdigest()[:16]
