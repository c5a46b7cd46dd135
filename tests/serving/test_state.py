"""Acknowledged means durable: real databases, real kills."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from servers import Server, serving

from databases import Postgres
from twotower.serving.client import Client, ClientEvent
from twotower.serving.state import Event, State


@pytest.fixture
def run(shelf: Path, tmp_path: Path) -> Path:
    """A run in a folder of its own, another beside it."""
    shutil.copytree(shelf, tmp_path / "runs")
    return tmp_path / "runs" / "one"


def event(number: int, **changed: Any) -> Event:
    plain = {"user_id": f"u{number % 7}", "item_id": str(500 + number), "kind": "click"}
    times = {"happened_at": 1_000_000 * number, "received_at": 5}
    return Event(**{"event_id": f"e{number}", **plain, "liked": True, **times, **changed})


def stored_in(url: str) -> list[Event]:
    with closing(State(url)) as state:
        return [event for _, event in state.events()]


class Contract:
    """What every database must do."""

    def test_an_event_counts_once_and_all_come_back_in_order(self, url: str) -> None:
        first = [event(n) for n in range(1000)]
        with closing(State(url)) as state:
            assert len(state.add_events(first)) == 1000
            again = [event(5, user_id="other"), event(1000)]
            assert state.add_events(again) == {"e1000"}
            assert [event for _, event in state.events()] == [*first, event(1000)]
        assert stored_in(url) == [*first, event(1000)]

    def test_the_last_change_of_an_item_counts(self, url: str) -> None:
        expected = {"7": {"genre": "folk \ud800\0"}, "8": None, "9": {"tags": ["a", "b"]}}
        with closing(State(url)) as state:
            state.change_items({"7": expected["7"], "8": {"year": 1.5}}, at=1)
            state.change_items({"8": None, "9": expected["9"]}, at=2)
            assert state.item_changes() == expected
        with closing(State(url)) as state:
            assert state.item_changes() == expected


class TestSqlite(Contract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'state.sqlite'}"


class TestPostgres(Contract):
    @pytest.fixture
    def url(self, postgres: Postgres) -> str:
        return postgres.emptied()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_what_was_acknowledged_is_there_after_a_kill_and_nothing_twice(
    run: Path, database: str, request: pytest.FixtureRequest
) -> None:
    """Killed three times while four threads send; each sends again what got no answer."""
    url = f"sqlite:///{run.parent / 'service.sqlite'}"
    if database == "postgresql":
        url = request.getfixturevalue("postgres").emptied()
    acknowledged: list[str] = []
    open_: list[ClientEvent] = []
    for turn in range(3):
        with serving(run, f"--state '{url}'") as server:
            stuck, open_ = open_, []
            with Client(server.url) as client:
                for each in stuck:
                    client.add_events([each])
                    acknowledged.append(each.id)
            threads = [
                threading.Thread(target=_send, args=(server, turn, n, acknowledged, open_))
                for n in range(4)
            ]
            before = len(acknowledged)
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + 30
            while len(acknowledged) < before + 40 and time.monotonic() < deadline:
                time.sleep(0.002)
            server.kill()
            for thread in threads:
                thread.join()
    stored = [each.event_id for each in stored_in(url)]
    assert len(acknowledged) >= 120
    assert len(stored) == len(set(stored))
    assert set(acknowledged) <= set(stored)
    # What the last kill left without an answer may be there, and nothing else.
    assert set(stored) - set(acknowledged) <= {each.id for each in open_}


def _send(
    server: Server, turn: int, sender: int, acknowledged: list[str], stuck: list[ClientEvent]
) -> None:
    client = Client(server.url, retries=0)
    for number in range(100_000):
        each = ClientEvent(f"user {sender}", 500 + number % 48, id=f"{turn}-{sender}-{number}")
        try:
            client.add_events([each])
        except Exception:
            stuck.append(each)
            return
        acknowledged.append(each.id)


def test_what_was_told_survives_a_restart_a_swap_and_a_rollback(run: Path) -> None:
    def checked(server: Server) -> None:
        assert 502 not in server.items_of("told", k=48)
        assert server.ask("GET", "/v1/items/9001").json["values"]["genre"] == "folk"
        assert server.ask("GET", "/v1/items/504").status == 404

    with serving(run) as server, Client(server.url) as client:
        client.add_events([ClientEvent("told", 502)])
        client.put_items({9001: {"genre": "folk", "year": 1970}, 504: {"genre": "folk"}})
        client.delete_item(504)
        checked(server)
        server.kill()
    with serving(run) as server, Client(server.url) as client:
        checked(server)
        client.load("two")
        checked(server)
        client.put_items({9002: {"genre": "jazz"}})
        client.rollback()
        checked(server)
        assert server.ask("GET", "/v1/items/9002").status == 200


def test_while_the_database_is_away_recommendations_go_on_and_events_are_refused(
    run: Path, postgres: Postgres
) -> None:
    url = postgres.emptied()
    with serving(run, f"--state '{url}'") as server:
        told = {"events": [{"id": "a", "user": "told", "item": 502}]}
        assert server.post("/v1/events", told).json == {"stored": 1, "repeated": 0}
        postgres.stop()
        away = {"events": [{"id": "b", "user": "told", "item": 506}]}
        for method, path, body in (
            ("POST", "/v1/events", away),
            ("PUT", "/v1/items", {"items": [{"item": 9001, "features": {"genre": "folk"}}]}),
            ("DELETE", "/v1/items/504", None),
        ):
            reply = server.ask(method, path, body)
            assert (reply.status, reply.headers["retry-after"]) == (503, "5")
            assert "postgresql database can not be used" in reply.json["error"]
        found = server.items_of("told", k=48)
        assert 502 not in found
        assert {504, 506} <= set(found)
        assert server.ask("GET", "/v1/items/9001").status == 404
        assert "state_failures_total 3.0" in server.ask("GET", "/metrics").body.decode()
        postgres.start()
        assert server.post("/v1/events", away).json == {"stored": 1, "repeated": 0}
        assert 506 not in server.items_of("told", k=48)
    assert [each.event_id for each in stored_in(url)] == ["a", "b"]


def test_a_database_that_says_nothing_keeps_no_recommendation_waiting(
    run: Path, postgres: Postgres
) -> None:
    url = postgres.emptied()
    with serving(run, f"--state '{url}' --seconds 1") as server:
        told = {"events": [{"id": "a", "user": "told", "item": 502}]}
        with postgres.frozen():
            threads = [
                threading.Thread(target=server.post, args=("/v1/events", told))
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for _ in range(5):
                assert 502 in server.items_of("told", k=48)
            reply = server.post("/v1/events", told)
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            for thread in threads:
                thread.join()
        deadline = time.monotonic() + 20
        while (reply := server.post("/v1/events", told)).status == 503:
            assert time.monotonic() < deadline
        # One that was given up may have been stored in the end; it counts once.
        assert reply.json["stored"] + reply.json["repeated"] == 1
        assert 502 not in server.items_of("told", k=48)
    assert [each.event_id for each in stored_in(url)] == ["a"]
