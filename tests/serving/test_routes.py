"""A real service over a real socket: it says what the object in Python says, and no more."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from bad_requests import BAD, BODY, Bad
from servers import Server, serving

from twotower import pipeline, runs
from twotower.errors import RequestError
from twotower.retrieval.answer import answer
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.wish import Answer, Person, Wish
from twotower.serving.client import Client, ClientEvent
from worlds import checkerboard, settings

WISHES = [
    Wish(k=5),
    Wish(k=5, include_seen=True, where={"genre": ["jazz", "folk"], "year": {">=": 1960}}),
    Wish(k=6, at_most={"genre": 2}, diversity=0.4, popularity=-0.5, explain=True),
]
PEOPLE = [
    Person(user=100),
    Person(user="nobody knows"),
    Person(features={"taste": "punk", "age": 30}),
    Person(user=101, history=[502], exclude=[506]),
]


def rounded(answers: list[Answer]) -> list[dict[str, Any]]:
    text = json.dumps([asdict(each) for each in answers])
    loaded: list[dict[str, Any]] = json.loads(text, parse_float=lambda s: round(float(s), 3))
    return loaded


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.mark.parametrize("wish", WISHES)
def test_the_client_gets_what_the_object_says(
    client: Client, one: Recommender, wish: Wish
) -> None:
    assert rounded(client.answer(PEOPLE, wish)) == rounded(answer(one, PEOPLE, wish))


def test_similar_items_scores_and_items_are_those_of_the_object(
    client: Client, one: Recommender
) -> None:
    near = client.similar([500, 517], 4)
    for item, pairs in zip((500, 517), one.similar_items([500, 517], 4), strict=True):
        assert [i for i, _ in near[item]] == [i for i, _ in pairs]
    scored = client.score([(100, 504), (107, 533), ("new", 500)])
    plain = one.score([(100, 504), (107, 533)])
    assert [each.score for each in scored[:2]] == pytest.approx(plain.tolist(), abs=1e-4)
    assert scored[2].rests_on == ["popularity"]
    assert client.item(503) == {"genre": "funk", "year": 1953.0}
    with pytest.raises(RequestError, match="no item '9'"):
        client.item(9)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("recommend", {"people": [{"user": 100}], "k": 3}),
        ("recommend", {"people": [{"user": 100, "features": {"taste": "jazz"}}]}),
        ("recommend", {"people": [{"user": 100}], "where": {"colour": "red"}}),
        ("similar", {"items": [500], "k": 4}),
        ("score", {"pairs": [{"user": 100, "item": 504}]}),
        ("score", {"pairs": [{"user": 100, "item": "none of them"}]}),
    ],
)
def test_a_body_is_answered_alike_with_and_without_the_layers_of_the_framework(
    server: Server, path: str, body: dict[str, Any]
) -> None:
    # Only what says no more than that it is JSON goes past them.
    through = {"Content-Type": "application/json; charset=utf-8", "X-Request-Id": "same"}
    slow = server.post(f"/v1/{path}", body, headers=through)
    quick = server.post(f"/v1/{path}", body, headers={"X-Request-Id": "same"})
    assert (quick.status, quick.json) == (slow.status, slow.json)


def test_an_answer_says_which_run_gave_it(server: Server) -> None:
    reply = server.post("/v1/recommend", {"people": [{"user": 100}]})
    assert reply.json["run"] == "one"
    assert len(reply.json["version"]) == 12
    assert reply.json["version"] == server.ask("GET", "/readyz").json["version"]


def test_the_client_gets_what_the_page_reads_and_knows_which_run_answered(
    server: Server, client: Client
) -> None:
    about = client.about()
    plain = server.ask("GET", "/v1/about").json
    assert about.items == plain["items"]
    assert [each.name for each in about.item_columns] == [
        each["name"] for each in plain["item_columns"]
    ]
    assert client.answered_by is not None
    assert (client.answered_by.run, client.answered_by.version) == (
        plain["run"],
        plain["version"],
    )
    assert [card.id for card in client.find("items", "503", k=1)] == [503]
    assert [card.id for card in client.cards([502, 999, 501])] == [502, 501]
    user = client.user(101)
    assert user.is_known
    assert user.num_liked == server.ask("GET", "/v1/users/101").json["num_liked"]
    assert not client.user("a/b ?").is_known
    while (found := client.map()) is None:
        time.sleep(0.01)
    assert "ids" in found or not found


def test_what_a_user_did_counts_in_the_next_request_and_a_retry_once(client: Client) -> None:
    who = Person(user="fresh")
    assert client.answer([who])[0].rests_on == ["popularity"]
    done = [ClientEvent("fresh", 502), ClientEvent("fresh", 506, "click", liked=False)]
    assert client.add_events(done) == 2
    assert client.add_events(done) == 0
    [found] = client.answer([who], Wish(k=48))
    assert found.rests_on == ["history"]
    given = client.answer([Person(history=[502], exclude=[506])], Wish(k=48))
    assert found.items == given[0].items


def test_of_several_events_of_one_id_in_one_request_the_first_counts(server: Server) -> None:
    events = [
        {"id": "same", "user": "twin", "item": 501},
        {"id": "same", "user": "twin", "item": 502},
    ]
    reply = server.post("/v1/events", {"events": events})
    assert reply.json == {"stored": 1, "repeated": 1}
    found = server.items_of("twin", k=48)
    assert 501 not in found
    assert 502 in found


def test_a_new_item_is_recommended_by_the_next_request_until_it_is_deleted(
    client: Client,
) -> None:
    person, wish = [Person(features={"taste": "folk"})], Wish(k=48, include_seen=True)
    client.put_items({9001: {"genre": "folk", "year": 1975}})
    [found] = client.answer(person, wish)
    assert 9001 in [each.item for each in found.items[:14]]
    assert client.item(9001)["genre"] == "folk"
    client.delete_item(9001)
    [found] = client.answer(person, wish)
    assert 9001 not in [each.item for each in found.items]
    with pytest.raises(RequestError, match="no item"):
        client.delete_item(9001)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad[0])
def test_bad_input_gets_one_sentence_and_never_a_500(server: Server, bad: Bad) -> None:
    _, method, path, body, status, said = bad
    reply = server.ask(method, path, body)
    assert (reply.status, said in reply.json["error"]) == (status, True), reply.body
    assert "\n" not in reply.json["error"]
    assert len(reply.body) < 600
    assert reply.json["request_id"] == reply.headers["x-request-id"]
    assert server.ask("GET", "/readyz").json["run"] == "one"


def test_a_page_elsewhere_can_not_ask_through_a_browser(server: Server) -> None:
    ask = {"people": [{"user": 100}]}
    for host in ("evil.example", "localhost:evil.example", "localhost.evil.example:80"):
        rebound = server.post("/v1/recommend", ask, headers={"Host": host})
        assert (rebound.status, "localhost" in rebound.json["error"]) == (403, True)
    assert server.post("/v1/recommend", ask, headers={"Host": "LocalHost:8000"}).status == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        simple = server.post("/v1/recommend", ask, headers={"Content-Type": kind})
        assert simple.status == 422
    reply = server.post("/v1/recommend", ask, headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in reply.headers


def test_metrics_and_log_tell_how_it_goes_and_not_of_whom(server: Server) -> None:
    person = {"user": "a-secret-user", "features": {"taste": "punk"}}
    server.post("/v1/recommend", {"people": [person], "k": 48, "where": {"genre": "punk"}})
    given = server.post("/v1/recommend", BODY, headers={"X-Request-Id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    text = server.ask("GET", "/metrics").body.decode()
    for name in (
        'twotower_request_seconds_count{route="/v1/recommend",status="200"}',
        "twotower_items_asked_total",
        "twotower_items_given_total",
        "twotower_unknown_people_total",
        "twotower_filtered_lists_total",
        "twotower_filter_fallbacks_total 0.0",
        'twotower_model_info{run="one"',
        "twotower_model_age_seconds",
        "twotower_in_flight 0.0",
    ):
        assert name in text, name
    line = next(each for each in server.lines() if each.get("request_id") == "mine-1")
    assert line["route"] == "/v1/recommend"
    assert line["status"] == 200
    assert 0 < line["seconds"] < 10
    assert "secret" not in server.log.read_text()


def test_a_run_is_swapped_under_load_without_a_failed_or_a_mixed_answer(
    server: Server, one: Recommender, two: Recommender
) -> None:
    """Each answer is wholly of the run that it names."""
    people = [Person(user=user) for user in (100, 101, 102, 103)]
    right = {
        name: [[each.item for each in own.items] for own in answer(which, people, Wish(k=8))]
        for name, which in (("one", one), ("two", two))
    }
    assert right["one"] != right["two"]
    ask = {"people": [{"user": each.user} for each in people], "k": 8}
    replies: list[tuple[int, str, Any]] = []
    is_over = threading.Event()

    def load() -> None:
        while not is_over.is_set():
            reply = server.post("/v1/recommend", ask)
            found = [[e["item"] for e in own["items"]] for own in reply.json["answers"]]
            replies.append((reply.status, reply.json["run"], found))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(4):
        reply = server.post("/v1/admin/load", {"run": ("two", "one")[turn % 2]})
        assert reply.status == 200, reply.body
        reply = server.post("/v1/admin/rollback", {})
        assert reply.json["run"] == ("one", "two")[turn % 2]
        server.post("/v1/admin/rollback", {})
    is_over.set()
    for thread in threads:
        thread.join()
    assert {name for _, name, _ in replies} == {"one", "two"}
    for status, name, found in replies:
        assert (status, found) == (200, right[name])
    assert server.ask("GET", "/readyz").json["run"] == "one"


def test_a_body_that_does_not_come_is_not_waited_for(server: Server) -> None:
    """The connection is closed with an answer when its sender gives up."""
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port)) as slow:
        head = "POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n"
        slow.sendall(head.encode() + b"{")
        assert server.ask("GET", "/livez").body == b"ok"
    assert server.ask("GET", "/livez").body == b"ok"


def test_a_history_is_in_the_order_of_times_and_not_in_that_of_arrival(server: Server) -> None:
    for name, item, at in (("late", 505, "2026-03-01"), ("early", 506, "2020-03-01")):
        event = {"id": f"timed-{name}", "user": "timed", "item": item, "at": f"{at}T00:00:00Z"}
        assert server.post("/v1/events", {"events": [event]}).json["stored"] == 1
    liked = server.ask("GET", "/v1/users/timed").json["liked"]
    assert [card["id"] for card in liked] == [505, 506]


@pytest.mark.parametrize("at", ["9999-12-31T23:59:59Z", "1901-01-01T00:00:00Z"])
def test_a_time_that_can_not_be_is_refused(server: Server, at: str) -> None:
    event = {"id": "far", "user": "far", "item": 505}
    found = server.post("/v1/events", {"events": [event, {**event, "id": "off", "at": at}]})
    assert (found.status, "events.1.at" in found.json["error"]) == (422, True), found
    assert server.ask("GET", "/v1/users/far").json["liked"] == []


def test_yes_and_no_come_back_as_they_were_told(tmp_path: Path) -> None:
    world = checkerboard()
    goods = world["items"]
    goods["in_stock"] = [n % 3 > 0 for n in range(len(goods["item_id"]))]
    config = settings(training={"epochs": 1})
    place = tmp_path / "runs"
    runs.save(pipeline.fit(world, config), place / "stocked")
    with serving(place / "stocked") as server:

        def stocked(item: int) -> Any:
            return server.ask("GET", f"/v1/items/{item}").json["values"]["in_stock"]

        assert [stocked(item) for item in (500, 501)] == [False, True]
        for told in (True, False):
            item = {"item": 9001, "features": {"in_stock": told}}
            assert server.ask("PUT", "/v1/items", {"items": [item]}).status == 200
            assert stocked(9001) is told
        item = {"item": 9001, "features": {"genre": "folk"}}
        assert server.ask("PUT", "/v1/items", {"items": [item]}).status == 200
        assert stocked(9001) is None
