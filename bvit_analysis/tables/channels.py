"""Information of each single channel, from the recorded counts of its signs."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.records import Run

NEAR_CONSTANT_BITS = 0.5
"A channel below this carries little; a Gaussian one gets there at |mean / std| > 1.23."


def channel_steps(run: Run, site: str) -> list[int]:
    """Return the steps at which the channels of a site were counted, ascending; none for older runs."""
    frame = run.channels
    return sorted(frame.loc[frame["site"] == site, "step"].tolist())


def channel_sites(run: Run) -> list[str]:
    """Return the sites whose channels were counted, in model order."""
    known = set(run.channels["site"])
    return [site for site in run.site_table["site"] if site in known]


def channel_entropy(run: Run, site: str, step: int | None = None) -> pd.DataFrame:
    """Return the entropy of the sign of each channel of a site.

    H = -p log2 p - (1 - p) log2(1 - p) with p the share of values >= 0 among the n seen, plus Miller and Madow's
    (K - 1) / (2 n ln 2) for the K signs observed. At an attention site a channel is a head, and the sign says whether a
    key is attended to.

    Args:
        run: The run.
        site: An activation or attention site.
        step: A recorded step; None takes the last.

    Returns:
        One row a channel: channel, positive_share (0..1), entropy_bits (bits), near_constant (below half a bit); empty
        if nothing was recorded.

    Raises:
        ConfigError: If the step is none of channel_steps(run, site), or the site is unknown.
    """
    if site not in set(run.site_table["site"]):
        raise ConfigError(unknown_name("site", site, run.site_table["site"].tolist()))
    columns = ["channel", "positive_share", "entropy_bits", "near_constant"]
    frame = run.channels
    frame = frame[frame["site"] == site]
    if step is not None:
        steps = frame["step"].tolist()
        if step not in steps:
            raise ConfigError(
                f"channels of {site} were not counted at step {step}; take one of {steps}"
            )
        frame = frame[frame["step"] == step]
    if frame.empty:
        return pd.DataFrame(columns=columns)
    row = frame.iloc[-1]
    n, positive = int(row["n"]), np.asarray(row["counts"], dtype=float)
    if n < 1 or not ((positive >= 0) & (positive <= n)).all():
        return pd.DataFrame(columns=columns)  # a stranger's record that makes no sense
    share = positive / n
    bits = _entropy_bits(share)
    bits += ((positive > 0) & (positive < n)) / (2 * n * math.log(2))
    return pd.DataFrame(
        {
            "channel": np.arange(len(share)),
            "positive_share": share,
            "entropy_bits": bits,
            "near_constant": bits < NEAR_CONSTANT_BITS,
        }
    )


def _entropy_bits(share: np.ndarray) -> np.ndarray:
    total = np.zeros_like(share)
    for part in (share, 1 - share):
        inside = part > 0
        total[inside] -= part[inside] * np.log2(part[inside])
    return total
