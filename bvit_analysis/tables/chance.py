"""Student's interval over seeds, and what a centred Gaussian has of the catalogue's measures.

Tests over seeds are in significance.py. What flips would happen anyway is in chance_line.py, laws of textbooks are in textbook_laws.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bvit_analysis.errors import ConfigError
from bvit_analysis.records import MEASURES

GAUSSIAN_NULLS: dict[str, float] = {
    name: one.null for name, one in MEASURES.items() if one.null is not None
}
"The catalogue's nulls: a measure's value on a centred Gaussian (twin_agreement: on independent balanced signs)."


def t_interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of the mean over seeds, NaN below three values.

    mean +- t_{n-1} * s / sqrt(n). With fewer than three seeds the points are the honest picture.

    Args:
        values: One number a seed, shape (n,).
        level: Coverage under normal differences, between 0 and 1.

    Returns:
        Lower and upper end in the unit of the values.

    Raises:
        ConfigError: If the level is not between 0 and 1.

    Example:
        >>> low, high = t_interval([1.0, 2.0, 3.0])
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    from scipy.special import stdtrit  # here: who draws a curve need not wait for scipy

    if not 0.0 < level < 1.0:
        raise ConfigError(f"expected a level between 0 and 1, such as 0.95; got {level:g}")
    x = np.asarray(values, dtype=np.float64)
    if x.size < 3:
        return math.nan, math.nan
    quantile = float(stdtrit(x.size - 1, 0.5 + level / 2))
    half = quantile * float(x.std(ddof=1)) / math.sqrt(x.size)
    return float(x.mean()) - half, float(x.mean()) + half
