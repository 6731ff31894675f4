"""How a module makes the weight it uses: the operations of one pass, which can be run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only


@final
@dataclass
class Operation:
    """One operation of the way to the weight; its tensors are numbers of values."""

    func: Callable[..., Any]
    args: Any
    kwargs: Any
    outputs: list[int | None]


@dataclass(frozen=True)
class Value:
    """Stands for a tensor in a recorded operation: the value with this number, or a view of it."""

    number: int
    view: tuple[tuple[int, ...], tuple[int, ...], int] | None = None


@final
@dataclass(frozen=True)
class WeightProgram:
    """How a module makes the weight it uses from its parameters and buffers: operations that can be run again.

    It reads the parameters as they are then, draws nothing and changes nothing.
    """

    ops: tuple[Operation, ...]
    leaves: Mapping[int, Tensor]
    "Parameters, buffers and constants by number."
    result: Value
    shape: tuple[int, ...]
    same_size: tuple[int, ...] = ()
    "Numbers of the values on the way that have as many elements as the weight, in order."

    @torch.no_grad()
    def run(self) -> Tensor:
        """Return the weight that a forward pass would use now, in the site's shape, any float type."""
        return self.run_all()[self.result]

    @torch.no_grad()
    def run_all(self, *numbers: int) -> dict[Value, Tensor]:
        """Return the weight by `result`, and values on the way to it by their numbers, in the weight's shape."""
        values: dict[int, Tensor] = dict(self.leaves)
        kept: dict[Value, Tensor] = {}
        for op in self.ops:
            args, kwargs = tree_map_only(
                Value, lambda v: _looked_up(values, v), (op.args, op.kwargs)
            )
            made = op.func(*args, **kwargs)
            tensors = [one for one in tree_flatten(made)[0] if isinstance(one, Tensor)]
            for number, tensor in zip(op.outputs, tensors, strict=False):
                if number is not None:
                    values[number] = tensor
                    if number in numbers:  # a later operation may write into it
                        kept[Value(number)] = tensor.clone()
        kept[self.result] = _looked_up(values, self.result)
        return {value: tensor.reshape(self.shape) for value, tensor in kept.items()}


def name_of(func: Any) -> str:
    """Return the name of an operation, without its overload: 'addmm'."""
    return str(func._schema.name).rpartition("::")[2]


def arguments_of(func: Any, args: Any, kwargs: Any) -> list[tuple[Any, Any]]:
    """Return (what the schema says of an argument, its value) of all arguments that are given."""
    found = list(zip(func._schema.arguments, args, strict=False))
    return found + [(one, kwargs[one.name]) for one in func._schema.arguments if one.name in kwargs]


def _looked_up(values: Mapping[int, Tensor], value: Value) -> Tensor:
    tensor = values[value.number]
    return tensor if value.view is None else tensor.as_strided(*value.view)
