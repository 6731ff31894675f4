"""Time from an input of an explorer to its last new picture, in JupyterLab and Chromium, as medians.

    python -m benchmarks.explorer_latency [--runs data/runs] [--inputs 8] [--shots FOLDER]

The clock runs in the page: from the key or choice to the frame after the last changed picture was decoded. Pictures
that an explorer remembers are forgotten, so every input draws anew. The network is refused.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import nbformat

from tests.support import lab

EXPLORERS = {
    "OscillationExplorer": "{name}(tables.load_runs({runs!r}))",
    "BimodalityExplorer": "{name}(tables.load_runs({runs!r}))",
    "InformationExplorer": "{name}(tables.load_runs({runs!r}))",
    "BinarizationSandbox": "{name}()",
    "RunComparer": "{name}(tables.load_runs({runs!r}))",
}
GOAL_MS = 300


def write_notebook(path: Path, name: str, runs: Path) -> None:
    """Write a notebook that shows one explorer and nothing else."""
    show = EXPLORERS[name].format(name=f"widgets.{name}", runs=[str(runs)])
    lines = [
        "from bvit_analysis import tables, widgets",
        "from bvit_analysis.widgets import base",
        "base._KEPT = 0",
        show,
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = nbformat.v4.new_code_cell("\n".join(lines))
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}), path)


def measure(
    browser: lab.Browser, name: str, inputs: int, shots: Path | None
) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Return for each control (name, kind) the milliseconds to the first and to the last new picture."""
    notebook = browser.open(f"{name}.ipynb")
    notebook.run_all()
    if not notebook.wait(120) or notebook.troubles():
        raise SystemExit(f"error: {name} is not shown: {notebook.troubles()}")
    if shots:
        notebook.page.wait_for_timeout(500)
        notebook.cell(0).locator(".jp-Cell-outputArea").screenshot(path=shots / f"{name}.png")
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for control in notebook.controls(0):
        if control.kind == "other" or not notebook.reveal(0, control):
            continue
        known = times.setdefault((control.name, control.kind), [])
        for attempt in range(
            2 * inputs
        ):  # an input may change nothing, such as a site without flips
            if len(known) == inputs or (attempt >= 4 and not known):
                break
            taken = notebook.try_input(0, control, patience=1)
            known += [taken] if taken else []
    notebook.close()
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=lab.ROOT / "data" / "runs")
    parser.add_argument("--inputs", type=int, default=8)
    parser.add_argument("--shots", type=Path, help="folder for a picture of each explorer")
    parser.add_argument("--only", nargs="*", choices=sorted(EXPLORERS), default=list(EXPLORERS))
    chosen = parser.parse_args()
    if lab.chromium() is None:
        raise SystemExit("error: needs playwright, make and Debian's chromium")
    if chosen.shots:
        chosen.shots.mkdir(parents=True, exist_ok=True)
    print(
        f"milliseconds, medians of {chosen.inputs} inputs, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}; runs: {chosen.runs}"
    )
    print(f"{'explorer':<22}{'control':<15}{'kind':<10}{'first':>7}{'last':>7}{'worst':>7}  inputs")
    with tempfile.TemporaryDirectory() as folder:
        tree, own = Path(folder) / "suite", Path(folder) / "own"
        tree.mkdir()
        own.mkdir()
        lab.copy_suite(tree)
        for name in chosen.only:
            write_notebook(tree / "notebooks" / f"{name}.ipynb", name, chosen.runs.resolve())
        with lab.server(tree, own) as url, lab.browser(url, height=1800) as browser:
            for name in chosen.only:
                every: list[float] = []
                for (control, kind), times in measure(
                    browser, name, chosen.inputs, chosen.shots
                ).items():
                    row = f"{name:<22}{control:<15}{kind:<10}"
                    if not times:
                        print(f"{row}  changes no picture in this state")
                        continue
                    first, last = ([pair[i] for pair in times] for i in (0, 1))
                    every += last
                    print(
                        f"{row}{statistics.median(first):7.0f}{statistics.median(last):7.0f}"
                        f"{max(last):7.0f}  {len(times)}",
                        flush=True,
                    )
                median = statistics.median(every) if every else float("nan")
                verdict = "below" if median < GOAL_MS else "NOT below"
                print(f"{name:<22}median of all inputs {median:.0f} ms, {verdict} {GOAL_MS} ms")


if __name__ == "__main__":
    main()
