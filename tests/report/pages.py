"""Pages to look at, and what is on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from typing import Any

from twotower import pipeline
from twotower.report.page import page
from twotower.retrieval.recommender import Recommender
from worlds import checkerboard, settings

# What somebody might call an item, lest it run or be shown as anything but text.
NASTY = (
    "</script><script>window.hacked = 1</script>",
    '<img src=x onerror="window.hacked = 2">',
    "\"><svg onload='window.hacked = 3'>",
    "<b>bold</b> & <a href='javascript:window.hacked = 4'>link</a>",
    "{{ 7 * 7 }} {% raw %} ${7 * 7} $x^2$",
    "<!--<script> \u2028 \U0001f600 %{x} ]]>",
)


@dataclass
class Element:
    """An element of a page with its own text, that of what is in it included."""

    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """All elements of a page in their order, and the cells of its tables."""

    elements: list[Element] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[Element] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in {"meta", "link", "input", "br", "img"}:
            self._open.append(element)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def handle_endtag(self, tag: str) -> None:
        while self._open:
            element = self._open.pop()
            if element.tag in {"td", "th"}:
                self.tables[-1][-1].append(" ".join(element.text.split()))
            if element.tag == tag:
                break

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    def by_id(self, name: str) -> Element:
        [found] = [each for each in self.elements if each.attributes.get("id") == name]
        return found


def read(content: bytes) -> Page:
    found = Page()
    found.feed(content.decode())
    return found


def nasty_world() -> dict[str, Any]:
    """The checkerboard with texts that would like to be more than text."""
    world = checkerboard(text_ids=True)

    def bad(name: Any) -> str:
        number = int(str(name)[1:])
        return f"{NASTY[number % len(NASTY)]} {name}"

    users, items, log = world["users"], world["items"], world["interactions"]
    for table in (users, log):
        table["user_id"] = [bad(each) for each in table["user_id"]]
    for table in (items, log):
        table["item_id"] = [bad(each) for each in table["item_id"]]
    items["title"] = [f"{NASTY[n % len(NASTY)]} of {n}" for n in range(len(items["item_id"]))]
    items["genre"] = [NASTY[n % 4] for n in range(len(items["item_id"]))]
    users["taste"] = [NASTY[n % 4] for n in range(len(users["user_id"]))]
    items[NASTY[1]] = [f"kind {n % 7}" for n in range(len(items["item_id"]))]
    return world


@cache
def nasty() -> Recommender:
    return pipeline.fit(nasty_world(), settings(training={"epochs": 2}))


@cache
def page_of(make: Any) -> bytes:
    return page(make())
