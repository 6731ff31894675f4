"""A pool of programs: each serves one call at a time, and the last few wait for the next call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

P = TypeVar("P")


class ProgramPool(Generic[P]):
    """Lend programs by key; what is not at hand is made, and the last few wait.

    A copy of this is empty: programs hold addresses of the original's tensors.

    Args:
        spare: How many wait for the next call.
    """

    def __init__(self, spare: int) -> None:
        self._spare = spare
        self._lock = threading.Lock()
        self._free: list[tuple[Hashable, P]] = []

    @contextmanager
    def lent(self, key: Hashable, make: Callable[[], P]) -> Iterator[P]:
        """Lend a program that nobody else has meanwhile."""
        with self._lock:
            index = next((i for i, (known, _) in enumerate(self._free) if known == key), None)
            found = None if index is None else self._free.pop(index)[1]
        program = make() if found is None else found
        yield program
        with self._lock:
            self._free.insert(0, (key, program))
            del self._free[self._spare :]

    def __deepcopy__(self, memo: Any) -> ProgramPool[P]:
        return ProgramPool(self._spare)

    def __reduce__(self) -> tuple[Any, ...]:
        return ProgramPool, (self._spare,)


class HoldsPrograms(nn.Module):
    """Base of modules that have programs with addresses of their tensors, and forget them when those may change."""

    def forget(self) -> None:
        """Drop every program, and whatever else was made from the tensors."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.forget()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.forget()
        super()._load_from_state_dict(*args, **kwargs)
