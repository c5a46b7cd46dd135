"""By what a map can be coloured: what an item is, not what it is called."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from twotower.report.colours import Colouring, colourings


def texts(values: list[Any]) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def of(times: tuple[str, ...] = (), **columns: np.ndarray) -> dict[str, Colouring]:
    size = len(next(iter(columns.values())))
    found = list(colourings(columns, set(times), np.zeros(size, np.int64)))
    return {each["name"]: each for each in found}


def test_a_category_has_its_commonest_values_and_what_is_none_of_them() -> None:
    kinds = [f"kind {n}" for n in range(12) for _ in range(12 - n)] + [None]
    found = of(kind=texts(kinds))["kind"]
    assert found["labels"] == [f"kind {n}" for n in range(9)]
    says = [*found["labels"], "none of these"]
    assert [says[code] for code in found["values"]] == [
        kind if kind in found["labels"] else "none of these" for kind in kinds
    ]


def test_of_a_list_the_first_value_counts() -> None:
    found = of(tags=texts([["a", "b"], ["b", "a"], [], None]))["tags"]
    assert found["labels"] == ["a", "b"]
    assert found["values"] == [0, 1, 2, 2]


def test_titles_are_no_colours() -> None:
    assert "title" not in of(title=texts([f"the story of {n}" for n in range(200)]))


def test_one_value_for_all_is_no_colour() -> None:
    column = np.full(4, 7.5)
    assert list(of(kind=texts(["tea"] * 4), price=column)) == ["popularity"]


def test_columns_of_which_each_item_has_one_are_one() -> None:
    found = of(
        main_genre_jazz=np.array([1.0, 0, 0, 0]), main_genre_folk=np.array([0.0, 1, 1, 0])
    )
    assert set(found) == {"main_genre", "popularity"}
    names = [*found["main_genre"]["labels"], None]
    says = [names[code] for code in found["main_genre"]["values"]]
    assert says == ["jazz", "folk", "folk", None]


def test_columns_of_which_an_item_has_several_are_each_their_own() -> None:
    found = of(is_new=np.array([1.0, 1, 0, np.nan]), is_cheap=np.array([1.0, 0, 1, 0]))
    assert set(found) == {"is_new", "is_cheap", "popularity"}
    labels = [*found["is_new"]["labels"], None]
    assert [labels[code] for code in found["is_new"]["values"]] == ["yes", "yes", "no", None]


def test_a_few_extremes_do_not_make_all_others_one_colour() -> None:
    values = np.concatenate([np.arange(200.0), [1e9, -1e9, np.nan]])
    found = of(price=values)["price"]
    assert -10 < found["low"] < found["high"] < 210
    assert found["values"][-1] is None
    assert found["values"][:3] == [0, 1, 2]


def test_times_are_years() -> None:
    seconds = np.array(["1970-01-01", "1995-07-01", "2024-01-01"], "datetime64[s]")
    found = of(("released",), released=seconds.astype(np.float64))["released"]
    assert found["values"] == pytest.approx([1970, 1995.5, 2024], abs=0.01)


def test_popularity_is_on_a_scale_of_logarithms_and_comes_last() -> None:
    met = np.array([0, 9, 99])
    *_, found = colourings({"year": np.array([1.0, 2, 3])}, set(), met)
    assert found["name"] == "popularity"
    assert found["values"] == [0, 1, 2]
    assert [text for _, text in found["ticks"]] == ["0", "1", "10"]
    assert found["high"] == pytest.approx(2)
