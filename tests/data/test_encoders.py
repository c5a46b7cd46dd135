from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from twotower.config import Kind, ModelConfig
from twotower.data.encoders import (
    FIRST,
    MISSING,
    UNKNOWN,
    Boolean,
    Categories,
    Category,
    Encoder,
    Moment,
    Numeric,
    Text,
    Vector,
    fit_encoder,
    from_json,
    text_grams,
    to_json,
)
from twotower.data.schema import Column
from twotower.errors import DataError

finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.lists(finite | st.just(float("nan")), max_size=20)
words = st.sampled_from(["a", "b", "c", "d", "e"]) | st.none()
DAY = 86_400.0


def objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def fit(kind: Kind, values: Any) -> Encoder | None:
    array = (
        np.array(values, np.float64) if kind in {"numeric", "boolean", "timestamp"} else None
    )
    array = np.array(values, np.float32) if kind == "vector" else array
    column = Column("x", "", kind, "")
    return fit_encoder(column, objects(values) if array is None else array, ModelConfig())


@given(numbers, numbers)
def test_numbers_come_out_small_and_finite_however_large_they_are(
    train: list[float], later: list[float]
) -> None:
    encoder = fit("numeric", train)
    assume(encoder is not None)
    assert isinstance(encoder, Numeric)
    rows = encoder.encode(np.array(train + later))
    assert rows.shape == (len(train) + len(later), encoder.width)
    assert np.abs(rows).max(initial=0) <= 8


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_numbers_of_train_have_mean_0_and_deviation_1(train: list[float]) -> None:
    assume(np.std(train) > 1e-3)
    encoder = fit("numeric", train)
    assert isinstance(encoder, Numeric)
    rows = encoder.encode(np.array(train))
    assert rows.mean() == pytest.approx(0, abs=1e-3)
    assert rows.std() == pytest.approx(1, abs=1e-3)


def test_a_missing_number_is_the_mean_and_flagged_where_train_had_some_missing() -> None:
    with_gaps, without = fit("numeric", [1, 2, float("nan")]), fit("numeric", [1, 2, 3])
    assert isinstance(with_gaps, Numeric)
    assert isinstance(without, Numeric)
    assert with_gaps.encode(np.array([np.nan, 1.5])).tolist() == [[0, 1], [0, 0]]
    assert without.encode(np.array([np.nan, 2])).tolist() == [[0], [0]]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("numeric", []),
        ("numeric", [float("nan")] * 3),
        ("numeric", [5.0] * 3),
        ("boolean", [1.0] * 3),
        ("boolean", [float("nan")] * 3),
        ("timestamp", [float("nan")] * 3),
        ("categorical", ["a"] * 3),
        ("categorical", [None] * 3),
        ("list", [None, []]),
        ("text", [None, None]),
        ("vector", [[float("nan")] * 2] * 3),
        ("vector", [[0.0, 0.0]] * 3),
        ("ignore", ["a", "b"]),
    ],
)
def test_a_column_that_tells_nothing_has_no_encoder(kind: Kind, values: list[Any]) -> None:
    assert fit(kind, values) is None


def test_whether_a_constant_is_missing_may_tell_something() -> None:
    number = fit("numeric", [5.0, float("nan")])
    assert isinstance(number, Numeric)
    assert number.encode(np.array([5.0, np.nan])).tolist() == [[0, 0], [0, 1]]
    yes = fit("boolean", [1.0, float("nan")])
    assert isinstance(yes, Boolean)
    assert yes.encode(np.array([1.0, np.nan])).tolist() == [[1, 0], [1, 1]]


def test_yes_is_1_no_is_0_and_missing_is_in_between() -> None:
    encoder = fit("boolean", [1, 1, 1, 0])
    assert isinstance(encoder, Boolean)
    assert encoder.encode(np.array([1.0, 0.0, np.nan])).tolist() == [[1], [0], [0.75]]


@given(st.lists(st.floats(-6e10, 2.5e11), min_size=1, max_size=20), st.floats(-6e10, 2.5e11))
def test_times_come_out_small_and_finite(train: list[float], later: float) -> None:
    encoder = fit("timestamp", train)
    assert isinstance(encoder, Moment)
    rows = encoder.encode(np.array([*train, later, np.nan]))
    assert rows.shape == (len(train) + 2, encoder.width)
    assert np.abs(rows).max() <= 8
    assert rows[-1].tolist() == [0] * encoder.width


def test_a_time_tells_its_place_in_the_week_and_the_day() -> None:
    monday = 4 * DAY
    encoder = fit("timestamp", [monday + 1, monday + 40 * DAY])
    assert isinstance(encoder, Moment)
    moments = np.array([monday, monday + 7 * DAY, monday + DAY, monday + DAY / 4])
    age_year, week, day = np.split(encoder.encode(moments), [3, 5], axis=1)
    assert age_year[0, 0] < age_year[1, 0]
    np.testing.assert_allclose(week[0], week[1], atol=1e-6)
    assert np.abs(week[0] - week[2]).max() > 0.1
    np.testing.assert_allclose(day[:3], [[0, 1]] * 3, atol=1e-6)
    np.testing.assert_allclose(day[3], [1, 0], atol=1e-6)


def test_dates_without_hours_have_no_place_in_the_day() -> None:
    encoder = fit("timestamp", [0.0, DAY, float("nan")])
    assert isinstance(encoder, Moment)
    assert not encoder.has_hours
    assert encoder.encode(np.array([np.nan])).tolist() == [[0, 0, 0, 0, 0, 1]]


vectors = st.lists(
    st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=1, max_size=9
)


@given(vectors, vectors)
def test_vectors_come_out_finite_and_of_a_common_size(
    train: list[list[float]], later: list[list[float]]
) -> None:
    known = [row for row in train if np.isfinite(row).all()]
    encoder = fit("vector", known or [[1.0, 2.0, 3.0]])
    assume(encoder is not None)
    assert isinstance(encoder, Vector)
    with np.errstate(all="raise", under="ignore"):
        rows = encoder.encode(np.array([*train, *later], np.float32))
    assert np.isfinite(rows).all()
    if known:
        of_train = encoder.encode(np.array(known, np.float32)).astype(np.float64)
        assert np.mean(of_train**2) == pytest.approx(1, rel=1e-3)


def test_a_missing_vector_is_zero_and_one_of_another_dimension_is_refused() -> None:
    encoder = Vector(2, 1.0)
    assert encoder.encode(np.full((1, 2), np.nan, np.float32)).tolist() == [[0, 0]]
    assert encoder.encode(np.empty((1, 0), np.float32)).tolist() == [[0, 0]]
    with pytest.raises(DataError, match="expected vectors of 2 numbers, got 3"):
        encoder.encode(np.ones((1, 3), np.float32))


@given(st.lists(words, max_size=20), st.lists(words | st.just("new"), max_size=10))
def test_a_category_is_missing_unknown_or_its_own_code(
    train: list[str | None], later: list[str | None]
) -> None:
    encoder = fit("categorical", train)
    known = {w for w in train if w is not None and train.count(w) > 1}
    assume(encoder is not None)
    assert isinstance(encoder, Category)
    codes = dict(
        zip(train + later, encoder.encode(objects(train + later)).tolist(), strict=True)
    )
    for word, code in codes.items():
        if word is None:
            assert code == MISSING
        elif word not in known:
            assert code == UNKNOWN
    own = [codes[word] for word in known]
    assert sorted(own) == list(range(FIRST, encoder.size))


def test_the_more_frequent_category_has_the_lower_code() -> None:
    encoder = fit("categorical", ["b", "b", "a", "a", "c", "c", "c", "once"])
    assert isinstance(encoder, Category)
    assert encoder.values == ("c", "a", "b")


@pytest.mark.parametrize(("times", "taken"), [(1, 1), (2, 2), (4, 2), (5, 3), (100, 6)])
def test_what_a_list_says_often_counts_by_the_log(times: int, taken: int) -> None:
    encoder = fit("list", [["a", "b"], ["a", "b"]])
    [codes] = encoder.encode(objects([["b"] + ["a"] * times]))
    assert sorted(codes) == [FIRST] * taken + [FIRST + 1]


different = st.lists(st.sampled_from("abcd"), max_size=4, unique=True)


@given(st.lists(different | st.none(), max_size=12))
def test_a_list_gives_the_codes_of_its_parts(train: list[list[str] | None]) -> None:
    encoder = fit("list", train)
    assume(encoder is not None)
    assert isinstance(encoder, Categories)
    often = {p for p in "abcd" if sum(p in (row or []) for row in train) > 1}
    assert set(encoder.values) == often
    alone = Category(encoder.values)
    for row, codes in zip(train, encoder.encode(objects(train)), strict=True):
        assert codes == alone.encode(objects(row or [])).tolist()


def test_words_and_their_letters_are_hashed_and_case_does_not_count() -> None:
    encoder = Text(buckets=1000)
    one, same, other, nothing, symbols = encoder.encode(
        objects(["Toy Story", "toy   STORY!", "Jumanji", None, "?!"])
    )
    assert one == same != other
    assert nothing == symbols == []
    assert len(one) == len(text_grams("toy")) + len(text_grams("story"))
    assert all(FIRST <= code < encoder.size for code in one + other)


@given(st.text())
def test_any_text_has_codes(text: str) -> None:
    [codes] = Text(buckets=16).encode(objects([text]))
    assert all(FIRST <= code < FIRST + 16 for code in codes)


def test_half_a_character_and_an_endless_text_do_no_harm() -> None:
    half, endless = Text(buckets=16).encode(objects(["a\ud800b", "word " * 1000]))
    assert half
    assert len(endless) == 64 * len(text_grams("word"))


EVERY: list[tuple[Kind, list[Any]]] = [
    ("numeric", [1.5, 2.5, float("nan")]),
    ("boolean", [1.0, 0.0, float("nan")]),
    ("timestamp", [0.5, 1e9, float("nan")]),
    ("vector", [[1.0, 2.0], [3.0, 4.0], [float("nan")] * 2]),
    ("categorical", ["a", "a", "b", "b", None]),
    ("list", [["a", "b"], ["a", "b"], None]),
    ("text", ["a film", "a play", None]),
]


def test_encoders_come_back_from_json_as_they_were() -> None:
    encoders = {}
    for kind, values in EVERY:
        encoder = fit(kind, values)
        assert encoder is not None
        encoders[kind] = (Column(kind, "SQL", kind, "why", "pattern"), encoder)
    text = json.dumps(to_json(encoders), allow_nan=False)
    back = from_json(json.loads(text))
    assert back == encoders
    assert list(back) == list(encoders)
