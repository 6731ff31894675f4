"""A real JupyterLab, started by `make lab`, in a real browser that can reach nothing but it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bvit_analysis.processes import cpu_seconds
from tests.support.chromium import FLAGS, chromium
from tests.support.waiting import Patience, crowd, wait_for

ROOT = Path(__file__).resolve().parents[2]
PAGE = (Path(__file__).parent / "lab.js").read_text()


def copy_suite(folder: Path, data: Path = ROOT / "data") -> Path:
    """Lay out the suite as in the repository, so that what is executed and saved is a copy.

    Args:
        folder: New; the repository's place.
        data: What stands for its data folder.
    """
    skipped = shutil.ignore_patterns(".ipynb_checkpoints", "runs")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=skipped)
    (folder / "data").symlink_to(data)
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (folder / ".venv" / ".ready").touch()
    return folder


def free_port() -> int:
    """Return a port that was free just now."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


@contextmanager
def server(tree: Path, own: Path) -> Iterator[str]:
    """Run `make lab` in a tree of `copy_suite` and give the server's address.

    Args:
        tree: The suite's place.
        own: Folder for its settings and its log; nothing of the user's is read or written.
    """
    settings = own / "settings"
    news = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    env = {
        **os.environ,
        "HOME": str(own),
        "MAKEFLAGS": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "JUPYTER_CONFIG_DIR": str(own / "config"),
        "JUPYTER_DATA_DIR": str(own / "data"),
        "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
    }
    log = own / "lab.log"
    for _ in range(3):  # the port may be taken between the question and the start
        port = free_port()
        flags = [
            "--no-browser",
            "--ip=127.0.0.1",
            f"--port={port}",
            "--ServerApp.port_retries=0",
            "--IdentityProvider.token=",
            "--ServerApp.password=",
            "--LabApp.extension_manager=readonly",
            "--LabApp.expose_app_in_browser=True",
        ]
        with log.open("ab") as sink:
            process = subprocess.Popen(
                ["make", "--no-print-directory", "lab", "LAB=" + " ".join(flags)],
                cwd=tree,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            if _answers(process, f"{url}/api/status"):
                yield url
                return
        finally:
            _stop(process)
    raise RuntimeError(f"`make lab` did not start:\n{log.read_text()[-4000:]}")


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    found: list[bool] = []

    def is_decided() -> bool:
        with contextlib.suppress(urllib.error.URLError, OSError), opener.open(url, timeout=5):
            found.append(True)
        return bool(found) or process.poll() is not None

    with contextlib.suppress(
        AssertionError
    ):  # it did nothing for long, and the caller shows its log
        wait_for(is_decided, processes=[process.pid], every=0.1)
    return bool(found)


def _stop(process: subprocess.Popen[bytes]) -> None:
    # Asked first: only the server knows its kernels, which are in sessions of their own.
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, AssertionError):
            os.killpg(process.pid, number)
            # make may end before the server does
            wait_for(
                lambda: process.poll() is not None and not _group_lives(process.pid),
                patience=20,
                every=0.1,
            )


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@dataclass
class Browser:
    """A browser in which only the lab can be reached."""

    context: Any
    url: str
    refused: list[str] = field(default_factory=list)
    "Addresses that were asked for beside it."

    def open(self, notebook: str) -> Notebook:
        """Open a notebook in a tab and a workspace of its own, and wait until its kernel is idle."""
        page = self.context.new_page()
        page.set_default_timeout(60_000 * crowd())
        stem = Path(notebook).stem
        page.goto(f"{self.url}/lab/workspaces/{stem}/tree/{notebook}")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        page.wait_for_function("window.bvitLab?.ready()", timeout=120_000 * crowd())
        return Notebook(page)


@contextmanager
def browser(url: str, width: int = 1400, height: int = 1000) -> Iterator[Browser]:
    """Start Chromium for the lab at this address."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        program = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            context = program.new_context(viewport={"width": width, "height": height})
            opened = Browser(context, url)

            def refuse(route: Any) -> None:
                if route.request.url.startswith((url, "data:", "blob:")):
                    route.continue_()
                else:
                    opened.refused.append(route.request.url)
                    route.abort()

            context.route("**/*", refuse)
            context.add_init_script(PAGE)
            yield opened
        finally:
            program.close()


@dataclass
class Control:
    """One control of an explorer in the page."""

    name: str
    kind: str
    "slider, dropdown, list or other"
    place: Any
    "Locator of the widget."


class Notebook:
    """A notebook in a tab."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def run_all(self) -> None:
        """Choose Run > Run All Cells, as a hand would."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    def done(self) -> bool:
        """Return whether the kernel is idle and every cell was executed, or one failed."""
        return bool(self.page.evaluate("bvitLab.done()"))

    def wait(self, seconds: float) -> bool:
        """Wait until it is done, as long as something moves; return whether it is.

        Args:
            seconds: So long nothing may move.
        """
        left = Patience(seconds)
        while not left.is_lost(self.progress()):
            if self.done():
                return True
            self.page.wait_for_timeout(100)
        return False

    def progress(self) -> object:
        """Return what moves while its cells are executed: their counts, and the work of the processes below this one."""
        return [cell["count"] for cell in self.cells()], round(cpu_seconds(os.getpid()))

    def cells(self) -> list[dict[str, Any]]:
        """Return the code cells: index, source, count, outputs without their data."""
        return list(self.page.evaluate("bvitLab.cells()"))

    def troubles(self) -> list[str]:
        """Return what a reader would take for a fault: errors, warnings, widgets that are not drawn."""
        return list(self.page.evaluate("bvitLab.troubles()"))

    def cell(self, index: int) -> Any:
        """Return the locator of a cell."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def explorers(self) -> list[int]:
        """Return the indices of cells that show pictures with controls."""
        return [
            cell["index"]
            for cell in self.cells()
            if self.cell(cell["index"]).locator(".bvit-panel").count()
            and self.controls(cell["index"])
        ]

    def controls(self, index: int) -> list[Control]:
        """Return the controls of the explorer in a cell."""
        cell = self.cell(index)
        found = cell.evaluate("cell => bvitLab.controls(cell)")
        return [
            Control(one["name"], one["kind"], cell.locator(f".bvit-{one['name']}")) for one in found
        ]

    def reveal(self, index: int, control: Control) -> bool:
        """Bring a control on screen, through the explorer's tabs if need be; return whether it is there."""
        tabs = self.cell(index).locator(".lm-TabBar-tab")
        for number in range(-1, tabs.count()):
            if number >= 0:
                tabs.nth(number).click()
            if control.place.first.is_visible():
                return True
        return False

    def turn(self, control: Control) -> bool:
        """Give a control one input by keyboard or choice; return False if it takes none, or has no other value."""
        place = control.place.first
        if control.kind == "slider":
            handle = place.locator(".noUi-handle").last
            now, least, most = (
                float(handle.get_attribute(f"aria-value{name}") or 0)
                for name in ("now", "min", "max")
            )
            if least >= most:
                return False
            handle.focus()
            self.page.keyboard.press("ArrowRight" if now < most else "ArrowLeft")
            return True
        if control.kind in ("dropdown", "list"):
            select = place.locator("select")
            options, chosen = select.evaluate("one => [one.options.length, one.selectedIndex]")
            if options < 2 or select.is_disabled():
                return False
            select.select_option(index=(chosen + 1) % options)
            return True
        return False

    def pictures(self, index: int) -> list[str]:
        """Return a digest of the bytes of each picture of an explorer."""
        return list(self.cell(index).evaluate("cell => bvitLab.digests(cell)"))

    def try_input(
        self, index: int, control: Control, patience: float = 5
    ) -> tuple[float, float] | None:
        """Turn a control and wait for new pictures.

        Returns:
            Milliseconds from the input event to the first new picture on screen and to the last one; None if
            no picture's bytes changed.
        """
        cell = self.cell(index)
        before = self.pictures(index)
        cell.evaluate("cell => bvitLab.watch(cell)")
        if not self.turn(control):
            return None
        self.page.wait_for_function(
            "patience => bvitLab.settled(patience)",
            arg=1000 * patience * crowd(),
            timeout=60_000 * crowd(),
        )
        first, last = self.page.evaluate("bvitLab.times()")
        return (first, last) if self.pictures(index) != before else None

    def save(self) -> None:
        """Save the notebook as the lab does."""
        self.page.evaluate("jupyterapp.commands.execute('docmanager:save')")

    def close(self) -> None:
        """End the kernel and close the tab."""
        self.page.evaluate("bvitLab.panel().sessionContext.shutdown()")
        self.page.close(run_before_unload=False)
