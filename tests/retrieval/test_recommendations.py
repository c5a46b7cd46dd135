"""Lists and their columns say the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.errors import RequestError
from twotower.retrieval.recommendations import Recommendations


@st.composite
def found(draw: st.DrawFn) -> Recommendations:
    """Up to five lists, some of them shorter than the others or empty."""
    width = draw(st.integers(1, 4))
    lengths = draw(st.lists(st.integers(0, width), max_size=5))
    items = np.full((len(lengths), width), None, dtype=object)
    scores = np.full((len(lengths), width), -np.inf, np.float32)
    for row, length in enumerate(lengths):
        items[row, :length] = [100 * row + n for n in range(length)]
        scores[row, :length] = np.arange(length)[::-1] / 4
    return Recommendations("who", "what", np.arange(len(lengths)) + 7, items, scores)


@given(found())
def test_the_columns_are_the_lists_row_by_row(found: Recommendations) -> None:
    expected = [
        (user, item, rank, score)
        for user, pairs in zip(found.user_ids.tolist(), found, strict=True)
        for rank, (item, score) in enumerate(pairs, 1)
    ]
    columns = found.columns()
    assert list(columns) == ["who", "what", "rank", "score"]
    rows = list(zip(*(column.tolist() for column in columns.values()), strict=True))
    assert rows == expected


@given(found())
def test_a_list_ends_where_nothing_is_left(found: Recommendations) -> None:
    assert len(list(found)) == len(found) == len(found.user_ids)
    for ids, pairs in zip(found.item_ids, found, strict=True):
        assert [item for item, _ in pairs] == [item for item in ids if item is not None]


@pytest.mark.parametrize(("user", "item"), [("rank", "what"), ("who", "score")])
def test_ids_are_not_hidden_by_columns_of_ours(user: str, item: str) -> None:
    found = Recommendations(user, item, np.array([1]), np.array([[2]]), np.ones((1, 1)))
    with pytest.raises(RequestError, match=r"id column is called '(rank|score)'.* rename it"):
        found.columns()
