from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from twotower.training import threads
from twotower.training.threads import Crew, are_alike, in_threads, up_to


def used(
    monkeypatch: pytest.MonkeyPatch, crew: Crew, seconds: Callable[[int], float], steps: int
) -> list[int]:
    """In how many threads each step was done, where a step takes so long in so many."""
    now, counts = 0.0, []
    monkeypatch.setattr(threads.time, "perf_counter", lambda: now)
    for _ in range(steps):
        counts.append(crew.count)
        with crew.step():
            assert torch.get_num_threads() == crew.count
            now += seconds(crew.count)
    return counts


@pytest.mark.parametrize(
    ("most", "counts"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])],
)
def test_one_thread_twice_as_many_and_all(most: int, counts: list[int]) -> None:
    assert up_to(most) == counts


def test_more_threads_where_they_are_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = used(monkeypatch, Crew([1, 2, 4, 8]), lambda count: 1 / count, 2000)
    assert counts[:3] == [1, 1, 1]
    assert counts.count(8) > 1900


def test_as_many_as_are_quickest_between_one_and_all(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = used(monkeypatch, Crew([1, 2, 4, 8]), lambda count: abs(count - 2.5), 2000)
    assert counts.count(2) > 1900


def test_few_steps_are_lost_where_several_threads_are_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = used(monkeypatch, Crew([1, 2]), lambda count: 8.0 if count == 2 else 1.0, 2000)
    assert 2 <= counts.count(2) < 12


def test_one_thread_again_as_soon_as_the_other_core_is_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crew = Crew([1, 2])
    used(monkeypatch, crew, lambda count: 1 / count, 1500)
    counts = used(monkeypatch, crew, lambda count: 8.0 if count == 2 else 1.0, 2000)
    assert counts.count(2) < 24
    # And several again once it is free.
    counts = used(monkeypatch, crew, lambda count: 1 / count, 3000)
    assert counts.count(2) > 1500


def test_one_number_of_threads_is_always_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(used(monkeypatch, Crew([3]), lambda _: 1.0, 50)) == {3}


def test_what_was_there_before_is_there_after_a_step_that_fails() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), Crew([before + 1]).step():
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_alike_is_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert are_alike([1], 64, [(16, 8)])
    product = torch.Tensor.__matmul__

    def other_by_threads(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return product(left, right) * (1 + 1e-7 * torch.get_num_threads())

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "__matmul__", other_by_threads)
        assert not are_alike([1, 2], 64, [(16, 8)])


def test_in_threads() -> None:
    before = torch.get_num_threads()
    with in_threads(before + 2):
        assert torch.get_num_threads() == before + 2
    assert torch.get_num_threads() == before
