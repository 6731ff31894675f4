"""Machine code by name, loaded or compiled when it is first needed: importing numba takes about half a second."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

_compiling = threading.Lock()


@functools.cache
def machine_code(name: str) -> Callable[..., Any]:
    """Return 'work' or 'post' of compiled_programs.py, called as it is: it converts no argument to its types."""
    found = dispatcher(name)
    return found.get_overload(found.nopython_signatures[0])


@functools.cache
def dispatcher(name: str) -> Any:
    """Return what numba made of 'work' or 'post', which knows whether it was compiled or loaded."""
    from bvit_analysis.runtime.kernels import compiled_programs

    known = {"work": compiled_programs.make_work, "post": compiled_programs.make_post}
    with _compiling:
        return known[name]()


@functools.cache
def tile_columns() -> int:
    """Return the outputs of a tile; vectors over outputs are padded to whole tiles."""
    from bvit_analysis.runtime.kernels import tiles

    return tiles.COLUMNS


@functools.cache
def norm_lanes() -> int:
    """Return what the channels of a compiled layer norm must be a multiple of."""
    from bvit_analysis.runtime.kernels import jit

    return jit.NORM_LANES
