from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise as neighbours
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.data.interactions import Histories, Interactions, histories
from twotower.training import batches
from twotower.training.batches import (
    PairBatch,
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
        many = np.arange(500_000, 1_000_000)
        known = PositivePairs(log.user_rows, log.item_rows, num_items=1_000_000)
        found = []
        for batch in pairwise(log, known, many, 4, rng(seed)):
            assert batch.other_rows is not None
            rows = zip(batch.user_rows, batch.item_rows, batch.other_rows, strict=True)
            for user, item, other in rows:
                found.append((int(user), int(item)))
                assert (int(user), int(other)) not in pairs
                assert 500_000 <= other < 1_000_000
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


class TestWholeUsers:
    @given(met, st.integers(1, 6), batch_sizes, seeds)
    def test_every_user_with_two_items_comes_once_with_all_of_them_or_as_many_as_may_be(
        self, pairs: list[Pair], most: int, size: int, seed: int
    ) -> None:
        pairs = sorted(set(pairs))
        expected = defaultdict(set)
        for user, item in pairs:
            expected[user].add(item)
        found: dict[int, set[int]] = {}
        for batch in whole_users(liked_of(pairs), most, size, rng(seed)):
            assert len(batch) == len(batch.items) == batch.offsets[-1] > 0
            # Its first user may have begun in the batch before.
            assert batch.offsets[-1] - batch.offsets[1] < size
            parts = np.split(batch.items, batch.offsets[1:-1])
            for user, items in zip(batch.user_rows.tolist(), parts, strict=True):
                assert user not in found
                found[user] = set(items.tolist())
                assert len(found[user]) == len(items)
        wanted = {u for u, items in expected.items() if min(len(items), most) > 1}
        assert set(found) == wanted
        for user, items in found.items():
            assert items <= expected[user]
            assert len(items) == min(len(expected[user]), most)

    def test_who_has_too_many_gets_others_in_each_epoch(self) -> None:
        liked = liked_of([(1, item) for item in range(1, ITEMS + 1)])
        drawn = [
            set(next(whole_users(liked, 4, 9, rng(seed))).items.tolist()) for seed in range(40)
        ]
        assert set.union(*drawn) == set(range(1, ITEMS + 1))
        counts = Counter(item for items in drawn for item in items)
        assert max(counts.values()) < 40

    def test_in_order_it_is_a_piece_that_may_begin_anywhere(self) -> None:
        liked = liked_of([(1, item) for item in range(1, ITEMS + 1)])
        begins = set()
        for seed in range(100):
            [batch] = whole_users(liked, 4, 9, rng(seed), in_order=True)
            assert np.diff(batch.items).tolist() == [1, 1, 1]
            begins.add(int(batch.items[0]))
        assert begins == set(range(1, ITEMS - 2))

    def test_no_user_with_two_items_is_no_batch(self) -> None:
        assert list(whole_users(liked_of([(1, 1), (2, 1)]), 5, 4, rng())) == []


def on_disk(interactions: Interactions, folder: Path) -> Interactions:
    """The same with users that are memory-mapped."""
    users = np.memmap(folder / "users", np.int32, "w+", shape=(len(interactions),))
    users[:] = interactions.user_rows
    return replace(interactions, user_rows=users)


@pytest.mark.parametrize("side_by_side", [1, 3])
def test_an_epoch_from_the_disk_has_every_row_once_in_batches_of_one_size(
    tmp_path: Path, side_by_side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 1000
    log = Interactions(
        np.arange(rows, dtype=np.int32) // 4 + 1,
        np.arange(1, rows + 1, dtype=np.int32),
        np.ones(rows, np.float32),
    )
    small = partial(batches.shuffled_pieces, piece=16, held=4)
    monkeypatch.setattr(batches, "shuffled_pieces", small)
    kept = on_disk(log, tmp_path)
    made = list(batches.pointwise(kept, 96, rng(), side_by_side=side_by_side))
    assert [len(batch) for batch in made] == [96] * 10 + [40]
    items = np.concatenate([batch.item_rows for batch in made])
    assert sorted(items.tolist()) == list(range(1, rows + 1))
    again = np.concatenate([batch.item_rows for batch in batches.pointwise(kept, 96, rng())])
    assert (side_by_side > 1) or items.tolist() == again.tolist()


def test_pieces_are_of_neighbours_and_those_held_together_from_anywhere() -> None:
    held = list(batches.shuffled_pieces(1000, rng(), piece=10, held=20))
    assert [len(rows) for rows in held] == [200] * 5
    starts = held[0][::10]
    assert (np.diff(held[0]) == 1).sum() >= 180
    assert starts.max() - starts.min() > 500
    assert sorted(np.concatenate(held).tolist()) == list(range(1000))
