"""Signs of activations as packed bits: what a shift adds, it says itself, so that every decision is the simulated layer's.

Shape letters: B images, N tokens, C channels, h heads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn

from bvit_analysis.errors import UnsupportedModelError
from bvit_analysis.layers.shift import BinarySign, Shift
from bvit_analysis.packed.bits import bits_of_words
from bvit_analysis.runtime.kernels import products as kernels

Observer = Callable[[np.ndarray], None]
"Is given the decisions of one call as booleans, for the parity certificate; None costs nothing."


def added_by(shift: Shift, x: Tensor) -> np.ndarray | None:
    """Return what a shift adds to x (B, N, C): (C,), (B, C) or (B N, C), or None for nothing.

    Raises:
        UnsupportedModelError: If it adds something of another shape.
    """
    added = shift.added(x)
    if added is None:
        return None
    images, tokens, channels = x.shape
    found, shape = added.detach().numpy(), tuple(added.shape)
    if shape == (channels,):
        return found
    if shape in ((images, 1, channels), (images, tokens, channels)):
        return found.reshape(-1, channels)
    raise UnsupportedModelError(
        f"cannot pack a {type(shift).__name__} that adds {shape} to {tuple(x.shape)}; expected ({channels},),"
        f" ({images}, 1, {channels}) or ({images}, {tokens}, {channels})"
    )


class PackedSign(nn.Module):
    """Shift an activation, take its sign and pack it, in one pass.

    Args:
        sign: Shift and sign of the simulated layer.
        heads: Groups of C / h channels that each begin a word of their own.

    Shape:
        Input (B, N, C), rows may be strided; output a numpy array (B N, h ceil(C / h / 64)) uint64.
    """

    def __init__(self, sign: BinarySign, *, heads: int = 1) -> None:
        super().__init__()
        self.shift = sign.shift
        self.dim = sign.dim
        self.heads = heads
        self.backend: str | None = None
        self.observer: Observer | None = None

    def added(self, x: Tensor) -> np.ndarray:
        """Return what the shift adds, with zeros for nothing: (B, C), or (B N, C) where it differs from token to token."""
        added = added_by(self.shift, x)
        if added is None:
            return np.zeros((len(x), self.dim), np.float32)
        return added if added.ndim == 2 else np.broadcast_to(added, (len(x), self.dim))

    def observe(self, words: np.ndarray, tokens: int) -> None:
        """Give the decisions in packed rows to whoever observes them."""
        if self.observer is not None:
            signs = _unpacked(words, self.dim, self.heads)
            self.observer(signs.reshape(len(words) // tokens, tokens, self.dim))

    def forward(self, x: Tensor) -> np.ndarray:
        images, tokens, channels = x.shape
        added = added_by(self.shift, x)
        # A chunk of q, k and v has rows with a stride of their own; view() joins B and N without a copy.
        words = kernels.sign_pack(
            x.view(images * tokens, channels).numpy(),
            added,
            rows_per_image=rows_per_row(added, images, tokens),
            heads=self.heads,
            backend=self.backend,
        )
        self.observe(words, tokens)
        return words

    def extra_repr(self) -> str:
        return f"dim={self.dim}, heads={self.heads}"


def rows_per_row(added: np.ndarray | None, images: int, tokens: int) -> int:
    """Return how many rows of x (B N, C) share a row of what is added."""
    return 1 if added is not None and added.ndim == 2 and len(added) != images else tokens


def _unpacked(words: np.ndarray, channels: int, heads: int) -> np.ndarray:
    per_head = words.reshape(len(words), heads, words.shape[1] // heads)
    bits = bits_of_words(per_head, channels // heads)
    return bits.reshape(len(words), channels).astype(bool)
