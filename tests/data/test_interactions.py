from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from twotower.data.interactions import Histories, Interactions, histories

USERS = 6


@st.composite
def logs(draw: st.DrawFn, timed: bool | None = None) -> Interactions:
    size = draw(st.integers(0, 30))
    of_size = {"min_size": size, "max_size": size}
    users = draw(st.lists(st.integers(1, USERS), **of_size))
    times = draw(st.lists(st.integers(0, 9), **of_size))
    with_times = draw(st.booleans()) if timed is None else timed
    return Interactions(
        np.array(users, np.int32),
        np.arange(1, size + 1, dtype=np.int32),
        np.linspace(0, 1, size, dtype=np.float32),
        np.array(times, np.int64) if with_times else None,
        np.arange(size, dtype=np.float32),
        np.arange(size, dtype=np.float32) / 2,
    )


def items_by_loop(log: Interactions) -> list[list[int]]:
    """Each user's items oldest first, the plain way; user 0 has none."""
    found: list[list[int]] = [[] for _ in range(USERS + 1)]
    rows = list(range(len(log)))
    if log.times is not None:
        rows.sort(key=lambda row: int(log.times[row]))  # type: ignore[index]
    for row in rows:
        found[log.user_rows[row]].append(int(log.item_rows[row]))
    return found


@given(logs())
def test_histories_are_each_users_items_oldest_first(log: Interactions) -> None:
    made = histories(log, num_users=USERS)
    expected = items_by_loop(log)
    assert [made.of(user).tolist() for user in range(USERS + 1)] == expected
    assert made.lengths().tolist() == [len(items) for items in expected]
    assert made.num_users == USERS


@given(logs(timed=True))
def test_the_times_of_a_history_go_along_with_its_items(log: Interactions) -> None:
    made = histories(log, num_users=USERS)
    assert made.times is not None
    assert log.times is not None
    # Item n stands in row n - 1.
    assert made.times.tolist() == log.times[made.items - 1].tolist()


@given(logs(), st.lists(st.integers(0, USERS), max_size=8))
def test_packing_is_taking_one_user_after_another(log: Interactions, users: list[int]) -> None:
    made = histories(log, num_users=USERS)
    items, owners = made.pack(np.array(users, np.int64))
    every = items_by_loop(log)
    expected = [(item, place) for place, user in enumerate(users) for item in every[user]]
    assert list(zip(items.tolist(), owners.tolist(), strict=True)) == expected


@given(logs(), st.integers(0, 5))
def test_the_latest_are_the_last_of_each_user(log: Interactions, length: int) -> None:
    whole = histories(log, num_users=USERS)
    made = whole.latest(length)
    expected = [items[len(items) - min(length, len(items)) :] for items in items_by_loop(log)]
    assert [made.of(user).tolist() for user in range(USERS + 1)] == expected
    assert made.times is None


def test_nobody_and_nothing_is_a_history_too() -> None:
    none = Histories(np.zeros(2, np.int64), np.zeros(0, np.int32))
    assert none.of(0).tolist() == []
    assert none.num_users == 0
    assert none.latest(3).items.tolist() == []


@given(logs(), logs())
def test_two_logs_follow_each_other_and_keep_what_both_have(
    one: Interactions, other: Interactions
) -> None:
    both = one.followed_by(other)
    assert both.item_rows.tolist() == one.item_rows.tolist() + other.item_rows.tolist()
    assert (both.times is None) == (one.times is None or other.times is None)
    assert both.weights is not None
    assert both.weights.tolist() == [*range(len(one)), *range(len(other))]
    assert both.ratings is not None
    assert both.take(np.arange(len(one))).item_rows.tolist() == one.item_rows.tolist()
    assert both.without_times().times is None


@given(logs())
def test_rows_are_taken_with_all_that_is_known_of_them(log: Interactions) -> None:
    rows = np.arange(len(log))[::-2]
    taken = log.take(rows)
    assert taken.item_rows.tolist() == (rows + 1).tolist()
    assert taken.weights is not None
    assert taken.weights.tolist() == rows.tolist()
    assert taken.ratings is not None
    assert taken.ratings.tolist() == (rows / 2).tolist()
    liked = log.positives()
    assert liked.labels.tolist() == [label for label in log.labels.tolist() if label > 0.5]
