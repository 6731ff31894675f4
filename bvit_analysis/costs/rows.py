"""A row of a ledger: what one site of a model holds and does for one image."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = (
    "patch_embed",
    "positions",
    "tokens",
    "norm",
    "shift",
    "sign",
    "qkv",
    "scores",
    "softmax",
    "context",
    "proj",
    "fc1",
    "fc2",
    "scale",
    "bias",
    "shortcut",
    "activation",
    "layer_scale",
    "residual",
    "pool",
    "head",
)
"Every kind of row, in the order of one forward pass."

PRODUCTS = ("patch_embed", "qkv", "scores", "context", "proj", "fc1", "fc2", "head")
"The kinds that are matrix products of the float model."


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one site holds and does for one image."""

    site: str
    "Module path, or block path and name of a product that has no module."
    kind: str
    "One of KINDS."
    parameters: int = 0
    "Parameters of the model held here; each is counted in exactly one row."
    binary_parameters: int = 0
    "Those of which one bit is kept after training."
    bias_parameters: int = 0
    "Those that are a bias beside a weight in the same row: of the patch embedding and the head."
    derived_scales: int = 0
    "Float numbers that a stored binary model needs and that training recomputes: mean|w| per output channel."
    float_macs: int = 0
    "Multiply-accumulates with a float operand."
    binary_macs: int = 0
    "Multiply-accumulates of two 1-bit operands."
    elementwise_ops: int = 0
    "Operations that are no product of matrices."
