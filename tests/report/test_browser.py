"""The page in a real browser, without a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import NASTY, nasty, page_of

from browsers import browser_only, chromium
from twotower.report.page import page
from worlds import NUM_ITEMS, shopkeeper, trained

pytestmark = browser_only
Open = Callable[..., "Opened"]


class Opened:
    """A page in Chromium, what its scripts complained of and what it asked a network for."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.context = browser.new_context(offline=True, **context)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        if context.get("java_script_enabled", True):
            self.page.wait_for_selector("html[data-drawn]", state="attached")

    def _note(self, said: Any) -> None:
        # Of the graphics driver, where a processor does its work.
        if "GL Driver Message" not in said.text:
            self.complaints.append(said.text)

    def names_on_the_map(self) -> list[str]:
        """What the map's legend says."""
        return list(self.page.locator("#atlas .legendtext").all_text_contents())

    def colour_of(self, selector: str, what: str = "color") -> str:
        script = "(element, what) => getComputedStyle(element)[what]"
        return str(self.page.locator(selector).first.evaluate(script, what))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens the page of a recommender; whatever it complains of ends the test."""
    every = []

    def opened(content: bytes, **context: Any) -> Opened:
        path = tmp_path / "report.html"
        path.write_bytes(content)
        every.append(Opened(browser, path, **context))
        return every[-1]

    yield opened
    for each in every:
        each.context.close()
        assert each.complaints == []
        # What begins with data or blob is in the page itself.
        asked = [url for url in each.requests if not url.startswith(("data:", "blob:"))]
        assert asked == [(tmp_path / "report.html").as_uri()]


def test_it_draws_every_chart_and_shows_what_was_measured(opened: Open) -> None:
    found = opened(page_of(trained)).page
    measured = trained().metrics["ranking"]["warm"]["towers"]["ndcg@10"]["mean"]
    assert f"{measured:.4f}" in found.inner_text("table >> nth=0")
    assert found.locator(".chart").count() >= 8
    assert found.locator(".chart:not(:has(svg.main-svg))").count() == 0
    assert found.locator("#undrawn").count() == 0


def test_the_map_shows_an_item_under_the_mouse(opened: Open) -> None:
    found = opened(page_of(trained)).page
    found.locator("#atlas").scroll_into_view_if_needed()
    box = found.locator("#atlas .points path").first.bounding_box()
    found.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    found.wait_for_selector("#atlas .hovertext")
    said = found.locator("#atlas .hovertext").text_content()
    assert re.search(r"(jazz|punk|folk|funk) · year \d+", said)
    assert re.search(r"met \d+ times", said)


def test_colours_and_words_are_chosen_from_the_keyboard(opened: Open) -> None:
    opening = opened(page_of(trained))
    found = opening.page
    assert sorted(opening.names_on_the_map()) == ["folk", "funk", "jazz", "punk"]
    found.locator("#colour").focus()
    found.keyboard.press("ArrowDown")
    found.wait_for_selector("#atlas .colorbar")
    assert found.locator("#colour option:checked").inner_text() == "year"
    found.keyboard.press("Tab")
    found.keyboard.type("jazz")
    found.wait_for_function("document.getElementById('found').textContent")
    assert found.inner_text("#found").startswith(f"{NUM_ITEMS // 4} found: 1 jazz")
    rings = found.locator("#atlas .textpoint text").all_text_contents()
    assert rings == [str(n) for n in range(1, NUM_ITEMS // 4 + 1)]


def test_by_night_text_is_light_in_charts_too_and_paper_is_white(opened: Open) -> None:
    opening = opened(page_of(trained), color_scheme="dark")
    day = opened(page_of(trained), color_scheme="light")
    for selector, what in (("body", "color"), (".chart .xtick text", "fill")):
        assert brightness(opening.colour_of(selector, what)) > 200
        assert brightness(day.colour_of(selector, what)) < 60
    assert brightness(opening.colour_of("body", "backgroundColor")) < 60
    opening.page.emulate_media(media="print", color_scheme="dark")
    assert brightness(opening.colour_of("body", "color")) < 60


def brightness(colour: str) -> float:
    return float(np.mean([float(part) for part in re.findall(r"[\d.]+", colour)[:3]]))


@pytest.mark.parametrize("make", [trained, shopkeeper, nasty], ids=["ids", "kinds", "nasty"])
def test_on_a_phone_nothing_sticks_out(opened: Open, make: Any) -> None:
    found = opened(page_of(make), viewport={"width": 360, "height": 740}).page
    assert found.evaluate("document.documentElement.scrollWidth") <= 360


def test_without_scripts_the_tables_are_there_and_say_so(opened: Open) -> None:
    found = opened(page_of(trained), java_script_enabled=False).page
    assert found.locator("#undrawn").is_visible()
    assert "two towers" in found.inner_text("table >> nth=0")


def test_things_that_are_named_like_scripts_do_nothing(opened: Open) -> None:
    opening = opened(page_of(nasty))
    found = opening.page
    assert found.evaluate("window.hacked") is None
    assert NASTY[0] in found.inner_text("body")
    # Charts take some tags for their own.
    for number in range(found.locator("#colour option").count()):
        found.select_option("#colour", str(number))
    found.select_option("#colour", "0")
    named = [name.rstrip("…") for name in opening.names_on_the_map()]
    assert NASTY[3][:23] in named
    assert found.locator("#atlas a, #atlas img, #atlas script").count() == 0
    found.fill("#find", "img src")
    found.wait_for_function("document.getElementById('found').textContent")
    assert re.match(r"\d+ found: 1 <img src=x", found.inner_text("#found"))
    assert found.evaluate("window.hacked") is None


def test_many_items_are_drawn_on_a_canvas(opened: Open) -> None:
    count = 4000
    items = {"item_id": list(range(10_000, 10_000 + count)), "genre": ["jazz"] * count}
    many = trained().add_items(items)
    opening = opened(page(many))
    assert opening.page.locator("#atlas canvas").count() > 0
    drawn = (
        "document.getElementById('atlas').data.reduce((sum, each) => sum + each.x.length, 0)"
    )
    assert opening.page.evaluate(drawn) == count + NUM_ITEMS
