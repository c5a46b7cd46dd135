"""How often each item is sampled, beside counting; and what is kept of earlier batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from twotower.config import NegativesFrom
from twotower.data.interactions import Interactions, histories
from twotower.training.batches import whole_users
from twotower.training.hits import matches
from twotower.training.negatives import Memory, Negatives, negatives_of

# Item 4 is there and was never liked.
ITEMS, LIKED = 4, [1, 1, 1, 2, 2, 3]
SOURCES: tuple[NegativesFrom, ...] = ("uniform", "popularity", "in_batch", "mixed")


def log_of(pairs: list[tuple[int, int]]) -> Interactions:
    users, items = np.array(pairs, np.int32).reshape(-1, 2).T
    return Interactions(users, items, np.ones(len(pairs), np.float32))


def source_of(
    source: NegativesFrom, count: int, *, is_distinct: bool, most_items: int | None = None
) -> Negatives:
    positives = log_of(list(enumerate(LIKED, 1)))
    return negatives_of(
        source,
        count,
        positives,
        histories(positives, num_users=len(LIKED)),
        is_distinct=is_distinct,
        num_items=ITEMS,
        most_items=most_items,
    )


def draws_of(negatives: Negatives) -> Iterator[tuple[tuple[int, ...], float]]:
    """All that ``draw`` may give, and the chance of each."""
    every = LIKED if negatives.source == "popularity" else sorted(set(LIKED))
    for drawn in product(every, repeat=negatives.count):
        yield drawn, len(every) ** -negatives.count


@pytest.mark.parametrize("remembered", [0, 1])
@pytest.mark.parametrize("is_distinct", [False, True])
@pytest.mark.parametrize("source", SOURCES)
def test_each_item_is_sampled_as_often_as_log_q_says(
    source: NegativesFrom, is_distinct: bool, remembered: int
) -> None:
    """By going through everything that other rows, draws and memory may be."""
    negatives = source_of(source, 2, is_distinct=is_distinct)
    rows = 2 if negatives.is_in_batch else 0
    times = np.zeros(ITEMS + 1)
    for others in product(LIKED, repeat=rows):
        for old in product(LIKED, repeat=remembered):
            memory = Memory(1)
            memory.keep(np.array(old, np.int64), torch.zeros(remembered, 3), remembered)
            for drawn, chance in draws_of(negatives):
                # The row that asks holds an item of its own, which nobody else has.
                items = np.array([4, *others])
                shared = negatives.together(
                    np.array(drawn, np.int64), items, np.arange(len(items)), memory
                )
                chance *= len(LIKED) ** -(rows + remembered)
                for item in shared.items.tolist():
                    times[item] += chance
    expected = negatives.expected(np.arange(ITEMS + 1), rows + remembered)
    # What is nobody else's is no other at all, however often the row itself holds it.
    assert times[:4] == pytest.approx(expected[:4])
    size = len(shared.items)
    is_other = shared.items != 4
    said = size * np.exp(shared.log_q[is_other])
    assert said == pytest.approx(expected[shared.items[is_other]])


@pytest.mark.parametrize("source", ["uniform", "popularity", "mixed"])
def test_what_is_drawn_was_liked_and_comes_as_often_as_its_chance(
    source: NegativesFrom,
) -> None:
    negatives = source_of(source, 30_000, is_distinct=False)
    counts = Counter(negatives.draw(np.random.default_rng(0)).tolist())
    assert set(counts) == set(LIKED)
    for item, count in counts.items():
        expected = LIKED.count(item) / len(LIKED) if source == "popularity" else 1 / 3
        # Five standard deviations.
        assert abs(count - 30_000 * expected) < 5 * (30_000 * expected) ** 0.5


@pytest.mark.parametrize("most", [2, 9])
def test_a_users_basket_holds_an_item_as_often_as_its_rate_says(most: int) -> None:
    pairs = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 3), (4, 1), (4, 2), (4, 3), (4, 4)]
    positives = log_of(pairs)
    liked = histories(positives, num_users=4)
    negatives = negatives_of(
        "in_batch", 0, positives, liked, is_distinct=False, num_items=4, most_items=most
    )
    epochs, counts = 600, np.zeros(5)
    for seed in range(epochs):
        for batch in whole_users(liked, most, 3, np.random.default_rng(seed)):
            counts += np.bincount(batch.items, minlength=5)
    # User 3, with one item, is in no batch.
    assert counts / epochs / 3 == pytest.approx(negatives.rate, abs=0.06)


def test_without_repeats_what_is_encoded_now_stands_for_what_is_remembered() -> None:
    negatives, memory = source_of("mixed", 3, is_distinct=True), Memory(1)
    memory.keep(np.array([1, 3]), torch.zeros(2, 3), 2)
    shared = negatives.together(np.array([2, 2, 1]), np.array([2, 4]), np.array([0, 1]), memory)
    assert shared.items.tolist() == [2, 4, 1, 3]
    assert shared.fresh.tolist() == [2, 4, 1]
    assert shared.remembered.tolist() == [1]
    assert shared.baskets.tolist() == [0, 1, -1, -1]


def test_memory_keeps_the_last_batches_as_they_were() -> None:
    memory = Memory(2)
    assert (len(memory.items), memory.baskets) == (0, 0)
    weight = torch.ones(1, requires_grad=True)
    for number in range(3):
        memory.keep(np.array([number, 9]), weight * torch.full((2, 1), number), 2)
        weight = weight + 1
    assert memory.items.tolist() == [1, 9, 2, 9]
    assert memory.vectors().flatten().tolist() == [2, 2, 6, 6]
    assert not memory.vectors().requires_grad
    assert memory.baskets == 4


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=12),
    st.lists(st.integers(0, 6), max_size=9),
)
def test_matches_are_all_places_where_an_owners_item_stands(
    owned: list[tuple[int, int]], others: list[int]
) -> None:
    owned = sorted(owned)
    owners, items = np.array(owned, np.int64).reshape(-1, 2).T
    made = matches(items, owners, np.array(others, np.int64))
    expected = [(o, n) for o, i in owned for n, other in enumerate(others) if other == i]
    assert list(zip(*(each.tolist() for each in made), strict=True)) == expected
