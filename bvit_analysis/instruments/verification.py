"""Whether the sign that is tracked is the sign that the forward pass uses, tried out before anything is recorded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bvit_analysis.errors import ConfigError
from bvit_analysis.randomness import seeded
from bvit_analysis.sites import Site

_PRODUCTS = (
    functional.linear,
    functional.conv1d,
    functional.conv2d,
    functional.conv3d,
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
)


class _Seen(Exception):
    """Stops a forward pass once its weight has been seen."""


class _WeightSpy(TorchFunctionMode):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.weight: Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _PRODUCTS:
            weight = args[1] if len(args) > 1 else kwargs.get("weight")
            if isinstance(weight, Tensor) and tuple(weight.shape) == self.shape:
                self.weight = weight.detach().clone()
                raise _Seen
        return func(*args, **kwargs)


def used_weight(site: Site) -> Tensor | None:
    """Return the weight that a site's module multiplies with, or None where that cannot be found out.

    It is the module's own binary_weight() if there is one. Else a copy of the module, in evaluation mode and without
    hooks, is called on ones, and what reaches torch's linear or convolution is looked at. The module and all
    generators of random numbers stay as they were.
    """
    with torch.no_grad(), seeded(0, "watch"):
        own = getattr(site.module, "binary_weight", None)
        if callable(own):
            weight = own()
            return weight.detach() if isinstance(weight, Tensor) else None
        # Somebody else's layer may fail in any way on an input it was not made for: then nothing is known.
        try:
            module = copy.deepcopy(site.module).eval()
        except Exception:
            return None
        for part in module.modules():
            part._forward_hooks.clear()
            part._forward_pre_hooks.clear()
        for images in _inputs(site):
            spy = _WeightSpy(site.shape)
            try:
                with spy:
                    module(images)
            except _Seen:
                return spy.weight
            except Exception:
                continue
    return None


def check_signs(sites: list[Site]) -> None:
    """Compare the tracked sign of each weight site with the sign of the weight its forward pass uses.

    Args:
        sites: Weight sites; those whose weight cannot be found out are passed over.

    Raises:
        ConfigError: If they differ anywhere; entries that the forward pass uses as 0 are left out.
    """
    for site in sites:
        used = used_weight(site)
        if used is None or tuple(used.shape) != site.shape:
            continue
        counted = used != 0
        wrong = ((site.effective() >= 0) != (used > 0)) & counted & ~used.isnan()
        if bool(wrong.any()):
            share = float(wrong.sum()) / int(counted.sum())
            name = type(site.module).__name__
            raise ConfigError(
                f"site {site.name}: {share:.2%} of the tracked signs differ from the weight that its forward pass"
                f" uses; pass find_sites(model, effective_sign={{{name}: fn}}), where fn(module) is >= 0 exactly"
                " where the used weight is positive"
            )


def _inputs(site: Site) -> list[Tensor]:
    assert site.effective_sign is not None
    like = site.effective()
    channels = site.shape[1] if len(site.shape) > 1 else site.shape[0]
    groups = getattr(site.module, "groups", 1)
    if len(site.shape) <= 2:
        shapes: list[tuple[int, ...]] = [(1, 2, channels), (2, channels)]
    else:
        shapes = [(1, channels * groups, *(max(8, length) for length in site.shape[2:]))]
    return [torch.ones(shape, dtype=like.dtype, device=like.device) for shape in shapes]
