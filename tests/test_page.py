"""The page of the service in headless Chromium: the whole story by mouse and by keyboard, and its accessibility."""

import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
from serving import listening_service, small_runs

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")

PATIENCE = 30_000
"""Milliseconds: the machine may be busy."""


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with listening_service(small_runs(tmp_path_factory.mktemp("page"))) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, url):
    """Opens the page; at the end there was no error, no breach of its policy and no request to anywhere else."""
    contexts, faults, asked = [], [], []

    def opened(**options):
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}} | options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if "Security" in message.text else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.wait_for_selector("#found button")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults
    assert asked and all(address.startswith(url) for address in asked)


def serious_faults(page) -> list[str]:
    """Faults that axe-core calls serious or critical."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    found = axe.Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]


def show_user(page, place: int = 3) -> None:
    user = page.locator("#users option").nth(place).get_attribute("value")
    page.fill("#user", user)
    page.press("#user", "Enter")
    page.wait_for_function("user => document.querySelector('#status').innerText.includes(user)", arg=user)
    items = int(page.inner_text("#status").split()[-2])
    page.wait_for_function("n => document.querySelectorAll('#history li').length === n", arg=items)
    page.wait_for_selector("#similar table")


def test_the_whole_story(open_page, tmp_path: Path):
    page = open_page()
    page.screenshot(path=tmp_path / "empty.png")
    title = page.locator("#found button").nth(2).inner_text().split("\n")[0]
    page.fill("#q", title)
    page.wait_for_function("title => document.querySelector('#found button').innerText.startsWith(title)", arg=title)
    page.click("#found button")
    page.wait_for_selector("#lists button[aria-pressed=true]")
    assert page.locator("#history li").count() == 1
    assert "only item" in page.inner_text("#lists-note")

    show_user(page)
    items = page.locator("#history li").count()
    assert items >= 3 and page.locator("#lists ol").count() == 2
    assert page.locator("#lists ol").first.locator("li").count() == 10
    assert page.locator("#history .heat").count() == items
    assert page.locator("#history .heat").first.locator("i").count() == 4
    assert page.locator("#history .effect").count() == items
    assert "nats" in page.inner_text("#legend")
    page.screenshot(path=tmp_path / "user.png", full_page=True)

    second = page.locator("#lists ol").first.locator("button").nth(4)
    second.click()
    assert second.get_attribute("aria-pressed") == "true"
    assert page.locator("#lists button[aria-pressed=true]").count() == 1
    assert page.inner_text("#lists-note").startswith("Rank 5 of mhl-s0")
    chosen = second.locator("span").inner_text()
    page.wait_for_function("name => document.querySelector('#similar-title').innerText.endsWith(name)", arg=chosen)
    assert page.locator("#similar tr.own td").count() == 5
    page.locator("#similar tbody th button").first.click()
    page.wait_for_function("name => !document.querySelector('#similar-title').innerText.endsWith(name)", arg=chosen)

    page.locator("#history .drop").first.click()
    page.wait_for_function("n => document.querySelectorAll('#history li').length === n", arg=items - 1)
    page.uncheck("#seen")
    page.locator("#runs input").nth(1).uncheck()
    page.wait_for_function("() => document.querySelectorAll('#lists ol').length === 1")
    page.click("#clear")
    page.wait_for_function("() => document.querySelectorAll('#history li, #lists ol').length === 0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.png", "user.png"]


def test_by_keyboard_alone(open_page):
    page = open_page()
    page.focus("#q")
    page.keyboard.press("Tab")
    if page.evaluate("document.activeElement.id") == "found":  # a list that scrolls may take the focus
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#lists button[aria-pressed=true]")
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#lists') !== null"):
            break
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator("#lists button").nth(1).get_attribute("aria-pressed") == "true"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 400])
def test_no_serious_fault_of_accessibility(open_page, tmp_path, scheme, width):
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    assert serious_faults(page) == []
    show_user(page)
    page.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
    assert serious_faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_errors_are_shown(open_page, browser):
    page = open_page()
    page.route(
        "**/users/*", lambda route: route.fulfill(status=404, json={"error": "Not in the data.", "hint": "Ask."})
    )
    page.fill("#user", "nobody")
    page.press("#user", "Enter")
    page.wait_for_selector("#status.bad")
    assert page.inner_text("#status") == "Not in the data. Ask."
