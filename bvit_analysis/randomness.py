"""Every random number is a function of (seed, purpose, counters), never of how far a stream has been read."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_from(seed: int, purpose: str, *counters: int) -> int:
    """Derive a seed for one purpose, and one step, epoch or sample of it.

    seed' = blake2b(JSON [seed, purpose, *counters]) >> 1, of the first 64 bits.

    Args:
        seed: The seed of the run.
        purpose: What the numbers are for: "init", "perm", "aug", "step", ...
        counters: Where in the run: epoch, sample index, step, rank.

    Returns:
        63 bits, the same on every machine and for every release of Python, numpy and torch.

    Example:
        >>> seed_from(0, "aug", 1, 2) == seed_from(0, "aug", 1, 2)
        True
        >>> seed_from(0, "aug", 12) == seed_from(0, "aug", 1, 2)
        False
    """
    text = json.dumps([int(seed), purpose, *(int(counter) for counter in counters)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """Return a fresh CPU generator seeded by seed_from(seed, purpose, *counters)."""
    return torch.Generator().manual_seed(seed_from(seed, purpose, *counters))


@contextmanager
def seeded(seed: int, purpose: str, *counters: int) -> Iterator[None]:
    """Seed the global generators for the body of a with statement, then put them back as they were.

    Code that takes no generator (dropout, drop-path, timm's augmentation) draws from the global ones
    of python, numpy and torch; those of CUDA are included once CUDA is in use.

    Args:
        seed: The seed of the run.
        purpose: What the numbers are for.
        counters: Where in the run: epoch, sample index, step, rank.

    Example:
        >>> with seeded(0, "step", 7):
        ...     first = torch.rand(())
        >>> with seeded(0, "step", 7):
        ...     bool(first == torch.rand(()))
        True
    """
    derived = seed_from(seed, purpose, *counters)
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the global one is what libraries draw from
    torch_state = torch.default_generator.get_state()
    # asking an unused CUDA for its state would start it, and fail in a forked loader process
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    random.seed(derived)
    np.random.seed([derived & 0xFFFFFFFF, derived >> 32])  # noqa: NPY002 - takes 32-bit words
    torch.default_generator.manual_seed(derived)
    if cuda_states is not None:
        torch.cuda.manual_seed_all(derived)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002 - as above
        torch.default_generator.set_state(torch_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
