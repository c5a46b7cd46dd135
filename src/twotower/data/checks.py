"""What may be wrong with the values of a table: checked once, at the border, all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twotower.data.engine import Table, closest, quote, rows
from twotower.data.plain import moment_sql
from twotower.data.schema import (
    DATE_FORMATS,
    Column,
    ColumnFacts,
    can_be,
    is_integer,
    is_nested,
    is_number,
)

_ID_ADVICE = "ids are whole numbers or texts"


def id_sql(column: str, sql_type: str) -> str:
    """An id as BIGINT or VARCHAR, the two ways ids are kept."""
    return f"CAST({quote(column)} AS {'BIGINT' if is_number(sql_type) else 'VARCHAR'})"


def check_nulls(table: Table, column: str, advice: str) -> list[str]:
    """Says how many values of a column are missing, if any."""
    # A count of what is there stands in Parquet's own metadata.
    if table.value(f"count({quote(column)})") == table.num_rows:
        return []
    return _describe(table, column, f"{quote(column)} IS NULL", "nulls", advice)


def check_id_values(table: Table, column: str) -> list[str]:
    """What is wrong with a column of ids wherever it stands: missing, or neither 3 nor "c"."""
    sql, sql_type = quote(column), table.types[column]
    if is_nested(sql_type):
        return [f"{table.short}: column {column!r} is {sql_type}; {_ID_ADVICE}"]
    mistakes = check_nulls(table, column, "drop these rows or give them an id")
    if is_number(sql_type) and sql_type not in {"INTEGER", "BIGINT"}:
        whole = "" if is_integer(sql_type) else f" OR CAST({sql} AS DOUBLE) % 1 <> 0"
        bad = f"{sql} IS NOT NULL AND (TRY_CAST({sql} AS BIGINT) IS NULL{whole})"
        problem = "values that are no whole numbers of 64 bits"
        mistakes += _describe(table, column, bad, problem, _ID_ADVICE)
    return mistakes


def check_ids(table: Table, column: str) -> list[str]:
    """What is wrong with the ids of a users or items table."""
    if column not in table.types:
        close = closest(column, table.types)
        hint = f" (is it {close!r}?)" if close else ""
        return [
            f"{table.short}: no column {column!r}, the id that the interactions use; found "
            f"{', '.join(table.types)}{hint}. Rename it, or declare the right one 'id' under "
            "data.columns in the config"
        ]
    if table.num_rows == 0:
        return [f"{table.short}: no rows; leave the file out if there are no features"]
    mistakes = check_id_values(table, column)
    sql = quote(column)
    doubles = table.value(f"count({sql}) - count(DISTINCT {sql})")
    if not doubles:
        return mistakes
    repeated = f"WHERE {sql} IS NOT NULL GROUP BY {sql} HAVING count(*) > 1 ORDER BY {sql}"
    first = table.value(f"CAST({sql} AS VARCHAR)", f"{repeated} LIMIT 1")
    return [
        *mistakes,
        f"{table.short}: column {column!r} has {doubles:,} duplicates (such as {first}); keep "
        "one row for each id",
    ]


def check_same_type(ids: Sequence[tuple[Table, str]]) -> list[str]:
    """Ids are numbers everywhere or texts everywhere; a join would find nothing otherwise."""
    families = {
        is_number(table.types[column]): (table, column)
        for table, column in reversed(ids)
        if column in table.types and table.num_rows
    }
    if len(families) < 2:
        return []
    (number, one), (text, other) = families[True], families[False]
    return [
        f"the ids in column {one!r} of {number.short} are numbers ({number.types[one]}) and "
        f"those in column {other!r} of {text.short} are texts ({text.types[other]}); write "
        "them alike"
    ]


def check_features(
    table: Table, columns: Mapping[str, Column], facts: Mapping[str, ColumnFacts]
) -> list[str]:
    """What is wrong with the values of a users or items table, given the kinds of columns."""
    mistakes = []
    for name, column in columns.items():
        sql = quote(name)
        if column.kind == "numeric":
            good = f"isfinite(TRY_CAST({sql} AS DOUBLE))"
            problem = "values that are no finite numbers"
        elif column.kind == "boolean":
            good = f"TRY_CAST({sql} AS BOOLEAN) IS NOT NULL"
            problem = "values that are neither yes nor no"
        elif column.kind == "timestamp":
            good = f"{moment_sql(column)} IS NOT NULL"
            problem = f"values that are no time (known: {', '.join(DATE_FORMATS)})"
        elif column.kind == "vector":
            if not facts[name].list_length and facts[name].num_values:
                shortest, longest = (table.value(f"{m}(len({sql}))") for m in ("min", "max"))
                mistakes.append(
                    f"{table.short}: column {name!r} is declared a vector, but its lists are "
                    f"empty or differ in length ({shortest:,} to {longest:,} numbers); mend "
                    "them or declare the column 'ignore'"
                )
            numbers = f"TRY_CAST({sql} AS FLOAT[])"
            good = f"len(list_filter({numbers}, lambda x: x IS NULL OR NOT isfinite(x))) = 0"
            problem = "vectors with numbers that are missing or not finite"
        else:
            continue
        bad = f"{sql} IS NOT NULL AND NOT coalesce({good}, false)"
        advice = "mend them or declare the column 'ignore'"
        mistakes += _describe(table, name, bad, problem, advice)
    return mistakes


def check_interactions(
    table: Table, columns: Mapping[str, Column], rating_threshold: float | None
) -> list[str]:
    """What is wrong with a table of interactions, given the kinds of its columns."""
    if table.num_rows == 0:
        return [f"{table.short}: no rows; an empty part can not be used, leave the file out"]
    mistakes = []
    is_rated = rating_threshold is not None
    if is_rated and all(column.kind != "rating" for column in columns.values()):
        mistakes.append(
            f"{table.short}: data.rating_threshold is set but no column is a rating; declare "
            "one under data.columns.interactions"
        )
    for column in columns.values():
        if not can_be(column.kind, column.sql_type):
            mistakes.append(
                f"{table.short}: column {column.name!r} is {column.sql_type} and can not be a "
                f"{column.kind}; declare another column, or this one 'ignore'"
            )
        elif column.kind in {"user_id", "item_id"}:
            mistakes += check_id_values(table, column.name)
        elif column.kind == "timestamp":
            mistakes += _check_times(table, column)
        elif column.kind in {"label", "weight", *({"rating"} if is_rated else ())}:
            mistakes += _check_numbers(table, column)
    return mistakes


def _check_numbers(table: Table, column: Column) -> list[str]:
    bounds = {"label": "BETWEEN 0 AND 1", "weight": ">= 0", "rating": "IS NOT NULL"}
    wants = {"label": "0 to 1", "weight": "0 or more", "rating": "a finite number"}
    number = f"TRY_CAST({quote(column.name)} AS FLOAT)"
    good = f"isfinite({number}) AND {number} {bounds[column.kind]}"
    bad = f"{quote(column.name)} IS NOT NULL AND NOT coalesce({good}, false)"
    problem = f"values that can not be a {column.kind}, which is {wants[column.kind]}"
    advice = "mend them or declare the column 'ignore'"
    return [
        *check_nulls(table, column.name, "drop these rows or fill them"),
        *_describe(table, column.name, bad, problem, advice),
    ]


def _check_times(table: Table, column: Column) -> list[str]:
    sql = quote(column.name)
    bad = f"{sql} IS NOT NULL AND {moment_sql(column)} IS NULL"
    advice = "write them as 2026-01-31 12:00:00 or as seconds since 1970, or declare the column"
    return [
        *check_nulls(table, column.name, "drop these rows, or declare the column 'ignore'"),
        *_describe(table, column.name, bad, "values that are no time", f"{advice} 'ignore'"),
    ]


def _describe(
    table: Table, column: str, condition: str, problem: str, advice: str
) -> list[str]:
    """How many rows have a problem, the first of them and its value; nothing if none has."""
    count = table.value(f"count(*) FILTER ({condition})")
    if not count:
        return []
    place, sql = quote("row of the table"), f"CAST({quote(column)} AS VARCHAR)"
    numbered = f"(SELECT row_number() OVER () AS {place}, * FROM {table.name})"
    first = f"SELECT {place}, {sql} FROM {numbered} WHERE {condition} ORDER BY 1 LIMIT 1"
    row, value = rows(table.engine, first, table.source)[0]
    such = f": {value!r}" if value is not None else ""
    return [
        f"{table.short}: column {column!r} has {count:,} {problem} (first in row {row}{such}); "
        f"{advice}"
    ]
