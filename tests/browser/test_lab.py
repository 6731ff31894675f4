"""The suite as people open it: `make lab`, every notebook run, every explorer turned, the network refused."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import lab
from tests.support.chromium import chromium
from tests.support.waiting import Patience

pytestmark = pytest.mark.browser

NOTEBOOKS = sorted(path.stem for path in (lab.ROOT / "notebooks").glob("*.ipynb"))
EXPLORERS = {
    "OscillationExplorer",
    "BimodalityExplorer",
    "InformationExplorer",
    "BinarizationSandbox",
    "RunComparer",
}
KINDS = {"slider", "dropdown", "list"}
AT_ONCE = 2
STILL_S = 170.0  # so long nothing may move in a notebook, on a machine that does nothing else


@dataclass
class Visit:
    """What was seen in a notebook."""

    finished: bool = False
    troubles: list[str] = field(default_factory=list)
    changed: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    "Explorer, kind of control, those controls of the kind that changed a picture."
    still: dict[str, list[str]] = field(default_factory=dict)
    "Explorer, controls that could be turned and changed no picture."
    source: str = ""
    saved: str = ""
    failure: str = ""


class Suite:
    """Every notebook opened, run, operated, saved and closed, two at a time."""

    def __init__(self, browser: lab.Browser, tree: Path) -> None:
        self.browser = browser
        self.tree = tree
        self.visits: dict[str, Visit] = {name: Visit() for name in NOTEBOOKS}

    def visit_all(self) -> None:
        waiting, running = list(NOTEBOOKS), list[tuple[str, lab.Notebook, Patience]]()
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                self._begin(waiting.pop(0), running)
            for entry in list(running):
                name, notebook, left = entry
                if notebook.done() or left.is_lost(notebook.progress()):
                    running.remove(entry)
                    self._end(name, notebook)
            if running:
                running[0][1].page.wait_for_timeout(100)

    def _begin(self, name: str, running: list[tuple[str, lab.Notebook, Patience]]) -> None:
        try:
            path = self.tree / "notebooks" / f"{name}.ipynb"
            self.visits[name].source = path.read_text()
            notebook = self.browser.open(path.name)
            notebook.run_all()
            running.append((name, notebook, Patience(STILL_S)))
        except Exception as error:  # one notebook must not hide the others
            self.visits[name].failure = f"not opened: {error}"

    def _end(self, name: str, notebook: lab.Notebook) -> None:
        visit = self.visits[name]
        try:
            visit.finished = notebook.done()
            notebook.save()
            visit.saved = (self.tree / "notebooks" / f"{name}.ipynb").read_text()
            for index in notebook.explorers():
                self._operate(visit, notebook, index)
            visit.troubles = notebook.troubles()
        except Exception as error:
            visit.failure = f"{type(error).__name__}: {error}"
        finally:
            notebook.close()

    def _answers(self, explorer: str) -> bool:
        """Return whether an earlier notebook showed that all kinds of control change its pictures."""
        known = [visit.changed.get(explorer, {}) for visit in self.visits.values()]
        return any(set(changed) >= KINDS for changed in known)

    def _operate(self, visit: Visit, notebook: lab.Notebook, index: int) -> None:
        codes = {cell["index"]: cell["source"] for cell in notebook.cells()}
        named = re.compile("|".join(sorted(EXPLORERS)))
        explorer = named.search(codes[index]) or named.search("\n".join(codes.values()))
        if explorer is None or self._answers(explorer[0]):
            return
        changed = visit.changed.setdefault(explorer[0], {})
        for control in notebook.controls(index):
            if control.kind == "other" or not notebook.reveal(index, control):
                continue
            # A second input may be the first to show something else, such as a site that flips.
            if any(notebook.try_input(index, control, patience=2) for _ in range(2)):
                changed.setdefault(control.kind, []).append(control.name)
            else:
                visit.still.setdefault(explorer[0], []).append(control.name)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    chromium()
    tree = tmp_path_factory.mktemp("suite")
    own = tmp_path_factory.mktemp("jupyter")
    lab.copy_suite(tree)
    with lab.server(tree, own) as url, lab.browser(url) as browser:
        visited = Suite(browser, tree)
        visited.visit_all()
        yield visited


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_without_an_error_or_a_warning(suite: Suite, name: str) -> None:
    visit = suite.visits[name]
    assert visit.failure == ""
    assert visit.finished, f"nothing moved for {STILL_S:.0f} s"
    assert visit.troubles == []


@pytest.mark.parametrize("name", sorted(EXPLORERS))
def test_slider_dropdown_and_list_change_what_an_explorer_draws(suite: Suite, name: str) -> None:
    found = [visit.changed[name] for visit in suite.visits.values() if name in visit.changed]
    assert found, f"no notebook shows a {name}"
    for changed in found:
        assert set(changed) >= KINDS, changed


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_the_lab_saves_is_stripped_to_the_source(suite: Suite, name: str) -> None:
    visit = suite.visits[name]
    assert visit.saved not in ("", visit.source), "nothing was executed"
    path = suite.tree / f"saved-{name}.ipynb"
    path.write_text(visit.saved)
    strip(path)
    assert path.read_text() == visit.source


def strip(path: Path) -> None:
    """Do to a notebook what the commit hooks do."""
    config: dict[str, Any] = yaml.safe_load((lab.ROOT / ".pre-commit-config.yaml").read_text())
    for hook in config["repos"][0]["hooks"]:
        if "jupyter" not in {*hook.get("types", ()), *hook.get("types_or", ())}:
            continue
        program, *arguments = shlex.split(hook["entry"])
        program = str(Path(sys.executable).parent / Path(program).name)
        subprocess.run([program, *arguments, str(path)], cwd=lab.ROOT, check=True)


def test_the_network_was_not_asked_for(suite: Suite) -> None:
    assert suite.browser.refused == []
