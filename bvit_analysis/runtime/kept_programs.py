"""Programs that are kept for the next call; each serves one call at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

P = TypeVar("P")


class KeptPrograms(Generic[P]):
    """Lend programs by key; what is not at hand is made, and the last few are kept.

    A copy of this is empty: programs hold addresses of the original's tensors.

    Args:
        spare: How many are kept.
    """

    def __init__(self, spare: int) -> None:
        self._spare = spare
        self._lock = threading.Lock()
        self._free: list[tuple[Hashable, P]] = []

    @contextmanager
    def lent(self, key: Hashable, make: Callable[[], P]) -> Iterator[P]:
        """Lend a program that nobody else has meanwhile."""
        with self._lock:
            place = next((i for i, (known, _) in enumerate(self._free) if known == key), None)
            found = None if place is None else self._free.pop(place)[1]
        program = make() if found is None else found
        yield program
        with self._lock:
            self._free.insert(0, (key, program))
            del self._free[self._spare :]

    def __deepcopy__(self, memo: Any) -> KeptPrograms[P]:
        return KeptPrograms(self._spare)

    def __reduce__(self) -> tuple[Any, ...]:
        return KeptPrograms, (self._spare,)


class HoldsPrograms(nn.Module):
    """Base of modules that keep programs with addresses of their tensors, and forget them when those may change."""

    def forget(self) -> None:
        """Drop every program, and whatever else was made from the tensors."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.forget()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.forget()
        super()._load_from_state_dict(*args, **kwargs)
