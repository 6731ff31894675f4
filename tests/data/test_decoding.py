"""Modes and ranges of image files: a ramp reads as its 8-bit twin, whatever it is stored in."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bvit_analysis.config import DataConfig
from bvit_analysis.data import load_dataset
from bvit_analysis.data.decoding import open_image, suffixes, survey, to_rgb
from bvit_analysis.errors import DataError
from tests.support.image_folders import make_pictures

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
ISSUE = np.array([[0, 65, 131, 197, 255]], np.uint8)


def read(path: Path) -> np.ndarray:
    return np.asarray(to_rgb(open_image(path)))


def grey(ramp: np.ndarray) -> np.ndarray:
    return np.repeat(ramp[:, :, None], 3, axis=2)


def png(path: Path, pixels: np.ndarray, colour: int) -> Path:
    """Write a 16-bit PNG by hand: colour 0 is grey, 2 RGB, 4 grey with alpha, 6 RGB with alpha."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("factor", [256, 257])
def test_a_16_bit_ramp_reads_as_its_8_bit_twin(tmp_path: Path, factor: int) -> None:
    for ramp in (ISSUE, RAMP):
        wide = ramp.astype(np.uint16) * factor
        alpha = np.full_like(wide, 65535)
        for colour, channels in {
            0: [wide],
            2: [wide] * 3,
            4: [wide, alpha],
            6: [wide, wide, wide, alpha],
        }.items():
            path = png(tmp_path / f"{colour}.png", np.stack(channels, axis=2), colour)
            np.testing.assert_array_equal(read(path), grey(ramp), err_msg=str(colour))
        for end in (".tif", ".png", ".pgm"):
            path = tmp_path / f"pillow{end}"
            Image.fromarray(wide).save(path)
            np.testing.assert_array_equal(read(path), grey(ramp), err_msg=end)


def test_a_12_bit_tiff_reads_over_the_whole_range(tmp_path: Path) -> None:
    path = tmp_path / "twelve.tif"
    # two values of 12 bits in three bytes, as TIFF packs them
    values = (RAMP.astype(int) * 16).ravel()
    packed = bytearray()
    for a, b in values.reshape(-1, 2):
        packed += bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
    tags = [(256, 16), (257, 16), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 16)]
    tags.append((279, len(packed)))
    directory = struct.pack("<H", len(tags))
    for tag, value in tags:
        directory += struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value)
    offset = 8 + len(packed)
    head = b"II*\0" + struct.pack("<I", offset)
    path.write_bytes(head + bytes(packed) + directory + b"\0\0\0\0")
    np.testing.assert_array_equal(read(path), grey(RAMP))


@pytest.mark.parametrize(
    ("mode", "end"),
    [
        *(("L", ".png"), ("RGB", ".bmp"), ("RGBA", ".png"), ("LA", ".png"), ("P", ".png")),
        *(("P", ".gif"), ("RGB", ".webp"), ("RGBA", ".tif"), ("CMYK", ".tif"), ("L", ".pgm")),
        *(("RGB", ".tga"), ("I;16", ".png")),
    ],
)
def test_a_ramp_reads_alike_from_every_mode(tmp_path: Path, mode: str, end: str) -> None:
    image = Image.fromarray(RAMP)
    if mode == "I;16":
        image = Image.fromarray(RAMP.astype(np.uint16) * 257)
    elif mode != "L":
        image = (
            image.convert("RGB").convert(mode) if mode in ("RGBA", "CMYK") else image.convert(mode)
        )
    path = tmp_path / f"ramp{end}"
    image.save(path, **({"lossless": True} if end == ".webp" else {}))
    np.testing.assert_array_equal(read(path), grey(RAMP))


def test_a_palette_with_transparency_is_looked_up_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(RAMP).convert("P")
    image.save(tmp_path / "p.png", transparency=bytes(range(256)))
    np.testing.assert_array_equal(read(tmp_path / "p.png"), grey(RAMP))
    assert "1 with an alpha channel" in survey([str(tmp_path / "p.png")])[0]


@pytest.mark.parametrize("end", [".jpg", ".png", ".tif", ".webp"])
def test_exif_orientation_is_applied(tmp_path: Path, end: str) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # upper left
    turned = {1: upright, 3: upright[::-1, ::-1], 6: np.rot90(upright), 8: np.rot90(upright, -1)}
    for orientation, stored in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}{end}"
        Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
        found = read(path).astype(int)
        assert found.shape == upright.shape, orientation
        assert np.abs(found - upright).mean() < 8, orientation
    said = survey([str(tmp_path / f"{orientation}{end}") for orientation in turned])
    assert "3 turned as their EXIF orientation says" in said[0]


def test_a_damaged_exif_leaves_the_image_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "odd.jpg"
    Image.fromarray(grey(RAMP)).save(path, exif=b"Exif\0\0nonsense, not a TIFF header")
    assert read(path).shape == (16, 16, 3)


def test_values_without_a_range_are_refused(tmp_path: Path) -> None:
    for values in (RAMP.astype(np.float32) / 255, RAMP.astype(np.int32)):
        path = tmp_path / "values.tif"
        Image.fromarray(values).save(path)
        with pytest.raises(ValueError, match=r"mode [FI].*no known range"):
            read(path)
        assert "cannot be read: a training stops there" in survey([str(path)])[0]


def test_a_survey_counts_and_is_silent_where_nothing_is_odd(tmp_path: Path) -> None:
    root = make_pictures(tmp_path, {"train": 2})
    paths = [str(path) for path in sorted(root.rglob("*.png"))]
    assert survey(paths) == []
    picture = Image.open(paths[0])
    picture.convert("RGBA").save(paths[1])
    Image.new("L", (4, 4)).save(
        tmp_path / "moving.gif", save_all=True, append_images=[Image.new("L", (4, 4), 9)]
    )
    Path(paths[2]).write_bytes(b"no image")
    (said,) = survey([*paths, str(tmp_path / "moving.gif")])
    assert said.startswith("of 7 of 7 images looked at, ")
    assert "1 with an alpha channel, which is dropped" in said
    assert "1 with several frames, of which the first is read" in said
    assert f"1 cannot be opened ({paths[2]}: " in said


def test_endings_cover_torchvisions_and_what_else_is_jpeg() -> None:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert set(IMG_EXTENSIONS) <= suffixes()
    assert {".jfif", ".jpe", ".gif"} <= suffixes()
    assert not {".pdf", ".eps", ".h5", ".txt", ".db"} & suffixes()


def test_a_folder_of_16_bit_images_reads_as_its_8_bit_twin(tmp_path: Path) -> None:
    for name, factor in (("narrow", 1), ("wide", 257)):
        for label in ("a", "b"):
            folder = tmp_path / name / label
            folder.mkdir(parents=True)
            for i in range(10):
                values = np.roll(RAMP, i).astype(np.uint16 if factor > 1 else np.uint8) * factor
                Image.fromarray(values).save(folder / f"{i}.png")
    one, other = (
        load_dataset(DataConfig(name="torch/image_folder", root=str(tmp_path / name), img_size=16))
        for name in ("narrow", "wide")
    )
    assert len(one.notes) == 0
    assert "20 with more than 8 bits a channel" in other.notes[0]
    np.testing.assert_array_equal(one.train.images.numpy(), other.train.images.numpy())


def test_an_image_without_a_range_stops_a_reading_with_its_name(tmp_path: Path) -> None:
    root = make_pictures(tmp_path, {"train": 4}, suffix=".tif")
    Image.fromarray(RAMP.astype(np.float32)).save(root / "train" / "bee" / "1.tif")
    dataset = load_dataset(DataConfig(name="torch/image_folder", root=str(root), img_size=16))
    with pytest.raises(DataError, match=r"1.tif \(class 'bee'.*no known range"):
        for split in (dataset.train, dataset.validation, dataset.test):
            assert split.images is not None
