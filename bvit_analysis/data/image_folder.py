"""What a folder of images must look like before anything learns from it: parts, classes, files, fingerprint.

Readers of image folders take whatever they find: a class that is missing in one part shifts the labels
of all that follow, a root one level too high makes classes of "train" and "val". Here these are errors,
and what is not read is counted and said.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bvit_analysis.data.decoding import suffixes
from bvit_analysis.errors import DataError

PART_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "validate", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"The folder names of each part, in any case; 'train_set', 'val-images' and 'test2017' are understood as well."

_PART_OF = {name: part for part, names in PART_NAMES.items() for name in names}

# What people and programs write around the name of a part.
_AROUND = r"(?:images?|imgs?|dataset|data|set|split|folder|dir)"

# What operating systems, archives and disks leave behind; names that begin with a dot are known without a list.
_LEFT_BY_SYSTEMS = frozenset(
    ("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found")
)


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
    notes: tuple[str, ...] = ()
    "What beside the parts and classes is not read."


@dataclass
class ImageFiles:
    """The image files of one part, by class and then by path."""

    samples: list[tuple[str, int]] = field(default_factory=list)
    "Path and label of each."
    left_out: Counter[str] = field(default_factory=Counter)
    "How many entries are not read, by what they are."


def part_of(name: str) -> str | None:
    """Return which part a folder's name means: 'train', 'validation' or 'test', None for none.

    Example:
        >>> [part_of(name) for name in ("Train", "valid", "test_images", "cat")]
        ['train', 'validation', 'test', None]
    """
    word = re.sub(r"(?:19|20)\d\d$", "", re.sub(r"[\s._-]+", "", name.casefold()))
    return _PART_OF.get(re.sub(rf"^{_AROUND}|{_AROUND}$", "", word), _PART_OF.get(word))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _LEFT_BY_SYSTEMS


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.is_dir() and not _is_hidden(entry.name)]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror or error}") from error


def _class_names(part: Path, notes: list[str]) -> tuple[str, ...]:
    folders = _folders(part)
    if not folders:
        raise DataError(
            f"{part} has no class folders; sort its images into one folder per class "
            f"({part.name}/cat/1.png), as for every part"
        )
    if all(part_of(folder.name) for folder in folders):
        raise DataError(
            f"the classes of {part} would be {_listed(folders)}, which are names of parts; it should have one folder "
            "per class"
        )
    if len(folders) == 1:
        inner = _folders(folders[0])
        remedy = f"use {folders[0]} as root" if inner else "add the folders of the others"
        raise DataError(
            f"{part} has one class, '{folders[0].name}', and there is nothing to tell apart; {remedy}"
        )
    notes += _not_read(part, [entry for entry in _entries(part) if entry not in folders])
    return tuple(folder.name for folder in folders)


def _not_read(folder: Path, entries: Sequence[Path]) -> list[str]:
    """Return a sentence on what is in a folder, but no class or part of it; none where that is nothing."""
    folders = [entry for entry in entries if entry.is_dir()]
    parts = [f"the folders {_listed(folders)}"] if folders else []
    if len(entries) > len(folders):
        parts.append(f"files that are in no class folder ({len(entries) - len(folders)})")
    return [f"not read in {folder}: {' and '.join(parts)}"] if parts else []


def _is_part(folder: Path) -> bool:
    # a class may be called "train"; a part has folders
    return part_of(folder.name) is not None and bool(_folders(folder))


def _check_level(folders: Sequence[Path], root: Path) -> None:
    for folder in folders:
        inner = next((entry for entry in _folders(folder) if _is_part(entry)), None)
        if inner is not None:
            raise DataError(
                f"{root} is one level too high: '{inner.name}' is inside {folder}; use {folder} as root"
            )


def _find_parts(root: Path) -> dict[str, Path | None]:
    found: dict[str, Path | None] = dict.fromkeys(PART_NAMES)
    for folder in _folders(root):
        part = part_of(folder.name)
        if part is None:
            continue
        other = found[part]
        if other is not None:
            raise DataError(
                f"{root} has two folders for its {part} images, '{other.name}' and '{folder.name}'; rename one"
            )
        found[part] = folder
    return found


def find_layout(root: Path) -> FolderLayout:
    """Find the parts of an image folder and check that they agree on the classes.

    Args:
        root: Folder with train/, val/ and test/ (each optional but train; see PART_NAMES), each with a folder per
            class; or a folder per class alone.

    Raises:
        DataError: If the folder is missing, holds fewer than two classes, is a level too high or too low, has two
            folders for a part, or if a class is missing from a part, or is found in it only.
    """
    if not root.is_dir():
        raise DataError(f"the data folder {root} does not exist; check DataConfig.root")
    found = _find_parts(root)
    if found["train"] is None and any(found.values()):
        raise DataError(
            f"{root} has {_listed([f for f in found.values() if f])} but no 'train' folder; add one"
            " (if these are classes, put the folders of all classes into 'train')"
        )
    folders = _folders(root)
    _check_level(folders, root)
    notes: list[str] = []
    if found["train"] is not None:
        notes += _not_read(root, [entry for entry in _entries(root) if entry not in found.values()])
    train = found["train"] or root
    names = _class_names(train, notes)
    for part in ("validation", "test"):
        folder = found[part]
        if folder is not None:
            _check_same_classes(names, train, _class_names(folder, notes), folder)
    test = found["test"] or found["validation"]
    validation = found["validation"] if found["test"] else None
    return FolderLayout(
        train=train, validation=validation, test=test, class_names=names, notes=tuple(notes)
    )


def _check_same_classes(
    names: Sequence[str], train: Path, others: Sequence[str], folder: Path
) -> None:
    for missing in sorted(set(names) - set(others)):
        raise DataError(
            f"class '{missing}' of {train} is missing in {folder}; "
            f"{_near(missing, others) or 'add it, or remove it from both'}"
        )
    for extra in sorted(set(others) - set(names)):
        raise DataError(f"class '{extra}' of {folder} is missing in {train}; add it or remove it")


def _near(name: str, others: Sequence[str]) -> str:
    def plain(text: str) -> str:
        return unicodedata.normalize("NFKC", text).casefold()

    found = next((other for other in others if plain(other) == plain(name)), None)
    return f"it is written {found!a} there: write it alike" if found else ""


def _listed(folders: Sequence[Path]) -> str:
    return ", ".join(f"'{folder.name}'" for folder in folders)


def find_images(part: Path, class_names: Sequence[str]) -> ImageFiles:
    """List the image files of a part, of every class and at any depth, in the order of torchvision's ImageFolder.

    Args:
        part: Folder with a folder per class.
        class_names: The classes; an index is a label.

    Raises:
        DataError: If a class has no image, or a class folder holds a folder with the name of a part.
    """
    found, ends = ImageFiles(), suffixes()
    for label, name in enumerate(class_names):
        before = len(found.samples)
        mine: Counter[str] = Counter()
        for folder, names in sorted(_walk(part / name, mine)):
            if folder != str(part / name) and part_of(Path(folder).name):
                raise DataError(
                    f"class '{name}' of {part} holds the folder {folder}, which has the name of a part; use the folder "
                    "that holds it as root, or rename it"
                )
            for file in sorted(names):
                path = os.path.join(folder, file)  # noqa: PTH118 - a million times
                reason = _reason(path, file, ends)
                if reason:
                    mine[reason] += 1
                else:
                    found.samples.append((path, label))
        if len(found.samples) == before:
            raise DataError(
                f"class '{name}' of {part} has no images, but {_counted(mine) or 'nothing'}; add some, or remove it "
                "from every part"
            )
        found.left_out += mine
    return found


def describe_left_out(part: Path, files: ImageFiles) -> list[str]:
    """Return a sentence on the entries of a part that are not read; none where all are."""
    if not files.left_out:
        return []
    count = sum(files.left_out.values())
    total = count + len(files.samples)
    return [f"{count} of {total} entries of {part} are not read: {_counted(files.left_out)}"]


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items()))


def _reason(path: str, name: str, ends: frozenset[str]) -> str:
    """Return why a file is not read, '' for one that is."""
    if _is_hidden(name):
        return "hidden, or left by a system"
    end = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a million times
    if end not in ends:
        return f"named {end}" if end else "without an ending"
    if not os.path.isfile(path):  # noqa: PTH113 - a million times
        return "broken links" if os.path.islink(path) else "no plain files"  # noqa: PTH114
    return ""


def _walk(
    folder: Path, left_out: Counter[str], above: frozenset[str] = frozenset()
) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder below one, itself first, and the names of what is in it; links are followed, circles are not."""
    real = os.path.realpath(folder)
    if real in above:
        left_out["folders that lead back to where they are"] += 1
        return
    try:
        entries = list(os.scandir(folder))
    except OSError:
        left_out["folders that cannot be opened"] += 1
        return
    inner = [entry for entry in entries if os.path.isdir(entry.path)]  # noqa: PTH112 - no error for a broken link
    yield str(folder), [entry.name for entry in entries if entry not in inner]
    for entry in inner:
        if _is_hidden(entry.name):
            left_out["hidden folders"] += 1
        else:
            yield from _walk(Path(entry.path), left_out, above | {real})


def fingerprint(root: Path, paths: Sequence[str]) -> str:
    """Return 16 hexadecimal digits that change when an image is added, removed, renamed or resized.

    Contents are not read, so that a million files take seconds; nor does what is not read matter.

    Args:
        root: The folder that they are in.
        paths: Of the image files.
    """
    by_folder: dict[str, list[str]] = {}
    for path in paths:
        folder, name = os.path.split(path)  # noqa: PTH119 - a million times
        by_folder.setdefault(folder, []).append(name)
    digest = hashlib.sha256()
    for folder in sorted(by_folder, key=lambda folder: Path(folder).relative_to(root).parts):
        inside = Path(folder).relative_to(root)
        for name in sorted(by_folder[folder]):
            size = os.stat(os.path.join(folder, name)).st_size  # noqa: PTH116, PTH118
            digest.update(f"{(inside / name).as_posix()}\0{size}\n".encode())
    return digest.hexdigest()[:16]
