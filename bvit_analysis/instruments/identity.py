"""Whether the model still uses the modules and parameters that are watched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import nn

from bvit_analysis.errors import ConfigError
from bvit_analysis.sites import Site


@final
class Identities:
    """Knows where each watched module and weight hangs in the model, and sees when another hangs there.

    ``load_state_dict(assign=True)``, a new nn.Parameter or a new layer in place of the old one leave what is watched
    behind: it would be looked at for ever and never change again.

    Args:
        model: The model.
        sites: Of it.

    Raises:
        ConfigError: If a site's module is not in the model.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site]) -> None:
        parents = {
            id(child): (parent, name, child)
            for parent in model.modules()
            for name, child in parent.named_children()
        }
        edges: dict[int, tuple[nn.Module, str, nn.Module, str]] = {}
        self._weights: list[tuple[nn.Module, str, Site]] = []
        for site in sites:
            module = site.module
            while module is not model:
                if id(module) not in parents:
                    raise ConfigError(
                        f"site {site.name} is no part of the {type(model).__name__} that is watched; find the sites in the"
                        " model that is trained"
                    )
                parent, name, child = parents[id(module)]
                edges[id(module)] = (parent, name, child, site.name)
                module = parent
            if site.latent is not None:
                self._weights += _places(site)
        self._edges = list(edges.values())

    def check(self) -> None:
        """See that all is where it was.

        Raises:
            ConfigError: If the model has another module or parameter in a watched one's place.
        """
        for owner, name, site in self._weights:
            if owner._parameters.get(name) is not site.latent:
                raise ConfigError(
                    f"the weight of site {site.name} was replaced by another parameter since the watch began, as"
                    " load_state_dict(assign=True) does; load before the watch and the optimizer are made, or call"
                    " watch.rebase() after it"
                )
        for parent, name, child, site_name in self._edges:
            if parent._modules.get(name) is not child:
                raise ConfigError(
                    f"the module at site {site_name} was replaced by another since its sites were found; find them again"
                    " and make a new watch"
                )

    def follow(self) -> bool:
        """Take the parameters that are there now in place of those that were, and return whether any differs.

        Raises:
            ConfigError: If one has another shape, or a module was replaced.
        """
        changed = False
        for owner, name, site in self._weights:
            now = owner._parameters.get(name)
            if now is site.latent:
                continue
            if now is None or site.latent is None or now.shape != site.latent.shape:
                raise ConfigError(
                    f"the weight of site {site.name} was replaced by one of shape"
                    f" {None if now is None else tuple(now.shape)}; find the sites again and make a new watch"
                )
            site.latent = now
            changed = True
        self.check()
        return changed


def _places(site: Site) -> list[tuple[nn.Module, str, Site]]:
    return [
        (owner, name, site)
        for owner in site.module.modules()
        for name, parameter in owner._parameters.items()
        if parameter is site.latent
    ][:1]


def check_alone() -> None:
    """See that no other process trains the same model.

    Raises:
        ConfigError: If several do.
    """
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        ranks = distributed.get_world_size()
        if ranks > 1:
            raise ConfigError(
                f"{ranks} processes train this model together; flips are counted in one process only, so train in one to"
                " watch"
            )
