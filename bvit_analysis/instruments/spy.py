"""What weight a module really multiplies with, seen in its own forward pass, and how it came to be.

Every operation of a live forward pass is seen below autograd, so it does not matter by which function of torch the
module multiplies, or whether a function of its own does it. A tensor depends on the module's input or it does not: the
weight that is used is the operand of a product that does not, while the other one does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from bvit_analysis.instruments.program import (
    Operation,
    Value,
    WeightProgram,
    arguments_of,
    name_of,
)

_PRODUCTS = frozenset(
    (
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "addbmm",
        "mv",
        "addmv",
        "dot",
        "vdot",
        "matmul",
        "linear",
        "_int_mm",
        "_scaled_mm",
        "_grouped_mm",
        "_trilinear",
        "embedding",
        "_embedding_bag",
        "_embedding_bag_forward_only",
        "convolution",
        "_convolution",
        "convolution_overrideable",
        "conv_depthwise3d",
        "mkldnn_convolution",
        "miopen_convolution",
        "cudnn_convolution",
        "_conv_depthwise2d",
        "mkldnn_linear",
        "_slow_conv2d_forward",
        "_nnpack_spatial_convolution",
        "slow_conv3d_forward",
        "thnn_conv2d",
        "slow_conv_transpose2d",
    )
)
"Names of operations that multiply and sum."
_ELEMENTWISE = frozenset(["mul", "mul_", "bitwise_xor", "logical_xor", "eq", "ne"])
"What a product may be written with; believed where nothing of the above is seen."
_LAYOUT = frozenset(
    (
        "t",
        "transpose",
        "permute",
        "view",
        "_unsafe_view",
        "reshape",
        "_reshape_alias",
        "_reshape_copy",
        "clone",
        "contiguous",
        "expand",
        "squeeze",
        "unsqueeze",
        "alias",
        "detach",
        "lift_fresh",
        "_to_copy",
        "as_strided",
        "select",
        "slice",
        "movedim",
        "flatten",
        "unflatten",
    )
)
"What moves values and does not change them, apart from rounding to another type."
_READS = frozenset(["_local_scalar_dense", "item"])


@final
@dataclass(frozen=True)
class SeenWeight:
    """What a spy found out."""

    weight: Tensor
    "The weight that the product used, in the site's shape, before a cast to a narrower type; detached."
    by: str
    "Name of the operation that multiplied."
    program: WeightProgram | None = None
    "How it came to be; None where that cannot be run again: random, or the module writes into its parameters."


@final
class WeightSpy(TorchDispatchMode):
    """Sees one forward pass of a module, without changing anything in it.

    Args:
        module: Whose parameters and buffers are where a weight comes from.
        inputs: What the module was called with, nested as it may be; what comes from them is no weight.
        shape: Of the weight.
        latent: The parameter that it comes from; of several products the one that depends on it is meant. None takes
            any.
    """

    def __init__(
        self, module: nn.Module, inputs: Any, shape: tuple[int, ...], latent: Tensor | None
    ) -> None:
        super().__init__()
        self._shape, self._size = shape, math.prod(shape)
        self._alive: list[Tensor] = []  # so that no storage is used twice
        self._from_input: set[int] = set()
        self._from_latent: set[int] = set()
        self._learned: set[int] = set()
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._holders: dict[int, int] = {}  # storage -> number of its first value
        self._tensors: list[Tensor] = []
        self._producers: dict[int, Operation] = {}
        self._leaves: dict[int, Tensor] = {}
        self._ops: list[Operation] = []
        self._replayable = True
        self._found: list[tuple[bool, bool, str, Tensor]] = []
        for tensor in _tensors_of(inputs):
            self._from_input.add(_storage(tensor))
            self._alive.append(tensor)
        for tensor in (*module.parameters(), *module.buffers()):
            self._leaf(tensor)
            if tensor.requires_grad:
                self._learned.add(_storage(tensor))
        if latent is not None:
            self._leaf(latent)
            self._from_latent.add(_storage(latent))
            self._learned.add(_storage(latent))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Guarding against the compiler imports it, which takes seconds; the spy is never there while it works.
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = name_of(func)
        given = _tensors_of((args, kwargs))
        if name in _PRODUCTS or name in _ELEMENTWISE:
            self._look(name, given)
        # What an operation in place overwrites has to be known as it was.
        mixed = any(_storage(one) in self._from_input for one in given)
        recorded = None if mixed else self._record(func, name, args, kwargs)
        made = func(*args, **kwargs)
        self._note(made, given, mixed, recorded)
        return made

    def seen(self) -> SeenWeight | None:
        """Return the weight of the pass, None where no product with it was seen."""
        # What depends on the latent weight before what does not, sums of products before element-wise ones.
        for _, _, name, operand in sorted(self._found, key=lambda one: (not one[0], not one[1])):
            origin = self._aligned(operand)
            if origin is not None:
                value, tensor = origin
                return SeenWeight(tensor.detach().clone(), name, self._program(value))
            weight = _permuted(operand, self._shape)
            if weight is not None:
                return SeenWeight(weight.detach().clone(), name)
        return None

    def _look(self, name: str, given: list[Tensor]) -> None:
        if not any(_storage(one) in self._from_input for one in given):
            return
        for tensor in given:
            if _storage(tensor) in self._from_input:
                continue
            operand = _collapsed(tensor)
            if operand.numel() == self._size and tensor.numel():
                mine = _storage(tensor) in self._from_latent
                self._found.append((mine, name in _PRODUCTS, name, operand))

    def _record(self, func: Any, name: str, args: Any, kwargs: Any) -> Operation | None:
        given = _tensors_of((args, kwargs))
        read = name in _READS and any(_storage(one) in self._learned for one in given)
        if read or torch.Tag.nondeterministic_seeded in func.tags:
            self._replayable = False  # what was drawn, or read as a number, would stay as it was
        for argument, value in arguments_of(func, args, kwargs):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in _tensors_of(value):
                    holder = self._holders.get(_storage(tensor))
                    if holder is None or holder in self._leaves:
                        self._replayable = False  # it writes into what is not its own
        named = tree_map_only(Tensor, self._value, (args, kwargs))
        return Operation(func, named[0], named[1], [])

    def _note(self, made: Any, given: list[Tensor], mixed: bool, op: Operation | None) -> None:
        mine = any(_storage(one) in self._from_latent for one in given)
        learned = any(_storage(one) in self._learned for one in given)
        for tensor in _tensors_of(made):
            self._alive.append(tensor)
            place = _storage(tensor)
            if mixed:
                self._from_input.add(place)
                continue
            if mine:
                self._from_latent.add(place)
            if learned:
                self._learned.add(place)
            assert op is not None
            number = len(self._tensors)
            self._tensors.append(tensor)
            self._numbers[_key(tensor)] = number
            self._holders.setdefault(place, number)
            self._producers[number] = op
            op.outputs.append(number)
        if op is not None:
            self._ops.append(op)

    def _leaf(self, tensor: Tensor) -> int:
        number = len(self._tensors)
        self._tensors.append(tensor)
        self._numbers.setdefault(_key(tensor), number)
        self._holders.setdefault(_storage(tensor), number)
        self._leaves[number] = tensor
        return number

    def _value(self, tensor: Tensor) -> Value:
        """Name a tensor; one that nobody made here is a constant, kept as it is."""
        number = self._numbers.get(_key(tensor))
        if number is not None:
            return Value(number)
        holder = self._holders.get(_storage(tensor))
        if holder is None:
            self._alive.append(tensor)
            return Value(self._leaf(tensor))
        view = (tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset()))
        return Value(holder, view)

    def _aligned(self, operand: Tensor) -> tuple[Value, Tensor] | None:
        """Return the value in the site's shape that an operand is a rearrangement of."""
        number = self._numbers.get(_key(operand), self._holders.get(_storage(operand)))
        found = None
        while number is not None:
            tensor = self._tensors[number]
            if tuple(tensor.shape) == self._shape:
                found = (
                    number  # the first of all that have the shape: a transposed square has it, too
                )
            op = self._producers.get(number)
            if op is None or name_of(op.func) not in _LAYOUT:
                break
            before = [
                one for one in tree_flatten((op.args, op.kwargs))[0] if isinstance(one, Value)
            ]
            number = before[0].number if before else None
        return None if found is None else (Value(found), self._tensors[found])

    def _program(self, value: Value) -> WeightProgram | None:
        if not self._replayable:
            return None
        needed, ops = {value.number}, []
        for op in reversed(self._ops):
            writes = {
                one.number
                for argument, given in arguments_of(op.func, op.args, op.kwargs)
                if argument.alias_info is not None and argument.alias_info.is_write
                for one in tree_flatten(given)[0]
                if isinstance(one, Value)
            }
            if needed & ({n for n in op.outputs if n is not None} | writes):
                ops.append(op)
                needed |= {
                    one.number
                    for one in tree_flatten((op.args, op.kwargs))[0]
                    if isinstance(one, Value)
                }
        order = tuple(reversed(ops))
        leaves = {number: tensor for number, tensor in self._leaves.items() if number in needed}
        return WeightProgram(order, leaves, value, self._shape, self._same_size(order))

    def _same_size(self, ops: Iterable[Operation]) -> tuple[int, ...]:
        return tuple(
            number
            for op in ops
            for number in op.outputs
            if number is not None
            and self._tensors[number].numel() == self._size
            and name_of(op.func) not in _LAYOUT
        )


def _tensors_of(nested: Any) -> list[Tensor]:
    return [one for one in tree_flatten(nested)[0] if isinstance(one, Tensor)]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _key(tensor: Tensor) -> tuple[Any, ...]:
    return (
        _storage(tensor),
        tensor.storage_offset(),
        tuple(tensor.shape),
        tuple(tensor.stride()),
        tensor.dtype,
    )


def _collapsed(tensor: Tensor) -> Tensor:
    """Take one of the copies that an expanded tensor seems to have."""
    for dim in reversed(range(tensor.ndim)):
        if tensor.stride(dim) == 0 and tensor.shape[dim] > 1:
            tensor = tensor.select(dim, 0)
    return tensor


def _permuted(tensor: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """Rearrange a tensor to a shape if there is one way to do so."""
    if tuple(tensor.shape) == shape:
        return tensor
    sizes = [n for n in tensor.shape if n > 1]
    wanted = [n for n in shape if n > 1]
    if sizes == wanted:
        return tensor.reshape(shape)
    if len(set(sizes)) == len(sizes) and sorted(sizes) == sorted(wanted):
        squeezed = tensor.reshape(sizes)
        return squeezed.permute([sizes.index(n) for n in wanted]).reshape(shape)
    return None
