"""A certificate that packed inference computes what the simulated model computes: logits, and every sign decision.

Shape letters: n images, K classes, B images of a batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bvit_analysis.config import ModelConfig, Recipe, RunConfig, from_dict, get_recipe
from bvit_analysis.convert import binarize, build_model, calibrate
from bvit_analysis.data import evaluation_batches, load_dataset, recorded_preprocessing
from bvit_analysis.errors import ConfigError
from bvit_analysis.layers.attention import BinaryProbabilities
from bvit_analysis.layers.shift import BinarySign
from bvit_analysis.packed.model import load_packed, read_packed
from bvit_analysis.packed.run import model_of_run
from bvit_analysis.records import load_run
from bvit_analysis.runtime.certificate import Certificate, compare_logits, equal_entries
from bvit_analysis.runtime.layers import PackedBits
from bvit_analysis.runtime.model import PackedModel, load_runtime
from bvit_analysis.runtime.signs import PackedSign

Decisions = dict[str, np.ndarray]


@torch.no_grad()
def parity_certificate(
    reference: nn.Module,
    runtime: PackedModel,
    images: Tensor | Iterable[Tensor],
    batch_size: int = 50,
    *,
    progress: Callable[[int], None] | None = None,
) -> Certificate:
    """Compare packed inference with the simulated model in eval mode: logits and every sign decision.

    Decisions are watched in a second pass, as the runtime computes layer by layer then; both passes must agree.

    Args:
        reference: The binarized model; its mode and hooks are put back.
        runtime: What load_runtime() made of it. No other thread may call it meanwhile.
        images: (n, channels, height, width), float32, normalised; or batches of them, where n are too many to hold.
        batch_size: Images a forward pass; batches are taken as they come.
        progress: Called with the number of images done after each batch.

    Returns:
        The certificate; `passed` is the verdict.

    Raises:
        ConfigError: If batch_size is not positive, or the two models have different sites.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    wanted, got = [], []
    differing: dict[str, int] = {}
    decisions = changed = 0
    training = reference.training
    reference.eval()
    try:
        for batch in images.split(batch_size) if isinstance(images, Tensor) else images:
            with _watched_reference(reference) as simulated:
                wanted.append(reference(batch))
            with _watched_runtime(runtime) as packed:
                watched = runtime(batch)
            got.append(runtime(batch))
            changed += int((~equal_entries(watched, got[-1])).flatten(1).any(dim=1).sum())
            decisions += sum(bits.size for bits in simulated.values())
            for site, count in _differences(simulated, packed).items():
                differing[site] = differing.get(site, 0) + count
            if progress:
                progress(sum(map(len, got)))
    finally:
        reference.train(training)
    empty = torch.empty(0, 1)
    return compare_logits(
        torch.cat(wanted) if wanted else empty,
        torch.cat(got) if got else empty,
        decisions=decisions,
        # in the order of the forward pass, whichever batch met a site first
        differing={site: count for site, count in differing.items() if count},
        changed_by_watching=changed,
        backend=runtime.backend,
    )


def certify_packed(
    path: str | Path,
    images: Tensor | Iterable[Tensor],
    *,
    reference: nn.Module | None = None,
    backend: str | None = None,
    recipe: Recipe | None = None,
    batch_size: int = 50,
    progress: Callable[[int], None] | None = None,
) -> Certificate:
    """Compare packed inference from a file with the simulated model, and store the certificate beside the file.

    Args:
        path: What save_packed() wrote; the certificate's name is the file's with '.parity.json' added.
        images: As for parity_certificate().
        reference: The model that was packed; by default the file's own simulated model. With 'float16' it must be
            the default, as what is not binary was rounded.
        backend: As for load_runtime().
        recipe: As for load_runtime().
        batch_size: Images a forward pass.
        progress: Called with the number of images done after each batch.
    """
    runtime = load_runtime(path, backend=backend, recipe=recipe)
    certificate = parity_certificate(
        load_packed(path, recipe=recipe) if reference is None else reference,
        runtime,
        images,
        batch_size,
        progress=progress,
    )
    certificate.save(f"{path}.parity.json")
    return certificate


def certify_run(
    run_dir: str | Path,
    path: str | Path,
    count: int,
    *,
    backend: str | None = None,
    recipe: Recipe | None = None,
) -> Certificate:
    """Certify the packed file of a run on the first `count` test images of its data set, and store the certificate.

    Raises:
        RunError: If the run has no binary model in a checkpoint.
        ConfigError: If count is not positive.
        DataError: If the run's data set is not here.
    """
    if count < 1:
        raise ConfigError(f"a certificate needs at least 1 image, got {count}")
    run = load_run(run_dir)
    config = from_dict(RunConfig, run.config or {})
    dataset = load_dataset(config.data, recorded_preprocessing(run.info, config.data))
    batches = evaluation_batches(dataset, "test", batch_size=50, limit=count)
    # Rounded to float16 the file is another model than the run's, so it is its own reference.
    rounded = read_packed(path).header["float_dtype"] != "float32"
    return certify_packed(
        path,
        (images for images, _ in batches),
        reference=None if rounded else model_of_run(run_dir, recipe)[0],
        backend=backend,
        recipe=recipe,
    )


def random_weights(
    config: ModelConfig,
    recipe: str | Recipe = "binaryvit",
    *,
    img_size: int | None = None,
    in_chans: int = 3,
    num_classes: int = 1000,
    seed: int = 0,
) -> nn.Module:
    """Build a binarized model with random weights, calibrated on random images, for certificates and timings.

    Learned vectors that start at 0 or 1 (shifts, gamma, slope, zeta) are moved at random, so that none of them can be
    forgotten unseen.

    Args:
        config: timm's model name, and what to change in it.
        recipe: A preset name or a Recipe.
        img_size: Side of the image, pixels; None keeps timm's.
        in_chans: Channels of the image.
        num_classes: Classes of the head.
        seed: Of weights, images and vectors; the global generator is put back.

    Returns:
        The simulated model in eval mode.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = build_model(config, img_size=img_size, in_chans=in_chans, num_classes=num_classes)
        binarize(model, get_recipe(recipe))
        size = model.patch_embed.img_size
        calibrate(model, torch.randn(4, in_chans, *size))
        for name, parameter in model.named_parameters():
            if name.endswith(_MOVED):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


_MOVED = (".gamma", ".slope", ".zeta", ".shift.bias", ".shift.share", ".shift.up", ".bias")


def random_batches(
    model: nn.Module, count: int, batch_size: int, seed: int = 1
) -> Iterator[Tensor]:
    """Yield `count` images of standard normal pixels for a ViT, in batches, (B, channels, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, count, batch_size):
        size = (min(batch_size, count - start), model.in_chans, *model.patch_embed.img_size)  # type: ignore[union-attr, arg-type, misc]
        yield torch.randn(size, generator=generator)


def _differences(simulated: Decisions, packed: Decisions) -> dict[str, int]:
    if simulated.keys() != packed.keys():
        odd = sorted(simulated.keys() ^ packed.keys())
        raise ConfigError(
            f"the models do not decide at the same sites, {odd[0]!r} is in one of them; pack this reference"
        )
    counts = {}
    for site, bits in simulated.items():
        if bits.shape != packed[site].shape:
            raise ConfigError(
                f"decisions at {site} have shapes {bits.shape} and {packed[site].shape}; pack this reference"
            )
        counts[site] = int((bits != packed[site]).sum())
    return counts


@contextlib.contextmanager
def _watched_reference(model: nn.Module) -> Iterator[Decisions]:
    found: Decisions = {}
    handles = [
        module.register_forward_hook(_keep(found, name))
        for name, module in model.named_modules()
        if isinstance(module, BinarySign | BinaryProbabilities)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _keep(found: Decisions, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found[name] = (output > 0).numpy()

    return hook


@contextlib.contextmanager
def _watched_runtime(model: PackedModel) -> Iterator[Decisions]:
    found: Decisions = {}
    watched = {
        name: module
        for name, module in model.skeleton.named_modules()
        if isinstance(module, PackedSign | PackedBits)
    }
    parts: dict[str, list[np.ndarray]] = {name: [] for name in watched}
    for name, module in watched.items():
        module.observer = parts[name].append
    try:
        yield found
        # one part for each chunk of the batch
        found.update({name: np.concatenate(bits) for name, bits in parts.items() if bits})
    finally:
        for module in watched.values():
            module.observer = None
