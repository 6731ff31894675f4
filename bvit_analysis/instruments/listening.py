"""Hearing tensors inside forward passes, in eager mode and inside compiled graphs."""

from __future__ import annotations

import itertools
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.utils.hooks import RemovableHandle


@final
class Switch:
    """Whether a listener listens. A compiled graph is made for each of its two positions, and no other."""

    def __init__(self) -> None:
        self.on = False
        self.token = torch.zeros(1)
        "What the operation in a compiled graph writes to: without an effect it would be left out of the graph."


class Listener(ABC):
    """Hears tensors inside forward passes through taps, which stay in the model and are open for a sampled step only."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._switch = Switch()

    @final
    def attach(self) -> None:
        """Put the taps into the model, closed."""
        if not self._handles:
            self._attach()

    @final
    def listen(self) -> None:
        """Forget what was heard, and hear the forward passes from now on."""
        self.attach()
        self.forget()
        self._switch.on = True

    @final
    def deafen(self) -> None:
        """Hear nothing any more; the taps stay in the model, closed."""
        self._switch.on = False

    @final
    def remove(self) -> None:
        """Take every tap out of the model."""
        self.deafen()
        while self._handles:
            self._handles.pop().remove()

    @final
    def tap(self, module: nn.Module, key: object, *, student: bool = True) -> None:
        """Hear what goes in and out of a module; of a student only while it trains (train mode, gradients on)."""
        tap = Tap(self, module, key, student, self._switch)
        self._handles.append(module.register_forward_hook(tap, with_kwargs=True))

    @final
    def tap_start(self, module: nn.Module, key: object, *, student: bool = True) -> None:
        """Hear what goes into a module, before it runs; of a student only while it trains."""
        tap = Tap(self, module, key, student, self._switch, starts=True)
        self._handles.append(module.register_forward_pre_hook(tap.start, with_kwargs=True))

    @abstractmethod
    def _attach(self) -> None:
        """Call tap() for every module to hear."""

    @abstractmethod
    def hear(self, key: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Take up what a tapped module was given and returned; called without gradients.

        Inputs are the positional ones, then those by keyword. Inside a compiled graph only tensors are heard: others of the inputs are left out, and the output is its first
        tensor.
        """

    def start(self, key: Any, inputs: tuple[Any, ...]) -> None:  # noqa: B027 - only those who tap starts
        """Take up what a module is about to be given."""

    def forget(self) -> None:  # noqa: B027 - some remember nothing
        """Drop what was heard."""


@final
class Tap:
    """A forward hook that knows its module, holds its listener weakly, and goes dead when it is copied or pickled.

    A module that is run again during the backward pass, as activation checkpointing does, is heard once: in the
    forward pass if gradients were on there, else when it is run again.
    """

    def __init__(
        self,
        listener: Listener | None = None,
        module: nn.Module | None = None,
        key: object = None,
        student: bool = True,
        switch: Switch | None = None,
        *,
        starts: bool = False,
    ) -> None:
        self._listener = None if listener is None else weakref.ref(listener)
        self._module = None if module is None else weakref.ref(module)
        self._key = key
        self._student = student
        self._switch = switch
        self._starts = starts
        self._heard_forward = False
        self.number = next(_NUMBERS) if switch is not None else -1
        if switch is not None:
            _TAPS[self.number] = self

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        switch = self._switch
        if switch is None or not switch.on:
            return
        if self._student and not (module.training and torch.is_grad_enabled()):
            return
        inputs = (*args, *kwargs.values())
        if torch.compiler.is_compiling():
            _send(switch.token, self.number, inputs, output)
        else:
            # A hook of a module around compiled ones runs outside the graph, where its own code must stay uncompiled.
            compiler = sys.modules.get("torch._dynamo")
            deliver = self.deliver if compiler is None else compiler.disable(self.deliver)
            deliver(module, inputs, output)

    def start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Be the forward pre-hook of a tap of starts."""
        self(module, args, kwargs, None)

    def deliver(
        self,
        module: nn.Module | None,
        inputs: tuple[Any, ...],
        output: Any,
        *,
        compiled: bool = False,
    ) -> None:
        """Hand to the listener what was heard; None stands for the module itself, in a compiled graph."""
        listener = None if self._listener is None else self._listener()
        mine = None if self._module is None else self._module()
        # A copied model brings its hooks along: what is heard must come from the watched module itself.
        if listener is None or mine is None or (module is not None and mine is not module):
            return
        if not compiled:
            if torch._C._current_graph_task_id() != -1:
                if self._heard_forward:
                    return
            else:
                self._heard_forward = True
        with torch.no_grad():
            if self._starts:
                listener.start(self._key, inputs)
            else:
                listener.hear(self._key, inputs, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tap:
        return Tap()

    def __reduce__(self) -> tuple[type[Tap], tuple[()]]:
        return Tap, ()


_NUMBERS = itertools.count()
_TAPS: weakref.WeakValueDictionary[int, Tap] = weakref.WeakValueDictionary()


def _send(token: Tensor, number: int, inputs: Iterable[Any], output: Any) -> None:
    given = [one.detach() for one in inputs if isinstance(one, Tensor)]
    if isinstance(output, (tuple, list)):
        output = next((one for one in output if isinstance(one, Tensor)), None)
    made = [output.detach()] if isinstance(output, Tensor) else []
    torch.ops.bvit_analysis.hear(token, number, given, made)


# An operation that no compiler looks into: so a tap is a node of the one graph, and not a break of it. What runs inside
# is ours and must not be compiled either; torch.compiler.disable would import the compiler for all who never compile.
@torch.library.custom_op(
    "bvit_analysis::hear",
    mutates_args=("token",),
    schema="(Tensor(a!) token, int number, Tensor[] inputs, Tensor[] outputs) -> ()",
)
@_disable_dynamo
def _hear(token: Tensor, number: int, inputs: list[Tensor], outputs: list[Tensor]) -> None:
    tap = _TAPS.get(number)
    if tap is not None:
        output = outputs[0] if outputs else None
        tap.deliver(None, tuple(inputs), output, compiled=True)


@_hear.register_fake
def _(token: Tensor, number: int, inputs: list[Tensor], outputs: list[Tensor]) -> None:
    return None
