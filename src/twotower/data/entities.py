"""The users table or the items table: ids, and columns brought to one plain form by kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from twotower.config import Kind
from twotower.data import engine
from twotower.data.checks import check_features, check_ids, id_sql
from twotower.data.engine import Table, quote
from twotower.data.facts import look, look_closely
from twotower.data.plain import Values, plain_sql, unit_of_time
from twotower.data.plain import plain_values as plain_values
from twotower.data.schema import (
    FEATURE_KINDS,
    Column,
    ColumnFacts,
    can_be,
    infer_feature,
    is_number,
)
from twotower.errors import DataError, join_mistakes


@dataclass(frozen=True)
class Entities:
    """Users or items: entry n stands for row n + 1, since row 0 is nobody.

    Attributes:
        source: the file, or "" where there is no table.
        ids: int64 or str, each once.
        columns: what each feature column is; the id is not among them.
        values: a column's values in the plain form of its kind: float64 with NaN where missing
            (numeric, boolean, timestamp in seconds), str or None (categorical, text), list of
            str or None (list), float32 (N, d) with NaN (vector).
    """

    source: str
    ids: np.ndarray
    columns: Mapping[str, Column]
    values: Mapping[str, Values]

    def __len__(self) -> int:
        return len(self.ids)


def id_column(who_column: str, declared: Mapping[str, Kind]) -> str:
    """The id's name in a users or items table: as in the interactions, unless declared."""
    return next((name for name, kind in declared.items() if kind == "id"), who_column)


def infer_columns(
    table: Table,
    id_column: str,
    declared: Mapping[str, Kind],
    looked: Mapping[str, ColumnFacts],
) -> tuple[dict[str, Column], list[str]]:
    """What each column is, and what is wrong with the table; the id is not among them."""
    columns, mistakes = {}, []
    for name, kind in declared.items():
        if name not in table.types:
            close = engine.closest(name, table.types)
            hint = (
                f"; did you mean {close!r}?" if close else f"; it has {', '.join(table.types)}"
            )
            mistakes.append(
                f"{table.short}: no column {name!r}, which data.columns declares{hint}"
            )
        elif kind not in (*FEATURE_KINDS, "ignore", "id"):
            mistakes.append(f"{table.short}: column {name!r} can not be a {kind} here")
    facts = look_closely(table, looked)
    for name, sql_type in table.types.items():
        if name == id_column:
            continue
        kind = declared.get(name, "id")
        if kind not in (*FEATURE_KINDS, "ignore"):
            columns[name] = infer_feature(name, sql_type, facts[name])
        elif not can_be(kind, sql_type):
            mistakes.append(
                f"{table.short}: column {name!r} is {sql_type} and can not be a {kind}; "
                "declare another kind, or 'ignore'"
            )
        else:
            column = Column(name, sql_type, kind, "declared in the config")
            columns[name] = _with_pattern(table, column, facts[name])
    return columns, mistakes + check_features(table, columns, facts)


def _with_pattern(table: Table, column: Column, facts: ColumnFacts) -> Column:
    if column.kind == "list":
        return replace(column, pattern="|" if column.sql_type == "VARCHAR" else "")
    if column.kind == "timestamp" and is_number(column.sql_type):
        largest = table.value(f"max(abs(CAST({quote(column.name)} AS DOUBLE)))") or 0.0
        return replace(column, pattern=unit_of_time(largest))
    return replace(column, pattern=facts.date_format if column.kind == "timestamp" else "")


def read_entities(
    connection: duckdb.DuckDBPyConnection,
    who: str,
    table: Table | None,
    id_column: str,
    columns: Mapping[str, Column],
) -> Entities:
    """The table in the order of its rows; ``<who> rows`` (id, row) must be there."""
    rows = quote(f"{who} rows")
    if table is None:
        found = engine.arrays(connection, f"SELECT id FROM {rows} ORDER BY row", who)
        return Entities("", plain_ids(found["id"]), {}, {})
    used = {name: column for name, column in columns.items() if column.kind != "ignore"}
    own = id_sql(id_column, table.types[id_column])
    chosen = [f"{plain_sql(column)} AS {quote('f ' + name)}" for name, column in used.items()]
    sql = (
        f"SELECT r.id AS id, t.* EXCLUDE (id) FROM {rows} AS r LEFT JOIN "
        f"(SELECT {', '.join([f'{own} AS id', *chosen])}, 1 AS present FROM {table.name}) AS t "
        "ON r.id = t.id ORDER BY r.row"
    )
    found = engine.arrays(connection, sql, table.source)
    values = {name: plain_values(column, found["f " + name]) for name, column in used.items()}
    return Entities(table.source, plain_ids(found["id"]), dict(columns), values)


def plain_ids(values: np.ndarray) -> np.ndarray:
    """Ids as int64 or as an array of str."""
    values = np.asarray(np.ma.getdata(values))
    return values.astype(np.int64) if values.dtype.kind in "iu" else values.astype(object)


def read_plain(
    source: Any, name: str, id_column: str, columns: Mapping[str, Column], numbers: bool
) -> tuple[np.ndarray, dict[str, Values]]:
    """Ids and plain values of a table that comes after training, in its own order.

    Args:
        columns: what training took the columns for; one that the table lacks is left out.
        numbers: whether ids are whole numbers.

    Raises:
        DataError: no id column, ids that are missing or repeated, values that do not fit.
    """
    connection = engine.connect()
    if isinstance(source, str | Path):
        table = engine.open_files(connection, name, str(source))
    else:
        table = engine.open_frame(connection, name, source)
    mistakes = check_ids(table, id_column)
    if not mistakes and is_number(table.types[id_column]) != numbers:
        wanted = "whole numbers" if numbers else "texts"
        found = table.types[id_column]
        mistakes = [f"column {id_column!r} is {found}; this model's ids are {wanted}"]
    present, wrong = _columns_again(table, columns)
    mistakes += wrong
    if mistakes:
        raise DataError(join_mistakes(table.source, mistakes))
    wanted_values = {"f " + name: plain_sql(column) for name, column in present.items()}
    own = id_sql(id_column, table.types[id_column])
    found_values = table.fetch({"id": own, **wanted_values})
    values = {n: plain_values(c, found_values["f " + n]) for n, c in present.items()}
    return plain_ids(found_values["id"]), values


def _columns_again(
    table: Table, columns: Mapping[str, Column]
) -> tuple[dict[str, Column], list[str]]:
    """Training's columns as this table has them: of the same kind, perhaps of another type."""
    facts = look_closely(table, look(table))
    present, mistakes = {}, []
    for name, column in columns.items():
        sql_type = table.types.get(name)
        if sql_type is None or not facts[name].num_values:
            continue
        if not can_be(column.kind, sql_type):
            mistakes.append(
                f"{table.short}: column {name!r} is {sql_type}; in training it was a "
                f"{column.kind} ({column.sql_type})"
            )
            continue
        again = _with_pattern(table, replace(column, sql_type=sql_type), facts[name])
        # The unit of a time is no matter of how large this table's numbers happen to be.
        both_numbers = is_number(sql_type) and is_number(column.sql_type)
        present[name] = replace(again, pattern=column.pattern) if both_numbers else again
    return present, mistakes + check_features(table, present, facts)
