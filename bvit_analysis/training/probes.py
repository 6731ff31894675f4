"""Do restless weights matter? A trained model, used with the other sign at chosen weights, on validation images.

Equal numbers of weights of each site are turned, of groups that flips and latent weights choose: those that flipped
most, those nearest to the sign's boundary, any, those that never flipped, those farthest from the boundary. If
oscillation spoils a model, its restless weights should be dear; if they cost less than weights drawn at random, they
oscillate because nothing depends on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from bvit_analysis.config import Recipe, RunConfig, from_dict
from bvit_analysis.data import load_dataset, recorded_preprocessing
from bvit_analysis.files import DamagedFile
from bvit_analysis.layers.linear import BinaryLinear
from bvit_analysis.packed.run import model_of_run
from bvit_analysis.quantizers import channel_scale
from bvit_analysis.records import load_run
from bvit_analysis.records.probes import SignProbe, check_share, read_sign_probe, write_sign_probe
from bvit_analysis.sites import Site, find_sites
from bvit_analysis.training.evaluation import evaluate

GROUPS = ("restless", "near zero", "random", "never flipped", "far")
"Most flips, smallest |u|, any, no flip, largest |u|; u is the argument of the sign in units of its row's mean size."
_DRAWN = ("random", "never flipped")


def probe_signs(
    run_dir: str | Path,
    *,
    share: float = 0.05,
    draws: int = 5,
    groups: Sequence[str] = GROUPS,
    seed: int = 0,
    recipe: Recipe | None = None,
    again: bool = False,
    progress: bool = True,
) -> SignProbe:
    """Measure what a run's model loses where the signs of a group of weights are turned, and store it in the run folder.

    The scale of each row stays that of the weights as they were trained. Groups that are drawn (random, never flipped)
    are drawn anew each time; of the others ties are broken at random, and one draw is made.

    Args:
        run_dir: A finished run of `bvit train`, with its checkpoint.
        share: Of each site's weights that are turned, above 0 and at most 0.5.
        draws: Of the groups that are drawn.
        groups: Some of GROUPS.
        seed: Of the draws.
        recipe: The run's recipe once more, where a part of it is of your own.
        again: Whether to measure anew what is stored already with the same settings.
        progress: Whether to show a bar.

    Returns:
        Settings and outcome; read again by records.read_sign_probe().

    Raises:
        ConfigError: If a setting is wrong.
        RunError: If the run has no checkpoint, no flip counts, or its images are not those it was trained on.
    """
    check_share(share, draws, groups, GROUPS)
    run = load_run(run_dir)
    wanted = {(group, draw) for group in groups for draw in range(_number_of_draws(group, draws))}
    try:
        stored = read_sign_probe(run.path, run.run_id)
    except DamagedFile:
        stored = None
    if stored is not None and not again and stored.share == share:
        have = {(row["group"], row["draw"]) for row in stored.rows}
        if have >= wanted:
            return stored
    model, meta = model_of_run(run_dir, recipe)
    config = from_dict(RunConfig, run.config or {})
    dataset = load_dataset(config.data, recorded_preprocessing(run.info, config.data))
    sites = [site for site in find_sites(model) if site.kind == "weight"]
    flips = {site.name: run.counts(site.name)["gross"] for site in sites}
    accuracy, loss, _, images = evaluate(model, dataset, "validation")
    rows = []
    for group, draw in tqdm(
        sorted(wanted, key=lambda one: (groups.index(one[0]), one[1])),
        desc=f"probe {run.run_id}",
        unit="draw",
        disable=not progress,
    ):
        generator = np.random.default_rng([seed, GROUPS.index(group), draw])
        chosen = {
            site.name: choose(group, flips[site.name], size_of(site), share, generator)
            for site in sites
        }
        with turned(sites, chosen):
            found, cost, _, _ = evaluate(model, dataset, "validation")
        number = sum(len(index) for index in chosen.values())
        rows.append(
            {"group": group, "draw": draw, "turned": number, "loss": cost, "accuracy": found}
        )
    probe = SignProbe(
        share=share,
        images=images,
        step=int(meta["source"]["step"]),
        loss=loss,
        accuracy=accuracy,
        rows=rows,
    )
    write_sign_probe(run.path, probe, run.run_id)
    return probe


def choose(
    group: str,
    flips: np.ndarray,
    size: np.ndarray,
    share: float,
    generator: np.random.Generator,
) -> np.ndarray:
    """Return the flat places of a group's weights at a site, as many as share asks for where there are so many.

    Args:
        group: One of GROUPS.
        flips: Of each weight, (O, I).
        size: |u| of each weight, (O, I), dimensionless.
        share: Of the weights.
        generator: Draws, and breaks ties.

    Returns:
        Distinct places, int64, (k,).
    """
    flips, size = flips.reshape(-1), size.reshape(-1)
    number = max(1, round(share * len(flips)))
    order: dict[str, Callable[[], np.ndarray]] = {
        "restless": lambda: -flips.astype(float),
        "near zero": lambda: size,
        "far": lambda: -size,
    }
    if group in order:
        return np.lexsort((generator.random(len(flips)), order[group]()))[:number].astype(np.int64)
    pool = np.flatnonzero(flips == 0) if group == "never flipped" else np.arange(len(flips))
    return generator.choice(pool, min(number, len(pool)), replace=False).astype(np.int64)


@torch.no_grad()
def size_of(site: Site) -> np.ndarray:
    """Return |u| of each weight of a site, (O, I): the argument of its sign over its row's mean size."""
    argument = site.effective()
    return (argument.abs() / channel_scale(argument).clamp(min=1e-30)).cpu().numpy()


@contextmanager
@torch.no_grad()
def turned(sites: Sequence[Site], chosen: dict[str, np.ndarray]) -> Iterator[None]:
    """Use the other sign at chosen weights, with the scales as they are; everything is put back at the end.

    Args:
        sites: Weight sites of a binary model.
        chosen: By site, flat places.
    """
    kept: list[tuple[BinaryLinear, torch.Tensor, torch.Tensor | None]] = []
    try:
        for site in sites:
            layer = site.module
            assert isinstance(layer, BinaryLinear)
            kept.append((layer, layer.weight.data, layer.fixed_scale))
            scale = layer.weight_scale().squeeze(1).clone()
            signs = torch.where(layer.latent() >= 0, 1.0, -1.0).to(layer.weight.dtype)
            signs.view(-1)[torch.from_numpy(chosen[site.name]).to(signs.device)] *= -1
            layer.weight.data = signs
            layer.fixed_scale = scale
        yield
    finally:
        for layer, weight, fixed in kept:
            layer.weight.data = weight
            layer.fixed_scale = fixed


def _number_of_draws(group: str, draws: int) -> int:
    return draws if group in _DRAWN else 1
