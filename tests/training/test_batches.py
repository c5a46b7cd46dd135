from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise as neighbours

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data.interactions import Histories, Interactions, histories
from twotower.training.batches import (
    PairBatch,
    UserBatch,
    pairwise,
    pointwise,
    triplets,
    whole_users,
)
from twotower.training.sampling import PositivePairs

USERS, ITEMS = 5, 8
Pair = tuple[int, int]
met = st.lists(st.tuples(st.integers(1, USERS), st.integers(1, ITEMS)), max_size=25)
batch_sizes = st.integers(1, 9)
seeds = st.integers(0, 99)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def log_of(pairs: list[Pair]) -> Interactions:
    """Rows that can be told apart by their labels, times and weights."""
    users, items = np.array(pairs, np.int32).reshape(-1, 2).T
    numbers = np.arange(len(pairs))
    return Interactions(
        users,
        items,
        (numbers / 100).astype(np.float32),
        numbers.astype(np.int64) + 1000,
        (numbers + 0.5).astype(np.float32),
    )


def liked_of(pairs: list[Pair]) -> Histories:
    return histories(log_of(pairs), num_users=USERS)


def rows_of(batches: Iterator[PairBatch]) -> list[tuple[float, ...]]:
    found = []
    for batch in batches:
        assert batch.times is not None
        assert batch.weights is not None
        columns = (
            batch.user_rows,
            batch.item_rows,
            batch.labels,
            batch.times,
            batch.weights,
        )
        found += list(zip(*(column.tolist() for column in columns), strict=True))
    return found


class TestPointwise:
    @given(met, batch_sizes, seeds)
    def test_an_epoch_holds_every_interaction_once_with_all_that_belongs_to_it(
        self, pairs: list[Pair], size: int, seed: int
    ) -> None:
        log = log_of(pairs)
        assert log.times is not None
        assert log.weights is not None
        columns = (log.user_rows, log.item_rows, log.labels, log.times, log.weights)
        expected = list(zip(*(column.tolist() for column in columns), strict=True))
        assert sorted(rows_of(pointwise(log, size, rng(seed)))) == sorted(expected)

    @given(met, batch_sizes)
    def test_all_batches_but_the_last_are_full(self, pairs: list[Pair], size: int) -> None:
        lengths = [len(batch) for batch in pointwise(log_of(pairs), size, rng())]
        assert all(length == size for length in lengths[:-1])
        assert all(0 < length <= size for length in lengths)

    @given(met, batch_sizes, st.integers(2, 9))
    def test_rows_of_a_user_lie_side_by_side_up_to_a_number_and_none_is_lost(
        self, pairs: list[Pair], size: int, most: int
    ) -> None:
        log = log_of(pairs)
        found = rows_of(pointwise(log, size, rng(), side_by_side=most))
        assert sorted(found) == sorted(rows_of(pointwise(log, size, rng())))
        rows_each = Counter(user for user, *_ in found)
        # Two runs of one user may meet by chance, so there are at most so many.
        runs = sum(1 for one, other in neighbours(found) if one[0] != other[0]) + bool(found)
        assert runs <= sum(-(-rows // most) for rows in rows_each.values())

    def test_the_order_is_another_with_every_source_of_chance_and_the_same_with_the_same(
        self,
    ) -> None:
        log = log_of([(1, 1)] * 50)
        one, same, other = (rows_of(pointwise(log, 7, rng(seed))) for seed in (1, 1, 2))
        assert one == same
        assert one != other
        assert one != sorted(one)


class TestPairwise:
    @given(st.lists(st.tuples(st.integers(1, USERS), st.integers(1, 4)), max_size=25), seeds)
    def test_every_positive_stands_once_beside_an_item_that_the_user_is_not_known_to_like(
        self, pairs: list[Pair], seed: int
    ) -> None:
        log = log_of(pairs)
        many = 1_000_000
        known = PositivePairs(log.user_rows, log.item_rows, num_items=many)
        found = []
        for batch in pairwise(log, known, many, 4, rng(seed)):
            assert batch.other_rows is not None
            rows = zip(batch.user_rows, batch.item_rows, batch.other_rows, strict=True)
            for user, item, other in rows:
                found.append((int(user), int(item)))
                assert (int(user), int(other)) not in pairs
                assert 1 <= other <= many
        assert Counter(found) == Counter(pairs)


class TestTriplets:
    @given(met, met, batch_sizes, seeds)
    def test_they_are_user_and_really_liked_and_really_disliked_for_each_liked_one_once(
        self, liked: list[Pair], disliked: list[Pair], size: int, seed: int
    ) -> None:
        found = []
        for batch in triplets(log_of(liked), liked_of(disliked), size, rng(seed)):
            assert batch.other_rows is not None
            rows = zip(batch.user_rows, batch.item_rows, batch.other_rows, strict=True)
            for user, item, other in rows:
                found.append((int(user), int(item)))
                assert (int(user), int(other)) in disliked
        with_both = {user for user, _ in disliked}
        assert Counter(found) == Counter(pair for pair in liked if pair[0] in with_both)

    def test_each_disliked_item_of_a_user_comes_as_often_as_the_others(self) -> None:
        disliked = liked_of([(1, item) for item in (2, 5, 7)] + [(2, 8)])
        [batch] = triplets(log_of([(1, 1)] * 6000), disliked, 6000, rng())
        assert batch.other_rows is not None
        counts = Counter(batch.other_rows.tolist())
        assert set(counts) == {2, 5, 7}
        assert all(abs(count - 2000) < 200 for count in counts.values())


def by_user(batch: UserBatch) -> dict[int, tuple[list[int], list[int]]]:
    """Each user's history and targets, both sorted."""
    found: dict[int, tuple[list[int], list[int]]] = {int(u): ([], []) for u in batch.user_rows}
    parts = (
        (batch.history_items, batch.history_owners),
        (batch.target_items, batch.target_owners),
    )
    for part, (items, owners) in enumerate(parts):
        for item, owner in zip(items.tolist(), owners.tolist(), strict=True):
            found[int(batch.user_rows[owner])][part].append(item)
    return {user: (sorted(one), sorted(other)) for user, (one, other) in found.items()}


class TestWholeUsers:
    @given(met, st.sampled_from([0.1, 0.5, 0.9]), batch_sizes, seeds)
    def test_every_user_with_two_items_comes_once_with_all_of_them_and_one_to_find(
        self, pairs: list[Pair], share: float, size: int, seed: int
    ) -> None:
        expected = defaultdict(list)
        for user, item in sorted(pairs):
            expected[user].append(item)
        found: dict[int, list[int]] = {}
        for batch in whole_users(liked_of(pairs), share, size, rng(seed)):
            assert 0 < len(batch) <= size
            for user, (history, targets) in by_user(batch).items():
                assert user not in found
                assert targets
                found[user] = sorted(history + targets)
        assert found == {user: items for user, items in expected.items() if len(items) > 1}

    @given(met, st.sampled_from([0.1, 0.5, 0.9]), seeds)
    def test_an_item_to_be_found_is_never_in_the_history_even_if_it_was_met_twice(
        self, pairs: list[Pair], share: float, seed: int
    ) -> None:
        repeated = pairs + pairs[::2]
        for batch in whole_users(liked_of(repeated), share, 3, rng(seed)):
            for history, targets in by_user(batch).values():
                assert not set(history) & set(targets)

    @pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
    def test_the_share_of_the_items_is_history_and_which_is_drawn_anew(
        self, share: float
    ) -> None:
        pairs = [(user, item) for user in range(1, USERS + 1) for item in range(1, 401)]
        every = [
            by_user(next(whole_users(liked_of(pairs), share, USERS, rng(seed))))
            for seed in (1, 2)
        ]
        for parts in every:
            lengths = [len(history) for history, _ in parts.values()]
            assert sum(lengths) / len(pairs) == pytest.approx(share, abs=0.05)
        assert every[0] != every[1]

    @settings(max_examples=20)
    @given(met)
    def test_items_stand_user_after_user(self, pairs: list[Pair]) -> None:
        for batch in whole_users(liked_of(pairs), 0.5, 4, rng()):
            for owners in (batch.history_owners, batch.target_owners):
                assert all(one <= other for one, other in neighbours(owners.tolist()))
