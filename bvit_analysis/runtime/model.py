"""From a packed file, or a simulated binary model, to a model that computes with packed bits.

Shape letters: B batch, O output channels, I input channels, W words of 64 bits.
"""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bvit_analysis.config import Recipe
from bvit_analysis.errors import ConfigError, UnsupportedModelError
from bvit_analysis.layers.attention import BinaryAttention
from bvit_analysis.layers.linear import BinaryLinear
from bvit_analysis.packed.bits import pack_signs
from bvit_analysis.packed.file import PackedFile, transposed
from bvit_analysis.packed.model import build_skeleton, read_packed
from bvit_analysis.runtime.block_programs import Untouched, works_image_by_image
from bvit_analysis.runtime.blocks import PackedBlocks
from bvit_analysis.runtime.kernels import products as kernels
from bvit_analysis.runtime.kernels.threads import lent_threads
from bvit_analysis.runtime.layers import PackedAttention, PackedLinear
from bvit_analysis.runtime.signs import PackedSign

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class PackedModel(nn.Module):
    """Run a binary ViT on packed bits: what load_runtime() returns; inference on the CPU alone.

    What timm computes in float (patch embedding, norms, residual sums, pooling, head) stays timm's. NaN and infinity
    in an image are defined, and do what they do in the simulated model: a norm spreads a NaN over its token; its sign
    is -1, so neither attention nor a product hands it on, though decisions change; a shift by token means sets all
    signs of the image's channels to -1. Other images of the batch are not touched.

    Args:
        skeleton: A ViT whose binary layers are packed; it is owned from here on.
        backend: 'numba', 'numpy', or None for the faster one that is installed.

    Shape:
        Input (B, channels, height, width), float32, normalised; output (B, classes) float32, or what the head gives.
    """

    def __init__(self, skeleton: nn.Module, *, backend: str | None = None) -> None:
        super().__init__()
        self.skeleton = skeleton
        self._untouched: Untouched | None = None
        self.backend = kernels.choose_backend(backend)
        for layer in self.packed_layers():
            layer.backend = self.backend
        self.eval()
        for module in self.modules():
            if isinstance(module, PackedBlocks):
                module.choose(self.backend)
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        self._check(images)
        size = self._images_at_once()
        with torch.no_grad(), nullcontext() if size is None else lent_threads():
            if size is None or len(images) <= size:
                return self.skeleton(images)
            return self._in_chunks(images, size)

    def _in_chunks(self, images: Tensor, size: int) -> Tensor:
        """Compute features some images at a time, so that memory does not grow with the batch.

        The head takes the whole batch: torch adds in another order for another number of rows.
        """
        vit: Any = self.skeleton
        features: Tensor | None = None
        for start in range(0, len(images), size):
            chunk = vit.forward_features(images[start : start + size])
            chunk = vit.forward_head(chunk, pre_logits=True)
            if features is None:
                # once: small arrays that live on between large ones would keep their memory from being used again
                features = torch.empty(len(images), *chunk.shape[1:])
            features[start : start + size] = chunk
        return vit.head(features)

    def _images_at_once(self) -> int | None:
        """Return how many images a chunk of the batch has, None where only the whole may be computed."""
        vit: Any = self.skeleton
        blocks = getattr(vit, "blocks", None)
        if not isinstance(blocks, PackedBlocks) or blocks.by_layer or not works_image_by_image(vit):
            return None
        if self._untouched is None:
            self._untouched = Untouched([vit])
        tokens = vit.patch_embed.num_patches + vit.num_prefix_tokens
        return blocks.images_at_once(tokens) if self._untouched() else None

    def packed_layers(self) -> Iterator[PackedLinear | PackedAttention | PackedSign]:
        """Yield the layers that compute with bits, in module order."""
        for module in self.modules():
            if isinstance(module, PackedLinear | PackedAttention | PackedSign):
                yield module

    def train(self, mode: bool = True) -> PackedModel:
        if mode:
            raise ConfigError(
                "a packed model cannot be trained: it has no latent weights; train the simulated model, and pack it again"
            )
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedModel:
        # Before anything is moved: a model that is half on another device could not be put right.
        probe = fn(torch.empty(0))
        if probe.device.type != "cpu" or probe.dtype != torch.float32:
            raise ConfigError(
                f"a packed model computes in float32 on the CPU, got {probe.dtype} on {probe.device}; move the simulated"
                " model instead"
            )
        return super()._apply(fn, recurse)

    def _check(self, images: Tensor) -> None:
        if images.device.type != "cpu" or images.dtype != torch.float32:
            raise ConfigError(
                f"a packed model takes float32 images on the CPU, got {images.dtype} on {images.device}; convert them"
                " with images.float().cpu()"
            )
        if images.requires_grad and torch.is_grad_enabled():
            raise ConfigError(
                "a packed model has no gradient; pass images.detach(), or call it under torch.no_grad()"
            )
        if torch.is_autocast_enabled("cpu"):
            raise ConfigError("a packed model computes in float32; call it outside of autocast")
        expected = self._image_shape()
        if expected is not None and tuple(images.shape[1:]) != expected:
            raise ConfigError(
                f"images must be of shape (B, {', '.join(map(str, expected))}), got {tuple(images.shape)}"
            )

    def _image_shape(self) -> tuple[int, ...] | None:
        embedding = getattr(self.skeleton, "patch_embed", None)
        size = getattr(embedding, "img_size", None)
        if size is None or not getattr(embedding, "strict_img_size", True):
            return None
        return (int(self.skeleton.in_chans), *size)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return f"backend={self.backend}"


def load_runtime(
    source: str | Path | nn.Module, *, backend: str | None = None, recipe: Recipe | None = None
) -> PackedModel:
    """Load a packed file, or pack a simulated model in memory, for inference with XNOR and popcount.

    No binary weight is ever held as a float here: one of a file goes from its bytes to words of 64.

    Args:
        source: What save_packed() wrote, or a binarized model in float32, which is left as it is.
        backend: 'numba', 'numpy' (slow, and equal to the bit), or None for the faster one that is installed.
        recipe: The recipe of a packed file once more, where its shift or attention is of your own.

    Returns:
        A model in eval mode; its logits are those of the simulated model in eval mode.

    Raises:
        PackedFileError: If the file is damaged, foreign or of another version.
        UnsupportedModelError: If the model has no binary linear layer, or attention by a rule that packed attention cannot
            hold.
        ConfigError: If the backend is unknown, or the model is not in float32.
    """
    backend = kernels.choose_backend(backend)  # before any work: an unknown name is a mistake
    if isinstance(source, nn.Module):
        skeleton, weights = _from_model(source)
    else:
        skeleton, weights = _from_file(source, recipe)
    return PackedModel(_pack_layers(skeleton, weights), backend=backend)


Weights = Iterable[tuple[str, Tensor, Tensor]]
"Site, packed weight, transposed (W, O) int64, and output scale (O,) float32, in memory that no other model has."


def _from_model(model: nn.Module) -> tuple[nn.Module, Weights]:
    """Pack a model's binary weights, and copy the rest of it."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, BinaryLinear)}
    if not layers:
        raise UnsupportedModelError(
            f"found no binary linear layer in the {type(model).__name__}; binarize it first"
        )
    odd = {str(value.dtype) for value in model.parameters() if value.dtype != torch.float32}
    if odd:
        raise ConfigError(
            f"a packed model computes in float32, got parameters in {', '.join(sorted(odd))}; use model.float()"
        )
    # Packed before the copy, which shares the latent weights instead of holding each a second time.
    weights = []
    for name, layer in layers.items():
        signs = (layer.latent().detach() >= 0).cpu().numpy()
        scale = layer.output_scale().detach().squeeze(1).to("cpu", copy=True)
        weights.append((name, transposed(pack_signs(signs)), scale))
    shared: dict[int, object] = {id(layer.weight): layer.weight for layer in layers.values()}
    for module in model.modules():
        for hooks in _HOOKS:
            shared[id(getattr(module, hooks))] = collections.OrderedDict()
    return copy.deepcopy(model, shared).eval(), weights


def _from_file(path: str | Path, recipe: Recipe | None) -> tuple[nn.Module, Weights]:
    """Build the skeleton of a packed file, whose block weights stay on the meta device."""
    file = read_packed(path)
    skeleton = build_skeleton(file, recipe)
    skeleton.load_state_dict(file.take_float_tensors(), strict=False, assign=True)
    return skeleton.eval(), _weights(file, skeleton)


def _weights(file: PackedFile, skeleton: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the weights of a packed file one by one, so that what a layer leaves behind is of use to the next."""
    for name, words in file.take_words():
        layer = skeleton.get_submodule(name)
        assert isinstance(layer, BinaryLinear)
        scale = layer.fixed_scale = file.take_weight_scale(name)
        # output_scale() in the stored scale's place: torch's aligned memory does not fit into what another layer let go.
        if layer.log_input_scale is not None:
            scale.mul_(layer.log_input_scale.detach().exp())
        yield name, words, scale


def _pack_layers(skeleton: nn.Module, weights: Weights) -> nn.Module:
    """Replace every binary layer in place; attentions come last, as they hold two of the linears."""
    for name, words, scale in weights:
        layer = skeleton.get_submodule(name)
        assert isinstance(layer, BinaryLinear)
        packed = PackedLinear(layer, words, scale)
        if not name:
            return packed
        parent, _, leaf = name.rpartition(".")
        setattr(skeleton.get_submodule(parent), leaf, packed)
    attentions = [name for name, m in skeleton.named_modules() if isinstance(m, BinaryAttention)]
    for name in attentions:
        attention = skeleton.get_submodule(name)
        assert isinstance(attention, BinaryAttention)
        qkv: nn.Module = attention.qkv  # replaced just now, which its type does not know
        proj: nn.Module = attention.proj
        assert isinstance(qkv, PackedLinear)
        assert isinstance(proj, PackedLinear)
        packed_attention = PackedAttention(attention, qkv=qkv, proj=proj)
        parent, _, leaf = name.rpartition(".")
        setattr(skeleton.get_submodule(parent), leaf, packed_attention)
    blocks = getattr(skeleton, "blocks", None)
    if isinstance(blocks, nn.Sequential):
        skeleton.blocks = PackedBlocks(*blocks)
    return skeleton
