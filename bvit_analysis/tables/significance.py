"""Whether differences between recipes are more than chance: two tests over seeds, for a whole family of comparisons.

A family is every comparison of one table. From three seeds on Student's law of the paired differences is asked, with Holm's
rule over the family. As soon as sign flips can reach the threshold they are asked as well, by step-down maxima
(Romano and Wolf 2005, doi 10.1198/016214504000000539): the same flips for all comparisons, so that the smallest p
they can reach, 2^(1-n), does not grow with the size of the family. The larger p counts. numpy and scipy, no state.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bvit_analysis.errors import ConfigError

FEWEST = 3
"Seeds from which a spread over seeds is spoken of."

MOST_EXACT = 20
"Seeds of which all sign patterns are tried."

_DRAWN = 99_999
_AT_ONCE = 2**21  # numbers held while patterns are tried


def check_level(level: float) -> float:
    """Return a coverage, or refuse what is none.

    Raises:
        ConfigError: If it is not a number between 0 and 1.
    """
    number = isinstance(level, (int, float)) and not isinstance(level, bool)
    if not number or not 0.0 < level < 1.0:
        percent = number and 1.0 < level < 100.0
        remedy = f"; for {level:g} % write {level / 100:g}" if percent else ""
        raise ConfigError(f"expected a level between 0 and 1, such as 0.95; got {level!r}{remedy}")
    return float(level)


def smallest_p(seeds: int) -> float:
    """Return the smallest p that sign flips can reach: 2^(1-n), 1e-5 where they are drawn.

    Args:
        seeds: Common seeds n of two recipes.

    Example:
        >>> smallest_p(6)
        0.03125
    """
    return 2.0 ** (1 - seeds) if seeds <= MOST_EXACT else 1 / (_DRAWN + 1)


def flips_from(level: float = 0.95) -> int:
    """Return from how many seeds on sign flips can reach p <= 1 - level, which is when they are asked.

    Example:
        >>> flips_from(0.95), flips_from(0.99)
        (6, 8)
    """
    return next(n for n in range(FEWEST, 1100) if 2.0 ** (1 - n) <= 1.0 - level or n > MOST_EXACT)


def student_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of paired differences under Student's law: P(|t_(n-1)| >= |mean| sqrt(n) / s).

    Args:
        differences: One paired difference a seed, shape (n,).

    Returns:
        p in [0, 1]; 1 where all differences are 0; NaN below three seeds, or where one is not finite.
    """
    from scipy.special import stdtr  # here, as below: who draws a curve need not wait for scipy

    x = np.asarray(differences, dtype=np.float64)
    if x.size < FEWEST or not np.isfinite(x).all():
        return math.nan
    spread, mean = float(x.std(ddof=1)), abs(float(x.mean()))
    if spread <= 1e-12 * mean or mean == 0.0:  # what rounding leaves of no spread
        return 1.0 if mean == 0.0 else 0.0
    return float(2 * stdtr(x.size - 1, -mean * math.sqrt(x.size) / spread))


def sign_flip_ps(family: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Return p of each comparison under arbitrary signs of the seeds: its own, and that adjusted for the family.

    T = |sum d| / sqrt(sum d^2). A pattern gives every seed one sign, in all comparisons. Its own p is the share of patterns
    whose T is at least the observed one; the adjusted one, in the order of falling T, the share of those whose largest T
    among it and the comparisons after it is. All 2^n patterns up to 20 seeds; above, 99,999 drawn with a fixed seed and the observed one, so that p is at least 1e-5
    and its error at p = 0.05 is 0.0007 (one standard deviation).

    Args:
        family: A row a comparison, of one paired difference a seed; seeds in one order, NaN where a comparison lacks one.

    Returns:
        Both p in (0, 1] for each comparison; NaN where it has no differences.

    Example:
        >>> sign_flip_ps([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, -1.0, 1.0, -1.0, 1.0, -1.0]])
        ([0.03125, 1.0], [0.0625, 1.0])
    """
    d = np.array(family, dtype=np.float64).T
    own, adjusted = np.full((2, len(family)), math.nan)
    if d.ndim == 2 and not np.isinf(d).any():
        known = ~np.isnan(d).all(axis=0)
        size = np.sqrt(np.nansum(d * d, axis=0))[known]
        scaled = np.nan_to_num(d[:, known]) / np.where(size > 0, size, 1.0)
        order = np.argsort(-np.abs(scaled.sum(axis=0)), kind="stable")
        places = np.flatnonzero(known)[order]
        own[places], adjusted[places] = _shares(scaled[:, order])
    return own.tolist(), adjusted.tolist()


def _shares(d: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return shares of sign patterns that reach the observed |sum|, of columns by falling |sum|: own, and step-down."""
    d = d[np.any(d != 0, axis=1)]  # other seeds change nothing
    observed = np.abs(d.sum(axis=0))
    reached, tried = np.zeros((2, len(observed))), 0
    for sums in _flipped_sums(d):
        sizes = np.abs(sums) + 1e-9  # rounding must not part a tie
        reached[0] += (sizes >= observed).sum(axis=0)
        largest = np.maximum.accumulate(sizes[:, ::-1], axis=1)[:, ::-1]
        reached[1] += (largest >= observed).sum(axis=0)
        tried += len(sums)
    if not tried:
        return np.ones_like(reached)
    if len(d) > MOST_EXACT:
        reached, tried = reached + 1, tried + 1
    reached[1] = np.maximum.accumulate(reached[1])
    return reached / tried


def _flipped_sums(d: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Yield sums over seeds under sign patterns, shape (patterns, comparisons); a pattern and its opposite are one.

    Sums of all patterns are those of one half of the seeds plus those of the other, which takes no pattern in hand.
    """
    seeds, comparisons = d.shape
    if not seeds or not comparisons:
        return
    step = max(1, _AT_ONCE // comparisons)
    if seeds > MOST_EXACT:
        signs = _drawn_signs(seeds)
        step = max(1, step // seeds)
        for first in range(0, _DRAWN, step):
            yield signs[first : first + step].astype(np.float64) @ d
        return
    middle = seeds // 2
    few, many = _all_sums(d[:middle]), _all_sums(d[middle:])
    few = few[: max(1, len(few) // 2)]  # the first seed keeps its sign
    if not middle:
        many = many[: len(many) // 2]
    rows = max(1, step // len(many))
    for first in range(0, len(few), rows):
        part = few[first : first + rows, None, :] + many[None, :, :]
        yield part.reshape(-1, comparisons)


@functools.lru_cache(maxsize=2)
def _drawn_signs(seeds: int) -> NDArray[np.int8]:
    random = np.random.default_rng(0)
    return (2 * random.integers(0, 2, (_DRAWN, seeds), dtype=np.int8) - 1).astype(np.int8)


def _all_sums(d: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = np.zeros((1, d.shape[1]))
    for row in d[::-1]:
        sums = np.concatenate([sums + row, sums - row])
    return sums


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted by Holm's step-down rule; NaN entries are no comparisons and stay NaN.

    Args:
        p_values: One p a comparison.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted = [math.nan] * len(p_values)
    claims = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, index) in enumerate(claims):
        largest = max(largest, min(1.0, (len(claims) - rank) * p))
        adjusted[index] = largest
    return adjusted
