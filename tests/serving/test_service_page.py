"""The page at ``/`` in a real browser, on a real service."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import Server, serving

from browsers import browser_only, chromium
from twotower import pipeline, runs
from twotower.retrieval.changes import ItemRecords
from twotower.retrieval.recommender import Recommender
from twotower.serving import front
from twotower.serving.keys import add_key, make_key
from twotower.serving.shelf import Shelf, items_of, users_of
from worlds import GENRES, NUM_ITEMS, NUM_USERS, checkerboard, settings, trained

DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q"
    "DwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
NASTY = "<img src=x onerror=window.hacked=1>"
Open = Callable[..., "Opened"]


@pytest.fixture(scope="module")
def shop() -> Recommender:
    """The small world with titles, pictures, and one item that is named like a script."""
    titles = [f"{GENRES[n % 4]} record {n}" for n in range(NUM_ITEMS)]
    titles[4] = f"{NASTY} record 4"
    columns = {
        "title": np.array(titles, dtype=object),
        "cover": np.array([DOT] * NUM_ITEMS, dtype=object),
    }
    names = np.array([f"Person {n}" for n in range(NUM_USERS)], dtype=object)
    known = trained()
    return replace(
        known,
        item_values={**known.item_values, **columns},
        user_values={**known.user_values, "name": names},
    )


@pytest.fixture(scope="module")
def stocked(shop: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("page") / "runs"
    place.mkdir()
    runs.save(shop, place / "shop")
    with serving(place / "shop") as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


class Opened:
    """The page in Chromium, what its scripts complained of and whom it asked."""

    def __init__(self, browser: Any, url: str, watching: str = "", **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.context.set_default_timeout(8000)
        self.page = self.context.new_page()
        self.page.add_init_script(watching)
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)

    def names(self, of: str = "recommended") -> list[str]:
        return list(self.page.locator(f"#{of} .name").all_text_contents())

    def until_names_are(self, wanted: list[str], of: str = "recommended") -> None:
        from playwright.sync_api import expect

        expect(self.page.locator(f"#{of} .name")).to_have_text(wanted)

    def find_user(self, words: str) -> None:
        self.page.fill("#user", words)
        self.page.wait_for_selector("#users button")
        self.page.keyboard.press("ArrowDown")
        self.page.keyboard.press("Enter")

    def slide(self, dial: str, value: float) -> None:
        self.page.locator(f"#{dial}").fill(str(value))


@pytest.fixture
def opened(browser: Any, stocked: Server) -> Iterator[Open]:
    """Opens the page; whatever it complains of, or asks of anybody else, ends the test."""
    every = []

    def opened(url: str = stocked.url, **context: Any) -> Opened:
        every.append(Opened(browser, url, **context))
        every[-1].url = url
        return every[-1]

    yield opened
    for each in every:
        each.context.close()
        assert each.complaints == getattr(each, "expected", [])
        own = (each.url, "data:")
        assert [url for url in each.asked if not url.startswith(own)] == []


def titles(server: Server, shop: Recommender, person: Any, **wish: Any) -> list[str]:
    """What the service says to anybody who asks it."""
    reply = server.post("/v1/recommend", {"people": [person], **wish}).json["answers"][0]
    rows = shop.items.rows([each["item"] for each in reply["items"]])
    return [str(title) for title in shop.item_values["title"][rows - 1]]


class TestInABrowser:
    pytestmark = browser_only

    def test_a_user_is_found_by_keyboard_and_has_a_list_with_reasons(
        self, opened: Open, stocked: Server, shop: Recommender
    ) -> None:
        it = opened()
        it.until_names_are(titles(stocked, shop, {}))
        it.find_user("person 7")
        it.until_names_are(titles(stocked, shop, {"user": 107}))
        assert "User 107: Person 7" in it.page.inner_text("#who")
        assert it.page.locator("#recommended img").count() == 10
        why = it.page.locator("#recommended .why").first
        why.locator("summary").focus()
        it.page.keyboard.press("Enter")
        assert "what was liked" in why.inner_text()
        # Of seven that were liked in training five are named.
        assert "and 2 others" in why.inner_text()
        liked = [shop.item_values["title"][row - 1] for row in shop.liked.of(8)[::-1]]
        it.until_names_are(liked, "liked")
        met = shop.items.of(shop.seen.of(8)).tolist()
        it.until_names_are(titles(stocked, shop, {"exclude": met}), "popular")

    def test_a_dial_acts_at_once_and_the_last_answer_wins(
        self, opened: Open, stocked: Server, shop: Recommender
    ) -> None:
        it = opened()
        it.find_user("107")
        plain = titles(stocked, shop, {"user": 107})
        it.until_names_are(plain)
        it.slide("diversity", 0.9)
        varied = titles(stocked, shop, {"user": 107}, diversity=0.9)
        it.until_names_are(varied)
        assert varied != plain
        slow = []

        def hold(route: Any) -> None:
            if '"diversity":0.3' in (route.request.post_data or ""):
                slow.append(route)
            else:
                route.continue_()

        it.page.route("**/v1/recommend", hold)
        it.slide("diversity", 0.3)
        it.page.wait_for_timeout(300)
        it.slide("diversity", 0)
        it.slide("popularity", -1)
        wanted = titles(stocked, shop, {"user": 107}, popularity=-1)
        it.until_names_are(wanted)
        assert slow
        it.page.unroute("**/v1/recommend")
        it.page.wait_for_timeout(300)
        assert it.names() == wanted

    def test_filters_come_from_the_columns(
        self, opened: Open, stocked: Server, shop: Recommender
    ) -> None:
        it = opened()
        it.find_user("107")
        it.page.click("#filters summary")
        it.page.get_by_role("checkbox", name="punk").check()
        it.page.get_by_label("year from").fill("1980")
        where = {"genre": ["punk"], "year": {">=": 1980}}
        wanted = titles(stocked, shop, {"user": 107}, where=where)
        it.until_names_are(wanted)
        assert 0 < len(wanted) < 10
        assert f"No more than {len(wanted)}" in it.page.inner_text("#rests")
        it.page.click("#unfilter")
        it.until_names_are(titles(stocked, shop, {"user": 107}))

    def test_somebody_is_composed_of_features_and_clicks(
        self, opened: Open, stocked: Server, shop: Recommender
    ) -> None:
        it = opened()
        it.page.click("#compose summary")
        it.page.locator("#features").get_by_label("taste").select_option(label="punk")
        it.until_names_are(titles(stocked, shop, {"features": {"taste": "punk"}}))
        it.page.fill("#add", "record 17")
        it.page.click("#adds button")
        person: dict[str, Any] = {"features": {"taste": "punk"}, "history": [517]}
        it.until_names_are(titles(stocked, shop, person))
        second = shop.items.values.tolist()[
            list(shop.item_values["title"]).index(it.names()[1])
        ]
        it.page.focus("#recommended .plus >> nth=1")
        it.page.keyboard.press("Enter")
        person["history"] = [517, second]
        it.until_names_are(titles(stocked, shop, person))
        assert it.page.evaluate("document.activeElement.className") == "plus"
        assert it.page.locator("#chosen li").count() == 2
        it.page.get_by_label("Remove punk record 17").click()
        assert "Somebody new, with taste as given" in it.page.inner_text("#who")
        it.page.click("#reset")
        it.until_names_are(titles(stocked, shop, {}))

    def test_an_item_opens_with_its_like_and_is_shown_on_the_map(
        self, opened: Open, stocked: Server
    ) -> None:
        it = opened()
        it.page.wait_for_selector("#atlas-whole:not([hidden])")
        it.page.click("#recommended .name >> nth=0")
        it.page.wait_for_selector("#item-similar li")
        near = it.names("item-similar")
        assert len(near) == 8
        it.page.click("#item-similar .name >> nth=0")
        heading = it.page.locator("#item-title")
        assert heading.inner_text() == near[0]
        it.page.click("#item-map")
        assert it.page.locator("#hits button").all_text_contents()[0].startswith(near[0])
        assert not it.page.locator("#item").is_visible()

    def test_the_map_is_coloured_searched_moved_and_clicked(self, opened: Open) -> None:
        it = opened()
        it.find_user("107")
        it.page.wait_for_selector("#atlas-whole:not([hidden])")
        legend = it.page.locator("#legend li").all_text_contents()
        assert sorted(legend) == sorted(GENRES)
        it.page.locator("#colour").select_option(label="year")
        assert it.page.locator("#legend .swatch.long").count() == 1
        it.page.fill("#seek", "jazz record")
        assert it.page.inner_text("#sought") == f"{NUM_ITEMS // 4} found"
        before = drawn(it)
        assert it.page.evaluate(PAINTED) > 500
        it.page.focus("#canvas")
        for press in ("+", "+", "ArrowLeft"):
            it.page.keyboard.press(press)
        it.page.wait_for_timeout(100)
        assert drawn(it) != before
        it.page.keyboard.press("0")
        it.page.click("#hits button >> nth=0")
        it.page.locator("#item-title", has_text="jazz record").wait_for()

    def test_on_the_map_a_user_stays_where_they_are_whatever_the_dials(
        self, opened: Open
    ) -> None:
        it = opened(watching=WATCHED)
        it.page.wait_for_selector("#atlas-whole:not([hidden])")
        it.find_user("107")
        ranks = [str(rank + 1) for rank in range(10)]
        rings = until_written(it, ["★", *ranks])
        mine = rings["★"]
        it.page.evaluate("window.written = {}")
        it.slide("popularity", -1)
        it.slide("diversity", 1)
        it.page.click("#filters summary")
        it.page.get_by_role("checkbox", name="jazz").check()
        it.page.wait_for_timeout(500)
        it.page.wait_for_selector("#lists:not([aria-busy])")
        moved = until_written(it, ["★", *ranks])
        assert moved["★"] == mine
        assert any(moved[rank] != rings[rank] for rank in ranks)
        # Once for nobody, and once for this user.
        assert len([url for url in it.asked if url.endswith("/v1/place")]) == 2
        it.find_user("108")
        it.page.wait_for_timeout(500)
        it.page.wait_for_selector("#lists:not([aria-busy])")
        assert until_written(it, ["★"])["★"] != mine

    def test_of_a_long_history_it_says_what_is_not_shown(
        self, opened: Open, stocked: Server, shop: Recommender
    ) -> None:
        told = [
            {"id": f"long-{n}", "user": "reader", "item": item}
            for n, item in enumerate(shop.items.values[:30].tolist())
        ]
        stocked.post("/v1/events", {"events": told})
        it = opened()
        it.find_user("reader")
        it.page.wait_for_selector("#liked-rest:not([hidden])")
        assert len(it.names("liked")) == 20
        left = it.page.inner_text("#liked-rest")
        assert " ".join(left.split()) == "and 10 more Show 10 of them"
        it.page.focus("#liked-all")
        it.page.keyboard.press("Enter")
        assert len(it.names("liked")) == 30
        assert not it.page.locator("#liked-rest").is_visible()
        # Who goes by keyboard goes on where the list goes on.
        assert it.page.evaluate("document.activeElement.textContent") == it.names("liked")[20]

    def test_what_is_named_like_a_script_does_nothing(self, opened: Open) -> None:
        it = opened()
        it.page.click("#compose summary")
        it.page.fill("#add", "img src")
        it.page.click("#adds button")
        assert NASTY in it.page.inner_text("#chosen")
        it.page.click("#liked .name >> nth=0")
        it.page.wait_for_selector("#item-similar li")
        assert it.page.inner_text("#item-title").startswith(NASTY)
        assert it.page.evaluate("window.hacked") is None
        assert it.page.locator("img:not([src^='data:'])").count() == 0

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_all_text_can_be_read_by_day_and_by_night(self, opened: Open, scheme: str) -> None:
        it = opened(color_scheme=scheme)
        it.find_user("107")
        it.page.wait_for_selector("#atlas-whole:not([hidden])")
        it.page.click("#filters summary")
        it.page.click("#compose summary")
        it.page.click("#recommended .plus >> nth=0")
        it.page.click("#recommended .why summary >> nth=0")
        it.page.fill("#seek", "jazz")
        for field, found in (("#user", "#users"), ("#add", "#adds")):
            it.page.fill(field, "record" if field == "#add" else "1")
            it.page.hover(f"{found} button >> nth=1")
            assert it.page.evaluate(TOO_PALE) == []
            it.page.keyboard.press("Escape")
        it.page.wait_for_selector("#lists:not([aria-busy])")
        # A fade that is going on would be measured half way.
        it.page.wait_for_timeout(250)
        # The box of mistakes and the form for a key, with all else beside them.
        it.page.evaluate(SHOW_TROUBLE)
        for part in ("#chosen li", "#trouble", "#door", "#hits button"):
            assert it.page.locator(part).first.is_visible()
        assert it.page.evaluate(TOO_PALE) == []
        it.page.click("#recommended .name >> nth=0")
        it.page.wait_for_selector("#item-similar li")
        assert it.page.locator("#item-values dd").first.is_visible()
        assert it.page.evaluate(TOO_PALE) == []

    def test_on_a_phone_nothing_sticks_out(self, opened: Open) -> None:
        it = opened(viewport={"width": 360, "height": 740}, has_touch=True)
        it.find_user("107")
        it.page.click("#filters summary")
        it.page.click("#compose summary")
        it.page.wait_for_selector("#atlas-whole:not([hidden])")
        assert it.page.evaluate("document.documentElement.scrollWidth") <= 360
        assert it.page.evaluate(NAMELESS) == []

    def test_a_key_is_asked_for_and_kept_nowhere(
        self, opened: Open, shop: Recommender, tmp_path: Path
    ) -> None:
        secret, made = make_key("reader", ["read"])
        add_key(tmp_path / "keys.txt", made)
        (tmp_path / "runs").mkdir()
        runs.save(shop, tmp_path / "runs" / "shop")
        with serving(tmp_path / "runs" / "shop", f"--keys {tmp_path / 'keys.txt'}") as server:
            it = opened(server.url)
            it.page.fill("#key", "not this")
            it.page.keyboard.press("Enter")
            it.page.wait_for_selector("#trouble:not([hidden])")
            assert not it.page.locator("#main").is_visible()
            it.page.fill("#key", secret)
            it.page.keyboard.press("Enter")
            it.page.wait_for_selector("#recommended li")
            kept = "JSON.stringify([localStorage, sessionStorage, document.cookie])"
            assert it.page.evaluate(kept) == '[{},{},""]'
            assert not any(secret in url for url in it.asked)
            assert it.page.input_value("#key") == ""
            it.page.reload()
            it.page.wait_for_selector("#door:not([hidden])")
            # What a browser says of each refusal.
            it.expected = [said for said in it.complaints if "401" in said]
            assert len(it.expected) == 3


def until_written(it: Opened, texts: list[str]) -> dict[str, list[float]]:
    """Where the map has these texts, once all were drawn (see ``WATCHED``)."""
    for _ in range(80):
        found: dict[str, list[float]] = it.page.evaluate("window.written")
        if found.keys() >= set(texts):
            return found
        it.page.wait_for_timeout(100)
    raise AssertionError(f"only {list(found)} were drawn")


def drawn(it: Opened) -> str:
    return str(it.page.evaluate("document.getElementById('canvas').toDataURL()"))


PAINTED = """() => {
  const canvas = document.getElementById("canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.filter((value, n) => n % 4 === 3 && value > 0).length;
}"""
# Where texts were drawn last, by text.
WATCHED = """window.written = {};
const write = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
  window.written[text] = place;
  write.call(this, text, ...place);
};"""
SHOW_TROUBLE = """() => {
  document.getElementById("trouble").textContent = "The service does not answer.";
  for (const id of ["trouble", "door"]) document.getElementById(id).hidden = false;
}"""
TOO_PALE = """() => {
  const parts = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = element.matches("input, select")
      || [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest(".skip, noscript")) continue;
    let below = element, back;
    do { back = parts(getComputedStyle(below).backgroundColor); below = below.parentElement; }
    while (below && back[3] === 0);
    const style = getComputedStyle(element);
    const [one, other] = [light(parts(style.color)), light(back)].sort((a, b) => b - a);
    const least = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if ((one + 0.05) / (other + 0.05) < least) found.push(element.outerHTML.slice(0, 90));
  }
  return found;
}"""
NAMELESS = """() => [...document.querySelectorAll("input, select, button, canvas")]
  .filter((each) =>
  !each.labels?.length && !each.getAttribute("aria-label") && !each.textContent.trim())
  .map((each) => each.outerHTML.slice(0, 90))"""


def test_all_colours_of_the_map_stand_out_by_day_and_by_night() -> None:
    folder = Path(front.__file__).parent / "page"
    script, style = ((folder / name).read_text() for name in ("map.js", "page.css"))
    told = re.search(r"const TONES.*?const CELLS", script, re.S)
    assert told is not None
    tones = re.findall(r"#([0-9a-f]{6})", told[0])
    scale = re.findall(r"0x(..), 0x(..), 0x(..)", told[0])
    tones += ["".join(each) for each in scale]
    assert len(tones) == 13
    backs = re.findall(r"--(?:paper|panel): #([0-9a-f]{6})", style)
    assert len(backs) == 4

    def light(tone: str) -> float:
        parts = [int(tone[n : n + 2], 16) / 255 for n in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(c * w for c, w in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    pale = []
    for tone in tones:
        for back in backs:
            low, high = sorted([light(tone), light(back)])
            if (high + 0.05) / (low + 0.05) < 3:
                pale.append((tone, back))
    assert pale == []


class TestTheRoutesItReads:
    def test_the_page_allows_nothing_but_its_own_files(self, stocked: Server) -> None:
        reply = stocked.ask("GET", "/")
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        seen: list[tuple[str, dict[str, str | None]]] = []
        parser = HTMLParser()
        parser.handle_starttag = lambda tag, attrs: seen.append((tag, dict(attrs)))  # type: ignore[method-assign]
        parser.feed(reply.body.decode())
        assert [given["src"] for tag, given in seen if tag == "script"] == ["page/main.js"]
        assert not [name for _, given in seen for name in given if name.startswith("on")]
        assert not any("style" in given for _, given in seen)
        for name in ("main.js", "map.js", "page.css"):
            text = stocked.ask("GET", f"/page/{name}").body.decode()
            assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|eval\(", text)
        assert stocked.ask("GET", "/page/../app.py").status == 404
        assert stocked.ask("GET", "/page/%2e%2e/app.py").status == 404

    def test_about_says_by_what_items_can_be_chosen(self, stocked: Server) -> None:
        about = stocked.ask("GET", "/v1/about").json
        columns = {each["name"]: each for each in about["item_columns"]}
        assert list(columns) == ["genre", "year"]
        assert sorted(columns["genre"]["values"]) == sorted(GENRES)
        assert (columns["year"]["low"], columns["year"]["high"]) == (1950, 1997)
        assert [each["name"] for each in about["user_columns"]] == ["taste", "age"]
        assert about["outcome"] == "win"

    def test_a_person_is_placed_by_their_own_vector(self, stocked: Server) -> None:
        while not (found := stocked.ask("GET", "/v1/map").json["map"]):
            pass
        of = {"jazz": 0, "punk": 1, "folk": 2, "funk": 3}

        def nearest(person: Any) -> int:
            place = stocked.post("/v1/place", person).json
            far = np.hypot(np.array(found["x"]) - place["x"], np.array(found["y"]) - place["y"])
            return int(found["ids"][int(far.argmin())]) % 4

        for taste, remainder in of.items():
            assert nearest({"features": {"taste": taste}}) == remainder
        assert nearest({"user": 107}) == 107 % 4 - 100 % 4
        nobody = stocked.post("/v1/place", {"user": "who?"}).json
        assert (nobody["x"], nobody["y"]) == (None, None)

    def test_a_user_has_what_was_told_since(self, stocked: Server) -> None:
        before = stocked.ask("GET", "/v1/users/newcomer").json
        assert (before["is_known"], before["liked"]) == (False, [])
        told = [{"id": "p-1", "user": "newcomer", "item": 502}]
        stocked.post("/v1/events", {"events": told})
        after = stocked.ask("GET", "/v1/users/newcomer").json
        assert [each["title"] for each in after["liked"]] == ["folk record 2"]

    def test_who_has_no_id_is_no_unknown_id(self, stocked: Server) -> None:
        def unknown() -> str:
            text = stocked.ask("GET", "/metrics").body.decode()
            return re.search(r"^twotower_unknown_people_total (\S+)", text, re.M)[1]  # type: ignore[index]

        before = unknown()
        stocked.post("/v1/recommend", {"people": [{}, {"user": 100}]})
        assert unknown() == before
        stocked.post("/v1/recommend", {"people": [{"user": "who"}]})
        assert unknown() != before


class TestTheShelf:
    @pytest.fixture
    def items(self, shop: Recommender) -> Shelf:
        return items_of(shop)

    def test_an_id_comes_first_then_beginnings_then_words(self, items: Shelf) -> None:
        found = items.cards(items.find("jazz record 1", 20))
        assert [card.title for card in found] == ["jazz record 12", "jazz record 16"]
        assert [card.id for card in items.cards(items.find("517", 5))] == [517]
        words = items.cards(items.find("RECORD punk", 50))
        assert {card.title.split()[0] for card in words} == {"punk"}
        assert len(words) == NUM_ITEMS // 4

    @pytest.mark.parametrize(
        "address",
        [
            *("https://elsewhere.org/x.png", "//elsewhere.org/x.png", "javascript:alert(1)"),
            *("/\\elsewhere.org/x.png", "data:image/svg+xml;base64,AAAA", "data:text/html,x"),
        ],
    )
    def test_no_picture_leads_elsewhere(self, shop: Recommender, address: str) -> None:
        covers = np.array([DOT] * NUM_ITEMS, dtype=object)
        covers[3] = address
        # Only the first ones tell what a column holds, so one may come later.
        shelf = items_of(replace(shop, item_values={**shop.item_values, "cover": covers}))
        assert shelf.picture is None or shelf.cards([4])[0].picture is None

    def test_what_leads_to_pictures_is_kept_and_shown_and_never_learned_from(self) -> None:
        world = checkerboard()
        every = range(NUM_ITEMS)
        seen = {
            "title": [f"Record{n}" for n in every],
            "cover": [f"/covers/{n}.jpg" for n in every],
            "poster": [f"https://elsewhere.org/{n}.png?w=90" for n in every],
        }
        world["items"] = {**world["items"], **seen}
        found = pipeline.fit(world, settings(training={"epochs": 1}))
        assert list(found.item_encoders.by_column) == ["genre", "year"]
        record = {"genre": "folk", "title": "Later", "cover": "/covers/new.jpg"}
        table = {"item_id": [998], **{name: [value] for name, value in record.items()}}
        more = found.add_items(ItemRecords([999], [record])).add_items(table)
        cards = items_of(more).cards(more.items.rows([507, 999, 998]))
        assert [card.picture for card in cards] == [
            "/covers/7.jpg",
            "/covers/new.jpg",
            "/covers/new.jpg",
        ]
        assert [card.title for card in cards] == ["Record7", "Later", "Later"]
        assert cards[0].about == "funk · year 1957"
        assert [each.name for each in items_of(more).columns] == ["genre", "year"]
        # A host elsewhere is asked for nothing, and its address is nobody's name.
        far = {name: values for name, values in more.item_values.items() if name == "poster"}
        [card] = items_of(replace(more, item_values=far)).cards([1])
        assert (card.picture, card.title) == (None, "500")

    def test_without_titles_an_item_is_told_by_its_columns(self) -> None:
        [card] = items_of(trained()).cards([1])
        assert card.title == "jazz · year 1950"
        assert users_of(trained()).title is None
