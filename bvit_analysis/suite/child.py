"""One execution of one notebook, in the child process: papermill with a kernel on private sockets.

What papermill writes about an execution is evidence, not a witness, since it marks the cells of a dead
kernel as completed; so each way to end is told apart here, by what was raised and when.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bvit_analysis.files import write_json_atomic
from bvit_analysis.suite.jobs import State
from bvit_analysis.suite.parameters import code_of, declared_parameters, read_notebook

EXECUTING = ".executing.ipynb"
"Name of the executed notebook until its end; papermill writes it in place, again and again."


def run_job(work: str) -> None:
    """Execute the notebook that a folder's ``job.json`` orders; all that the child process does."""
    folder = Path(work)
    order = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    result = _run_notebook(order, folder)
    write_json_atomic(folder / "result.json", result)


def _run_notebook(order: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    cells = len(read_notebook(Path(order["notebook"])).cells) + bool(order["parameters"])
    _inject_declared_types(Path(order["notebook"]))
    limit = int(order["cell_timeout_s"])
    at, since = 0, time.monotonic()

    def tell(*, busy: bool) -> None:
        place = {"cell": at, "cells": cells, "busy": busy}
        write_json_atomic(folder / "progress.json", place)

    def began(cell: object, cell_index: int) -> None:
        nonlocal at, since
        at, since = cell_index, time.monotonic()
        tell(busy=getattr(cell, "cell_type", "") == "code")

    def over(**_: object) -> None:
        tell(busy=False)

    def ended(state: State, error: str | None) -> dict[str, Any]:
        return {"state": state, "error": error, "cell": None if state == "succeeded" else at}

    config = Config()
    config.KernelManager.transport = "ipc"
    config.KernelManager.ip = str(folder / "k")  # absolute and unique, or kernels cross over
    config.KernelManager.connection_file = str(folder / "connection.json")  # it holds a key
    too_long = f"cell {{}} took longer than its limit of {limit} s"
    try:
        executed = papermill.execute_notebook(
            _not_a_template(order["notebook"]),
            _not_a_template(order["output"]),
            parameters=order["parameters"],
            kernel_name="python3",
            language="python",
            progress_bar=False,
            start_timeout=180,
            execution_timeout=limit,
            interrupt_on_timeout=True,
            autosave_cell_every=60,
            config=config,
            on_cell_start=began,
            on_cell_executed=over,
        )
    except PapermillExecutionError as error:
        if error.ename == "KeyboardInterrupt" and time.monotonic() - since >= limit:
            return ended("timeout", too_long.format(at + 1))
        if error.ename == "SystemExit":
            return ended(
                "early_exit", f"cell {at + 1} left the notebook: SystemExit: {error.evalue}"
            )
        return ended("failed", one_line(f"cell {at + 1}: {error.ename}: {error.evalue}"))
    except CellTimeoutError:
        return ended("timeout", too_long.format(at + 1))
    except DeadKernelError:
        return ended("kernel_died", f"the kernel died in cell {at + 1}; is the memory exhausted?")
    except Exception as error:  # whatever else papermill raises ends this notebook only
        if isinstance(error, RuntimeError) and "ernel died" in str(error):
            return ended("kernel_died", "the kernel died before its first cell")
        return ended("failed", one_line(f"cell {at + 1}: {type(error).__name__}: {error}"))
    if executed.metadata.get("papermill", {}).get("exception"):
        # sys.exit(0) raises nothing here, yet the cells behind it were never executed.
        return ended("early_exit", f"cell {at + 1} left the notebook before its end")
    return ended("succeeded", None)


def _inject_declared_types(notebook: Path) -> None:
    """Let papermill write a path as a Path and a tuple as a tuple; its own Python knows JSON's types alone."""
    from papermill.translators import PythonTranslator, papermill_translators

    declared = declared_parameters(notebook)

    class Typed(PythonTranslator):  # type: ignore[misc]
        @classmethod
        def codify(cls, parameters: Mapping[str, Any], comment: str = "Parameters") -> str:
            lines = [str(super().codify(parameters, comment)).rstrip("\n")]
            for name, value in parameters.items():
                code = code_of(declared[name], value) if name in declared else None
                if code is not None:
                    lines.append(f"{name} = {code}")
            if any("Path(" in line for line in lines[1:]):
                lines.insert(1, "from pathlib import Path")
            return "\n".join(lines) + "\n"

    papermill_translators.register("python", Typed)
    papermill_translators.register("python3", Typed)


def _not_a_template(path: str) -> str:
    """Escape braces, since papermill puts every path through str.format."""
    return path.replace("{", "{{").replace("}", "}}")


def one_line(text: str) -> str:
    """Return a text as one line of at most 300 characters."""
    return " ".join(text.split())[:300]


if __name__ == "__main__":
    run_job(sys.argv[1])
