"""The report in a real browser, from a file, with the network refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bvit_analysis.report import build_report
from tests.test_report import write_executed

pytestmark = pytest.mark.browser

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium") or CHROMIUM
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if sync_playwright is None or not Path(program).exists():
        reason = "needs playwright and Debian's chromium (apt-get install chromium)"
        if os.environ.get("BVIT_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("browser report")
    index = build_report(write_executed(root), root / "out {x}")
    return sorted(index.parent.glob("*.html"))


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_opens_whole_and_asks_for_nothing(
    browser: Any, pages: list[Path], width: int, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    asked: list[str] = []
    troubles: list[str] = []

    def refuse(route: Any) -> None:
        if route.request.url.startswith("file://"):
            route.continue_()
        else:
            asked.append(route.request.url)
            route.abort()

    context.route("**/*", refuse)
    for path in pages:
        page = context.new_page()
        page.on("requestfailed", lambda request: troubles.append(request.url))
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(path.as_uri(), wait_until="load")
        widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert all(number > 0 for number in widths)
        if path.name in ("index.html", "03_weight_oscillation.html"):
            assert widths
        root = "document.documentElement"
        assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth"), path.name
        assert page.evaluate("document.scripts.length") == 0
        # Folded parts must not burst the page either.
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth"), path.name
        page.close()
    context.close()
    assert asked == []
    assert troubles == []


def test_formulas_are_drawn_and_text_has_contrast(browser: Any, pages: list[Path]) -> None:
    path = next(path for path in pages if path.name.startswith("03"))
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme, offline=True)
        page = context.new_page()
        page.goto(path.as_uri())
        box = page.locator("div.math math").first.bounding_box()
        assert box["width"] > 60
        assert box["height"] > 15
        ratio = page.evaluate(
            """() => {
              const light = text => {
                const [r, g, b] = text.match(/[0-9.]+/g).map(Number).map(v => v / 255)
                  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
              };
              const ground = light(getComputedStyle(document.body).backgroundColor);
              return Math.min(...['p', 'td', 'a', 'summary', 'small'].map(name => {
                const ink = light(getComputedStyle(document.querySelector(name)).color);
                return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
              }));
            }"""
        )
        assert ratio >= 4.5  # WCAG 2.1, AA
        context.close()


def test_links_lead_from_the_index_to_each_page_and_back(browser: Any, pages: list[Path]) -> None:
    context = browser.new_context(offline=True)
    page = context.new_page()
    index = next(path for path in pages if path.name == "index.html")
    page.goto(index.as_uri())
    for number in range(page.locator(".card h3 a").count()):
        page.locator(".card h3 a").nth(number).click()
        assert page.url != index.as_uri()
        page.locator("nav a").first.click()
        assert page.url == index.as_uri()
    context.close()
