"""How many threads multiply."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import inf

import torch
from torch import Tensor

# How many steps tell how long one takes, and how many go by, at first and at most, before
# other numbers of threads are tried.
_TOLD_BY, _SOONEST, _LATEST = 3, 8, 1024


@contextmanager
def in_threads(count: int) -> Iterator[None]:
    """So many in here, as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Crew:
    """Steps by as many threads as are quickest just then.

    Products of small batches gain less by more threads, and each waits for the slowest of them:
    beside another process on the same cores two threads took eight times as long as one. So
    time decides, again and again.

    Args:
        counts: of threads, ascending; the first steps get the first.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self._counts = _quickest(counts)
        self.count = next(self._counts)

    @contextmanager
    def step(self) -> Iterator[None]:
        """One step, whose time says how many threads the next one gets."""
        started = time.perf_counter()
        with in_threads(self.count):
            yield
        self.count = self._counts.send(time.perf_counter() - started)


def _quickest(counts: Sequence[int]) -> Generator[int, float, None]:
    """How many threads a step gets; is sent its seconds."""
    place, steps, bound = 0, _TOLD_BY, inf
    while True:
        usual = yield from _seconds_in(counts[place], steps, bound)
        steps, bound = min(max(2 * steps, _SOONEST), _LATEST), inf
        for other in (place + 1, place - 1):
            if not 0 <= other < len(counts):
                continue
            tried = yield from _seconds_in(counts[other], _TOLD_BY, 2 * usual)
            if tried < usual:
                place, steps, bound = other, _SOONEST, usual
                break
            # Whoever gets slower than the next best is looked at anew.
            bound = min(bound, tried)


def _seconds_in(count: int, steps: int, bound: float) -> Generator[int, float, float]:
    """The median of the last of so many steps; ends early where it goes beyond a bound."""
    last: deque[float] = deque(maxlen=_TOLD_BY)
    for _ in range(steps):
        last.append((yield count))
        if statistics.median(last) > bound:
            break
    return statistics.median(last)


def up_to(most: int) -> list[int]:
    """One thread, twice as many, and so on, and all."""
    return [*(2**power for power in range((most - 1).bit_length())), most]


def alike(counts: Sequence[int], rows: int, weights: Iterable[tuple[int, int]]) -> list[int]:
    """The numbers of threads in which products come to the same as in the first, bit for bit.

    Args:
        rows: of a batch.
        weights: shapes of the matrices that it is multiplied with.
    """

    def products(count: int) -> Tensor:
        with in_threads(count):
            made = values @ weight.T, gradient @ weight, gradient.T @ values
        return torch.cat([each.flatten() for each in made])

    first, *others = counts
    for above, below in set(weights) if others else ():
        shapes = (rows, below), (rows, above), (above, below)
        values, gradient, weight = (
            torch.linspace(-9, 9, high * wide).sin().view(high, wide) for high, wide in shapes
        )
        expected = products(first)
        others = [count for count in others if torch.equal(products(count), expected)]
    return [first, *others]
