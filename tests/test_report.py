"""The report: complete for every end, safe whatever a notebook holds, and nothing in it to load."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from bvit_analysis.errors import MissingExtraError, SuiteError
from bvit_analysis.rendering import markdown_html, mathml, render_notebook, safe_html
from bvit_analysis.report import build_report
from bvit_analysis.suite import JobStatus
from tests.synthetic_run import make_run

HOSTILE = "<script>alert('{x}')</script>\n\"'&"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
new = nbformat.v4


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
    put(executed, "index", None, state="kernel_died", error="the kernel died", cell=0)
    return executed


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    return build_report(write_executed(root), root / "out", title=f"Title {HOSTILE}")


class Reader(HTMLParser):
    """Collects what a browser would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.policy = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.handlers += [name for name in given if name.startswith("on") or name == "style"]
        if tag == "img":
            self.images.append(given)
        if tag == "meta" and given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""
        if tag == "a":
            self.links.append(given.get("href") or "")
        else:
            self.loads += [
                given[name] or "" for name in ("href", "src", "srcset", "data") if name in given
            ]


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def test_every_page_is_closed_to_the_network(report: Path) -> None:
    pages = sorted(report.parent.glob("*.html"))
    assert [page.name for page in pages] == [
        "03_weight_oscillation.html",
        "04_other.html",
        "index-2.html",
        "index.html",
        "script-x.html",
    ]
    for page in pages:
        reader = read(page)
        assert reader.policy.startswith(POLICY)
        assert set(reader.tags).isdisjoint({"script", "iframe", "object", "embed", "form", "base"})
        assert not reader.handlers
        for address in reader.loads:
            assert address.startswith("data:")
        for image in reader.images:
            assert image["src"].startswith("data:image/")
            assert (image["alt"] or "").strip()
        for link in reader.links:
            assert link.startswith(("#", "https://arxiv.org/")) or (page.parent / link).is_file()
        text = page.read_text(encoding="utf-8")
        style = text[text.index("<style>") : text.index("</style>")]
        assert "url(" not in style
        assert "@import" not in style
        for word in ("require.js", "mathjax", "cdn", "e.invalid/a", "alert('{x}')</script>"):
            assert word not in text.lower()


def test_index_shows_every_notebook_and_run(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert "4 notebooks" in text
    for word in ("1 failed", "1 kernel died", "2 succeeded", "Do weights oscillate?"):
        assert word in text
    assert "ZeroDivisionError: &lt;script&gt;" in text
    assert "&lt;script&gt;{x}" in text
    row = re.search(r"<tr><th[^>]*>asm-1</th>(.*?)</tr>", text)
    assert row is not None
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row.group(1))
    assert cells[:4] == ["asm", "1", "finished", "4"]
    assert re.fullmatch(r"\d\d\.\d\d%", cells[4])
    assert "Damaged or unreadable parts" in text
    assert "part-000000.parquet" in text
    assert len(read(report).images) == 1  # one notebook has figures


def test_thumbnails_are_small(report: Path) -> None:
    (image,) = read(report).images
    data = base64.b64decode(image["src"].partition(",")[2])
    with Image.open(io.BytesIO(data)) as thumbnail:
        assert max(thumbnail.size) == 480


def test_a_page_keeps_prose_figures_tables_and_code(report: Path) -> None:
    page = report.parent / "03_weight_oscillation.html"
    text = page.read_text(encoding="utf-8")
    alts = [image["alt"] for image in read(page).images]
    assert alts[0] == "Figure 1, under the heading: Do weights oscillate?"
    assert alts[1] == "Flips " + " ".join(HOSTILE.split())
    assert alts[2] == "Figure 3, under the heading: Second heading"
    assert '<a href="04_other.html">the next</a>' in text
    assert "<code>$x$</code>" in text
    assert text.count("<math") == 3
    assert '<td class="number">0.71</td>' in text
    assert '<th class="number">accuracy</th>' in text
    assert "<td>&lt;script&gt;</td>" in text
    assert "[remote]" in text
    assert "An interactive control" in text
    assert "\x1b" not in text
    assert "100%\n&lt;script&gt;" in text
    assert "10%\r" not in text
    assert "label" in text


def test_a_failed_page_opens_at_its_traceback(report: Path) -> None:
    text = (report.parent / "04_other.html").read_text(encoding="utf-8")
    assert 'href="#stopped"' in text
    stopped = text[text.index('id="stopped"') :]
    assert '<details class="code" open>' in stopped
    assert "ZeroDivisionError\ntail &lt;script&gt;" in stopped
    assert "The execution ended in this cell." in stopped
    assert "not executed" in stopped
    assert "not executed" not in text[: text.index('id="stopped"')]
    assert "an error here" not in text  # papermill's own banners
    dead = (report.parent / "index-2.html").read_text(encoding="utf-8")
    assert "the kernel died" in dead
    assert "Nothing was recorded" in dead


def test_manifest_lists_what_was_made(report: Path) -> None:
    manifest = json.loads((report.parent / "manifest.json").read_text())
    pages = {page["name"]: page for page in manifest["pages"]}
    assert {name: page["state"] for name, page in pages.items()} == {
        "03_weight_oscillation": "succeeded",
        "04_other": "failed",
        "<script>{x}\n": "succeeded",
        "index": "kernel_died",
    }
    assert all((report.parent / page["file"]).is_file() for page in pages.values())
    assert pages["03_weight_oscillation"]["figures"] == 3
    assert [run["run_id"] for run in manifest["runs"]] == ["baseline-1", "asm-1"]
    assert manifest["runs"][1]["test_accuracy"] > 0.5
    assert any("part-000000.parquet" in warning for warning in manifest["warnings"])


def test_unreadable_runs_are_a_row_not_an_error(tmp_path: Path) -> None:
    executed = tmp_path / "executed"
    put(executed, "one", [new.new_code_cell("1")], parameters={"runs": [str(tmp_path / "gone")]})
    text = build_report(executed, tmp_path / "out").read_text(encoding="utf-8")
    assert "unreadable" in text
    assert "no run at" in text
    chosen = make_run(tmp_path / "chosen", steps=4, state="interrupted")
    text = build_report(executed, tmp_path / "out", runs=[chosen]).read_text(encoding="utf-8")
    assert "interrupted" in text
    assert "gone" not in text.partition("<h2>Notebooks")[0].partition("<h2>Runs")[2]


def test_nothing_executed_is_one_line_with_a_remedy(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(SuiteError, match="no executed notebooks.*bvit notebooks"):
            build_report(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_package_names_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'bvit_analysis\[notebooks\]'"):
        build_report(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("<b>a</b>", "<b>a</b>"),
        ("a < b & c", "a &lt; b &amp; c"),
        ("<td onclick=x>a", "<td>a</td>"),
        ("</div></main>x", "x"),
        ("<b><i>x</b></i>", "<b><i>x</i></b>"),
        ("<SCRIPT>x</SCRIPT>y", "y"),
        ("<style>x</style>y", "y"),
        ("<img src=javascript:x alt=a>", "a"),
        ("<a href='javascript:x'>y</a>", "<a>y</a>"),
        ("<a href='java\nscript:x'>y</a>", "<a>y</a>"),
        ("<a href='//e.invalid/x.html'>y</a>", "<a>y</a>"),
        ("<td colspan='2\" onclick=x'>y</td>", "<td>y</td>"),
        ("<svg><script>x</script></svg>y", "y"),
        ("<!-- <script> -->y", "y"),
        ("<template><b>x</b></template>y", "y"),
    ],
)
def test_safe_html_keeps_only_what_is_allowed(text: str, safe: str) -> None:
    assert safe_html(text) == safe


def test_formulas_are_drawn_and_cannot_carry_markup() -> None:
    drawn = mathml(r"\frac{a}{b} \, x", block=False)
    assert drawn.startswith("<math")
    assert "<mfrac>" in drawn
    # An empty element must not swallow what follows it.
    assert re.search(r"<mspace[^>]* /><mi>x</mi>", drawn)
    assert "http" not in drawn
    for latex in (r"\text{<script>alert(1)</script>}", r"\href{javascript:x}{y}", r"\begin{", "\\"):
        assert "<script" not in mathml(latex, block=True)
        assert "href" not in mathml(latex, block=True).replace(r"\href", "")


def test_markdown_shows_raw_html_as_text() -> None:
    drawn = markdown_html(
        "<img src=x onerror=y>\n\n![own](attachment:a.png) [x](javascript:alert(1))",
        pages={},
        attachments={"a.png": {"image/png": png(4, 4)}},
    )
    assert "&lt;img src=x" in drawn
    assert 'alt="own"' in drawn
    assert "javascript:" not in drawn


def test_a_notebook_without_anything_renders() -> None:
    rendered = render_notebook(new.new_notebook(), name="x", pages={})
    assert (rendered.title, rendered.body, rendered.figures) == ("", "", [])
