"""Orders, groups and counts: each is what plain loops say, whatever the size of a block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.data import arrays
from twotower.data.interactions import Interactions, histories, likes

rows = st.lists(st.integers(0, 6), max_size=30)
moments = st.integers(0, 5)
LARGE = 2**31 - 1


def numbers(values: list[int]) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.fixture(autouse=True, params=[4, 1 << 22])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is done in blocks is done in several, and in one."""
    for cut in (arrays.blocks, arrays.blocks_of_groups):
        monkeypatch.setattr(cut, "__defaults__", (request.param,))


@given(st.lists(st.tuples(st.integers(0, LARGE), moments), max_size=30), st.booleans())
def test_the_order_is_that_of_a_stable_sort(pairs: list[tuple[int, int]], timed: bool) -> None:
    groups = numbers([group for group, _ in pairs])
    then = np.array([moment for _, moment in pairs], np.int64)
    keys = [then, groups] if timed else [groups]
    found = arrays.order_of(groups, then if timed else None)
    assert found.tolist() == np.lexsort(keys).tolist()


def on_disk(values: np.ndarray, folder: Path) -> np.ndarray:
    made = arrays.room_for(len(values), values.dtype, folder)
    made[:] = values
    return made


@given(st.lists(st.tuples(st.sampled_from([1, 2, LARGE]), st.sampled_from([3, 4, LARGE]))))
def test_of_a_pair_met_twice_the_last_is_kept(pairs: list[tuple[int, int]]) -> None:
    users, items = (numbers([pair[n] for pair in pairs]) for n in (0, 1))
    found = arrays.is_last_of_pair(users, items)
    wanted = sorted({pair: place for place, pair in enumerate(pairs)}.values())
    assert np.flatnonzero(found).tolist() == wanted


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(3, 4))))
def test_on_the_disk_it_is_the_same_one(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[int, int]]
) -> None:
    users, items = (numbers([pair[n] for pair in pairs]) for n in (0, 1))
    folder = tmp_path_factory.getbasetemp()
    found = arrays.is_last_of_pair(on_disk(users, folder), on_disk(items, folder))
    assert found.tolist() == arrays.is_last_of_pair(users, items).tolist()


@given(st.lists(st.tuples(st.integers(1, 2), st.integers(3, 4), moments)))
def test_last_is_meant_in_time_and_then_in_order(met: list[tuple[int, int, int]]) -> None:
    users, items, times = (np.array([row[n] for row in met], np.int64) for n in range(3))
    found = arrays.is_last_of_pair(users.astype(np.int32), items.astype(np.int32), times)
    in_time = sorted(range(len(met)), key=lambda place: met[place][2])
    wanted = sorted({met[place][:2]: place for place in in_time}.values())
    assert np.flatnonzero(found).tolist() == wanted


@given(st.lists(st.booleans(), max_size=20))
def test_rows_of_an_array_on_the_disk_are_chosen_like_those_in_memory(
    tmp_path_factory: pytest.TempPathFactory, mask: list[bool]
) -> None:
    values, kept = np.arange(len(mask)) * 3, np.array(mask, bool)
    column = on_disk(values, tmp_path_factory.getbasetemp())
    assert arrays.chosen(column, kept).tolist() == values[kept].tolist()
    places = np.flatnonzero(kept)[::-1]
    assert arrays.chosen(column, places).tolist() == values[places].tolist()
    assert arrays.chosen(column, slice(1, 4)).tolist() == values[1:4].tolist()


@given(rows)
def test_distinct_counts_and_met_are_those_of_numpy(values: list[int]) -> None:
    assert arrays.distinct(numbers(values)).tolist() == sorted(set(values))
    assert arrays.rows_met(numbers(values)).tolist() == sorted(set(values))
    counts = arrays.counts_of(numbers(values), 7)
    assert counts.tolist() == [values.count(row) for row in range(7)]


@given(st.lists(moments))
def test_ascending_means_that_nothing_comes_before_a_smaller_one(values: list[int]) -> None:
    assert arrays.is_ascending(np.array(values)) == (values == sorted(values))


@given(rows)
def test_groups_hold_their_rows_in_the_order_they_had(values: list[int]) -> None:
    offsets, [places] = arrays.grouped(numbers(values), [np.arange(len(values))], 7)
    for group in range(7):
        wanted = [place for place, value in enumerate(values) if value == group]
        assert places[offsets[group] : offsets[group + 1]].tolist() == wanted


def test_what_is_made_of_memory_mapped_rows_is_mapped_as_well_and_leaves_no_file(
    tmp_path: Path,
) -> None:
    items = np.memmap(tmp_path / "items", np.int32, "w+", shape=(5,))
    items[:] = [5, 6, 7, 8, 9]
    met = Interactions(numbers([2, 1, 2, 1, 1]), items, likes(5))
    found = histories(met, num_users=2)
    assert isinstance(found.items, np.memmap)
    assert found.items.tolist() == [6, 8, 9, 5, 7]
    assert [path.name for path in tmp_path.iterdir()] == ["items"]


def test_parts_of_one_array_are_put_together_without_a_copy() -> None:
    met = Interactions(numbers([1, 2, 3]), numbers([4, 5, 6]), likes(3))
    one, other = met.take(slice(0, 1)), met.take(slice(1, None))
    whole, turned = one.followed_by(other), other.followed_by(one)
    assert np.shares_memory(whole.user_rows, met.user_rows)
    assert whole.user_rows.tolist() == [1, 2, 3]
    assert whole.labels.tolist() == [1.0, 1.0, 1.0]
    assert turned.item_rows.tolist() == [5, 6, 4]
    assert whole.labels.strides == (0,)
    # Nor where one of them was put together before.
    first, second, third = (met.take(slice(n, n + 1)) for n in range(3))
    again = first.followed_by(second).followed_by(third)
    assert np.shares_memory(again.user_rows, met.user_rows)
    assert again.item_rows.tolist() == [4, 5, 6]


def test_a_history_counts_for_more_or_fewer_users_than_it_was_made_for() -> None:
    met = Interactions(numbers([1, 2]), numbers([4, 5]), likes(2))
    lengths = {size: histories(met, num_users=size).lengths().tolist() for size in (2, 4, 3)}
    assert lengths == {2: [0, 1, 1], 4: [0, 1, 1, 0, 0], 3: [0, 1, 1, 0]}
