from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.config import DataConfig, ModelConfig
from twotower.data.entities import Entities, read_plain
from twotower.data.features import (
    Bag,
    Encoders,
    FeatureTable,
    encode_entities,
    encoders_from_json,
    fit_encoders,
)
from twotower.data.tables import read
from twotower.errors import DataError

finite = st.floats(allow_nan=False, allow_infinity=False)
moments = st.datetimes(datetime(1800, 1, 1), datetime(2200, 1, 1))
short = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="|\0"), max_size=8)
COLUMNS: dict[str, tuple[str, pa.DataType, st.SearchStrategy[Any]]] = {
    "float": ("numeric", pa.float64(), finite | st.just(float("nan"))),
    "single": (
        "numeric",
        pa.float32(),
        st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    "int": ("numeric", pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "yes as number": ("numeric", pa.bool_(), st.booleans()),
    "number as text": ("numeric", pa.string(), st.builds(str, finite)),
    "yes": ("boolean", pa.bool_(), st.booleans()),
    "1 as yes": ("boolean", pa.int8(), st.integers(-3, 3)),
    "text as yes": ("boolean", pa.string(), st.sampled_from(["true", "T", "n", "YES"])),
    "float code": ("categorical", pa.float64(), finite | st.integers(-9, 9).map(float)),
    "single code": ("categorical", pa.float32(), st.integers(-9, 9).map(lambda n: n / 4)),
    "int code": ("categorical", pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "yes code": ("categorical", pa.bool_(), st.booleans()),
    "text code": ("categorical", pa.string(), short),
    "date code": ("categorical", pa.date32(), st.dates(date(1, 1, 1))),
    "text": ("text", pa.string(), short),
    "texts": ("list", pa.list_(pa.string()), st.lists(short, max_size=3)),
    "bars": ("list", pa.string(), st.lists(short, max_size=3).map("|".join)),
    "codes": ("list", pa.list_(pa.int64()), st.lists(st.integers(0, 5), max_size=3)),
    "float codes": ("list", pa.list_(pa.float64()), st.lists(finite, max_size=3)),
    "vector": (
        "vector",
        pa.list_(pa.float64()),
        st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2),
    ),
    "moment": ("timestamp", pa.timestamp("us"), moments),
    "zoned": (
        "timestamp",
        pa.timestamp("us", tz="UTC"),
        moments.map(lambda m: m.replace(tzinfo=UTC)),
    ),
    "day": ("timestamp", pa.date32(), st.dates(date(1, 1, 1))),
    "seconds": ("timestamp", pa.float64(), st.floats(-1e9, 1e10)),
    "nanoseconds": ("timestamp", pa.int64(), st.integers(10**18, 2 * 10**18)),
    "iso": ("timestamp", pa.string(), moments.map(lambda m: m.isoformat(" ", "seconds"))),
    "europe": (
        "timestamp",
        pa.string(),
        st.dates(date(1900, 1, 1)).map(lambda d: f"{d:%d/%m/%Y}"),
    ),
}
rows = st.fixed_dictionaries(
    {name: st.none() | values for name, (_, _, values) in COLUMNS.items()}
)


def as_json(value: Any) -> Any:
    """The value as it is in a JSON object; NaN can not be."""
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, date):
        return value.isoformat()
    return json.loads(json.dumps(value))


def table_of(given: list[dict[str, Any]]) -> tuple[pa.Table, DataConfig]:
    arrays = {n: pa.array([row[n] for row in given], t) for n, (_, t, _) in COLUMNS.items()}
    kinds = {name: kind for name, (kind, _, _) in COLUMNS.items()}
    table = pa.table({"user_id": list(range(len(given))), **arrays})
    return table, DataConfig.model_validate({"columns": {"users": kinds}})


def fitted(table: Any, config: DataConfig) -> tuple[Entities, Encoders, FeatureTable]:
    log = {"user_id": [pa.table(table)["user_id"][0].as_py()], "item_id": [0]}
    users = read({"users": table, "interactions": log}, config).users
    every = np.arange(1, len(users) + 1)
    encoders = fit_encoders(users, every, ModelConfig())
    return users, encoders, encode_entities(encoders, users, np.ones(len(users) + 1, bool))


def content(table: FeatureTable) -> list[Any]:
    bags = [bag.codes[a:b].tolist() for bag in table.bags for a, b in pairs(bag)]
    return [table.dense.tolist(), table.codes.tolist(), bags]


def pairs(bag: Bag) -> list[tuple[int, int]]:
    offsets = bag.offsets.tolist()
    return list(itertools.pairwise(offsets))


@settings(max_examples=25, deadline=None)
@given(st.lists(rows, min_size=1, max_size=4))
def test_a_row_of_a_table_is_the_same_row_as_a_json_object(given: list[dict[str, Any]]) -> None:
    # Each row twice, lest every category be met only once, which makes it unknown.
    _, encoders, table = fitted(*table_of(given * 2))
    for place, row in enumerate(given, 1):
        request = {n: as_json(v) for n, v in row.items() if n in encoders.by_column}
        one = encoders.encode_request(request)
        assert content(one) == content(table.take(torch.tensor([place])))
        absent = {name: value for name, value in request.items() if value is not None}
        assert content(encoders.encode_request(absent)) == content(one)


@settings(max_examples=10, deadline=None)
@given(st.lists(rows, min_size=1, max_size=4))
def test_a_table_that_comes_after_training_is_encoded_alike(
    given: list[dict[str, Any]],
) -> None:
    table, config = table_of(given * 2)
    users, encoders, encoded = fitted(table, config)
    columns = {name: column for name, (column, _) in encoders.by_column.items()}
    ids, values = read_plain(table, "users", "user_id", columns, numbers=True)
    assert ids.tolist() == users.ids.tolist()
    again = encoders.encode(values, np.zeros(len(ids), np.int64))
    assert content(again) == content(encoded.take(torch.arange(1, len(ids) + 1)))


@settings(max_examples=10, deadline=None)
@given(st.lists(rows, min_size=1, max_size=3))
def test_row_0_is_nobody_of_whom_all_is_missing(given: list[dict[str, Any]]) -> None:
    _, encoders, table = fitted(*table_of(given))
    nobody = table.take(torch.tensor([0]))
    assert content(nobody) == content(encoders.encode_request({}))
    assert nobody.ids.tolist() == [0]
    assert not nobody.codes.ne(nobody.codes.min(0, keepdim=True).values).any()
    assert all(len(bag.codes) == 0 for bag in nobody.bags)


SMALL: Mapping[str, list[Any]] = {
    "user_id": [1, 2, 3, 4, 5, 6],
    "age": [20.5, 30.5, None, 25.5, 999.0, -999.0],
    "city": ["Rome", "Rome", "Oslo", "Oslo", "Bonn", "Bonn"],
    "tags": [["a"], ["a", "b"], ["b"], None, ["z"], ["z"]],
    "bio": ["likes old films"] * 6,
    "face": [[1.0, 2.0], [2.0, 1.0], None, [0.0, 1.0], [1e6, 1e6], [1e6, 1e6]],
}
KINDS = DataConfig.model_validate({"columns": {"users": {"bio": "text"}}})


def fit_on(table: Mapping[str, list[Any]], train_rows: list[int]) -> Encoders:
    users, _, _ = fitted(table, KINDS)
    return fit_encoders(users, np.array(train_rows), ModelConfig())


def fitted_values(table: Mapping[str, list[Any]], train_rows: list[int]) -> list[Any]:
    return [encoder for _, encoder in fit_on(table, train_rows).by_column.values()]


def test_values_seen_only_outside_train_change_nothing() -> None:
    changed = {name: values[:4] + values[:2] for name, values in SMALL.items()}
    changed["user_id"] = SMALL["user_id"]
    in_train = [1, 2, 3, 4]
    every = [1, 2, 3, 4, 5, 6]
    assert fitted_values(SMALL, in_train) == fitted_values(changed, in_train)
    assert fitted_values(SMALL, in_train) != fitted_values(SMALL, every)


def test_unknown_and_missing_are_kept_apart() -> None:
    encoders = fit_on(SMALL, [1, 2, 3, 4])
    unknown = encoders.encode_request({"city": "Bonn", "tags": ["z"]})
    missing = encoders.encode_request({"city": None, "tags": None})
    assert (unknown.codes.tolist(), missing.codes.tolist()) == ([[1]], [[0]])
    assert next(bag.codes.tolist() for bag in unknown.bags) == [1]
    assert next(bag.codes.tolist() for bag in missing.bags) == []


def test_the_shape_says_what_comes_out() -> None:
    _, encoders, table = fitted(SMALL, KINDS)
    shape = encoders.shape(num_ids=6)
    assert shape.dense == table.dense.shape[1]
    assert len(shape.categories) == table.codes.shape[1]
    assert table.codes.max() < sum(shape.categories)
    assert [is_text for _, is_text in shape.bags] == [False, True]
    for bag, (size, _) in zip(table.bags, shape.bags, strict=True):
        assert bag.codes.max() < size


def test_the_codes_of_several_columns_share_one_table_without_meeting() -> None:
    table = {"user_id": [1, 2, 3, 4], "a": ["x", "x", "y", "y"], "b": ["x", "y", "x", "y"]}
    _, encoders, encoded = fitted(table, DataConfig())
    assert encoders.shape(4).categories == (4, 4)
    assert encoded.codes.tolist() == [[0, 4], [2, 6], [2, 7], [3, 6], [3, 7]]


def test_ids_unknown_to_training_have_code_0() -> None:
    users, encoders, _ = fitted(SMALL, KINDS)
    known = np.array([False, True, False, True, True, True, True])
    assert encode_entities(encoders, users, known).ids.tolist() == [0, 1, 0, 3, 4, 5, 6]


def test_encoders_come_back_from_json_and_encode_alike() -> None:
    users, encoders, table = fitted(SMALL, KINDS)
    back = encoders_from_json(json.loads(json.dumps(encoders.to_json(), allow_nan=False)))
    assert back == encoders
    assert content(encode_entities(back, users, np.ones(7, bool))) == content(table)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("age", "old"),
        ("age", [1]),
        ("age", float("inf")),
        ("age", 10**400),
        ("city", ["Rome"]),
        ("city", {"name": "Rome"}),
        ("tags", 5),
        ("tags", {"a": 1}),
        ("tags", [["a"]]),
        ("bio", ["a"]),
        ("face", 1.0),
        ("face", "1"),
        ("face", [1.0, None]),
        ("face", [[1.0, 2.0]]),
        ("face", [1e300, 1.0]),
        ("face", [1.0, float("nan")]),
        ("face", []),
        ("born", "tomorrow"),
        ("born", "31/12"),
        ("born", 1e300),
        ("born", [1]),
        ("born", "now"),
        ("fan", "perhaps"),
        ("fan", []),
    ],
)
def test_a_value_that_its_kind_can_not_be_is_refused_by_name(name: str, value: Any) -> None:
    born = [date(2000, 1, day) for day in range(1, 7)]
    table = {**SMALL, "born": born, "fan": [True, False] * 3}
    _, encoders, _ = fitted(table, KINDS)
    with pytest.raises(DataError, match=f"feature '{name}': expected a "):
        encoders.encode_request({name: value})


def test_a_vector_of_another_dimension_is_refused_by_name() -> None:
    _, encoders, _ = fitted(SMALL, KINDS)
    with pytest.raises(DataError, match="column 'face': expected vectors of 2 numbers, got 3"):
        encoders.encode_request({"face": [1.0, 2.0, 3.0]})


def test_a_name_that_is_no_feature_is_refused_with_the_known_ones() -> None:
    _, encoders, _ = fitted(SMALL, KINDS)
    message = "unknown feature 'agee'; the features are: age, city, tags, bio, face"
    with pytest.raises(DataError, match=message):
        encoders.encode_request({"agee": 3})


def test_a_later_table_may_have_fewer_columns_and_other_types() -> None:
    _, encoders, _ = fitted(SMALL, KINDS)
    columns = {name: column for name, (column, _) in encoders.by_column.items()}
    later = {"user_id": ["7", "8"], "age": ["20.5", None], "tags": ["a|b", "b"], "new": [1, 2]}
    with pytest.raises(DataError, match="'user_id' is VARCHAR; this model's ids are whole num"):
        read_plain(later, "users", "user_id", columns, numbers=True)
    ids, values = read_plain(later, "users", "user_id", columns, numbers=False)
    assert ids.tolist() == ["7", "8"]
    assert list(values) == ["age", "tags"]
    assert values["tags"].tolist() == [["a", "b"], ["b"]]
    table = encoders.encode(values, np.zeros(2, np.int64))
    one = encoders.encode_request({"age": 20.5, "tags": ["a", "b"]})
    assert content(table.take(torch.tensor([0]))) == content(one)


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ({"user_id": [1, 1]}, "column 'user_id' has 1 duplicates"),
        ({"userid": [1]}, r"no column 'user_id'.*\(is it 'userid'\?\)"),
        ({"user_id": [1], "age": [[1]]}, "'age' is .*; in training it was a numeric .DOUBLE"),
        ({"user_id": [1], "age": ["old"]}, "'age' has 1 values that are no finite numbers"),
        ({"user_id": [1], "face": [[float("inf"), 1.0]]}, "missing or not finite"),
    ],
)
def test_a_later_table_that_does_not_fit_is_refused(later: Any, message: str) -> None:
    _, encoders, _ = fitted(SMALL, KINDS)
    columns = {name: column for name, (column, _) in encoders.by_column.items()}
    with pytest.raises(DataError, match=message):
        read_plain(later, "users", "user_id", columns, numbers=True)


bags = st.lists(st.lists(st.integers(0, 99), max_size=5), min_size=1, max_size=6)


@given(bags, st.data())
def test_taking_rows_of_a_bag_is_taking_their_lists(lists: list[list[int]], data: Any) -> None:
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=8))
    offsets = np.concatenate([[0], np.cumsum([len(codes) for codes in lists])])
    bag = Bag(
        torch.tensor([code for codes in lists for code in codes], dtype=torch.int64),
        torch.from_numpy(offsets.astype(np.int64)),
    )
    taken = bag.take(torch.tensor(rows, dtype=torch.int64))
    assert [taken.codes[a:b].tolist() for a, b in pairs(taken)] == [lists[row] for row in rows]


def test_taking_rows_of_a_table_is_taking_them_of_each_part() -> None:
    _, _encoders, table = fitted(SMALL, KINDS)
    taken = table.take(torch.tensor([3, 0, 3]))
    assert len(taken) == 3
    assert taken.ids.tolist() == [3, 0, 3]
    assert taken.dense.tolist() == [table.dense[row].tolist() for row in (3, 0, 3)]
    assert [len(bag.offsets) for bag in taken.bags] == [4, 4]
