from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import numpy as np
import pytest
import torch

from twotower.config import Loss
from twotower.training import threads
from twotower.training.learn import prepare
from twotower.training.loop import _threads
from twotower.training.threads import Crew, alike, in_threads, up_to
from worlds import planned


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
    assert alike([3], 64, [(16, 8)]) == [3]
    product = torch.Tensor.__matmul__

    def other_in_four(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return product(left, right) * (1 + 1e-6 * (torch.get_num_threads() == 4))

    monkeypatch.setattr(torch.Tensor, "__matmul__", other_in_four)
    assert alike([4, 1], 64, [(16, 8)]) == [4]
    assert 4 not in alike([1, 2, 4], 64, [(16, 8), (4, 4)])


@pytest.mark.parametrize("history", ["none", "mean", "attention", "transformer"])
@pytest.mark.parametrize(
    ("loss", "source"),
    [
        ("in_batch_softmax", "in_batch"),
        ("bce", "uniform"),
        ("bce", "one"),
        ("warp", "uniform"),
        ("ccl", "uniform"),
        ("bpr", "one"),
    ],
)
def test_gradients_of_a_small_step_are_the_same_in_any_number_of_threads_it_may_get(
    loss: Loss, source: str, history: str
) -> None:
    model = {"history": history, "embedding_dim": 128, "user_ids": True}
    plan = planned(loss, model=model, batch_size=512, negatives_from=source)
    learned, objective = prepare(plan.dataset, plan.parts.train, plan.contenders[0])
    weights = dict(learned.model.named_parameters())
    with in_threads(2):
        may_be = _threads(learned.model, objective, 512)
    every = (objective.batches(512, np.random.default_rng(seed)) for seed in range(6))
    for batch in chain.from_iterable(every):
        made = []
        for count in may_be:
            torch.manual_seed(1)
            learned.model.zero_grad()
            with in_threads(count):
                objective.loss_of(learned.model, batch).backward()  # type: ignore[no-untyped-call]
            made.append(
                {name: w.grad.to_dense() for name, w in weights.items() if w.grad is not None}
            )
        for other in made[1:]:
            assert [name for name in other if not torch.equal(other[name], made[0][name])] == []


def test_in_threads() -> None:
    before = torch.get_num_threads()
    with in_threads(before + 2):
        assert torch.get_num_threads() == before + 2
    assert torch.get_num_threads() == before
