"""Several processes that answer as one, and a run that changes while they do."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from servers import Server, serving

from databases import Postgres
from processes import warm
from twotower.serving.state import State

# Every request is a new connection, so this many reach each of two workers.
MANY = 24


@pytest.fixture
def run(shelf: Path, tmp_path: Path) -> Path:
    """A run in a folder of its own, another beside it."""
    shutil.copytree(shelf, tmp_path / "runs")
    return tmp_path / "runs" / "one"


def workers_of(server: Server) -> list[int]:
    leader = server.process.process.pid
    return [int(n) for n in Path(f"/proc/{leader}/task/{leader}/children").read_text().split()]


def soon(every: Callable[[], Any], expected: Any) -> None:
    """All of many answers are as expected, before long."""
    deadline = time.monotonic() + 20
    while (found := {every() for _ in range(MANY)}) != {expected}:
        assert time.monotonic() < deadline, found


def answering(server: Server) -> str:
    """The run that answers."""
    reply = server.post("/v1/recommend", {"people": [{"user": 100}]})
    assert reply.status == 200, reply.body
    return str(reply.json["run"])


@contextmanager
def asked_all_the_while(server: Server) -> Iterator[set[int]]:
    """Somebody asks again and again; the statuses of the answers."""
    statuses: set[int] = set()
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            statuses.add(server.post("/v1/recommend", {"people": [{"user": 101}]}).status)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield statuses
    finally:
        is_over.set()
        thread.join()


def test_what_one_worker_is_told_all_know_within_a_second(run: Path) -> None:
    with serving(run, "--workers 2") as server:
        assert len(workers_of(server)) == 2
        told = {"events": [{"id": "a", "user": "told", "item": 502}]}
        item = {"items": [{"item": 9001, "features": {"genre": "folk", "year": 1970}}]}
        assert server.post("/v1/events", told).json["stored"] == 1
        assert server.ask("PUT", "/v1/items", item).status == 200
        assert server.ask("DELETE", "/v1/items/504").status == 200
        time.sleep(1)
        for _ in range(MANY):
            found = server.items_of("told", k=48)
            assert {502, 504, 9001} & set(found) == {9001}
        # The same event at another worker counts once.
        repeated = [server.post("/v1/events", told).json["repeated"] for _ in range(MANY)]
        assert set(repeated) == {1}


def figures(server: Server, name: str) -> dict[str, float]:
    """The series of one name, as any worker tells them."""
    text = server.ask("GET", "/metrics").body.decode()
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(name)]
    return {series: float(value) for series, value in lines}


def test_any_worker_tells_what_all_have_counted_those_that_died_too(run: Path) -> None:
    with serving(run, "--workers 2") as server:
        for user in range(MANY):
            server.items_of(100 + user)
        # Counted when the answer has gone out.
        asked = 'twotower_request_seconds_count{route="/v1/recommend",status="200"}'
        soon(lambda: figures(server, asked).get(asked), MANY)
        soon(lambda: figures(server, "twotower_people_total")["twotower_people_total"], MANY)
        assert figures(server, "twotower_in_flight") == {"twotower_in_flight": 0}
        [old] = figures(server, "twotower_model_info")
        assert server.post("/v1/admin/load", {"run": "two"}).status == 200
        soon(lambda: 'run="two"' in "".join(figures(server, "twotower_model_info")), True)
        soon(lambda: len(figures(server, "twotower_model_info")), 1)
        assert old not in figures(server, "twotower_model_info")
        assert 0 < figures(server, "twotower_model_age")["twotower_model_age_seconds"] < 1000
        os.kill(workers_of(server)[0], signal.SIGKILL)
        soon(lambda: figures(server, "twotower_people_total")["twotower_people_total"], MANY)


def test_a_run_is_loaded_and_rolled_back_by_all_workers_and_nobody_is_kept_waiting(
    run: Path,
) -> None:
    with serving(run, "--workers 2") as server, asked_all_the_while(server) as statuses:
        soon(lambda: answering(server), "one")
        assert server.post("/v1/admin/load", {"run": "two"}).json["run"] == "two"
        soon(lambda: answering(server), "two")
        assert server.ask("POST", "/v1/admin/rollback").json["run"] in {"one", "two"}
    assert statuses == {200}


def test_a_run_that_was_just_swapped_is_not_swapped_back_by_word_of_the_one_before(
    run: Path,
) -> None:
    with serving(run) as server:
        assert server.post("/v1/admin/load", {"run": "two"}).status == 200
        for turn in range(30):
            expected = ("one", "two")[turn % 2]
            assert server.ask("POST", "/v1/admin/rollback").json["run"] == expected
            # Refused while a run is being loaded by whoever.
            reply = server.post("/v1/admin/load", {"run": "none"})
            assert (reply.status, answering(server)) == (404, expected)


def test_a_worker_that_dies_is_replaced_by_one_that_knows_all_that_was_told(run: Path) -> None:
    with serving(run, "--workers 2") as server:
        assert server.post("/v1/admin/load", {"run": "two"}).status == 200
        soon(lambda: answering(server), "two")
        os.kill(workers_of(server)[0], signal.SIGKILL)
        deadline = time.monotonic() + 20
        while sum('"ready"' in line for line in server.log.read_text().splitlines()) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        soon(lambda: answering(server), "two")
        assert len(workers_of(server)) == 2


def test_workers_end_with_the_one_that_leads_them(run: Path) -> None:
    with serving(run, "--workers 2") as server:
        workers = workers_of(server)
        server.kill()
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{each}/exe").exists() for each in workers):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    with serving(run, "--workers 2") as server:
        workers = workers_of(server)
        assert server.stop().code == 0
        assert not any(Path(f"/proc/{each}/exe").exists() for each in workers)


def test_workers_that_can_not_start_say_so_once(run: Path) -> None:
    (run / "model.safetensors").write_bytes(b"")
    done = warm(f"serve {run} --port 0 --workers 2", run.parent)
    assert done.code == 2
    assert done.err.count("model.safetensors was changed after training") == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_watched_file_says_which_run_answers_and_a_bad_one_is_refused(
    run: Path, workers: int
) -> None:
    shutil.copytree(run.parent / "two", run.parent / "bad")
    (run.parent / "bad" / "model.safetensors").write_bytes(b"")
    pointer = run.parent / "current"
    pointer.write_text("one\n")
    options = f"--watch {pointer} --workers {workers}"
    with serving(run, options) as server, asked_all_the_while(server) as statuses:
        soon(lambda: answering(server), "one")
        pointer.write_text("runs/two")
        soon(lambda: answering(server), "two")
        pointer.write_text("bad")
        deadline = time.monotonic() + 20
        while "model.safetensors was changed" not in server.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        soon(lambda: answering(server), "two")
    assert statuses == {200}


def test_the_newest_run_of_a_watched_folder_answers(run: Path) -> None:
    two = run.parent / "two"
    aside = two.rename(run.parent.parent / "two")
    with serving(run, f"--watch {run.parent}") as server:
        soon(lambda: answering(server), "one")
        aside.rename(two)
        soon(lambda: answering(server), "two")


def test_what_is_watched_must_be_there(run: Path) -> None:
    done = warm(f"serve {run} --port 0 --watch nowhere", run.parent)
    assert done.code == 2
    assert "nowhere: can not be read" in done.err


class Contract:
    """How processes with one database follow one another."""

    def test_news_come_in_one_order_and_the_last_of_each_thing_counts(self, url: str) -> None:
        mine, other = State(url), State(url)
        first = mine.change_items({"7": {"year": 1}, "8": None}, at=1)
        assert [each.name for each in first] == ["7", "8"]
        assert other.news(0) == first
        assert other.last_news() == first[-1].number
        second = other.change_items({"7": None}, at=2) + other.tell("run x", "two")
        assert mine.news(first[-1].number) == second
        assert [each.name for each in mine.news(0)] == ["8", "7", "two"]
        assert mine.item_changes(["7"]) == {"7": None}
        for state in (mine, other):
            state.close()

    def test_what_many_write_at_once_is_missed_by_nobody(self, url: str) -> None:
        states = [State(url) for _ in range(4)]
        seen: list[int] = []

        def write(state: State, writer: int) -> None:
            for number in range(25):
                state.change_items({f"{writer}-{number}": None}, at=1)

        threads = [
            threading.Thread(target=write, args=(state, n)) for n, state in enumerate(states)
        ]
        for thread in threads:
            thread.start()
        reader, names = State(url), set()
        while any(thread.is_alive() for thread in threads) or len(names) < 100:
            for each in reader.news(max(seen, default=0)):
                seen.append(each.number)
                names.add(each.name)
        for thread in threads:
            thread.join()
        assert seen == sorted(set(seen))
        for state in (reader, *states):
            state.close()


class TestSqlite(Contract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'state.sqlite'}"


class TestPostgres(Contract):
    @pytest.fixture
    def url(self, postgres: Postgres) -> str:
        return postgres.emptied()
