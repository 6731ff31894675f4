"""One bad item never stops the rest: 160 damaged and hostile runs and results, read one by one and all together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bvit_analysis.errors import RunError, one_by_one, reason
from bvit_analysis.report.build import write_report
from bvit_analysis.tables import load_runs
from tests.support.chromium import FLAGS, chromium
from tests.support.hostile import GOOD, VARIANTS, make_runs
from tests.support.hostile_report import SVGS, make_executed
from tests.support.synthetic_run import make_run

ROOT = Path(__file__).parents[1]
LIMIT_MIB, LIMIT_S = 1024, 10

UNREADABLE = {name for name in VARIANTS if name.startswith(("info-", "version-", "id-", "sites-"))}
UNREADABLE |= {name for name in VARIANTS if name.startswith("site-")} | {"config-list"}
UNREADABLE -= {"site-huge", "site-name-markup", "site-kind-markup"}
"Variants whose run.json leaves nothing to trust; all others are shown without what is wrong."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hostile") / "runs"
    place.mkdir()
    make_runs(place)
    return place


@pytest.fixture(scope="module")
def taken(folder: Path) -> dict[str, Any]:
    """What a fresh process tells that has read all of them."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.hostile", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return dict(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.processes
def test_every_hostile_run_is_read_or_refused_in_one_line(taken: dict[str, Any]) -> None:
    assert len(VARIANTS) >= 140
    assert taken["bugs"] == []
    refused = {
        name for name in VARIANTS if any(one.endswith(f"-{name}") for one in taken["refused"])
    }
    assert refused == UNREADABLE


@pytest.mark.slow
@pytest.mark.processes
def test_none_takes_a_gibibyte_or_ten_seconds(taken: dict[str, Any]) -> None:
    assert taken["peak_mib"] < LIMIT_MIB
    assert {name: spent for name, spent in taken["seconds"].items() if spent > LIMIT_S} == {}


@pytest.mark.slow
@pytest.mark.processes
def test_all_together_are_those_that_can_be_read(taken: dict[str, Any]) -> None:
    sound = len(VARIANTS) - len(UNREADABLE) + 2  # the good one, and the one with the strange name
    assert taken["together"] == sound
    # A folder without run.json is none; where run.json is a folder there is no file of that name.
    assert taken["found"] == len(VARIANTS) + 2 - 2
    assert taken["planned"] == {"executed": sound, "refused": taken["found"] - sound}


@pytest.fixture(scope="module")
def report(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    runs = sorted(
        path for path in folder.iterdir() if path.name.startswith(("bad-", "good", "name"))
    )
    root = tmp_path_factory.mktemp("hostile report")
    executed = make_executed(root / "executed", runs)
    written = write_report(executed, root / "report")
    return written.index, written.left_out


@pytest.mark.slow
def test_a_report_has_a_page_of_everything_and_names_what_is_bad(
    report: tuple[Path, list[str]], folder: Path
) -> None:
    index, left_out = report
    manifest = json.loads((index.parent / "manifest.json").read_text())
    made = [path for path in (index.parents[1] / "executed").iterdir() if not path.is_symlink()]
    assert len(manifest["pages"]) == len(made)
    for page in manifest["pages"]:
        assert (index.parent / page["file"]).stat().st_size > 1000
    states = {run["run_id"]: run["state"] for run in manifest["runs"]}
    assert states[GOOD] == "finished"
    bad = [name for name in UNREADABLE if f"-{name}" in " ".join(states)]
    unreadable = [run for run, state in states.items() if state == "unreadable"]
    assert {name for name in bad if any(run.endswith(f"-{name}") for run in unreadable)} == set(bad)
    for word in ("status-half", "notebook-deep", "figure-01.svg", "value-flip-rate", "rows-sites"):
        assert any(word in text for text in left_out), word
    assert manifest["warnings"] == left_out
    figures = sorted(path.name for path in (index.parent / "figures" / "texts").iterdir())
    assert figures == ["figure-91.svg"]
    assert len(SVGS) >= 10


@pytest.mark.slow
@pytest.mark.browser
def test_pages_of_hostile_results_run_and_ask_for_nothing(report: tuple[Path, list[str]]) -> None:
    program = chromium()
    from playwright.sync_api import sync_playwright

    index, _ = report
    pages = sorted(index.parent.glob("*.html"))
    shown = [path for path in pages if not path.name.startswith("look-") or path.name < "look-010"]
    shown += sorted(index.parent.glob("figures/*/*.svg"))
    asked: list[str] = []
    ran: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        context = browser.new_context(offline=True)
        # Whatever a hostile text would do first: a dialog, a name of its own, a request.
        context.expose_function("told", lambda text: ran.append(text))
        context.add_init_script(
            "for (const name of ['alert', 'confirm', 'prompt', 'fetch', 'open'])"
            " window[name] = (...given) => window.told(`${name} ${given}`)"
        )
        context.on("request", lambda request: asked.append(request.url))
        page = context.new_page()
        for path in shown:
            page.goto(path.as_uri(), wait_until="load")
            if path.suffix == ".html":
                assert page.evaluate("document.scripts.length") == 1
        page.wait_for_timeout(100)
        browser.close()
    assert ran == []
    outward = [url for url in asked if not url.startswith(("file://", "data:"))]
    assert outward == []
    assert len([url for url in asked if url.startswith("file://")]) == len(shown)


# The rule itself ---------------------------------------------------------------------------------


def test_what_fails_is_named_and_the_rest_is_done() -> None:
    def work(number: int) -> float:
        if number == 1:
            raise RunError("no run\nat all")
        if number == 2:
            raise RecursionError
        return 1 / number

    done, left_out = one_by_one([0, 1, 2, 4], work)
    assert done == [(4, 0.25)]
    assert [item for item, _ in left_out] == [0, 1, 2]
    assert [why for _, why in left_out][1:] == ["no run at all", "RecursionError"]


def test_an_interrupt_stops_all() -> None:
    def work(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one_by_one([1, 2], work)


def test_a_reason_is_one_line_of_bounded_length_that_can_be_written() -> None:
    text = reason(RunError("a\nb \ud800" + "x" * 5000))
    assert text.startswith("a b \\ud800x")
    assert len(text) == 1000
    assert text.encode()


def test_load_runs_reads_what_it_can_and_names_the_rest(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, steps=1, blocks=1) for name in ("a", "b")]
    broken = make_run(tmp_path / "broken", steps=1, blocks=1)
    (broken / "run.json").write_text("{")
    with pytest.warns(UserWarning, match="left out a run: cannot read run .*broken"):
        assert [run.path for run in load_runs(tmp_path)] == runs
    with pytest.warns(UserWarning, match="no run in 'nowhere'"):
        assert [run.path for run in load_runs([runs[0], "nowhere"])] == runs[:1]
    with pytest.raises(RunError, match=r"no run in 'nowhere'.*\(and 1 more cannot be read\)"):
        load_runs([broken, "nowhere"])
    with pytest.raises(RunError, match="no run in 'nowhere'"):
        load_runs("nowhere")
