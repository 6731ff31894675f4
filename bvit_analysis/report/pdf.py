"""The report on paper: one HTML document printed by Chromium, with nothing to reach but that document."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from bvit_analysis.errors import MissingExtraError, SuiteError
from bvit_analysis.processes import Child
from bvit_analysis.suite.private_folders import PrivateFolder, remove_abandoned

PROGRAM_VARIABLE = "BVIT_CHROMIUM"
"Environment variable: the browser that prints, where it is not found by itself."

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_LIMIT_S = 180
_FLAGS = (
    "--headless",
    "--no-sandbox",  # as root and in containers there is none; the page is ours and runs no script of others
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no name leads anywhere
    "--proxy-server=127.0.0.1:9",
    "--blink-settings=preferredColorScheme=1",  # light
    "--no-pdf-header-footer",
)


def find_browser() -> str:
    """Return the path of a Chromium or Chrome.

    Raises:
        MissingExtraError: If there is none; the text says how to get one.
    """
    chosen = os.environ.get(PROGRAM_VARIABLE, "")
    for name in (chosen,) if chosen else _PROGRAMS:
        path = shutil.which(name)
        if path:
            return path
    searched = repr(chosen) if chosen else ", ".join(_PROGRAMS)
    raise MissingExtraError(
        f"printing a PDF needs Chromium or Chrome, and none is found (searched: {searched}); install one"
        f" (Debian: apt-get install chromium) or set {PROGRAM_VARIABLE} to its path, or open index.html in"
        " any browser and print it"
    )


def print_pdf(document: str, out: Path, *, limit_s: int = _LIMIT_S) -> Path:
    """Print an HTML document as PDF.

    Args:
        document: Complete HTML that refers to nothing outside itself.
        out: Path of the PDF.
        limit_s: A browser that takes longer is ended, seconds.

    Returns:
        ``out``.

    Raises:
        MissingExtraError: If there is no browser.
        SuiteError: If it fails or takes too long; an earlier PDF is then still there.
    """
    program = find_browser()
    remove_abandoned()
    private = PrivateFolder()
    try:
        _print(program, document, private.path, out, limit_s)
    finally:
        private.remove()
    return out


def _print(program: str, document: str, folder: Path, out: Path, limit_s: int) -> None:
    page, made, log = folder / "report.html", folder / "report.pdf", folder / "log"
    page.write_text(document, encoding="utf-8")
    home = {name: str(folder) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
    command = [
        program,
        *_FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        f"--print-to-pdf={made}",
        page.as_uri(),
    ]
    with log.open("wb") as output:
        browser = Child(command, output=output, environment={**os.environ, **home}, folder=folder)
        try:
            code = browser.wait(limit_s)
        finally:
            browser.kill()  # with all its children, which a browser that is killed alone leaves behind
    if code is None:
        raise SuiteError(
            f"printing took longer than {limit_s} s and was ended; the HTML pages are complete,"
            " print them from a browser, or report on fewer notebooks"
        )
    if code != 0 or not made.is_file() or not made.read_bytes().startswith(b"%PDF-"):
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise SuiteError(
            f"{program} did not print the report (exit code {code}"
            f"{': ' + said[-1][:200] if said else ''}); the HTML pages are complete"
        )
    hidden = out.with_name(f".{out.name}.tmp")
    try:
        shutil.copyfile(made, hidden)
        hidden.replace(out)
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise SuiteError(f"cannot write {str(out)!r}: {error.strerror}") from error


def for_print(body: str, prefix: str, pages: dict[str, str]) -> str:
    """Return the HTML of a page as a part of one document: own anchors, no picture that is not shown.

    Args:
        body: From render_notebook().
        prefix: Put before each anchor.
        pages: File name of a page to its anchor in the document.
    """

    def again(match: re.Match[str]) -> str:
        tag = match.group()
        if tag.startswith("<img") and tag.endswith(" hidden>"):
            return ""
        tag = re.sub(r' (id|for)="', rf' \1="{prefix}-', tag)
        tag = re.sub(r' href="#', f' href="#{prefix}-', tag)
        link = re.search(r' href="([A-Za-z0-9._-]+\.html)(#[^"]*)?"', tag)
        if link and link.group(1) in pages:
            anchor = pages[link.group(1)]
            tag = tag.replace(link.group(), f' href="#{anchor}"')
        return tag

    body = re.sub(r'<p class="files">.*?</p>', "", body)  # they lie beside the pages, not the PDF
    body = re.sub(r"<noscript>|<small>The controls need JavaScript.</small>|</noscript>", "", body)
    # Text and attribute values hold no angle bracket, since all are escaped.
    return re.sub(r"<[a-z][^<>]*>", again, body)
