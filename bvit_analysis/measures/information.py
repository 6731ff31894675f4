"""How much the sign of an activation keeps: tap the tensor after any shift, before the sign.

Functions of counts and sums are the streaming forms: add the counts and sums over batches and devices first, never
average the results.

Shape letters: C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bvit_analysis.measures.shares import ROUNDING, share
from bvit_analysis.measures.tensors import check_same_shape, mean_of


def binary_entropy_bits(p: Tensor | float) -> Tensor:
    """Return the entropy of a bit, H = -p log2 p - (1 - p) log2(1 - p), with 0 log 0 = 0.

    Args:
        p: Probabilities, any shape.

    Returns:
        Entropy in bits, p's shape, float64, 0..1; NaN where p is not in [0, 1].
    """
    p = torch.as_tensor(p, dtype=torch.float64)
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / math.log(2)


def channel_entropy_bits(
    positive_counts: Tensor, n: Tensor | int, *, corrected: bool = True
) -> Tensor:
    """Return the entropy of each channel's sign, H_c + (K_c - 1) / (2 n ln 2) with p_c = positive / n.

    K_c is the number of signs seen (1 or 2). The second term is Miller and Madow's correction of the bias of small n;
    it makes the mean over channels right, so a single value may pass 1 bit by 1 / (2 n ln 2). Take the mean over
    channels last: pooling first hides constant channels. Tokens of an image are correlated, so the effective n is
    smaller than n.

    Args:
        positive_counts: Signs +1 seen in each channel, over images and tokens, (C,).
        n: Signs seen in each channel, one number or (C,).
        corrected: Whether to add the correction.

    Returns:
        Entropy in bits, (C,), float64; NaN where n is 0.
    """
    positive = positive_counts.double()
    number = torch.as_tensor(n, dtype=torch.float64, device=positive.device)
    entropy = binary_entropy_bits(positive / number)
    if corrected:
        both = (positive > 0) & (positive < number)
        entropy = entropy + both / (2 * math.log(2) * number)
    return entropy


def near_constant_share(entropies: Tensor, threshold: float = 0.5) -> float:
    """Return the share of channels with little information, P(H_c < threshold); constant ones are among them.

    A Gaussian channel enters at |mean / std| > 1.23 for the threshold of half a bit.

    Args:
        entropies: Entropy of each channel, (C,), bits.
        threshold: Bits.

    Returns:
        Share, 0..1; NaN where there are no channels or any entropy is NaN.
    """
    return mean_of((entropies < threshold).double(), entropies)


def constant_share(positive_counts: Tensor, n: Tensor | int) -> float:
    """Return the share of channels whose sign never changes, P(p_c in {0, 1}).

    Args:
        positive_counts: Signs +1 seen in each channel, (C,).
        n: Signs seen in each channel, one number or (C,).

    Returns:
        Share, 0..1; NaN where there are no channels or no signs.
    """
    number = torch.as_tensor(n, device=positive_counts.device)
    if not bool((number > 0).all()):
        return math.nan
    constant = (positive_counts == 0) | (positive_counts == number)
    return share(int(constant.sum()), positive_counts.numel())


def channel_moments(n: Tensor | int, total: Tensor, total_square: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the population standard deviation of each channel from sums.

    mean = total / n, std = sqrt(max(0, total_square / n - mean^2)). Deviations below 1e-6 of the channel's own root
    mean square are rounding of the sums and give a std of 0.

    Args:
        n: Values seen in each channel, one number or (C,).
        total: Sum of values, (C,), float64 preferred.
        total_square: Sum of squares, (C,).

    Returns:
        Means and standard deviations, (C,) each, float64, in the unit of the values; NaN where n is 0.
    """
    number = torch.as_tensor(n, dtype=torch.float64, device=total.device)
    mean = total.double() / number
    square = total_square.double() / number
    variance = square - mean * mean
    return mean, torch.where(variance <= ROUNDING * square, 0.0, variance).sqrt()


def channel_spread(mean: Tensor, std: Tensor) -> float:
    """Return how differently channels sit, the population standard deviation over c of mean_c / std_c.

    Null: near 0 where channels are alike. Channels with std 0 have no place in units of sigma and are left out
    (constant_share counts those that matter).

    Args:
        mean: Mean of each channel, (C,).
        std: Standard deviation of each channel, (C,), the same unit.

    Returns:
        Spread in units of sigma, 0..inf; NaN where no channel is left.
    """
    varying = std != 0  # NaN stays in, and shows
    ratio = mean.double()[varying] / std.double()[varying]
    if ratio.numel() == 0:
        return math.nan
    return float(ratio.std(correction=0))


def binarization_error_from_sums(
    n: Tensor | int, total: Tensor, total_square: Tensor, total_absolute: Tensor, positive: Tensor
) -> Tensor:
    """Return the squared distortion of a sign from sums, 1 - corr(x, sign x)^2.

    E[x sign x] = E|x| and E[sign x] = 2p - 1, so corr^2 = (E|x| - E[x] (2p - 1))^2 / (var x * 4 p (1 - p)). Null:
    1 - 2 / pi = .363 (centred Gaussian). It is the share of x's variance that the best a sign(x) + b leaves over.

    Args:
        n: Values seen in each channel, one number or (C,).
        total: Sum of x, (C,), float64 preferred.
        total_square: Sum of x^2, (C,).
        total_absolute: Sum of |x|, (C,).
        positive: Number of x >= 0, (C,).

    Returns:
        Error, (C,), float64, 0..1; 1 where x varies but its sign does not; NaN where x is constant or n is 0.
    """
    number = torch.as_tensor(n, dtype=torch.float64, device=total.device)
    mean, std = channel_moments(number, total, total_square)
    p = positive.double() / number
    covariance = total_absolute.double() / number - mean * (2 * p - 1)
    sign_variance = 4 * p * (1 - p)
    correlation = covariance / (std * sign_variance.sqrt())
    error = 1 - torch.where(sign_variance == 0, 0.0, correlation.square())
    return torch.where(std == 0, math.nan, error).clamp(0, 1)  # clamp keeps NaN


def binarization_error(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return the squared distortion of a sign over some dimensions, 1 - corr(x, sign x)^2.

    Args:
        x: Activations after any shift, any shape and unit.
        dim: Dimensions to correlate over, for example (0, 1) of (B, N, C) for a figure a channel.

    Returns:
        Error, x's shape without dim, float64, 0..1; see binarization_error_from_sums for the limits.
    """
    x = x.detach().double()
    positive = (x >= 0).double().sum(dim)
    # shape.numel() over the kept dimensions would be 0 / 0 for empty x; ones summed over dim are always right
    number = torch.ones_like(x).sum(dim)
    return binarization_error_from_sums(
        number, x.sum(dim), x.square().sum(dim), x.abs().sum(dim), positive
    )


def sign_agreement(a: Tensor, b: Tensor) -> float:
    """Return the share of elements with equal signs, P(sign a = sign b), for example of a float twin.

    Null: .5 if independent and balanced; correct for base rates where they are not.

    Args:
        a: Values before the sign, any shape.
        b: Values of the other, the same shape.

    Returns:
        Share, 0..1; NaN where there are no elements.

    Raises:
        ConfigError: If the shapes differ.
    """
    check_same_shape("sign_agreement", a, b)
    return share(int(((a >= 0) == (b >= 0)).sum()), a.numel())
