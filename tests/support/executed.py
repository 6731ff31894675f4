"""Executed notebooks made without a kernel, with everything that a report has to cope with."""

from __future__ import annotations

import base64
import io
import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

from bvit_analysis.outputs import FRAMES_MIME
from bvit_analysis.suite import JobStatus
from tests.support.synthetic_run import make_run

HOSTILE = "<script>alert('{x}')</script>\n\"'&"
new = nbformat.v4


def grey(level: int, width: int = 50, height: int = 30) -> str:
    buffer = io.BytesIO()
    Image.new("L", (width, height), level).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def frames_json(*, title: str = "Flips", text: str = "") -> dict[str, Any]:
    """Two controls and two panels: the map follows both, the bars the second alone."""
    runs, steps = ["baseline", f"grs {text}".strip()], ["0", "50", "100", "1,000"]
    settings = list(itertools.product(range(2), range(4)))
    return {
        "version": 1,
        "title": title,
        "controls": [
            {"name": "run", "label": f"Run {text}".strip(), "options": runs, "start": 1},
            {"name": "step", "label": "Step", "options": steps, "start": 2},
        ],
        "panels": [
            {"name": "map", "frames": [4 * run + step for run, step in settings]},
            {"name": "bars", "frames": [8 + step for _, step in settings]},
        ],
        "findings": [
            f"{runs[run]} flips at step {steps[step]}. {text}".strip() for run, step in settings
        ],
        "pictures": [
            {"png": grey(20 * number), "alt": f"picture {number} {text}"} for number in range(12)
        ],
    }


def explorer_output(data: dict[str, Any], **metadata: Any) -> nbformat.NotebookNode:
    bundle = {FRAMES_MIME: data, "image/png": grey(7), "text/plain": "Flips"}
    output = new.new_output("display_data", data=bundle, metadata=metadata)
    return new.new_code_cell("explorer", outputs=[output])


def png(width: int = 700, height: int = 400) -> str:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def shown(data: dict[str, object], **metadata: object) -> nbformat.NotebookNode:
    output = new.new_output("display_data", data=data, metadata=metadata)
    return new.new_code_cell("figure", outputs=[output])


def put(
    executed: Path, name: str, cells: list[nbformat.NotebookNode] | None, **values: object
) -> JobStatus:
    """Write the folder that execute() leaves behind, without a kernel."""
    folder = executed / name
    folder.mkdir(parents=True)
    status = replace(
        JobStatus(name=name, notebook=f"/somewhere/{name}.ipynb", state="succeeded", seconds=1.5),
        **values,
    )
    data = {**asdict(status), "schema_version": 1}
    (folder / "status.json").write_text(json.dumps(data))
    if cells is not None:
        nbformat.write(new.new_notebook(cells=cells), folder / "notebook.ipynb")
    return status


def write_executed(root: Path) -> Path:
    """Make one executed notebook of each kind, with everything that a report has to cope with."""
    runs = [
        make_run(root / "runs" / f"{name}-1", recipe=name, seed=1, steps=4)
        for name in ("baseline", "asm")
    ]
    part = next(iter((runs[0] / "scalars").glob("*.parquet")))
    part.write_bytes(part.read_bytes()[:100])
    executed = root / "executed"
    table = (
        '<style scoped>.x{background:url(https://e.invalid/a)}</style><table border="1">'
        "<thead><tr><th></th><th>recipe</th><th>accuracy</th></tr></thead><tbody>"
        "<tr><th>0</th><td>&lt;script&gt;</td><td>0.71</td></tr>"
        "<tr><th>1</th><td>asm</td><td>-1.5e-3</td></tr></tbody></table>"
    )
    wide = (
        "<table><tr>" + "".join(f"<td>column_number_{n}</td>" for n in range(30)) + "</tr></table>"
    )
    put(
        executed,
        "03_weight_oscillation",
        [
            new.new_markdown_cell(
                "# Do weights *oscillate*?\n\nSee [the next](04_other.ipynb), [abs](https://arxiv.org/abs/2305.14730)"
                " and ![remote](https://e.invalid/p.png).\n\nInline $s = \\mathrm{sign}(w)$, code `$x$`.\n\n"
                "$$\\alpha = \\frac{1}{n} \\sum_i |w_i|$$\n\n| a | b |\n|---|---|\n| $x^2$ | 2 |\n\n"
                f"{HOSTILE}\n"
            ),
            new.new_code_cell(
                "runs: list[str] = []", metadata={"tags": ["parameters"]}, execution_count=1
            ),
            shown({"image/png": png(), "text/plain": "<Figure>"}),
            new.new_markdown_cell("## Second heading"),
            shown({"image/png": png(1600, 300)}, **{"image/png": {"alt": f"Flips {HOSTILE}"}}),
            shown(
                {"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"}
            ),
            shown({"text/html": table, "text/plain": "x"}),
            shown({"text/html": wide}),
            shown(
                {
                    "text/html": "<img src=https://e.invalid/b.png onerror=alert(1)><iframe src=//e.invalid>"
                }
            ),
            shown({"application/vnd.jupyter.widget-view+json": {}, "text/plain": "HBox()"}),
            new.new_code_cell(
                "print()",
                outputs=[
                    new.new_output(
                        "stream", name="stdout", text=f"10%\r100%\n\x1b[31m{HOSTILE}\x1b[0m\n"
                    ),
                    new.new_output("stream", name="stderr", text="warned\n"),
                ],
            ),
        ],
        parameters={"runs": [str(run) for run in runs], "label": HOSTILE},
        started="2026-01-02T03:04:05+00:00",
        versions={"python": "3.11"},
    )
    marker = {"tags": ["papermill-error-cell-tag"]}
    put(
        executed,
        "04_other",
        [
            new.new_markdown_cell("an <b>error</b>", metadata=marker),
            new.new_code_cell("1 + 1"),
            new.new_markdown_cell("an error here", metadata=marker),
            new.new_code_cell(
                "1 / 0",
                outputs=[
                    new.new_output(
                        "error",
                        ename="ZeroDivisionError",
                        evalue="division",
                        traceback=["\x1b[0;31mZeroDivisionError\x1b[0m", f"tail {HOSTILE}"],
                    )
                ],
            ),
            new.new_code_cell("never"),
        ],
        state="failed",
        error=f"cell 2: ZeroDivisionError: {HOSTILE}",
        cell=1,
    )
    put(executed, "<script>{x}\n", [new.new_code_cell("1")])
    for number, site in enumerate(("blocks.0", "")):
        name = f"08_explore-{number}"
        still = {"image/png": {"alt": "An explorer.", "bvit_figure": ["figure-01-map"]}}
        put(
            executed,
            name,
            [
                new.new_markdown_cell("# What does $u = w$ of a run show?"),
                explorer_output(frames_json(text=HOSTILE), **still),
                new.new_markdown_cell("[the first](03_weight_oscillation.ipynb#a)"),
                new.new_code_cell(
                    "x",
                    outputs=[new.new_output("display_data", data={FRAMES_MIME: frames_json()})],
                ),
            ],
            notebook="/somewhere/08_explore.ipynb",
            parameters={"runs": [str(runs[number])], "site": site, "steps": 4},
        )
        folder = executed / name / "figures"
        folder.mkdir()
        (folder / "figure-01-map.png").write_bytes(base64.b64decode(png(40, 30)))
        (folder / "figure-01-map.csv").write_text("x,y\n1,2\n")
    put(executed, "index", None, state="kernel_died", error="the kernel died", cell=0)
    return executed
