"""What falls to popular items and what to the rest, counted item by item."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from twotower.data.interactions import Histories
from twotower.evaluation.evaluate import HeldOut
from twotower.evaluation.popularity import GROUPS, popularity, popularity_groups


def slow_groups(counts: list[int]) -> list[int]:
    """Items taken one at a time, most popular first, until half and four fifths are taken."""
    total, taken, found = sum(counts), 0, [2] * len(counts)
    for item in sorted(range(len(counts)), key=lambda n: -counts[n]):
        if 10 * taken < 5 * total:
            found[item] = 0
        elif 10 * taken < 8 * total:
            found[item] = 1
        taken += counts[item]
    return found


@given(arrays(np.int64, st.integers(1, 12), elements=st.integers(0, 6)))
def test_groups_are_filled_with_the_most_popular_items_first(counts: np.ndarray) -> None:
    assert popularity_groups(counts).tolist() == slow_groups(counts.tolist())


def test_what_nobody_met_is_of_the_tail() -> None:
    assert popularity_groups(np.zeros(3, np.int64)).tolist() == [2, 2, 2]


def test_the_shares_are_of_what_was_met_held_out_and_shown() -> None:
    # Item 1 was met five times, item 2 three times, items 3 and 4 once each, item 5 never.
    met = np.array([1, 1, 1, 1, 1, 2, 2, 2, 3, 4], np.int32)
    seen = Histories(np.array([0, 0, 6, 10]), met)
    rows, to_find = np.array([1, 2]), np.array([2, 5, 1, 1])
    held = HeldOut(rows, to_find, np.array([0, 0, 1, 1]), np.array([True, True]))
    lists = {"towers": np.array([[1, 2], [5, -1]]), "nobody": np.full((2, 2), -1)}
    found = popularity(lists, held, seen, 5)
    assert found["items"] == {"head": 1, "middle": 1, "tail": 3}
    assert list(found["shares"]) == ["seen", "held_out", "towers"]
    for name, expected in (
        ("seen", (0.5, 0.3, 0.2)),
        ("held_out", (0.5, 0.25, 0.25)),
        ("towers", (1 / 3, 1 / 3, 1 / 3)),
    ):
        assert [found["shares"][name][group] for group in GROUPS] == pytest.approx(expected)
