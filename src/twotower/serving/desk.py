"""Where requests wait to be computed: never many, none for ever, and alike ones together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from twotower.errors import ServiceError
from twotower.serving.gate import Limits
from twotower.serving.metrics import Metrics

T = TypeVar("T")
P = TypeVar("P")
S = TypeVar("S")
A = TypeVar("A")
# Parts that are computed in one call.
_MOST_TOGETHER = 64
# After so long with one call nobody waits any more for company in the next.
_SECONDS_ALONE = 0.05


@dataclass(frozen=True, eq=False)
class _Ask:
    """A call that somebody waits for; those with parts and an equal rest may be one call."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    answer: asyncio.Future[Any]
    parts: Sequence[Any] | None = None
    is_large: bool = False

    @property
    def is_shared(self) -> bool:
        """Whether others may be computed in the same call."""
        return self.parts is not None and not self.is_large

    def goes_with(self, other: _Ask) -> bool:
        return (
            self.is_shared
            and other.is_shared
            and self.function == other.function
            and self.arguments == other.arguments
        )


class Desk:
    """Threads that compute, and a bounded queue before them.

    Nothing waits for company where nobody is busy: what came while a thread was at such a call
    goes as the next one. Other threads take part only in what is slow or goes alone. What is
    large goes alone, never has all threads where there are several, and takes turns with what
    is not. What is quick goes to no thread, since to be handed over and back would take longer:
    all that came are one call in the first turn of the loop that brings no others.
    """

    def __init__(self, limits: Limits, metrics: Metrics, *, threads: int) -> None:
        self._limits, self._metrics = limits, metrics
        self._waiting: deque[_Ask] = deque()
        self._quick: deque[_Ask] = deque()
        self._arrived = threading.Condition()
        self._in_flight = 0
        self._busy_since: float | None = None
        self._most_large, self._large = max(threads - 1, 1), 0
        self._was_large = self._is_closed = False
        for number in range(threads):
            name = f"desk {number}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def close(self) -> None:
        """Let the threads end, each with what it is at; nothing is asked any more."""
        with self._arrived:
            self._is_closed = True
            self._arrived.notify_all()

    async def ask(
        self, function: Callable[..., T], *arguments: Any, is_large: bool = False
    ) -> T:
        """Call a function in a thread.

        Args:
            is_large: whether it takes long, so that others must not wait for many of its kind.

        Raises:
            ServiceError: too many are waiting, or it takes too long.
        """
        found: T = await self._put(function, arguments, None, is_large=is_large)
        return found

    async def ask_together(
        self,
        function: Callable[[Sequence[P], S, Callable[[], bool]], tuple[T, Sequence[A]]],
        parts: Sequence[P],
        rest: S,
        *,
        is_quick: bool = False,
        is_large: bool = False,
    ) -> tuple[T, Sequence[A]]:
        """Call a function, at once with the parts of others whose rest is equal.

        Args:
            function: it gives something for all, and one thing a part; it is told how to find
                out whether anybody still waits.
            is_quick: whether it takes less than a thread would, so that it needs none.
            is_large: whether it takes long, so that others must not wait for many of its kind.

        Raises:
            ServiceError: too many are waiting, or it takes too long.
        """
        found: tuple[T, Sequence[A]] = await self._put(
            function, (rest,), parts, is_quick=is_quick, is_large=is_large
        )
        return found

    async def _put(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        parts: Sequence[Any] | None,
        *,
        is_quick: bool = False,
        is_large: bool = False,
    ) -> Any:
        if self._in_flight >= self._limits.in_flight:
            self._metrics.refused.inc()
            raise ServiceError(429, "too many requests are waiting; try again", retry_after=1)
        self._count(1)
        loop = asyncio.get_running_loop()
        ask = _Ask(function, arguments, loop.create_future(), parts, is_large)
        if is_quick:
            if not self._quick:
                loop.call_soon(self._answer_quick, 0)
            self._quick.append(ask)
            return await ask.answer
        with self._arrived:
            self._waiting.append(ask)
            if self._may_begin(ask):
                self._arrived.notify()
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await ask.answer
        except TimeoutError:
            raise ServiceError(
                503,
                f"no answer within {self._limits.seconds:g} s; ask for less or try again",
                retry_after=1,
            ) from None

    def _answer_quick(self, before: int) -> None:
        """Answer those that are there, unless more came than were there a turn ago."""
        if before < len(self._quick) < _MOST_TOGETHER:
            asyncio.get_running_loop().call_soon(self._answer_quick, len(self._quick))
            return
        asks, self._quick = _together(self._quick[0], self._quick)
        self._deliver(len(asks), _computed([ask for ask in asks if not ask.answer.done()]))
        if self._quick:
            asyncio.get_running_loop().call_soon(self._answer_quick, 0)

    def _count(self, more: int) -> None:
        """Only ever in the thread of the loop."""
        self._in_flight += more
        self._metrics.in_flight.set(self._in_flight)

    def _may_begin(self, ask: _Ask) -> bool:
        """Whether it need not wait for a thread that is at calls of its kind."""
        if ask.is_large:
            return self._large < self._most_large
        since = self._busy_since
        return ask.parts is None or since is None or time.monotonic() > since + _SECONDS_ALONE

    def _work(self) -> None:
        while True:
            asks = self._next()
            if not asks:
                return
            outcomes = _computed([ask for ask in asks if not ask.answer.cancelled()])
            with self._arrived:
                if asks[0].is_large:
                    self._large -= 1
                    self._arrived.notify()
                elif asks[0].parts is not None:
                    self._busy_since = None
            loop = asks[0].answer.get_loop()
            try:
                loop.call_soon_threadsafe(self._deliver, len(asks), outcomes)
            except RuntimeError:
                # The service has ended, and nobody waits any more.
                return

    def _next(self) -> list[_Ask]:
        """The first that may begin, and all that go with it; none when the desk is closed."""
        with self._arrived:
            while not (there := list(filter(self._may_begin, self._waiting))):
                if self._is_closed:
                    return []
                self._arrived.wait(_SECONDS_ALONE)
            turn = (ask for ask in there if ask.is_large != self._was_large)
            first = next(turn, there[0])
            asks, self._waiting = _together(first, self._waiting)
            self._was_large = first.is_large
            if first.is_large:
                self._large += 1
            elif first.parts is not None:
                self._busy_since = time.monotonic()
        return asks

    def _deliver(
        self, count: int, outcomes: Sequence[tuple[_Ask, Any, Exception | None]]
    ) -> None:
        self._count(-count)
        for ask, found, error in outcomes:
            if ask.answer.done():
                continue
            if error is None:
                ask.answer.set_result(found)
            else:
                ask.answer.set_exception(error)


def _together(first: _Ask, waiting: Sequence[_Ask]) -> tuple[list[_Ask], deque[_Ask]]:
    """One of those that wait with all that go with it, and those that do not."""
    asks, others, size = [first], deque[_Ask](), len(first.parts or ())
    for other in waiting:
        together = size + len(other.parts or ())
        if other is first:
            continue
        if together <= _MOST_TOGETHER and other.goes_with(first):
            asks.append(other)
            size = together
        else:
            others.append(other)
    return asks, others


def _is_wanted(asks: Sequence[_Ask]) -> bool:
    return any(not ask.answer.done() for ask in asks)


def _computed(asks: Sequence[_Ask]) -> Sequence[tuple[_Ask, Any, Exception | None]]:
    """What each is answered, or why not."""
    if not asks:
        return []
    first = asks[0]
    try:
        if first.parts is None:
            return [(first, first.function(*first.arguments), None)]
        parts = [part for ask in asks for part in ask.parts or ()]
        shared, found = first.function(parts, *first.arguments, lambda: _is_wanted(asks))
    except Exception as error:
        if len(asks) == 1:
            return [(first, None, error)]
        # One of them is to blame; each alone gets what is its own.
        return [outcome for ask in asks for outcome in _computed([ask])]
    outcomes, start = [], 0
    for ask in asks:
        stop = start + len(ask.parts or ())
        outcomes.append((ask, (shared, found[start:stop]), None))
        start = stop
    return outcomes
