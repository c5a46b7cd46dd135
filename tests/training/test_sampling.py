from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.training.sampling import PositivePairs, log_share, uniform_negatives

NUM_ITEMS = 6
pairs = st.lists(st.tuples(st.integers(1, 5), st.integers(1, NUM_ITEMS)), max_size=20)


def known(of: list[tuple[int, int]], num_items: int = NUM_ITEMS) -> PositivePairs:
    users, items = np.array(of, np.int32).reshape(-1, 2).T
    return PositivePairs(users, items, num_items=num_items)


@given(pairs)
def test_a_pair_is_known_exactly_if_it_was_met(met: list[tuple[int, int]]) -> None:
    users, items = np.arange(7), np.arange(NUM_ITEMS + 1)
    made = known(met).contain(users[:, None], items[None, :])
    assert made.tolist() == [[(user, item) in met for item in items] for user in users]


def test_pairs_are_told_apart_however_many_users_and_items_there_are() -> None:
    many = 2_000_000_000
    made = known([(many, many - 1), (1, 1)], num_items=many)
    users, items = np.array([many, many, 1, 2]), np.array([many - 1, many, 1, 1])
    assert made.contain(users, items).tolist() == [True, False, True, False]


@given(st.lists(st.integers(1, NUM_ITEMS), min_size=1, max_size=30))
def test_the_log_share_of_an_item_is_counted(item_rows: list[int]) -> None:
    made = log_share(np.array(item_rows, np.int32), num_items=NUM_ITEMS)
    counts = Counter(item_rows)
    assert len(made) == NUM_ITEMS + 1
    for row, value in enumerate(made.tolist()):
        if counts[row]:
            assert value == pytest.approx(math.log(counts[row] / len(item_rows)), rel=1e-5)
        else:
            assert value == -math.inf


def test_uniform_negatives_are_no_known_positives_and_uniform_over_the_rest() -> None:
    # User 1 likes 1 to 5 of a hundred, user 2 nothing, user 3 the last one.
    made = known([*((1, item) for item in range(1, 6)), (3, 100)], num_items=100)
    liked = {1: {1, 2, 3, 4, 5}, 2: set(), 3: {100}}
    users = np.repeat([1, 2, 3], 20_000)
    drawn = uniform_negatives(users, made, np.arange(1, 101), rng=np.random.default_rng(0))
    for user, positives in liked.items():
        counts = Counter(drawn[users == user].tolist())
        assert set(counts) == set(range(1, 101)) - positives
        expected = 20_000 / len(counts)
        assert max(abs(count - expected) for count in counts.values()) < 5 * expected**0.5


def test_a_user_who_likes_everything_gets_some_item_and_no_endless_search() -> None:
    everything = known([(1, item) for item in range(1, NUM_ITEMS + 1)])
    users = np.array([1, 1, 2])
    rng = np.random.default_rng(0)
    drawn = uniform_negatives(users, everything, np.arange(1, NUM_ITEMS + 1), rng=rng)
    assert set(drawn.tolist()) <= set(range(1, NUM_ITEMS + 1))


def test_negatives_come_from_the_given_source_of_chance_alone() -> None:
    users, made = np.ones(50, np.int64), known([(1, 1)], num_items=1000)
    every = np.arange(1, 1001)
    one, same, other = (
        uniform_negatives(users, made, every, rng=np.random.default_rng(seed)).tolist()
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other
