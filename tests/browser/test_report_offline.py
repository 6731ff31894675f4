"""The report in a real browser, from a file, with the network refused."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bvit_analysis.report import build_report
from tests.support.chromium import FLAGS, chromium
from tests.support.executed import frames_json, write_executed

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("browser report")
    index = build_report(write_executed(root), root / "out {x}")
    return sorted(index.parent.glob("*.html"))


@contextlib.contextmanager
def opened(browser: Any, path: Path, *, scheme: str = "light", width: int = 1280) -> Iterator[Any]:
    """Open a page with the network refused; nothing may fail, ask for anything or complain."""
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
    page = context.new_page()
    page.on("requestfailed", lambda request: troubles.append(request.url))
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto(path.as_uri(), wait_until="load")
    yield page
    context.close()
    assert asked == []
    assert troubles == []


def fits(page: Any) -> bool:
    return bool(
        page.evaluate(
            "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )
    )


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_opens_whole_and_asks_for_nothing(
    browser: Any, pages: list[Path], width: int, scheme: str
) -> None:
    for path in pages:
        with opened(browser, path, scheme=scheme, width=width) as page:
            widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
            assert all(number > 0 for number in widths)
            if path.name in ("index.html", "03_weight_oscillation.html", "08_explore-0.html"):
                assert widths
            assert fits(page), path.name
            assert page.evaluate("document.scripts.length") == 1
            # Folded parts must not burst the page either.
            page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
            assert fits(page), path.name


def shown(explorer: Any) -> list[str]:
    """Return the pictures that are seen, each as the address that holds it."""
    return list(
        explorer.locator("img").evaluate_all(
            "images => images.filter(i => i.checkVisibility() && i.getBoundingClientRect().width > 9)"
            ".map(i => i.src)"
        )
    )


@pytest.mark.parametrize("width", [1280, 400])
def test_an_explorer_follows_its_controls(browser: Any, pages: list[Path], width: int) -> None:
    path = next(path for path in pages if path.name == "08_explore-1.html")
    frames = frames_json()
    addresses = [f"data:image/png;base64,{picture['png']}" for picture in frames["pictures"]]
    with opened(browser, path, width=width) as page:
        explorer = page.locator("figure.explorer").nth(1)
        finding = explorer.locator(".finding")
        before = shown(explorer)
        assert before == [addresses[6], addresses[10]]  # the start
        assert finding.inner_text() == frames["findings"][6]
        # The slider by keyboard: both panels read it.
        slider = explorer.get_by_label("Step")
        slider.focus()
        page.keyboard.press("ArrowRight")
        after = shown(explorer)
        assert after == [addresses[7], addresses[11]]
        assert explorer.locator("output").inner_text() == "1,000"
        assert slider.get_attribute("aria-valuetext") == "1,000"
        assert finding.inner_text() == frames["findings"][7]
        # The list: the second panel does not read it.
        explorer.get_by_label("Run").select_option("baseline")
        assert shown(explorer) == [addresses[3], addresses[11]]
        assert finding.inner_text() == frames["findings"][3]
        slider.focus()
        page.keyboard.press("Home")
        explorer.get_by_label("Run").select_option("grs")
        assert shown(explorer) == [addresses[4], addresses[8]]
        assert fits(page)
        # The first explorer has kept its own setting, and says hostile text as text.
        first = page.locator("figure.explorer").first
        assert len(shown(first)) == 2
        assert "<script>alert('{x}')</script>" in first.locator(".finding").inner_text()
        alts = first.locator("img").evaluate_all("images => images.map(image => image.alt)")
        assert all(alt.startswith("picture ") for alt in alts)


def test_without_javascript_the_start_is_shown(browser: Any, pages: list[Path]) -> None:
    path = next(path for path in pages if path.name == "08_explore-1.html")
    context = browser.new_context(offline=True, java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    explorer = page.locator("figure.explorer").nth(1)
    assert explorer.locator("img:visible").count() == 2
    assert explorer.locator("img:visible").first.get_attribute("alt") == "picture 6"
    assert explorer.locator("select:visible, input:visible").count() == 0
    assert "Shown: Run grs, Step 100." in explorer.inner_text()
    assert page.locator("button.theme:visible").count() == 0
    context.close()


def test_the_policy_runs_no_script_but_ours(
    browser: Any, pages: list[Path], tmp_path: Path
) -> None:
    text = next(path for path in pages if path.name == "04_other.html").read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    attack = "<script>window.evil = 1</script><img src=x onerror='window.evil = 2'>"
    broken.write_text(text.replace("</main>", f"{attack}</main>"), encoding="utf-8")
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(broken.as_uri())
    assert page.evaluate("window.evil === undefined")
    assert page.locator("button.theme").is_visible()  # ours did run
    context.close()


def test_the_reader_can_choose_the_colours(browser: Any, pages: list[Path]) -> None:
    index = next(path for path in pages if path.name == "index.html")
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, index, scheme="light") as page:
        light = page.evaluate(ground)
        button = page.locator("button.theme")
        assert button.inner_text() == "Dark colours"
        button.click()
        dark = page.evaluate(ground)
        assert (light, dark) == ("rgb(255, 255, 255)", "rgb(20, 24, 31)")
        assert button.inner_text() == "Light colours"
        page.locator(".card .name a").first.click()
        assert page.evaluate(ground) == dark  # the choice holds on the next page
        # On paper it is light, whatever was chosen.
        page.emulate_media(media="print")
        assert page.evaluate(ground) == light
        assert not page.locator("nav").first.is_visible()
    with opened(browser, index, scheme="dark") as page:
        assert page.evaluate(ground) == dark
        page.locator("button.theme").click()
        assert page.evaluate(ground) == light


def test_the_report_is_printed(browser: Any, tmp_path: Path) -> None:
    index = build_report(write_executed(tmp_path), tmp_path / "out", pdf=True)
    printed = index.with_name("report.pdf").read_bytes()
    assert printed.startswith(b"%PDF-")
    assert printed.rstrip().endswith(b"%%EOF")
    # The index and each of the six executions begin a page of their own.
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 7
    assert b"/Subtype /Image" in printed or b"/Subtype/Image" in printed
    assert not list(index.parent.glob(".*"))


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
              return Math.min(...['p', 'td', 'a', 'summary', 'small', 'button', 'code', 'th'].map(name => {
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
    for number in range(page.locator(".card .name a").count()):
        page.locator(".card .name a").nth(number).click()
        assert page.url != index.as_uri()
        page.locator("nav a").first.click()
        assert page.url == index.as_uri()
    context.close()
