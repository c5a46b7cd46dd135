"""Alike requests that wait are one call, and nobody notices."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from servers import Server

from twotower.errors import GivenUpError, RequestError, ServiceError
from twotower.serving.desk import Desk
from twotower.serving.gate import Limits
from twotower.serving.metrics import Metrics


class Doubling:
    """A function that doubles, after the first call was let go on."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], str]] = []
        self.may_go_on = threading.Event()

    def __call__(
        self, parts: Sequence[int], rest: str, is_wanted: Callable[[], bool]
    ) -> tuple[str, list[int]]:
        self.calls.append((list(parts), rest))
        if len(self.calls) == 1:
            assert self.may_go_on.wait(20)
        if 13 in parts:
            raise RequestError("13 is not doubled")
        return rest, [2 * part for part in parts]


def told(asks: Sequence[tuple[list[int], str]], **limits: Any) -> tuple[Doubling, list[Any]]:
    """What each is answered where the first keeps the only thread until all have come."""

    async def ask_all() -> list[Any]:
        desk = Desk(Limits(**limits), Metrics(), threads=1)
        waiting = []
        for parts, rest in asks:
            waiting.append(asyncio.create_task(desk.ask_together(function, parts, rest)))
            while not function.calls:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        function.may_go_on.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    function = Doubling()
    return function, asyncio.run(ask_all())


def test_what_came_while_a_thread_was_busy_is_one_call_where_the_rest_is_equal() -> None:
    asks = [([1], "a"), ([2, 3], "a"), ([4], "b"), ([5], "a"), ([6], "b")]
    function, answers = told(asks)
    assert function.calls == [([1], "a"), ([2, 3, 5], "a"), ([4, 6], "b")]
    assert answers == [(rest, [2 * part for part in parts]) for parts, rest in asks]


def test_what_is_quick_and_came_in_one_turn_is_one_call_where_the_rest_is_equal() -> None:
    async def ask_all() -> list[Any]:
        desk = Desk(Limits(in_flight=5), Metrics(), threads=1)
        waiting = [desk.ask_together(function, *ask, is_quick=True) for ask in asks]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        # The places of those that were answered are free again.
        assert await desk.ask_together(function, [7], "a", is_quick=True) == ("a", [14])
        return found

    function = Doubling()
    function.may_go_on.set()
    asks = [([1], "a"), ([2, 3], "a"), ([4], "b"), ([13], "b"), ([5], "a"), ([6], "a")]
    answers = asyncio.run(ask_all())
    assert function.calls[0] == ([1, 2, 3, 5], "a")
    assert [answers[n] for n in (0, 1, 2, 4)] == [
        (rest, [2 * part for part in parts]) for parts, rest in (*asks[:3], asks[4])
    ]
    assert isinstance(answers[3], RequestError)
    assert isinstance(answers[5], ServiceError)


def test_what_is_quick_waits_for_what_each_next_turn_brings_and_no_longer() -> None:
    async def ask_all() -> list[Any]:
        desk = Desk(Limits(), Metrics(), threads=1)

        async def ask(turns: int) -> Any:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await desk.ask_together(function, [turns], "a", is_quick=True)

        return await asyncio.gather(*map(ask, (0, 1, 2, 9)))

    function = Doubling()
    function.may_go_on.set()
    assert asyncio.run(ask_all()) == [("a", [2 * n]) for n in (0, 1, 2, 9)]
    assert [parts for parts, _ in function.calls] == [[0, 1, 2], [9]]


def test_who_asks_what_is_wrong_is_told_so_alone() -> None:
    _, answers = told([([1], "a"), ([2], "a"), ([13], "a"), ([3], "a")])
    assert [answers[n] for n in (0, 1, 3)] == [("a", [2]), ("a", [4]), ("a", [6])]
    assert isinstance(answers[2], RequestError)


def test_a_call_does_not_grow_without_end() -> None:
    function, answers = told([([0], "a"), *(([n] * 20, "a") for n in range(1, 11))])
    assert max(len(parts) for parts, _ in function.calls) <= 64
    assert [len(found) for _, found in answers] == [1, *[20] * 10]


def test_more_than_may_wait_are_refused() -> None:
    _, answers = told([([1], "a"), ([2], "a"), ([3], "a")], in_flight=2)
    assert answers[:2] == [("a", [2]), ("a", [4])]
    assert isinstance(answers[2], ServiceError)
    assert answers[2].status == 429


def test_what_nobody_waits_for_any_more_is_not_computed() -> None:
    async def ask_two() -> list[Any]:
        desk = Desk(Limits(seconds=0.05), Metrics(), threads=1)
        first = asyncio.create_task(desk.ask_together(function, [1], "a"))
        while not function.calls:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(desk.ask_together(function, [2], "a"))
        found = await asyncio.gather(first, second, return_exceptions=True)
        function.may_go_on.set()
        assert await desk.ask_together(function, [3], "a") == ("a", [6])
        return found

    function = Doubling()
    found = asyncio.run(ask_two())
    assert {each.status for each in found} == {503}
    assert function.calls == [([1], "a"), ([3], "a")]


def test_something_else_does_not_wait_behind_a_slow_call() -> None:
    async def ask_two() -> int:
        desk = Desk(Limits(), Metrics(), threads=2)
        slow = asyncio.create_task(desk.ask_together(function, [1], "a"))
        while not function.calls:
            await asyncio.sleep(0.001)
        # A call alone, and then one like the slow one, once that is known to be slow.
        found = await desk.ask(lambda: 7)
        assert await desk.ask_together(function, [2], "a") == ("a", [4])
        function.may_go_on.set()
        await slow
        return found

    function = Doubling()
    assert asyncio.run(ask_two()) == 7


def test_what_is_large_takes_turns_with_what_is_not_and_goes_alone() -> None:
    async def ask_all() -> None:
        desk = Desk(Limits(), Metrics(), threads=1)
        waiting = []
        for number, is_large in ((1, False), (2, True), (3, True), (4, False), (5, False)):
            ask = desk.ask_together(function, [number], "a", is_large=is_large)
            waiting.append(asyncio.create_task(ask))
            while not function.calls:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        function.may_go_on.set()
        await asyncio.gather(*waiting)

    function = Doubling()
    asyncio.run(ask_all())
    assert [parts for parts, _ in function.calls] == [[1], [2], [4, 5], [3]]


def test_what_is_large_never_has_all_threads_and_ends_when_nobody_waits_any_more() -> None:
    begun = []

    def endless(
        parts: Sequence[int], rest: str, is_wanted: Callable[[], bool]
    ) -> tuple[str, list[int]]:
        begun.append(parts[0])
        deadline = time.monotonic() + 20
        while is_wanted():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        raise GivenUpError("nobody waits")

    async def ask_all() -> Any:
        desk = Desk(Limits(seconds=0.5), Metrics(), threads=2)
        large = [
            asyncio.create_task(desk.ask_together(endless, [n], "a", is_large=True))
            for n in range(3)
        ]
        while not begun:
            await asyncio.sleep(0.001)
        for _ in range(3):
            assert await desk.ask_together(function, [7], "a") == ("a", [14])
        assert begun == [0]
        given_up = await asyncio.gather(*large, return_exceptions=True)
        # Both threads are free again.
        barrier = threading.Barrier(2)
        await asyncio.gather(*(desk.ask(barrier.wait, 5) for _ in range(2)))
        return given_up

    function = Doubling()
    function.may_go_on.set()
    assert {each.status for each in asyncio.run(ask_all())} == {503}


@pytest.mark.parametrize("wish", [{"k": 5}, {"k": 7, "where": {"year": {">=": 1960}}}])
def test_many_at_once_get_what_each_gets_alone(server: Server, wish: dict[str, Any]) -> None:
    users = list(range(100, 148))
    alone = [server.items_of(user, **wish) for user in users]
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(lambda user: server.items_of(user, **wish), users))
    assert together == alone
