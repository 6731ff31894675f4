"""Where and with what a run was made: versions, hardware, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pandas", "pyarrow", "safetensors")


def describe_environment(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Return the keys of run.json that say where a run was made.

    Args:
        device: The torch device that is used.

    Returns:
        versions (package -> version), git_commit of the code ('+' marks uncommitted changes; None outside a
        checkout), and hardware (cpu, cores, threads, memory_gib, device).
    """
    return {"versions": _versions(), "git_commit": _commit(), "hardware": _hardware(device)}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("bvit_analysis", *_PACKAGES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():  # an installed package may lie inside somebody else's checkout
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+" if dirty else commit


def _git(root: Path, *arguments: str) -> str:
    # A read must not take the lock that a writing git waits for.
    return subprocess.run(
        ["git", "--no-optional-locks", "-C", str(root), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    ).stdout.strip()


def _hardware(device: str | torch.device) -> dict[str, Any]:
    device = torch.device(device)
    name = str(device)
    if device.type == "cuda" and torch.cuda.is_available():
        name = torch.cuda.get_device_name(device)
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "device": name,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gib() -> float | None:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    return round(pages * size / 2**30, 1)
