from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.data.ids import Ids, as_number

wide = st.integers(-(2**63), 2**63 - 1)


def of_texts(*texts: str) -> Ids:
    values = np.empty(len(texts), dtype=object)
    values[:] = texts
    return Ids("name", values)


@given(st.lists(wide, unique=True, max_size=20), st.lists(wide, max_size=20))
def test_the_row_of_a_number_is_its_place_from_1_and_0_for_a_stranger(
    known: list[int], asked: list[int]
) -> None:
    ids = Ids("id", np.array(known, np.int64))
    wanted = asked + known
    expected = [known.index(n) + 1 if n in known else 0 for n in wanted]
    assert ids.rows(wanted).tolist() == expected
    assert ids.rows(np.array(wanted, np.int64)).tolist() == expected
    assert ids.rows([str(n) for n in wanted]).tolist() == expected
    assert ids.of(ids.rows(known)).tolist() == known


@given(st.lists(st.text(), unique=True, max_size=20), st.lists(st.text(), max_size=20))
def test_the_row_of_a_text_is_its_place_from_1_and_0_for_a_stranger(
    known: list[str], asked: list[str]
) -> None:
    ids = of_texts(*known)
    expected = [known.index(n) + 1 if n in known else 0 for n in asked + known]
    assert ids.rows(asked + known).tolist() == expected
    assert not ids.are_numbers
    assert len(ids) == len(known)


def test_neighbours_beyond_the_reach_of_floats_are_told_apart() -> None:
    ids = Ids("id", np.array([2**53, 2**53 + 1], np.int64))
    assert ids.rows([2**53 + 1, str(2**53 + 1), 2**53]).tolist() == [2, 2, 1]


@pytest.mark.parametrize(
    "stranger",
    [None, "x", "", 1.5, "1.5", float("nan"), float("inf"), 2**63, -(2**63) - 1, [1], b"x"],
)
def test_what_can_be_no_number_is_a_stranger(stranger: Any) -> None:
    ids = Ids("id", np.array([0, 1, -(2**63)], np.int64))
    assert ids.rows([stranger, 1]).tolist() == [0, 2]


@pytest.mark.parametrize("value", [7, "7", 7.0, np.int32(7), np.float32(7)])
def test_a_number_may_be_written_in_several_ways(value: Any) -> None:
    assert as_number(value) == 7
    assert Ids("id", np.array([7], np.int64)).rows([value]).tolist() == [1]


def test_a_number_asked_of_texts_is_its_text() -> None:
    assert of_texts("7", "x").rows([7, "7", "x", None]).tolist() == [1, 1, 2, 0]


def test_nobody_asked_and_nobody_known() -> None:
    none = Ids("id", np.zeros(0, np.int64))
    assert none.rows([1, 2]).tolist() == [0, 0]
    assert none.rows([]).tolist() == []
    assert Ids("id", np.array([3], np.int64)).rows([]).tolist() == []
