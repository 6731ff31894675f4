"""A certificate that packed inference computes what the simulated model computes: logits, and every sign decision.

Shape letters: n images, K classes, B images of a batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bvit_analysis.config import ModelConfig, Recipe, RunConfig, from_dict, get_recipe
from bvit_analysis.convert import binarize, build_model, calibrate
from bvit_analysis.data import evaluation_batches, load_dataset
from bvit_analysis.errors import ConfigError
from bvit_analysis.layers.attention import BinaryProbabilities
from bvit_analysis.layers.shift import BinarySign
from bvit_analysis.packed_model import load_packed, read_packed
from bvit_analysis.packed_run import model_of_run
from bvit_analysis.records import load_run
from bvit_analysis.run_files import write_bytes_atomic
from bvit_analysis.runtime.layers import PackedBits, PackedSign
from bvit_analysis.runtime.model import PackedModel, load_runtime

RELATIVE_BOUND = 1e-4
"Largest logit difference of a certificate that passes, relative to the image's largest logit."

Decisions = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """How far packed inference is from the simulated model on the same images."""

    images: int
    "Images compared."
    identical_images: int
    "Images whose logits are equal to the bit."
    agreeing_images: int
    "Images with the same top-1 class; where several logits are largest, the first one counts."
    tied_images: int
    "Images whose largest logit is shared by several classes, in either model: their class is the order's choice."
    near_tied_images: int
    "Images whose two largest logits differ by no more than the models do; top-1 agreement says little there."
    max_absolute: float
    "Largest difference of a logit, in logits."
    max_relative: float
    "Largest difference of a logit over the largest |logit| of its image, dimensionless."
    decisions: int
    "Sign decisions compared, of activations and of attention."
    differing: dict[str, int]
    "Site -> decisions that differ, in the order of the forward pass; sites without any are left out."
    backend: str
    "What counted the bits: 'numba' or 'numpy'."
    threads: int
    "CPU threads of torch."
    versions: dict[str, str]
    "Of what computed: torch, numpy, the processor."

    @property
    def agreement(self) -> float:
        """Share of images with the same top-1 class, 0 to 1; 1 where there is no image."""
        return self.agreeing_images / self.images if self.images else 1.0

    @property
    def first_differing_site(self) -> str | None:
        """The first site of the forward pass with a decision that differs, None if all are equal."""
        return next(iter(self.differing), None)

    @property
    def passed(self) -> bool:
        """Whether every image has the same class and no logit is further off than RELATIVE_BOUND."""
        return self.agreeing_images == self.images and self.max_relative < RELATIVE_BOUND

    def as_dict(self) -> dict[str, Any]:
        """Return every figure as JSON-ready data, derived ones included."""
        return {
            "passed": self.passed,
            "top1_agreement": self.agreement,
            "first_differing_site": self.first_differing_site,
            "relative_bound": RELATIVE_BOUND,
            **{
                # JSON has no infinity, and a logit that is finite in one model only is infinitely far off.
                name: value if not isinstance(value, float) or np.isfinite(value) else str(value)
                for name, value in dataclasses.asdict(self).items()
            },
        }

    def save(self, path: str | Path) -> Path:
        """Write the certificate as JSON; an earlier file is replaced whole or not at all."""
        text = json.dumps(self.as_dict(), indent=1)
        write_bytes_atomic(Path(path), text.encode())
        return Path(path)

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "NOT PASSED"
        lines = [
            f"parity {verdict}: {self.images} images, {self.backend}, {self.threads} thread"
            + ("" if self.threads == 1 else "s"),
            f"  top-1 agreement     {self.agreement:.2%} ({self.agreeing_images} of {self.images})",
            f"  ties                {self.tied_images} of the largest logit, {self.near_tied_images} within the difference",
            f"  equal to the bit    {self.identical_images} of {self.images} images",
            f"  largest difference  {self.max_absolute:.3g}, relative {self.max_relative:.3g} (bound {RELATIVE_BOUND:g})",
            f"  sign decisions      {sum(self.differing.values())} of {self.decisions:,} differ",
        ]
        if self.first_differing_site is not None:
            worst = max(self.differing, key=lambda name: self.differing[name])
            lines.append(
                f"  first differing at  {self.first_differing_site}; most at {worst}, {self.differing[worst]}"
            )
        return "\n".join(lines)


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
    decisions = 0
    training = reference.training
    reference.eval()
    try:
        for batch in images.split(batch_size) if isinstance(images, Tensor) else images:
            with _watched_reference(reference) as simulated:
                wanted.append(reference(batch))
            with _watched_runtime(runtime) as packed:
                got.append(runtime(batch))
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
        backend=runtime.backend,
    )


def certify_packed(
    path: str | Path,
    images: Tensor | Iterable[Tensor],
    *,
    reference: nn.Module | None = None,
    backend: str | None = None,
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
        batch_size: Images a forward pass.
        progress: Called with the number of images done after each batch.
    """
    runtime = load_runtime(path, backend=backend)
    certificate = parity_certificate(
        load_packed(path) if reference is None else reference,
        runtime,
        images,
        batch_size,
        progress=progress,
    )
    certificate.save(f"{path}.parity.json")
    return certificate


def certify_run(
    run_dir: str | Path, path: str | Path, count: int, *, backend: str | None = None
) -> Certificate:
    """Certify the packed file of a run on the first `count` test images of its data set, and store the certificate.

    Raises:
        RunError: If the run has no binary model in a checkpoint.
        ConfigError: If count is not positive.
        DataError: If the run's data set is not here.
    """
    if count < 1:
        raise ConfigError(f"a certificate needs at least 1 image, got {count}")
    config = from_dict(RunConfig, load_run(run_dir).config or {})
    batches = evaluation_batches(load_dataset(config.data), "test", batch_size=50, limit=count)
    # Rounded to float16 the file is another model than the run's, so it is its own reference.
    rounded = read_packed(path).header["float_dtype"] != "float32"
    return certify_packed(
        path,
        (images for images, _ in batches),
        reference=None if rounded else model_of_run(run_dir)[0],
        backend=backend,
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


def compare_logits(
    wanted: Tensor,
    got: Tensor,
    *,
    decisions: int = 0,
    differing: dict[str, int] | None = None,
    backend: str = "numpy",
) -> Certificate:
    """Build a certificate from logits (n, K) of the simulated model and of packed inference.

    A logit that is NaN in both is no difference; one that is finite in one alone is infinitely far off.

    Raises:
        ConfigError: If the shapes differ.
    """
    if wanted.shape != got.shape:
        raise ConfigError(
            f"the models give outputs of different shapes, {tuple(wanted.shape)} and {tuple(got.shape)}; pack this model"
        )
    wanted, got = wanted.flatten(1).double(), got.flatten(1).double()
    same = (wanted == got) | (wanted.isnan() & got.isnan())
    gap = torch.where(same, 0.0, (wanted - got).abs())
    gap = gap.nan_to_num(nan=torch.inf, posinf=torch.inf)
    size = wanted.abs().amax(dim=1)
    furthest = gap.amax(dim=1)
    # 0 / 0 is no difference; a NaN or infinite size with a difference is one without bound
    relative = torch.where(furthest == 0, 0.0, furthest / size).nan_to_num(nan=torch.inf)
    top = wanted.argmax(dim=1) == got.argmax(dim=1)
    tied = _margin(wanted).eq(0) | _margin(got).eq(0)
    near = _margin(wanted) <= furthest
    return Certificate(
        images=len(wanted),
        identical_images=int(same.all(dim=1).sum()),
        agreeing_images=int(top.sum()),
        tied_images=int(tied.sum()),
        near_tied_images=int(near.sum()),
        max_absolute=float(furthest.max()) if len(wanted) else 0.0,
        max_relative=float(relative.max()) if len(wanted) else 0.0,
        decisions=decisions,
        differing=differing or {},
        backend=backend,
        threads=torch.get_num_threads(),
        versions={
            "torch": torch.__version__,
            "numpy": np.__version__,
            "machine": platform.machine(),
        },
    )


def _margin(logits: Tensor) -> Tensor:
    """Return the largest logit minus the second, (n,); infinite where there is one class."""
    if logits.shape[1] < 2:
        return torch.full((len(logits),), torch.inf, dtype=logits.dtype)
    largest = logits.topk(2, dim=1).values
    return largest[:, 0] - largest[:, 1]


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
