"""A hundred executions of a trivial notebook, eight at a time: is any lost to a race, and what does one cost?

    python -m benchmarks.batch_race [--executions N] [--at-once N] [--out FOLDER]

Each execution appends a line to a file of its own number, so that what the suite says is counted by a second witness.
Kernels that choose TCP ports lose about one of a hundred at twelve at a time; private sockets should lose none.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import nbformat

from bvit_analysis import suite

PARAMETERS = "number: int = 0\nlog: str = ''"
WITNESS = "with open(log, 'a') as file: file.write(f'{number}\\n')"


def trivial_notebook(path: Path) -> Path:
    """Write a notebook that does nothing but append its number to a file."""
    notebook = nbformat.v4.new_notebook()
    tagged = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    notebook.cells = [tagged, nbformat.v4.new_code_cell(WITNESS)]
    nbformat.write(notebook, path)
    return path


def race(executions: int, at_once: int, folder: Path) -> int:
    """Execute, print what was lost and what it took, and return how many were lost."""
    log = folder / "log"
    log.unlink(missing_ok=True)
    notebook = trivial_notebook(folder / "trivial.ipynb")
    numbers = list(range(executions))
    jobs = suite.plan([notebook], [], {"log": str(log)}, grid={"number": numbers})
    began = time.monotonic()
    statuses = suite.execute(jobs, folder / "out", jobs_at_once=at_once)
    seconds = time.monotonic() - began
    witnessed = Counter(int(line) for line in log.read_text().split())
    lost = [status for status in statuses if status.state != "succeeded"]
    unseen = [number for number in numbers if witnessed[number] != 1]
    each = statistics.median(status.seconds for status in statuses)
    print(
        f"{executions} executions, {at_once} at once: {len(lost)} lost, {len(unseen)} not executed "
        f"exactly once, {seconds:.0f} s in all, {seconds / executions:.2f} s for each, median from "
        f"start to end {each:.1f} s"
    )
    for status in lost:
        print(f"{status.name}: {status.state}: {status.error}")
    return len(lost) + len(unseen)


def main() -> int:
    """Run the race once in a folder that starts empty."""
    parser = argparse.ArgumentParser(description="Executions in parallel: is any lost to a race?")
    parser.add_argument("--executions", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--at-once", type=int, default=8, help="at a time (default: 8)")
    parser.add_argument("--out", type=Path, help="folder to keep the results in")
    options = parser.parse_args()
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=False)
        return int(race(options.executions, options.at_once, options.out.resolve()) > 0)
    with tempfile.TemporaryDirectory(prefix="race-") as folder:
        return int(race(options.executions, options.at_once, Path(folder)) > 0)


if __name__ == "__main__":
    sys.exit(main())
