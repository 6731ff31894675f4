"""What a packed file may say: its limits, and checks of every field before anything is built from it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from bvit_analysis.config import Recipe, from_dict
from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.files import DamagedFile

FORMAT, VERSION = "bvit-packed", 1

FLOAT_DTYPES = {"float32": torch.float32, "float16": torch.float16}
"How the parameters that are not binary may be stored."

MAX_FILE_BYTES = 2**36

MAX_HEADER_BYTES = 4 * 2**20

MODEL_LIMITS = {
    "patch_size": 2**12,
    "embed_dim": 2**16,
    "depth": 2**10,
    "num_heads": 2**12,
    "img_size": 2**14,
    "in_chans": 2**12,
    "num_classes": 2**20,
}
"Fields of a header's model, beside its name, and the largest value of each."

_KEYS = {"format", "version", "model", "recipe", "float_dtype", "data", "sites", "source", "sha256"}

DTYPES = {"F32": torch.float32, "F16": torch.float16, "U8": torch.uint8}

_MODULE_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)

_TIMM_NAME = re.compile(r"[a-z]\w{0,99}(\.\w{1,99})?", re.ASCII)

AGAIN = "copy it again, or pack the run again with 'bvit pack'"


def packed_names(sites: Iterable[str], recipe: Recipe) -> set[str]:
    """Return the names of the tensors that hold the binary linears of a file."""
    parts = ("bits", "weight_scale") if recipe.weight_scale == "channel" else ("bits",)
    return {f"{site}.{part}" for site in sites for part in parts}


def shown(value: object) -> str:
    """Return a text that may come from a file as one line of bounded length."""
    line = " ".join(str(value)[:1000].split())
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return line if len(line) <= 400 else f"{line[:400]}..."


def check_version(header: dict[str, Any]) -> None:
    """Refuse a header of another format or version.

    Raises:
        DamagedFile: If it is one.
    """
    if header.get("format") != FORMAT:
        raise DamagedFile(
            f"has format {shown(repr(header.get('format')))}, expected '{FORMAT}'; 'bvit pack RUN' writes one"
        )
    version = header.get("version")
    if type(version) is not int or version < 1:
        raise DamagedFile(f"has version {shown(repr(version))}, expected {VERSION}; {AGAIN}")
    if version > VERSION:
        raise DamagedFile(
            f"has version {shown(version)}, this bvit_analysis reads {VERSION}; update bvit_analysis"
        )


def naturals(value: Any) -> bool:
    """Return whether a value is a list of whole numbers that are not negative."""
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item <= MAX_FILE_BYTES for item in value
    )


def check_header(header: dict[str, Any], tensors: dict[str, Tensor]) -> Recipe:
    """Check that header and tensors say one thing; only sizes and text are looked at, nothing is built."""
    if set(header) != _KEYS:
        odd = sorted(shown(repr(key)) for key in set(header) ^ _KEYS)
        raise DamagedFile(f"its header has too few or too many fields: {', '.join(odd)}")
    _check_model(header["model"])
    try:
        recipe = from_dict(Recipe, header["recipe"])
    except (ConfigError, TypeError) as error:
        raise DamagedFile(f"its recipe is not valid: {error}") from error
    if not isinstance(header["float_dtype"], str) or header["float_dtype"] not in FLOAT_DTYPES:
        raise DamagedFile(unknown_name("float_dtype", header["float_dtype"], FLOAT_DTYPES))
    _check_data(header["data"], header["model"])
    source = header["source"]
    if not isinstance(source, dict) or not all(
        value is None or type(value) is str or _is_number(value) for value in source.values()
    ):
        raise DamagedFile("its source is not a flat object of text and numbers")
    _check_sites(header, recipe, tensors)
    return recipe


def _check_model(model: Any) -> None:
    if not isinstance(model, dict) or set(model) != {"name", *MODEL_LIMITS}:
        raise DamagedFile(f"its model must have just the fields name, {', '.join(MODEL_LIMITS)}")
    if not isinstance(model["name"], str) or not _TIMM_NAME.fullmatch(model["name"]):
        raise DamagedFile(f"its model name {shown(repr(model['name']))} is not a timm name")
    for field, limit in MODEL_LIMITS.items():
        if type(model[field]) is not int or not 1 <= model[field] <= limit:
            raise DamagedFile(
                f"its model has {field} = {shown(repr(model[field]))}, expected 1 to {limit}"
            )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30  # neither NaN nor infinite


def _check_data(data: Any, model: dict[str, Any]) -> None:
    expected = {"mean": model["in_chans"], "std": model["in_chans"], "class_names": model["num_classes"]}  # fmt: skip
    if not isinstance(data, dict) or not set(data) <= set(expected):
        raise DamagedFile(f"its data may have the fields {', '.join(expected)} only")
    for field, values in data.items():
        texts = field == "class_names"
        if not isinstance(values, list) or not all(
            type(value) is str if texts else _is_number(value) for value in values
        ):
            raise DamagedFile(f"its data.{field} is not a list of {'text' if texts else 'numbers'}")
        if len(values) != expected[field]:
            raise DamagedFile(
                f"its data.{field} has {len(values)} entries, expected {expected[field]}"
            )


def _check_sites(header: dict[str, Any], recipe: Recipe, tensors: dict[str, Tensor]) -> None:
    sites, width = header["sites"], FLOAT_DTYPES[header["float_dtype"]]
    if not isinstance(sites, dict) or len(sites) != 4 * header["model"]["depth"]:
        raise DamagedFile("its sites are not four binary linears for each block of its model")
    expected: dict[str, tuple[torch.dtype, list[int]]] = {}
    for name, site in sites.items():
        if not isinstance(site, dict) or set(site) != {"out", "in"} or not naturals(list(site.values())):  # fmt: skip
            raise DamagedFile(f"site {shown(repr(name))} has no sizes 'out' and 'in'")
        expected[f"{name}.bits"] = (torch.uint8, [site["out"], -(-site["in"] // 8)])
        if recipe.weight_scale == "channel":
            expected[f"{name}.weight_scale"] = (width, [site["out"]])
    missing = sorted(set(expected) - set(tensors))
    if missing:
        raise DamagedFile(f"tensor {shown(repr(missing[0]))} is missing")
    for name, tensor in tensors.items():
        if not _MODULE_PATH.fullmatch(name):
            raise DamagedFile(f"tensor {shown(repr(name))} does not have the name of a parameter")
        dtype, shape = expected.get(name, (width, list(tensor.shape)))
        if tensor.dtype != dtype or list(tensor.shape) != shape:
            raise DamagedFile(
                f"tensor {shown(repr(name))} is {tensor.dtype} {list(tensor.shape)}, expected {dtype} {shape}"
            )
    for name, site in sites.items():
        rest = site["in"] % 8
        # A popcount would count them.
        if rest and bool((tensors[f"{name}.bits"][:, -1] >> rest).any()):
            raise DamagedFile(f"tensor '{name}.bits' has bits after its {site['in']} columns")
