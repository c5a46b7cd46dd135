"""The page in a real browser, without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import NASTY, nasty

from twotower import write_report
from worlds import trained

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to open pages with"),
]


class Opened:
    """A page in Chromium, what its scripts complained of and what it asked a network for."""

    def __init__(self, path: Path, browser: object) -> None:
        self.page = browser.new_page()  # type: ignore[attr-defined]
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("svg.main-svg, canvas")


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not there")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_it_draws_asks_nobody_for_anything_and_shows_what_was_measured(
    browser: object, tmp_path: Path
) -> None:
    path = write_report(trained(), tmp_path / "report.html")
    opened = Opened(path, browser)
    assert opened.complaints == []
    assert opened.requests == [path.as_uri()]
    measured = trained().metrics["ranking"]["warm"]["towers"]["ndcg@10"]["mean"]
    assert f"{measured:.4f}" in opened.page.inner_text("table >> nth=0")
    assert opened.page.locator(".js-plotly-plot").count() >= 4


def test_things_that_are_named_like_scripts_do_nothing(browser: object, tmp_path: Path) -> None:
    opened = Opened(write_report(nasty(), tmp_path / "report.html"), browser)
    assert opened.complaints == []
    assert NASTY[0] in opened.page.inner_text("body")
