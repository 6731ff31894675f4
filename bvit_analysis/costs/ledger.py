"""Count each site of a ViT: parameters, multiply-accumulates (MACs) and element-wise operations of one image.

One MAC is one multiplication with its addition, float or binary; half of a FLOP count that lists both. MACs of a
linear on N tokens are N I O; of q k^T and of attention times v, h N N d = N^2 D each. For DeiT-S (D = 384, 12
blocks, N = 14 * 14 + 1 = 197, 1000 classes):

    qkv           197 * 384 * 1152 * 12       = 1,045,757,952
    proj          197 * 384 *  384 * 12       =   348,585,984
    fc1, fc2      197 * 384 * 1536 * 12 * 2   = 2,788,687,872    linears together 4.1830 G
    scores        197 * 197 * 384 * 12        =   178,831,872    0.1788 G
    context       197 * 197 * 384 * 12        =   178,831,872    0.1788 G
    patch_embed   196 * (3 * 16 * 16) * 384   =    57,802,752    0.0578 G
    head          384 * 1000                  =       384,000    0.0004 G    all together 4.599 G

Element-wise work is counted per element by the constants below; a transcendental function counts as one operation.
A shift and an attention rule say themselves what they do.
Letters: N tokens, D width, I inputs, O outputs, C channels, H hidden units, h heads, d channels a head.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from bvit_analysis.costs.rows import Row
from bvit_analysis.errors import ConfigError, UnsupportedModelError
from bvit_analysis.layers.activation import RPReLU
from bvit_analysis.layers.attention import BinaryAttention, BinaryProbabilities
from bvit_analysis.layers.linear import BinaryLinear
from bvit_analysis.layers.shift import BinarySign, Shift, ShiftCost

NORM_OPS = 8
"LayerNorm: sum, centre, square, sum, times 1/std, gain, bias, and one for the row's own division and root."
SOFTMAX_OPS = 4
"Take away the maximum, exponential, sum, divide; finding the maximum is not counted."
GELU_OPS = 5
"Divide by root 2, error function, plus 1, times x, halve."
RELU_OPS = 1
"Compare."
RPRELU_OPS = 3
"Minus gamma, times slope or 1, plus zeta."
MEAN_OPS = 1
"Add each element to its channel's sum."
COMPARISON_OPS = 1
"A sign, or a level of {0, a}: compare each element with a threshold."
SCALE_OPS = 1
"Multiply by a scale; scales that meet in one place are one multiplication."
ADD_OPS = 1
"A bias, position, shortcut or residual: add to each element."


class Ledger:
    """Collect the rows of a model, or of the float twin it was made from.

    Args:
        model: A timm VisionTransformer, float or binarized.
        img_size: Side of the image in pixels, or None for the size the model was built for.
        twin: Whether to count the model as it was before binarization: linears and products float, GELU for
            RPReLU, and nothing that binarization added.
    """

    def __init__(self, model: Any, *, img_size: int | None, twin: bool) -> None:
        self.rows: list[Row] = []
        self._twin = twin
        self._claimed: set[int] = set()
        _check_has(
            model, "the model", ("patch_embed", "blocks", "norm", "head", "num_prefix_tokens")
        )
        if not isinstance(getattr(model.patch_embed, "proj", None), nn.Conv2d):
            raise UnsupportedModelError(
                f"cannot count patch_embed of type {type(model.patch_embed).__name__}; expected timm's PatchEmbed"
            )
        self._model = model
        self.grid = _grid(self._model.patch_embed, img_size)
        self.patches = self.grid[0] * self.grid[1]
        self.img_size = self.grid[0] * int(model.patch_embed.patch_size[0])
        self.tokens = self.patches + int(self._model.num_prefix_tokens)  # N
        self.dim = int(self._model.patch_embed.proj.out_channels)  # D
        self._embedding()
        for index, block in enumerate(self._model.blocks):
            self._block(block, f"blocks.{index}")
        self._classifier()
        if not twin:
            self._check_complete()

    def _add(
        self,
        site: str,
        kind: str,
        parameters: Iterable[nn.Parameter | None] = (),
        *,
        binary: bool = False,
        **counts: int,
    ) -> None:
        held = 0
        for parameter in parameters:
            if parameter is not None and id(parameter) not in self._claimed:
                self._claimed.add(id(parameter))  # a tied parameter is stored once
                held += parameter.numel()
        bits = held if binary else 0
        self.rows.append(
            Row(site=site, kind=kind, parameters=held, binary_parameters=bits, **counts)
        )

    def _embedding(self) -> None:
        model, stem = self._model, self._model.patch_embed.proj
        self._add(
            "patch_embed",
            "patch_embed",
            stem.parameters(),
            bias_parameters=_numel(stem.bias),
            float_macs=self.patches * stem.weight.numel(),
            elementwise_ops=ADD_OPS * self.patches * _numel(stem.bias),
        )
        self._norm(model.patch_embed.norm, "patch_embed.norm", self.patches * self.dim)
        for name in ("cls_token", "reg_token", "dist_token"):
            if getattr(model, name, None) is not None:
                self._add(name, "tokens", [getattr(model, name)])
        if getattr(model, "pos_embed", None) is not None:
            placed = self.patches if getattr(model, "no_embed_class", False) else self.tokens
            each = ADD_OPS * placed * self.dim
            self._add("pos_embed", "positions", [model.pos_embed], elementwise_ops=each)
        self._norm(getattr(model, "norm_pre", None), "norm_pre", self.tokens * self.dim)

    def _block(self, block: Any, path: str) -> None:
        _check_has(block, path, ("norm1", "attn", "norm2", "mlp"))
        width = self.tokens * self.dim
        self._norm(block.norm1, f"{path}.norm1", width)
        self._attention(block.attn, f"{path}.attn")
        self._branch_end(block, "ls1", f"{path}.ls1", f"{path}.attn.residual")
        self._norm(block.norm2, f"{path}.norm2", width)
        self._mlp(block.mlp, f"{path}.mlp")
        self._branch_end(block, "ls2", f"{path}.ls2", f"{path}.mlp.residual")

    def _branch_end(self, block: Any, name: str, scale_site: str, residual_site: str) -> None:
        width = self.tokens * self.dim
        scale = getattr(block, name, None)
        if scale is not None and not isinstance(scale, nn.Identity):
            each = SCALE_OPS * width
            self._add(scale_site, "layer_scale", scale.parameters(), elementwise_ops=each)
        self._add(residual_site, "residual", elementwise_ops=ADD_OPS * width)

    def _attention(self, attn: Any, path: str) -> None:
        _check_has(attn, path, ("qkv", "proj", "num_heads"))
        _check_linears(attn, path, ("qkv", "proj"))
        binary = isinstance(attn, BinaryAttention) and not self._twin
        width = attn.qkv.out_features // 3  # h d
        scores = attn.num_heads * self.tokens**2  # h N N
        macs = self.tokens**2 * width
        product = "binary_macs" if binary else "float_macs"

        self._linear(attn.qkv, f"{path}.qkv", "qkv")
        for name in ("q_norm", "k_norm"):
            self._norm(getattr(attn, name, None), f"{path}.{name}", self.tokens * width)
        if binary:
            for name in ("q_sign", "k_sign", "v_sign"):
                self._sign(getattr(attn, name), f"{path}.{name}", width)
        self._add(f"{path}.scores", "scores", **{product: macs})
        if binary:
            self._add(
                f"{path}.log_score_scale",
                "scale",
                [attn.log_score_scale],
                elementwise_ops=SCALE_OPS * scores,
            )
            self._probabilities(attn.probabilities, f"{path}.probabilities", scores)
        else:
            # 1 / sqrt(d) meets the queries, which are fewer than the scores
            self._add(f"{path}.scale", "scale", elementwise_ops=SCALE_OPS * self.tokens * width)
            self._add(f"{path}.softmax", "softmax", elementwise_ops=SOFTMAX_OPS * scores)
        self._add(f"{path}.context", "context", **{product: macs})
        if binary:
            self._add(
                f"{path}.log_value_scale",
                "scale",
                [attn.log_value_scale, attn.probabilities.log_scale],
                elementwise_ops=SCALE_OPS * self.tokens * width,
            )
        self._norm(getattr(attn, "norm", None), f"{path}.norm", self.tokens * width)
        self._linear(attn.proj, f"{path}.proj", "proj")

    def _probabilities(self, module: BinaryProbabilities, path: str, scores: int) -> None:
        rule = module.rule
        before = rule.operations + (SOFTMAX_OPS if rule.takes_softmax else 0)
        if before:
            self._add(path, "softmax", elementwise_ops=before * scores)
        self._add(f"{path}.level", "sign", elementwise_ops=COMPARISON_OPS * scores)

    def _mlp(self, mlp: Any, path: str) -> None:
        _check_has(mlp, path, ("fc1", "act", "fc2"))
        _check_linears(mlp, path, ("fc1", "fc2"))
        if mlp.fc1.out_features != mlp.fc2.in_features:
            raise UnsupportedModelError(
                f"cannot count {path}, a gated {type(mlp).__name__}; expected timm's Mlp"
            )
        hidden = self.tokens * mlp.fc1.out_features
        self._linear(mlp.fc1, f"{path}.fc1", "fc1")
        replaced = isinstance(mlp.act, nn.Identity) and isinstance(mlp.fc1, BinaryLinear)
        if not isinstance(mlp.act, nn.Identity) or (self._twin and replaced):
            each = RELU_OPS if isinstance(mlp.act, nn.ReLU) else GELU_OPS
            self._add(
                f"{path}.act", "activation", mlp.act.parameters(), elementwise_ops=each * hidden
            )
        self._norm(getattr(mlp, "norm", None), f"{path}.norm", hidden)
        self._linear(mlp.fc2, f"{path}.fc2", "fc2")

    def _linear(self, linear: Any, path: str, kind: str) -> None:
        if isinstance(linear, BinaryLinear) and not self._twin:
            self._binary_linear(linear, path, kind)
        else:
            self._float_linear(linear, path, kind)

    def _float_linear(self, linear: Any, path: str, kind: str) -> None:
        macs = self.tokens * linear.in_features * linear.out_features
        self._add(path, kind, [linear.weight], float_macs=macs)
        self._bias(linear, path)

    def _bias(self, linear: Any, path: str) -> None:
        if linear.bias is not None:
            out = self.tokens * linear.out_features
            self._add(f"{path}.bias", "bias", [linear.bias], elementwise_ops=ADD_OPS * out)

    def _binary_linear(self, linear: BinaryLinear, path: str, kind: str) -> None:
        inputs, out = self.tokens * linear.in_features, self.tokens * linear.out_features
        self._sign(linear.sign, f"{path}.sign", linear.in_features)
        macs = inputs * linear.out_features
        self._add(path, kind, [linear.weight], binary=True, binary_macs=macs)
        if linear.scaled or linear.log_input_scale is not None:
            self._add(
                f"{path}.scale",
                "scale",
                [linear.log_input_scale],
                derived_scales=linear.out_features if linear.scaled else 0,
                elementwise_ops=SCALE_OPS * out,
            )
        self._bias(linear, path)
        if linear.shortcut:
            # Where the input is wider, each output is the mean of I / O inputs: as many operations as inputs.
            mean = MEAN_OPS * inputs if inputs > out else 0
            self._add(f"{path}.shortcut", "shortcut", elementwise_ops=ADD_OPS * out + mean)
        if isinstance(linear.activation, RPReLU):
            self._add(
                f"{path}.activation",
                "activation",
                linear.activation.parameters(),
                elementwise_ops=RPRELU_OPS * out,
            )

    def _sign(self, sign: BinarySign, path: str, channels: int) -> None:
        values = self.tokens * channels
        if not isinstance(sign.shift, Shift):
            raise UnsupportedModelError(
                f"cannot count {path}.shift of type {type(sign.shift).__name__}; expected a shift, as in"
                " bvit_analysis.layers"
            )
        held, cost = list(sign.shift.parameters()), sign.shift.cost()
        if held or cost != ShiftCost():
            ops = cost.per_value * values + cost.per_image
            self._add(
                f"{path}.shift", "shift", held, float_macs=cost.float_macs, elementwise_ops=ops
            )
        self._add(path, "sign", elementwise_ops=COMPARISON_OPS * values)

    def _norm(self, norm: Any, path: str, values: int) -> None:
        if norm is not None and not isinstance(norm, nn.Identity):
            self._add(path, "norm", norm.parameters(), elementwise_ops=NORM_OPS * values)

    def _classifier(self) -> None:
        model = self._model
        self._norm(model.norm, "norm", self.tokens * self.dim)
        if getattr(model, "global_pool", "token") not in ("token", ""):
            self._add("pool", "pool", elementwise_ops=MEAN_OPS * self.patches * self.dim)
        self._norm(getattr(model, "fc_norm", None), "fc_norm", self.dim)
        for name in ("head", "head_dist"):
            head = getattr(model, name, None)
            if isinstance(head, nn.Linear):
                self._add(
                    name,
                    "head",
                    head.parameters(),
                    bias_parameters=_numel(head.bias),
                    float_macs=head.weight.numel(),
                    elementwise_ops=ADD_OPS * _numel(head.bias),
                )

    def _check_complete(self) -> None:
        missed = [
            name
            for name, parameter in self._model.named_parameters()
            if id(parameter) not in self._claimed
        ]
        if missed:
            raise UnsupportedModelError(
                f"{len(missed)} parameters belong to no known site ({', '.join(missed[:3])}, ...); expected a timm"
                " VisionTransformer with plain Attention and Mlp"
            )
        counted = sum(row.parameters for row in self.rows)
        held = sum(parameter.numel() for parameter in self._model.parameters())
        if counted != held:
            raise UnsupportedModelError(f"counted {counted} parameters of the model's {held}")


def _numel(bias: nn.Parameter | None) -> int:
    return 0 if bias is None else bias.numel()


def _check_has(module: object, path: str, names: tuple[str, ...]) -> None:
    for name in names:
        if not hasattr(module, name):
            raise UnsupportedModelError(
                f"cannot count {path}, a {type(module).__name__} without '{name}'; expected a timm"
                " VisionTransformer of timm's Block, Attention and Mlp"
            )


def _check_linears(module: Any, path: str, names: tuple[str, ...]) -> None:
    for name in names:
        linear = getattr(module, name)
        if not isinstance(linear, nn.Linear | BinaryLinear):
            raise UnsupportedModelError(
                f"cannot count {path}.{name} of type {type(linear).__name__}; expected Linear or BinaryLinear"
            )


def _grid(patch_embed: Any, img_size: int | None) -> tuple[int, int]:
    if img_size is None:
        if patch_embed.grid_size is None:
            raise ConfigError("the model was built without an image size; pass img_size in pixels")
        height, width = patch_embed.grid_size
        return int(height), int(width)
    for side in patch_embed.patch_size:
        if img_size < side or img_size % side:
            raise ConfigError(
                f"img_size must be a multiple of the patch size {tuple(patch_embed.patch_size)}, got {img_size}"
            )
    high, wide = patch_embed.patch_size
    return img_size // high, img_size // wide
