from __future__ import annotations

import pytest

from twotower.config import Kind
from twotower.data.schema import (
    ColumnFacts,
    can_be,
    element_type,
    find_interaction_columns,
    infer_feature,
    is_integer,
    is_number,
    is_time,
    plain_name,
)


def facts(values: int, distinct: int, **more: object) -> ColumnFacts:
    return ColumnFacts(values, distinct, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "name", "sql_type", "seen"),
    [
        ("boolean", "active", "BOOLEAN", facts(9, 2)),
        ("timestamp", "born", "DATE", facts(9, 9)),
        ("timestamp", "joined", "TIMESTAMP WITH TIME ZONE", facts(9, 9)),
        ("timestamp", "joined", "TIMESTAMP_NS", facts(9, 9)),
        ("timestamp", "released", "VARCHAR", facts(9, 9, date_format="%d-%b-%Y")),
        ("numeric", "price", "DOUBLE", facts(100, 5)),
        ("numeric", "price", "DECIMAL(18,2)", facts(100, 50)),
        ("numeric", "year", "SMALLINT", facts(100, 40, is_whole=True)),
        ("numeric", "level", "BIGINT", facts(9, 3, is_whole=True)),
        ("numeric", "answer", "BIGINT", facts(551, 10, is_whole=True)),
        ("categorical", "level", "BIGINT", facts(300, 3, is_whole=True)),
        ("categorical", "level", "DOUBLE", facts(300, 3, is_whole=True)),
        ("categorical", "country", "VARCHAR", facts(100, 12)),
        ("categorical", "note", "VARCHAR", facts(20, 20)),
        ("categorical", "brand_id", "BIGINT", facts(100, 10, is_whole=True)),
        ("categorical", "field_cd", "BIGINT", facts(100, 10, is_whole=True)),
        ("list", "genres", "VARCHAR[]", facts(9, 9)),
        ("list", "genre_ids", "INTEGER[]", facts(9, 9, list_length=3)),
        ("list", "genres", "VARCHAR", facts(100, 50, share_with_bars=0.5)),
        ("text", "title", "VARCHAR", facts(100, 90, mean_words=3.0)),
        ("text", "title", "VARCHAR", facts(4000, 300, mean_words=5.0)),
        ("categorical", "country", "VARCHAR", facts(4000, 90, mean_words=3.0)),
        ("vector", "embedding", "FLOAT[]", facts(9, 9, list_length=3)),
        ("vector", "embedding", "DOUBLE[8]", facts(9, 9, list_length=8)),
        ("ignore", "embedding", "DOUBLE[]", facts(9, 9)),
        ("ignore", "imdb_id", "BIGINT", facts(100, 99, is_whole=True)),
        ("ignore", "tmdbId", "DOUBLE", facts(100, 99, is_whole=True)),
        ("numeric", "paid", "BIGINT", facts(100, 99, is_whole=True)),
        ("numeric", "bid_id", "DOUBLE", facts(100, 99)),
        ("ignore", "url", "VARCHAR", facts(100, 99)),
        ("shown", "cover", "VARCHAR", facts(100, 99, share_of_pictures=0.9)),
        ("shown", "logo", "VARCHAR", facts(100, 9, share_of_pictures=1.0)),
        ("shown", "Title", "VARCHAR", facts(100, 99)),
        ("categorical", "title", "VARCHAR", facts(100, 9)),
        ("ignore", "uuid", "UUID", facts(100, 100)),
        ("ignore", "nothing", "VARCHAR", facts(0, 0)),
        ("ignore", "parts", "STRUCT(a BIGINT)", facts(9, 9)),
        ("ignore", "parts", "STRUCT(a BIGINT)[]", facts(9, 9)),
        ("ignore", "nothing", '"NULL"', facts(9, 9)),
    ],
)
def test_each_kind_is_told_by_type_and_values(
    kind: Kind, name: str, sql_type: str, seen: ColumnFacts
) -> None:
    column = infer_feature(name, sql_type, seen)
    assert (column.name, column.sql_type, column.kind) == (name, sql_type, kind)
    assert column.reason


def test_a_date_or_a_list_in_a_text_keeps_how_it_is_written() -> None:
    date = infer_feature("d", "VARCHAR", facts(9, 9, date_format="%Y/%m/%d"))
    bars = infer_feature("g", "VARCHAR", facts(9, 9, share_with_bars=1.0))
    assert (date.pattern, bars.pattern) == ("%Y/%m/%d", "|")


def kinds(types: dict[str, str], declared: dict[str, Kind] | None = None) -> dict[str, str]:
    columns = find_interaction_columns(types, declared or {})
    assert list(columns) == list(types)
    return {name: column.kind for name, column in columns.items() if column.kind != "ignore"}


@pytest.mark.parametrize(
    ("types", "found"),
    [
        (
            {
                "userId": "BIGINT",
                "movieId": "BIGINT",
                "rating": "DOUBLE",
                "timestamp": "BIGINT",
            },
            {
                "userId": "user_id",
                "movieId": "item_id",
                "rating": "rating",
                "timestamp": "timestamp",
            },
        ),
        (
            {"ts": "BIGINT", "visitorid": "BIGINT", "event": "VARCHAR", "itemid": "BIGINT"},
            {"visitorid": "user_id", "itemid": "item_id", "ts": "timestamp"},
        ),
        (
            {"session_id": "BIGINT", "order_id": "BIGINT", "sku": "VARCHAR", "uid": "BIGINT"},
            {"uid": "user_id", "sku": "item_id"},
        ),
        (
            {"rating": "DOUBLE", "reader": "VARCHAR", "isbn": "VARCHAR"},
            {"reader": "user_id", "isbn": "item_id", "rating": "rating"},
        ),
        (
            {
                "review_id": "VARCHAR",
                "user_id": "VARCHAR",
                "business_id": "VARCHAR",
                "stars": "DOUBLE",
            },
            {"user_id": "user_id", "business_id": "item_id", "stars": "rating"},
        ),
        (
            {"order_id": "BIGINT", "customer_id": "BIGINT", "bought": "VARCHAR"},
            {"customer_id": "user_id", "bought": "item_id"},
        ),
        (
            {"Unnamed: 0": "BIGINT", "InvoiceNo": "BIGINT", "Who": "BIGINT", "What": "VARCHAR"},
            {"Who": "user_id", "What": "item_id"},
        ),
        (
            {"overall": "DOUBLE", "reviewerID": "VARCHAR", "asin": "VARCHAR"},
            {"overall": "rating", "reviewerID": "user_id", "asin": "item_id"},
        ),
        (
            {"user_id": "BIGINT", "order_id": "BIGINT"},
            {"user_id": "user_id", "order_id": "item_id"},
        ),
        ({"a": "VARCHAR", "b": "VARCHAR"}, {"a": "user_id", "b": "item_id"}),
        (
            {"id": "BIGINT", "who": "BIGINT", "paper_id": "BIGINT"},
            {"who": "user_id", "paper_id": "item_id"},
        ),
        (
            {"who": "BIGINT", "what": "BIGINT", "seen": "TIMESTAMP", "liked": "BOOLEAN"},
            {"who": "user_id", "what": "item_id", "seen": "timestamp", "liked": "label"},
        ),
        (
            {"user": "BIGINT", "item": "BIGINT", "plays": "BIGINT", "label": "VARCHAR"},
            {"user": "user_id", "item": "item_id", "plays": "weight", "label": "label"},
        ),
    ],
)
def test_the_parts_of_an_interaction_are_found_by_name_type_and_place(
    types: dict[str, str], found: dict[str, str]
) -> None:
    assert kinds(types) == found


def test_what_is_declared_goes_before_what_is_guessed() -> None:
    types = {"user_id": "BIGINT", "item_id": "BIGINT", "friend": "BIGINT"}
    found = kinds(types, {"friend": "item_id", "item_id": "ignore"})
    assert found == {"user_id": "user_id", "friend": "item_id"}


def test_names_are_compared_without_case_and_punctuation() -> None:
    assert {plain_name(n) for n in ("User_ID", "userId", "user-id", "USERID")} == {"userid"}


@pytest.mark.parametrize("sql_type", ["TINYINT", "UBIGINT", "HUGEINT"])
def test_whole_numbers_are_numbers(sql_type: str) -> None:
    assert is_integer(sql_type)
    assert is_number(sql_type)


@pytest.mark.parametrize("sql_type", ["DECIMAL(3,1)[]", "BIGINT[]", "VARCHAR", "DATE"])
def test_lists_and_texts_are_no_numbers(sql_type: str) -> None:
    assert not is_number(sql_type)


def test_a_list_of_dates_is_no_date() -> None:
    assert is_time("DATE")
    assert is_time("TIMESTAMP_MS")
    assert not is_time("DATE[]")
    assert not is_time("TIMESTAMP[]")


def test_the_elements_of_nested_lists_are_lists() -> None:
    assert element_type("VARCHAR[]") == "VARCHAR"
    assert element_type("FLOAT[3]") == "FLOAT"
    assert element_type("BIGINT[][]") == "BIGINT[]"
    assert element_type("VARCHAR") is None


@pytest.mark.parametrize(
    ("kind", "yes", "no"),
    [
        ("numeric", "VARCHAR", "BIGINT[]"),
        ("boolean", "BIGINT", "DATE"),
        ("label", "BOOLEAN", "TIMESTAMP"),
        ("vector", "DECIMAL(3,1)[]", "VARCHAR[]"),
        ("list", "VARCHAR", "BIGINT"),
        ("list", "DATE[]", "BIGINT[][]"),
        ("timestamp", "BIGINT", "BOOLEAN"),
        ("categorical", "DATE", "STRUCT(a BIGINT)"),
        ("text", "BIGINT", "BLOB"),
        ("user_id", "UUID", "MAP(VARCHAR, BIGINT)"),
    ],
)
def test_types_tell_what_a_column_can_not_be(kind: Kind, yes: str, no: str) -> None:
    assert can_be(kind, yes)
    assert not can_be(kind, no)
    assert can_be("ignore", no)
