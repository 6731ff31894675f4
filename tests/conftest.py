"""What every test shares: one torch thread, and global generators that start from a known state."""

from __future__ import annotations

import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

# the same examples every time, and no deadline: a busy machine is not a fault
settings.register_profile("bvit", deadline=None, derandomize=True)
settings.load_profile("bvit")


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Let children be interrupted: whoever starts the tests in the background may have switched SIGINT off for all."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Keep torch to one thread: results depend on the number, and the workers of pytest share the cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed the global generators before each test; a test may ask for the number."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global one is meant
    torch.manual_seed(0)
    return 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        done = False
    if not done:
        pytest.skip("cannot mount a tmpfs here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
