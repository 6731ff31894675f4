"""The report: complete for every end, safe whatever a notebook holds, and nothing in it to load."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import socket
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from bvit_analysis.cli import main
from bvit_analysis.errors import MissingExtraError, SuiteError
from bvit_analysis.processes import process_start
from bvit_analysis.report import build_report, render_notebook
from bvit_analysis.report.markup import markdown_html, mathml, safe_html
from bvit_analysis.report.pdf import find_browser, print_pdf
from tests.support.executed import HOSTILE, png, put, write_executed
from tests.support.noted_run import noted
from tests.support.synthetic_run import make_run
from tests.support.waiting import alive, wait_for

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "bvit_analysis" / "report" / "templates"
POLICY = (
    r"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-([^']+)';"
    r" base-uri 'none'; form-action 'none'"
)
new = nbformat.v4


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
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append("")
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

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["script"] and not self.scripts[-1]:
            self.scripts[-1] = data


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def test_every_page_is_closed_to_the_network(report: Path) -> None:
    pages = sorted(report.parent.glob("*.html"))
    assert [page.name for page in pages] == [
        "03_weight_oscillation.html",
        "04_other.html",
        "08_explore-0.html",
        "08_explore-1.html",
        "index-2.html",
        "index.html",
        "script-x.html",
    ]
    for page in pages:
        reader = read(page)
        policy = re.fullmatch(POLICY, reader.policy)
        assert policy is not None
        (script,) = reader.scripts  # ours, and the policy runs no other
        assert script == (TEMPLATES / "report.js").read_text(encoding="utf-8")
        digest = hashlib.sha256(script.encode()).digest()
        assert policy.group(1) == base64.b64encode(digest).decode()
        assert set(reader.tags).isdisjoint({"iframe", "object", "embed", "form", "base"})
        assert not reader.handlers
        for address in reader.loads:
            assert address.startswith("data:")
        for image in reader.images:
            assert image["src"].startswith("data:image/")
            assert (image["alt"] or "").strip()
        for link in reader.links:
            path = page.parent / link.partition("#")[0]
            assert link.startswith(("#", "https://arxiv.org/")) or path.is_file()
        text = page.read_text(encoding="utf-8")
        style = text[text.index("<style>") : text.index("</style>")]
        assert "url(" not in style
        assert "@import" not in style
        for word in ("require.js", "mathjax", "cdn", "e.invalid/a", "alert('{x}')</script>"):
            assert word not in text.lower()


def test_index_shows_every_notebook_and_run(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert "6 executions of 5 notebooks" in text
    for word in ("1 failed", "1 kernel died", "4 succeeded", "Do weights oscillate?"):
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
    assert len(read(report).images) == 3  # three executions have figures
    group = text[text.index("What does u=w of a run show?") :]
    assert "<small>2 executions</small>" in group
    first, second = group.index(">08_explore-0</a>"), group.index(">08_explore-1</a>")
    own = group[first:second]
    assert "<li><code>runs</code> baseline-1</li><li><code>site</code> blocks.0</li>" in own
    assert "<code>steps</code>" not in own  # all executions have the same
    assert "<code>site</code> (empty)" in group[second:]
    assert "2 figures, 2 interactive" in own


def test_thumbnails_are_small(report: Path) -> None:
    image = read(report).images[0]
    data = base64.b64decode((image["src"] or "").partition(",")[2])
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
        "08_explore-0": "succeeded",
        "08_explore-1": "succeeded",
        "index": "kernel_died",
    }
    assert all((report.parent / page["file"]).is_file() for page in pages.values())
    assert pages["03_weight_oscillation"]["figures"] == 3
    assert (pages["08_explore-1"]["figures"], pages["08_explore-1"]["explorers"]) == (2, 2)
    assert pages["08_explore-1"]["notebook"] == "08_explore"
    here = {str(path.relative_to(report.parent)) for path in report.parent.rglob("*.*")}
    assert set(manifest["files"]) == here - {"manifest.json"}
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


def test_what_must_be_known_of_a_run_stands_below_the_table(tmp_path: Path) -> None:
    executed, site = tmp_path / "executed", "blocks.0.attn.qkv"
    put(executed, "one", [new.new_code_cell("1")])
    plain = make_run(tmp_path / "plain", steps=4)
    doubted = make_run(tmp_path / "doubted", steps=4)
    noted(doubted, {site: {"verified": False, "unverified": "no <pass> was seen", "levels": 4}})
    text = build_report(executed, tmp_path / "out", runs=[plain, doubted]).read_text("utf-8")
    (note,) = re.findall('<p class="note">(.*)</p>', text)
    assert note.startswith(f"doubted: The weights of {site} (baseline, seed 0) have 4 levels: ")
    assert f"uses: {site} (baseline, seed 0: no &lt;pass&gt; was seen)." in note
    assert "left out" not in text


def test_an_explorer_has_controls_links_and_its_files(report: Path) -> None:
    text = (report.parent / "08_explore-1.html").read_text(encoding="utf-8")
    assert text.count('<figure class="explorer"') == 2
    assert '<a href="figures/08_explore-1/figure-01-map.csv"' in text
    assert (report.parent / "figures/08_explore-1/figure-01-map.csv").read_text() == "x,y\n1,2\n"
    assert '<a href="03_weight_oscillation.html#a">the first</a>' in text
    assert "alert('{x}')</script>" not in text


def test_a_link_to_a_notebook_leads_to_its_first_execution(tmp_path: Path) -> None:
    executed = tmp_path / "executed"
    put(executed, "a-1", [new.new_markdown_cell("[b](b.ipynb)")], notebook="/x/a.ipynb")
    for number in (1, 2):
        put(executed, f"b-{number}", [new.new_markdown_cell("# B")], notebook="/x/b.ipynb")
    index = build_report(executed, tmp_path / "out", runs=[])
    assert '<a href="b-1.html">b</a>' in (index.parent / "a-1.html").read_text(encoding="utf-8")


def test_pages_of_an_earlier_report_go_and_other_files_stay(tmp_path: Path) -> None:
    executed, out = tmp_path / "executed", tmp_path / "out"
    for name in ("one", "two"):
        put(executed, name, [new.new_code_cell("1")])
        (executed / name / "figures").mkdir()
        (executed / name / "figures" / "figure-01.csv").write_text("x\n")
    build_report(executed, out, runs=[])
    (out / "notes.html").write_text("mine")
    shutil.rmtree(executed / "two")
    build_report(executed, out, runs=[])
    left = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert left == [
        *("figures/one/figure-01.csv", "index.html", "manifest.json", "notes.html", "one.html"),
    ]


def test_one_damaged_notebook_does_not_cost_the_others_their_pages(tmp_path: Path) -> None:
    executed = tmp_path / "executed"
    put(executed, "bad", None)
    put(executed, "good", [new.new_markdown_cell("# Good")])
    for text in (
        "{",
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code"}]}',
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": 3}',
    ):
        (executed / "bad" / "notebook.ipynb").write_text(text)
        index = build_report(executed, tmp_path / "out", runs=[])
        assert "damaged" in (index.parent / "bad.html").read_text(encoding="utf-8")
        assert "Good" in (index.parent / "good.html").read_text(encoding="utf-8")


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [1, 2], ids=["light", "dark"])
def test_every_colour_of_text_has_contrast_on_every_ground(scheme: int) -> None:
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    pairs = re.findall(r"--([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", css)
    colours = {pair[0]: pair[scheme] for pair in pairs}
    texts = ["ink", "soft", "link", "good", "bad", "warn"]
    code = ["keyword", "string", "number", "comment", "name"]
    assert set(colours) == {*texts, *code, "ground", "panel", "line", "bad-ground", "mount"}
    for ground in ("ground", "panel"):
        for text in (*texts, *code):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)  # WCAG 2.1, AA
    assert contrast(colours["ink"], colours["bad-ground"]) >= 4.5
    # On the mount of a picture, which is light in both schemes.
    for colour in re.findall(r"[; ]color: (#[0-9a-f]{6})", css):
        assert contrast(colour, colours["mount"]) >= 4.5
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=1e-3)  # a known pair


def test_no_template_refers_to_an_address() -> None:
    files = [path for path in TEMPLATES.iterdir() if path.is_file()]
    assert {path.suffix for path in files} == {".css", ".html", ".js"}
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?:|//[a-z]|url\(|@import|import\(|fetch|eval|srcset", text), (
            path
        )
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    for word in ("innerHTML", "document.write", "Function", "XMLHttp", "WebSocket", "</", "<!--"):
        assert word not in script


def test_the_notice_names_what_is_not_ours() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for word in ("Fashion-MNIST", "Zalando SE", "The MIT License (MIT)", "DejaVu", "data/runs"):
        assert word in notice
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert "NOTICE" in tomllib.load(file)["project"]["license-files"]
    # Fonts, libraries and icons would have to be named there.
    files = [path for path in (ROOT / "bvit_analysis").rglob("*") if path.is_file()]
    shipped = {path.suffix for path in files if path.parent.name != "__pycache__"}
    ours = {".py", ".pyi", ".pyc", ".typed", ".html", ".css", ".js", ".json", ".j2", ".md"}
    assert shipped <= ours


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that stands in for the browser; a test writes its body."""
    path = tmp_path / "chromium-stand-in"
    monkeypatch.setenv("BVIT_CHROMIUM", str(path))
    return path


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!{sys.executable}\nimport sys, os, time, subprocess\n{body}\n")
    path.chmod(0o755)


@pytest.mark.processes
def test_a_pdf_is_printed_from_one_document_without_a_way_out(
    tmp_path: Path, program: Path
) -> None:
    write_program(
        program,
        "from pathlib import Path\n"
        "flags = dict(a.partition('=')[::2] for a in sys.argv[1:-1])\n"
        "assert '--headless' in flags and flags['--host-resolver-rules'] == 'MAP * ~NOTFOUND'\n"
        "assert Path(flags['--user-data-dir']).parent == Path.cwd() == Path(os.environ['HOME'])\n"
        f"Path({str(tmp_path / 'seen.html')!r}).write_bytes(Path('report.html').read_bytes())\n"
        "Path(flags['--print-to-pdf']).write_bytes(b'%PDF-1.4 made')",
    )
    out = tmp_path / "out"
    index = build_report(write_executed(tmp_path), out, title=HOSTILE, pdf=True)
    assert (out / "report.pdf").read_bytes() == b"%PDF-1.4 made"
    assert '<a href="report.pdf">' in index.read_text(encoding="utf-8")
    assert "report.pdf" in json.loads((out / "manifest.json").read_text())["files"]
    seen = read(tmp_path / "seen.html")
    text = (tmp_path / "seen.html").read_text(encoding="utf-8")
    assert seen.tags.count("article") == 6
    assert "script" not in seen.tags
    assert not seen.handlers
    assert all(address.startswith("data:") for address in seen.loads)
    anchors = re.findall(r' id="([^"]*)"', text)
    assert len(anchors) == len(set(anchors))
    for link in seen.links:
        assert link.startswith("https://arxiv.org/") or link.removeprefix("#") in anchors, link
    build_report(tmp_path / "executed", out)
    assert not (out / "report.pdf").exists()  # it would show what is no longer there
    assert "report.pdf" not in index.read_text(encoding="utf-8")


@pytest.mark.processes
def test_the_command_line_prints_where_it_wrote(
    tmp_path: Path, program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_program(program, "open('report.pdf', 'wb').write(b'%PDF-1.4')")
    put(tmp_path / "executed", "one", [new.new_code_cell("1")])
    out = tmp_path / "out"
    command = ["report", str(tmp_path / "executed"), "--out", str(out)]
    assert main(command) == 0
    assert capsys.readouterr().out.split() == [str(out / "index.html")]
    assert main([*command, "--pdf"]) == 0
    written = capsys.readouterr().out.split()
    assert written == [str(out / "index.html"), str(out / "report.pdf")]
    program.unlink()
    assert main([*command, "--pdf"]) == 2
    assert "apt-get install chromium" in capsys.readouterr().err


@pytest.mark.processes
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print('cannot', 'start'); sys.exit(3)", r"exit code 3: cannot start\).*HTML pages are"),
        ("pass", "exit code 0"),
    ],
)
def test_a_browser_that_fails_is_one_line_and_the_pages_are_there(
    tmp_path: Path, program: Path, body: str, message: str
) -> None:
    write_program(program, body)
    put(tmp_path / "executed", "one", [new.new_code_cell("1")])
    with pytest.raises(SuiteError, match=message):
        build_report(tmp_path / "executed", tmp_path / "out", runs=[], pdf=True)
    index = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "one.html" in index
    assert "report.pdf" not in index


@pytest.mark.processes
def test_a_browser_that_hangs_is_ended_with_its_children(tmp_path: Path, program: Path) -> None:
    write_program(
        program,
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\ntime.sleep(600)",
    )
    with pytest.raises(SuiteError, match="longer than 2 s"):
        print_pdf("<p>x", tmp_path / "report.pdf", limit_s=2)
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not alive(child))
    assert not (tmp_path / "report.pdf").exists()


def test_without_a_browser_the_remedy_comes_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "executed", "one", [new.new_code_cell("1")])
    monkeypatch.setenv("BVIT_CHROMIUM", str(tmp_path / "none"))
    with pytest.raises(MissingExtraError, match="needs Chromium.*apt-get install chromium"):
        build_report(tmp_path / "executed", tmp_path / "out", pdf=True)
    monkeypatch.delenv("BVIT_CHROMIUM")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match="searched: chromium, chromium-browser"):
        find_browser()
    assert not (tmp_path / "out").exists()


def test_a_notebook_that_is_being_executed_says_so(tmp_path: Path) -> None:
    put(tmp_path / "executed", "one", None, seconds=0.0)
    status = tmp_path / "executed" / "one" / "status.json"
    owner = {"host": socket.gethostname(), "pid": os.getpid()}
    owner["pid_started"] = process_start(os.getpid())
    status.write_text(json.dumps({**json.loads(status.read_text()), "state": "running", **owner}))
    index = build_report(tmp_path / "executed", tmp_path / "out", runs=[])
    assert "1 running" in index.read_text(encoding="utf-8")
    text = (index.parent / "one.html").read_text(encoding="utf-8")
    assert "Still being executed" in text
    assert "0.0 s" not in text


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


FRAME = '<div class="scroll" role="region" aria-label="table" tabindex="0"><table><tbody><tr>'
END = "</tr></tbody></table></div>"
OUTWARD = '<a href="https://a.invalid/" rel="noreferrer noopener">y</a>'
PIXEL = 'src="data:image/png;base64,AAAA"'


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("<b>a</b>", "<b>a</b>"),
        ("a < b & c", "a &lt; b &amp; c"),
        ("<td onclick=x>a", "a"),  # a cell outside a table is none, in a browser as well
        ("<table><tr><td onclick=x>a", f"{FRAME}<td>a</td>{END}"),
        ("</div></main>x", "x"),
        ("<b><i>x</b></i>", "<b><i>x</i></b>"),
        ("<SCRIPT>x</SCRIPT>y", "y"),
        ("<style>x</style>y", "y"),
        ("<img src=javascript:x alt=a>", "a"),
        ("<a href='javascript:x'>y</a>", "<a>y</a>"),
        ("<a href='java\nscript:x'>y</a>", "<a>y</a>"),
        ("<a href='//e.invalid/x.html'>y</a>", "<a>y</a>"),
        ("<td colspan='2\" onclick=x'>y</td>", "y"),
        ("<table><td colspan='2\" onclick=x'>y</td>", f"{FRAME}<td>y</td>{END}"),
        ("<table><td colspan=2 class=x style='a:b'>y", f'{FRAME}<td colspan="2">y</td>{END}'),
        ("<div class=scroll role=alert tabindex=3>y</div>", "<div>y</div>"),
        ("<a rel=opener href=https://a.invalid/>y</a>", OUTWARD),
        ("<a href=notes.html#a onclick=x>y</a>", '<a href="notes.html#a">y</a>'),
        ("<img alt='<table>&quot;x</table>' src=x>", '&lt;table&gt;"x&lt;/table&gt;'),
        (f"<img alt='<table onclick=x>' {PIXEL}>", f'<img {PIXEL} alt="&lt;table onclick=x&gt;">'),
        (f"<img {PIXEL} onerror=x>", f'<img {PIXEL} alt="picture">'),
        ("<math><mi><img src=x onerror=y></mi></math>", ""),
        ("<math><mtext><table><mglyph><style><img src=x onerror=y>", ""),
        ("<svg><p><style><g title='</style><img src=x onerror=y>'>", "<p>'&gt;</p>"),
        ("<svg><script>x</script></svg>y", "y"),
        ("<!-- <script> -->y", "y"),
        ("<template><b>x</b></template>y", "y"),
    ],
)
def test_safe_html_keeps_only_what_is_allowed(text: str, safe: str) -> None:
    assert safe_html(text) == safe


@pytest.mark.parametrize("piece", ["<b>", "<table><tr><td>", "<!--", "<img ", "</p>", "<svg>", "1"])
def test_long_html_takes_no_more_than_its_share_of_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    assert "<script" not in safe_html(text + "<script>")
    assert "number" not in safe_html(f"<table><tr><td>{text}x<script>")


def test_formulas_are_drawn_and_cannot_carry_markup() -> None:
    drawn = mathml(r"\frac{a}{b} \, x", block=False)
    assert drawn.startswith("<math")
    assert "<mfrac>" in drawn
    # An empty element must not swallow what follows it.
    assert re.search(r"<mspace[^>]*></mspace><mi>x</mi>", drawn)
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
