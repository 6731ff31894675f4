"""Where binary attention looks on a few images, measured against the float teacher's attention."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from bvit_analysis.errors import ConfigError
from bvit_analysis.records import AttentionExamples, Run

CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "fashion_mnist": (
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    )
}
"Names of the classes of data sets that have them, by the name in a run's configuration."


def class_names(run: Run) -> tuple[str, ...]:
    """Return the names of the classes of a run's data set, empty where they are not known."""
    config = run.config if isinstance(run.config, dict) else {}
    data = config.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    return CLASS_NAMES.get(name, ()) if isinstance(name, str) else ()


def token_grid(tokens: int, height: int, width: int) -> tuple[int, int, int]:
    """Return how the tokens of an image lie on it.

    Args:
        tokens: Tokens N of the model.
        height: Of the image, pixels.
        width: Of the image, pixels.

    Returns:
        Tokens before the patches (1 for a class token), rows and columns of patches. Where no grid of the
        image's shape fits, all tokens are one row.

    Example:
        >>> token_grid(197, 224, 224)
        (1, 14, 14)
    """
    for before in (1, 0, *range(2, min(tokens, 18))):
        patches = tokens - before
        rows = round(math.sqrt(patches * height / width)) if patches > 0 else 0
        if rows > 0 and patches % rows == 0 and rows * width == patches // rows * height:
            return before, rows, patches // rows
    return 0, 1, tokens


def attention_table(
    examples: AttentionExamples, *, image: int = 0, block: int = 0, token: int | None = None
) -> pd.DataFrame:
    """Measure where the bits of each head lie among the teacher's attention, for one image and site.

    With bits b_qk, the teacher's softmax t_qk (sum over k is 1) and N keys, per query q: share s_q = mean_k b_qk;
    mass m_q = sum_k t_qk b_qk, the teacher's attention that falls on attended tokens; best g_q = sum of the s_q N
    largest t_qk, the most that as many bits could hold. A random choice of as many tokens has m = s on average, so
    placement = (m - s) / (g - s) is 0 by chance and 1 where the bits take the teacher's strongest tokens.

    Args:
        examples: As from ``run.attention``.
        image: Position of the image.
        block: Position of the attention site.
        token: One query token; None averages s, m and g over all queries before the division.

    Returns:
        One row a head: head, share_of_ones, teacher_mass, best_mass, placement (all 0..1, placement down to below
        0 where bits avoid the teacher's tokens), student_mass (of the student's own softmax on attended tokens).
        Columns of the teacher are NaN without one; placement is NaN where all choices are equally good.

    Raises:
        ConfigError: If image, block or token is out of range.
    """
    n, b, _, tokens, _ = examples.bits.shape
    for name, value, size in (("image", image, n), ("block", block, b), ("token", token, tokens)):
        if value is not None and not 0 <= value < size:
            raise ConfigError(f"expected {name} in 0..{size - 1}, got {value}; choose one of these")
    queries = slice(None) if token is None else slice(token, token + 1)
    bits = examples.bits[image, block, :, queries]
    share = bits.mean(axis=(1, 2), dtype=np.float64)
    table = pd.DataFrame({"head": np.arange(len(bits)), "share_of_ones": share})
    for name in ("teacher_mass", "best_mass", "placement"):
        table[name] = np.nan
    if examples.teacher is not None:
        teacher = examples.teacher[image, block, :, queries].astype(np.float64)
        mass = (teacher * bits).sum(axis=-1).mean(axis=-1)
        # column k of `held` is what the k strongest keys hold, column 0 nothing
        held = np.cumsum(-np.sort(-teacher, axis=-1), axis=-1)
        held = np.concatenate([np.zeros_like(held[..., :1]), held], axis=-1)
        ones = bits.sum(axis=-1, keepdims=True)
        best = np.take_along_axis(held, ones, axis=-1)[..., 0].mean(axis=-1)
        room = best - share
        table["teacher_mass"], table["best_mass"] = mass, best
        table["placement"] = np.where(
            room > 1e-6, (mass - share) / np.where(room > 1e-6, room, 1), np.nan
        )
    student = examples.scores[image, block, :, queries].astype(np.float64)
    table["student_mass"] = (student * bits).sum(axis=-1).mean(axis=-1)
    return table
