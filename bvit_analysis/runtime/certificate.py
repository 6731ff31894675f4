"""How far packed inference is from the simulated model, in figures, and the verdict on them.

Shape letters: n images, K classes.
"""

from __future__ import annotations

import dataclasses
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bvit_analysis.errors import ConfigError
from bvit_analysis.files import write_bytes_atomic

RELATIVE_BOUND = 1e-4
"Largest logit difference of a certificate that passes, relative to the image's largest logit."


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
    changed_by_watching: int = 0
    "Images whose packed logits are others while decisions are watched, when layers run one by one; must be 0."
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
        """Whether every image has the same class, no logit is further off than RELATIVE_BOUND, and all was seen."""
        close = self.agreeing_images == self.images and self.max_relative < RELATIVE_BOUND
        return close and self.changed_by_watching == 0

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
        if self.changed_by_watching:
            lines.append(
                f"  other while watched {self.changed_by_watching} of {self.images} images"
            )
        if self.first_differing_site is not None:
            worst = max(self.differing, key=lambda name: self.differing[name])
            lines.append(
                f"  first differing at  {self.first_differing_site}; most at {worst}, {self.differing[worst]}"
            )
        return "\n".join(lines)


def compare_logits(
    wanted: Tensor,
    got: Tensor,
    *,
    decisions: int = 0,
    differing: dict[str, int] | None = None,
    changed_by_watching: int = 0,
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
    same = equal_entries(wanted, got)
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
        changed_by_watching=changed_by_watching,
        backend=backend,
        threads=torch.get_num_threads(),
        versions={
            "torch": torch.__version__,
            "numpy": np.__version__,
            "machine": platform.machine(),
        },
    )


def equal_entries(wanted: Tensor, got: Tensor) -> Tensor:
    """Return where two tensors are equal, NaN to NaN too."""
    return (wanted == got) | (wanted.isnan() & got.isnan())


def _margin(logits: Tensor) -> Tensor:
    """Return the largest logit minus the second, (n,); infinite where there is one class."""
    if logits.shape[1] < 2:
        return torch.full((len(logits),), torch.inf, dtype=logits.dtype)
    largest = logits.topk(2, dim=1).values
    return largest[:, 0] - largest[:, 1]
