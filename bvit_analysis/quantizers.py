"""Signs, {0,1} levels, their straight-through gradients, and weight scales.

One convention holds everywhere: sign(x) = +1 where x >= 0, else -1, so that sign(0) = +1 and sign(-0.0) = +1;
NaN compares false and gives -1. Straight-through estimators (STE) replace the derivative of a step, which is
zero almost everywhere, by the derivative of something smooth; each docstring states both rules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def sign(x: Tensor) -> Tensor:
    """Return the sign of each element, never zero: +1 where x >= 0, else -1.

    Args:
        x: Any float tensor.

    Returns:
        A tensor of x's shape and dtype, values in {-1, +1}.

    Example:
        >>> sign(torch.tensor([-2.0, -0.0, 0.0, 3.0]))
        tensor([-1.,  1.,  1.,  1.])
    """
    # Writing the comparison straight into floats takes about a twentieth of the time of torch.where on a CPU.
    out = torch.empty_like(x)
    torch.ge(x.detach(), 0, out=out)
    return out.mul_(2).sub_(1)


class _PolynomialSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.rsub(x.abs(), 2, alpha=2).clamp_(min=0).mul_(grads[0])


class _ClippedSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.abs() <= 1)
        return sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside


def polynomial_sign(x: Tensor) -> Tensor:
    """Binarize activations with the piecewise polynomial straight-through gradient.

    Forward: sign(x). Backward: dL/dx = dL/dy * max(0, 2 - 2|x|), which is 2 + 2x on [-1, 0) and 2 - 2x on [0, 1].

    Args:
        x: Activations after any shift, any shape.

    Returns:
        A tensor of x's shape, values in {-1, +1}.

    Source: Bi-Real Net, arXiv 1808.00278.
    """
    return _PolynomialSign.apply(x)


def clipped_sign(x: Tensor) -> Tensor:
    """Binarize with the clipped identity as straight-through gradient.

    Forward: sign(x). Backward: dL/dx = dL/dy * 1[|x| <= 1].

    Args:
        x: Latent weights or activations, any shape.

    Returns:
        A tensor of x's shape, values in {-1, +1}.

    Source: BinaryNet, arXiv 1602.02830.
    """
    return _ClippedSign.apply(x)


def channel_scale(weight: Tensor) -> Tensor:
    """Return the scale of a binary weight per output channel: alpha_o = mean_i |w_oi|.

    It minimises sum_i (w_oi - alpha_o sign(w_oi))^2, and is a constant in differentiation here.

    Args:
        weight: Latent weight, (O, I), in weight units.

    Returns:
        Scales, (O, 1), in weight units, detached.

    Source: XNOR-Net, arXiv 1603.05279.
    """
    return weight.detach().abs().mean(dim=1, keepdim=True)


def sign_argument(weight: Tensor, centred: bool) -> Tensor:
    """Return what the sign of a binary weight is taken of: w_oi - mean_i w_oi where it is centred, else w itself.

    Args:
        weight: Latent weight, (O, I), in weight units.
        centred: Whether a row's mean is taken off.

    Returns:
        (O, I), in weight units; the effective sign is +1 where it is >= 0.

    Source: arXiv 2306.16678 for the centred form.
    """
    return weight - weight.mean(dim=1, keepdim=True) if centred else weight


class _ElasticLevels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return (2 * x >= scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, scale = ctx.saved_tensors
        grad_x = grads[0] * ((x >= 0) & (x <= scale)) / scale
        grad_scale = -(grad_x * x).sum_to_size(scale.shape) / scale
        return grad_x, grad_scale


def elastic_levels(x: Tensor, scale: Tensor) -> Tensor:
    """Binarize nonnegative values to {0, 1} at half of a learned scale a > 0.

    Forward: b = [x >= a/2], which is round(clip(x/a, 0, 1)) with ties upwards. Backward, with I = 1[0 <= x <= a]:
    dL/dx = dL/db * I / a; dL/da = -sum dL/db * I * x / a^2. The quantized value is a * b; multiplying by a after a
    product with signs keeps that product an exact integer, and gives dL/da its other part.

    Args:
        x: Softmax scores, (B, h, N, N), dimensionless.
        scale: Positive scales that broadcast against x, for example (h, 1, 1).

    Returns:
        A tensor of x's shape, values in {0, 1}.

    Source: BiT, arXiv 2205.13016.
    """
    return _ElasticLevels.apply(x, scale)


class _BooleanLevels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.abs() <= 1)
        return torch.ge(x, 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside


def boolean_levels(x: Tensor) -> Tensor:
    """Binarize scores to {0, 1} by their sign, without a softmax.

    Forward: y = [x >= 0]. Backward: dL/dx = dL/dy * 1[|x| <= 1].

    Args:
        x: Attention scores, (B, h, N, N), dimensionless.

    Returns:
        A tensor of x's shape, values in {0, 1}.

    Source: BiBERT, arXiv 2203.06390.
    """
    return _BooleanLevels.apply(x)
