"""The blocks of a packed ViT, run on a few images at a time: their activations stay in the processor's cache.

Shape letters: B images, N tokens, C channels.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from bvit_analysis.runtime.block_programs import BlockProgram, Untouched, why_not
from bvit_analysis.runtime.kernels.threads import thread_count, threads_are_lent
from bvit_analysis.runtime.layer_programs import empty
from bvit_analysis.runtime.layers import PackedLinear
from bvit_analysis.runtime.program_pool import HoldsPrograms, ProgramPool

CHUNK_BYTES = 3 * 2**20
"Of a chunk's widest activation: 2 images of a DeiT-S at 224 pixels; more are hardly faster, and take more memory."
_SPARE = 2  # programs that wait for the next call


class PackedBlocks(HoldsPrograms, nn.Sequential):
    """Run all blocks on a chunk of the batch, then on the next; images do not meet in a block, so no result changes.

    With compiled kernels all blocks are one program, unless it cannot be written (`by_layer` says why) or somebody
    watches a layer: then the modules run one by one, with the same result to the bit.

    Args:
        blocks: The blocks, in order; their names are 0, 1, ...

    Shape:
        Input and output (B, N, C), float32, on the CPU.
    """

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        linears = [module for module in self.modules() if isinstance(module, PackedLinear)]
        self.widest = max((layer.out_features for layer in linears), default=1)
        self.by_layer: str | None = "no backend was chosen yet"
        self.forget()

    def forget(self) -> None:
        self._programs: ProgramPool[BlockProgram] = ProgramPool(_SPARE)
        self._untouched: Untouched | None = None

    def choose(self, backend: str) -> None:
        """Take a backend: 'numba', which runs programs, or 'numpy', which runs the modules."""
        self.forget()
        self.by_layer = f"backend {backend}" if backend != "numba" else why_not(list(self))

    def forward(self, x: Tensor) -> Tensor:
        size = self.images_at_once(x.shape[1])
        if self.by_layer is None and self._plain(x):
            return self._run(x.contiguous(), size)
        if len(x) <= size:
            return super().forward(x)
        return torch.cat([super(PackedBlocks, self).forward(chunk) for chunk in x.split(size)])

    def images_at_once(self, tokens: int) -> int:
        """Return the images of a chunk."""
        return max(1, CHUNK_BYTES // (4 * self.widest * max(1, tokens)))

    def timed(self, x: Tensor) -> dict[str, float]:
        """Run the program of one chunk of x (B, N, C) operation by operation; return the seconds of each label."""
        assert self.by_layer is None
        chunk = x[: self.images_at_once(x.shape[1])].contiguous()
        with self._program(chunk) as program:
            return program.timed(chunk.numpy())

    def _plain(self, x: Tensor) -> bool:
        if self._untouched is None:
            self._untouched = Untouched(list(self))
        unfit = x.dtype != torch.float32 or x.dim() != 3 or 0 in x.shape or x.requires_grad
        return not unfit and self._untouched()

    def _run(self, x: Tensor, size: int) -> Tensor:
        # Lent threads say that PackedModel calls, and nobody else has x.
        out = x if threads_are_lent() else empty(*x.shape)
        pairs = [(x, out)]
        if len(x) > size:
            chunks = x.split(size)
            pairs = list(zip(chunks, chunks if out is x else out.split(size), strict=True))
        for chunk, target in pairs:
            with self._program(chunk) as program:
                source = chunk.numpy()
                program.run(source, source if target is chunk else target.numpy())
        return out

    def _program(self, x: Tensor) -> AbstractContextManager[BlockProgram]:
        key = images, tokens, threads = len(x), x.shape[1], thread_count()
        return self._programs.lent(
            key, lambda: BlockProgram(list(self), images=images, tokens=tokens, threads=threads)
        )

    def extra_repr(self) -> str:
        return "one program" if self.by_layer is None else f"layer by layer: {self.by_layer}"
