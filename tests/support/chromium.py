"""The browser of the tests: where it is, and how it is started so that it reaches nothing but this machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # No name is found, so that what slips past the page's router has nowhere to go.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]


def chromium() -> str:
    """Return the browser's program; skip the test, or fail it where BVIT_REQUIRE_BROWSER=1, if there is none."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        missing = "playwright"
    else:
        program = shutil.which("chromium") or "/usr/bin/chromium"
        if Path(program).exists():
            return program
        missing = "Debian's chromium (apt-get install chromium)"
    if os.environ.get("BVIT_REQUIRE_BROWSER") == "1":
        pytest.fail(f"needs {missing}")
    pytest.skip(f"needs {missing}")
