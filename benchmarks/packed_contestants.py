"""Who runs against the packed runtime: the same network in FP32, compiled, BF16, INT8 and as simulated signs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from bvit_analysis.config import ModelConfig, get_scale
from bvit_analysis.convert import binarize, build_model, calibrate
from bvit_analysis.packed.model import load_packed, save_packed
from bvit_analysis.runtime.kernels import products as kernels
from bvit_analysis.runtime.kernels.operations import Input
from bvit_analysis.runtime.kernels.programs import Program, finish_of
from bvit_analysis.runtime.layer_programs import LinearProgram
from bvit_analysis.runtime.layers import PackedLinear
from bvit_analysis.runtime.model import load_runtime

RECIPE = "binaryvit"
SITES = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
BLOCK_LINEARS = "block linears"
"The four of SITES in turn."

PACKED, WORDS, SIMULATED = "packed", "packed, product only", "simulated"
INSIDE = "packed, in a program"
FP32, COMPILED, BF16, INT8 = "FP32", "FP32 compiled", "BF16", "INT8"
FILES = {FP32: "fp32.safetensors", BF16: "bf16.safetensors", INT8: "int8.pt", PACKED: "bvit"}
FILES[SIMULATED] = FILES[PACKED]


@dataclass(frozen=True)
class Setting:
    """A network and the image it takes."""

    name: str
    config: ModelConfig
    img_size: int
    in_chans: int
    classes: int

    def images(self, batch: int) -> Tensor:
        """Return a batch of random images."""
        shape = (batch, self.in_chans, self.img_size, self.img_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def settings() -> dict[str, Setting]:
    """Return the networks by name: DeiT-S at 224, the laptop preset's, and one that is as small as can be."""
    laptop = get_scale("laptop")
    tiny = ModelConfig(
        name="vit_tiny_patch16_224", patch_size=8, embed_dim=64, depth=1, num_heads=1
    )
    known = (
        Setting("DeiT-S", ModelConfig(name="deit_small_patch16_224"), 224, 3, 1000),
        Setting("Fashion-MNIST", laptop.model, laptop.data.img_size, 1, 10),
        Setting("tiny", tiny, 16, 1, 10),
    )
    return {setting.name: setting for setting in known}


def float_model(setting: Setting) -> nn.Module:
    """Return the float ViT with random weights: none of the times here depends on what they are."""
    torch.manual_seed(0)
    model = build_model(
        setting.config,
        img_size=setting.img_size,
        in_chans=setting.in_chans,
        num_classes=setting.classes,
    )
    return model.eval()


def binary_model(setting: Setting) -> nn.Module:
    """Return the binarized ViT, simulated, its scales set by random images."""
    model = float_model(setting)
    binarize(model, RECIPE)
    calibrate(model, setting.images(2))
    return model.eval()


def quantized(model: nn.Module) -> nn.Module:
    """Return a copy with dynamic INT8 in every nn.Linear, torch's own.

    Raises:
        ImportError, AttributeError, RuntimeError: Where this torch has none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated; its successor is another package
        from torch.ao.quantization import quantize_dynamic

        return quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)


def product_program(layer: PackedLinear, x: Tensor) -> Program:
    """Return a program of REPEATS products of packed rows, of the signs of x (M, I), with scales and bias."""
    program = Program(torch.get_num_threads())
    words = kernels.sign_pack(x.numpy(), backend="numba")
    out = np.empty((len(x), layer.out_features), np.float32)
    source = Input(None, 0, layer.in_features, None, 1, program.keep(words))
    bias = None if layer.bias is None else layer.bias.numpy()
    finish = finish_of(layer.out_features, layer.scale.numpy(), bias)
    weight = layer.words.numpy().view(np.uint64)
    for _ in range(REPEATS):
        program.linear(source, len(x), weight, finish, program.keep(out), "product")
    return program


Ways = dict[str, Callable[[], object]]
REPEATS = 20
"Layers of the program that times one inside of a network."


@dataclass(frozen=True)
class Repeated:
    """A call that does its work several times."""

    call: Callable[[], object]
    times: int

    def __call__(self) -> object:
        return self.call()


def model_ways(setting: Setting, batch: int, *, compiled: bool) -> tuple[Ways, dict[str, str]]:
    """Return what runs one batch, by name, and why others cannot run here.

    Args:
        setting: The network.
        batch: Images.
        compiled: Also torch.compile of the FP32 model; takes a minute.
    """
    plain, binary, images = float_model(setting), binary_model(setting), setting.images(batch)
    packed, half = load_runtime(binary), copy.deepcopy(plain).bfloat16()
    halves = images.bfloat16()
    ways: Ways = {
        PACKED: lambda: packed(images),
        FP32: lambda: plain(images),
        BF16: lambda: half(halves),
        SIMULATED: lambda: binary(images),
    }
    missing = {}
    try:
        small = quantized(plain)
        small(images[:1])
        ways[INT8] = lambda: small(images)
    except (ImportError, AttributeError, RuntimeError) as error:
        missing[INT8] = _reason(error)
    if compiled:
        fast = torch.compile(plain)
        try:
            fast(images)
            ways[COMPILED] = lambda: fast(images)
        except Exception as error:  # whatever a compiler that is not there may raise
            missing[COMPILED] = _reason(error)
    return ways, missing


def layer_ways(setting: Setting, batch: int) -> tuple[dict[str, Ways], dict[str, str]]:
    """Return for each linear of a block who computes it, by name, and why others cannot here.

    The packed layer is the whole of it, floats in and floats out: shift, sign, packing, product, scales, bias,
    shortcut and RPReLU; called from Python as one layer, and 'in a program' of REPEATS such layers, which is how a
    network runs it. 'Product only' starts from packed words and ends with scales and bias, in a program too. The
    others are product and bias; BF16 has its input in BF16 already.
    """
    plain, packed = float_model(setting), load_runtime(binary_model(setting)).skeleton
    tokens = plain.pos_embed.shape[1]
    found: dict[str, Ways] = {}
    missing: dict[str, str] = {}
    for site in SITES:
        linear = plain.blocks[0].get_submodule(site)
        layer = packed.blocks[0].get_submodule(site)
        generator = torch.Generator().manual_seed(2)
        x = torch.randn(batch, tokens, linear.in_features, generator=generator)
        found[site] = _linear_ways(linear, layer, x, missing)
    return found, missing


def _linear_ways(
    linear: nn.Linear, layer: PackedLinear, x: Tensor, missing: dict[str, str]
) -> Ways:
    flat = x.flatten(0, 1)
    half, x_half = copy.deepcopy(linear).bfloat16(), flat.bfloat16()
    ways: Ways = {
        PACKED: lambda: layer(x),
        FP32: lambda: linear(flat),
        BF16: lambda: half(x_half),
    }
    if layer.backend == "numba":
        whole = LinearProgram(layer, len(x), x.shape[1], torch.get_num_threads(), times=REPEATS)
        product, out = product_program(layer, flat), torch.empty(*x.shape[:2], layer.out_features)
        ways[INSIDE] = Repeated(lambda: whole.run(x, out), REPEATS)
        ways[WORDS] = Repeated(product.run, REPEATS)
    try:
        small = quantized(nn.Sequential(linear))
        small(flat[:1])
        ways[INT8] = lambda: small(flat)
    except (ImportError, AttributeError, RuntimeError) as error:
        missing[INT8] = _reason(error)
    return ways


def write_files(setting: Setting, folder: Path) -> None:
    """Write the network as each contestant stores it."""
    plain = float_model(setting)
    start = folder / setting.name
    safetensors.torch.save_file(plain.state_dict(), f"{start}.{FILES[FP32]}")
    halves = {name: value.bfloat16() for name, value in plain.state_dict().items()}
    safetensors.torch.save_file(halves, f"{start}.{FILES[BF16]}")
    try:
        torch.save(quantized(plain), f"{start}.{FILES[INT8]}")
    except (ImportError, AttributeError, RuntimeError):
        Path(f"{start}.{FILES[INT8]}").unlink(missing_ok=True)
    save_packed(binary_model(setting), f"{start}.{FILES[PACKED]}", meta={"recipe": RECIPE})


def open_file(setting: Setting, way: str, folder: Path) -> nn.Module:
    """Load a network the way that takes the least memory: no weight is made before the stored one is there."""
    path = folder / f"{setting.name}.{FILES[way]}"
    if way == PACKED:
        return load_runtime(path)
    if way == SIMULATED:
        return load_packed(path)
    if way == INT8:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, weights_only=False)  # written by this process's parent
    with torch.device("meta"):
        model = float_model(setting)
    model.load_state_dict(safetensors.torch.load_file(path), assign=True)
    return model


def held_bytes(model: nn.Module) -> int:
    """Return the bytes of parameters and buffers, INT8 weights among them."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    held = sum(t.numel() * t.element_size() for t in tensors.values())
    for module in model.modules():
        if type(module).__module__.startswith("torch.ao.nn.quantized"):
            if not hasattr(module, "weight"):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                weight, bias = module.weight(), module.bias()
            held += weight.numel() * weight.element_size()
            held += 0 if bias is None else bias.numel() * bias.element_size()
    return held


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
