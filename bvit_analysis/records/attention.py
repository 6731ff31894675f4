"""What a run remembers of its attention: binary and float maps of a few images, taken once, at its end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bvit_analysis.errors import ConfigError
from bvit_analysis.files import DamagedFile, write_bytes_atomic
from bvit_analysis.records.arrays import ArrayArchive, check_owner, encode_arrays
from bvit_analysis.records.format import MAX_SITE_NAME

EXAMPLES = "examples"
ATTENTION_FILE = "attention.npz"
MAX_ATTENTION_VALUES = 2**23
"Values of one map array (images x sites x heads x tokens x tokens) that are stored or read at most."
_MAX_BYTES = 2**28
_MAX_IMAGE_VALUES = 2**25


@dataclass(frozen=True, kw_only=True)
class AttentionExamples:
    """Attention on a few images; n images, b attention sites, h heads, N tokens, token 0 the class token if there is one."""

    images: np.ndarray
    "(n, C, H, W) uint8."
    labels: np.ndarray
    "(n,) int64, what the data set says."
    predictions: np.ndarray
    "(n,) int64, of the run's own model."
    teacher_predictions: np.ndarray | None
    "(n,) int64, of the float teacher; None without one."
    sites: list[str]
    "Names of the b attention sites."
    bits: np.ndarray
    "(n, b, h, N, N) bool: which keys (last axis) a query attends to."
    scores: np.ndarray
    "(n, b, h, N, N) float32: softmax of the student's scores, before they become bits."
    teacher: np.ndarray | None
    "(n, b, h, N, N) float32: softmax of the float teacher; None without one."

    def __post_init__(self) -> None:
        shape = self.bits.shape
        fits = len(shape) == 5 and shape[3] == shape[4] and shape[1] == len(self.sites)
        fits = fits and self.scores.shape == shape and self.images.ndim == 4
        fits = fits and {len(self.images), len(self.labels), len(self.predictions)} == {shape[0]}
        fits = fits and (self.teacher is None or self.teacher.shape == shape)
        if not fits:
            raise ConfigError(
                f"attention maps of shape {shape} do not fit {len(self.sites)} sites and images of shape"
                f" {self.images.shape}; expected (images, sites, heads, tokens, tokens)"
            )


def write_attention(run_dir: Path, examples: AttentionExamples, run_id: str | None = None) -> None:
    """Store examples in a run folder, replacing earlier ones.

    Raises:
        ConfigError: If they are more than is read again.
        RunError: If they cannot be stored.
    """
    if examples.bits.size > MAX_ATTENTION_VALUES or examples.images.size > _MAX_IMAGE_VALUES:
        raise ConfigError(
            f"attention maps hold {examples.bits.size} values, at most {MAX_ATTENTION_VALUES} are"
            " stored; give fewer images"
        )
    arrays: dict[str, np.ndarray] = {
        "images": examples.images.astype(np.uint8),
        "labels": examples.labels.astype(np.int64),
        "predictions": examples.predictions.astype(np.int64),
        "sites": np.frombuffer("\n".join(examples.sites).encode(), dtype=np.uint8),
        "bits": examples.bits.astype(np.uint8),
        "scores": examples.scores.astype(np.float16),
    }
    if examples.teacher is not None and examples.teacher_predictions is not None:
        arrays["teacher"] = examples.teacher.astype(np.float16)
        arrays["teacher_predictions"] = examples.teacher_predictions.astype(np.int64)
    (run_dir / EXAMPLES).mkdir(exist_ok=True)
    write_bytes_atomic(run_dir / EXAMPLES / ATTENTION_FILE, encode_arrays(arrays, run_id))


def read_attention(path: Path, run_id: str | None = None) -> AttentionExamples:
    """Read examples, of any run or of one.

    Raises:
        DamagedFile: If the file cannot be trusted.
        FileNotFoundError: If there is none.
    """
    with ArrayArchive(path, _MAX_BYTES) as archive:
        check_owner(archive, run_id)
        shape, image, names = (archive.shape(name) for name in ("bits", "images", "sites"))
        if len(shape) != 5 or len(image) != 4 or len(names) != 1 or min(*shape, *image) < 1:
            raise DamagedFile(f"has maps of shape {shape} of images of shape {image}")
        for what, size, most in (
            ("map values", shape, MAX_ATTENTION_VALUES),
            ("pixels", image, _MAX_IMAGE_VALUES),
            ("bytes of names", names, 2**20),
        ):
            if math.prod(size) > most:
                raise DamagedFile(f"claims {size} {what}, at most {most} are read")
        whole = np.dtype(np.int64)
        count = (shape[0],)
        taught = "teacher" in archive
        try:
            text = archive.read("sites", np.dtype(np.uint8), names).tobytes().decode()
            half = np.dtype(np.float16)
            examples = AttentionExamples(
                images=archive.read("images", np.dtype(np.uint8), image),
                labels=archive.read("labels", whole, count),
                predictions=archive.read("predictions", whole, count),
                teacher_predictions=(
                    archive.read("teacher_predictions", whole, count) if taught else None
                ),
                sites=text.split("\n"),
                bits=archive.read("bits", np.dtype(np.uint8), shape).astype(bool),
                scores=archive.read("scores", half, shape).astype(np.float32),
                teacher=archive.read("teacher", half, shape).astype(np.float32) if taught else None,
            )
        except (ConfigError, UnicodeDecodeError) as error:
            raise DamagedFile(f"does not hold what it should ({error})") from error
    if max(map(len, examples.sites)) > MAX_SITE_NAME:
        raise DamagedFile(f"names a site in more than {MAX_SITE_NAME} characters")
    for name, maps in (("scores", examples.scores), ("teacher", examples.teacher)):
        # float16 rounds each share, so a row of them may be a little more than one
        if maps is not None and not ((maps >= 0).all() and (maps.sum(axis=-1) <= 1.01).all()):
            raise DamagedFile(f"has {name} that are not shares")
    return examples
