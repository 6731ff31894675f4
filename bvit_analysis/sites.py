"""Sites: the places in a model where something is binarized, named by their module paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bvit_analysis.errors import ConfigError
from bvit_analysis.layers.attention import BinaryProbabilities
from bvit_analysis.layers.linear import BinaryLinear
from bvit_analysis.layers.shift import BinarySign

EffectiveSign = Callable[[nn.Module], Tensor]


@dataclass(frozen=True, kw_only=True)
class Site:
    """A place where something is binarized.

    A weight site has a latent weight; an activation site is a sign of activations; an attention site turns scores
    into {0, a}.
    """

    name: str
    "Module path, for example 'blocks.3.attn.qkv'."
    kind: Literal["weight", "activation", "attention"]
    "What is binarized."
    module: nn.Module
    "The module at that path."
    shape: tuple[int, ...]
    "(O, I, ...) of a weight, (C,) of an activation, (heads,) of an attention."
    effective_sign: EffectiveSign | None = None
    "For a weight site: module -> tensor of the weight's shape whose sign the forward pass uses."
    latent: nn.Parameter | None = None
    "For a weight site: the parameter that the optimizer moves."
    centred: bool = False
    "Whether the sign is of the weight minus its row mean."

    @torch.no_grad()
    def effective(self) -> Tensor:
        """Return the argument of the weight's sign, detached: the effective sign is +1 where it is >= 0."""
        if self.effective_sign is None:
            raise ConfigError(
                f"site {self.name} is of kind {self.kind}; only weight sites have an effective sign"
            )
        return self.effective_sign(self.module).detach()


def find_sites(
    model: nn.Module, *, effective_sign: Mapping[type[nn.Module], EffectiveSign] | None = None
) -> list[Site]:
    """List the binary sites of a model in module order; tied weights are listed once.

    Args:
        model: Any module; one without binary layers and without effective_sign has no sites.
        effective_sign: Somebody else's layers: class -> function of the module that returns a tensor of its weight's
            shape whose effective sign is +1 where it is >= 0, for example
            ``{CentredLinear: lambda m: m.weight - m.weight.mean(1, keepdim=True)}``.

    Returns:
        Sites with unique names.

    Raises:
        ConfigError: If a function's result does not have the shape of the module's weight.
    """
    foreign = dict(effective_sign or {})
    sites: list[Site] = []
    seen: set[int] = set()
    for name, module in model.named_modules():
        if type(module) in foreign:
            site = _foreign_site(name, module, foreign[type(module)])
        elif isinstance(module, BinaryLinear):
            site = Site(
                name=name,
                kind="weight",
                module=module,
                shape=tuple(module.weight.shape),
                effective_sign=_latent,
                latent=module.weight,
                centred=module.centred,
            )
        elif isinstance(module, BinarySign):
            site = Site(name=name, kind="activation", module=module, shape=(module.dim,))
        elif isinstance(module, BinaryProbabilities):
            site = Site(name=name, kind="attention", module=module, shape=(module.num_heads,))
        else:
            continue
        if site.latent is not None:
            if site.latent.data_ptr() in seen:
                continue
            seen.add(site.latent.data_ptr())
        sites.append(site)
    return sites


def _latent(module: nn.Module) -> Tensor:
    assert isinstance(module, BinaryLinear)
    return module.latent()


def _foreign_site(name: str, module: nn.Module, function: EffectiveSign) -> Site:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter):
        raise ConfigError(
            f"{name} ({type(module).__name__}) has no parameter 'weight'; effective_sign takes layers whose latent"
            " weight has that name"
        )
    site = Site(
        name=name,
        kind="weight",
        module=module,
        shape=tuple(weight.shape),
        effective_sign=function,
        latent=weight,
    )
    got = tuple(site.effective().shape)
    if got != site.shape:
        raise ConfigError(
            f"effective_sign[{type(module).__name__}] must return the weight's shape {site.shape}, got {got} at {name}"
        )
    return site


def describe_sites(sites: list[Site]) -> list[dict[str, object]]:
    """Return the site table of a run record: one row a site with site_id, site, kind, shape and n_weights."""
    return [
        {
            "site_id": index,
            "site": site.name,
            "kind": site.kind,
            "shape": list(site.shape),
            "n_weights": site.latent.numel() if site.latent is not None else 0,
        }
        for index, site in enumerate(sites)
    ]
