"""One plain form for each kind of column, whether it comes from a table or from JSON.

The forms are those of ``Entities.values``. A row of a table and the same row as a JSON object
come out alike; what follows need not know where a value came from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from twotower.data.engine import literal, quote
from twotower.data.schema import Column, element_type, is_integer, is_number
from twotower.errors import DataError

Values = np.ndarray

_LARGEST_WHOLE = 9.2e18
_YES, _NO = {"true", "t", "yes", "y", "1"}, {"false", "f", "no", "n", "0"}
# A unit of time in microseconds: times the first, by the second.
_MICROSECONDS = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def plain_sql(column: Column) -> str:
    """The column in SQL, NULL where it is missing or no value of its kind."""
    sql = quote(column.name)
    if column.kind == "numeric":
        return f"TRY_CAST({sql} AS DOUBLE)"
    if column.kind == "boolean":
        return f"CAST(TRY_CAST({sql} AS BOOLEAN) AS DOUBLE)"
    if column.kind == "timestamp":
        return f"{moment_sql(column)} / 1e6"
    if column.kind == "vector":
        return f"TRY_CAST({sql} AS FLOAT[])"
    if column.kind == "list":
        element = element_type(column.sql_type)
        if element is None:
            parts = f"string_split({sql}, '|')"
        else:
            parts = f"list_transform({sql}, lambda part: {_category_sql('part', element)})"
        return f"list_filter({parts}, lambda part: part IS NOT NULL AND part <> '')"
    return _category_sql(sql, column.sql_type)


def _category_sql(sql: str, sql_type: str) -> str:
    if not is_number(sql_type) or is_integer(sql_type):
        return f"CAST({sql} AS VARCHAR)"
    # A category written 3.0 in one place and 3 in another is the same one.
    number = sql if sql_type == "FLOAT" else f"CAST({sql} AS DOUBLE)"
    return (
        f"CASE WHEN abs({number}) < {_LARGEST_WHOLE} AND {number} % 1 = 0 "
        f"THEN CAST(CAST({number} AS BIGINT) AS VARCHAR) ELSE CAST({number} AS VARCHAR) END"
    )


def moment_sql(column: Column) -> str:
    """Microseconds since 1970 UTC as BIGINT, NULL where a value is no time."""
    sql, pattern = quote(column.name), column.pattern
    if not is_number(column.sql_type):
        if column.sql_type == "VARCHAR" and pattern:
            return f"epoch_us(try_strptime({sql}, {literal(pattern)}))"
        if column.sql_type == "TIMESTAMP":
            return f"epoch_us({sql})"
        # With a zone, lest "+02:00" be read and dropped; the engine is in UTC.
        return f"epoch_us(TRY_CAST({sql} AS TIMESTAMPTZ))"
    times, by = _MICROSECONDS[pattern or "s"]
    if is_integer(column.sql_type):
        return f"TRY_CAST(TRY_CAST({sql} AS HUGEINT) * {times} // {by} AS BIGINT)"
    return f"TRY_CAST(round_even(CAST({sql} AS DOUBLE) * {times / by}, 0) AS BIGINT)"


def written_sql(column: Column, moment: str) -> str:
    """The other way: microseconds since 1970 UTC as a column of times writes them."""
    if not is_number(column.sql_type):
        time = f"make_timestamp({moment})"
        if column.sql_type == "VARCHAR":
            return f"strftime({time}, {literal(column.pattern or '%Y-%m-%dT%H:%M:%S.%fZ')})"
        return f"CAST({time} AS {column.sql_type})"
    times, by = _MICROSECONDS[column.pattern or "s"]
    divided = "//" if is_integer(column.sql_type) else "/"
    return f"CAST({moment} * {by} {divided} {times} AS {column.sql_type})"


def unit_of_time(largest: float) -> str:
    """The unit of times since 1970 written as numbers, told by the largest of them.

    Seconds pass 1e11 in the year 5138, so a larger number is in a smaller unit.

    >>> unit_of_time(1.6e9), unit_of_time(1.6e12), unit_of_time(1.6e15), unit_of_time(1.6e18)
    ('s', 'ms', 'us', 'ns')
    """
    bounds = {"s": 1e11, "ms": 1e14, "us": 1e17}
    return next((unit for unit, bound in bounds.items() if largest < bound), "ns")


def plain_values(column: Column, values: np.ndarray) -> Values:
    """What ``plain_sql`` fetched, masked where NULL, in the plain form of its kind."""
    missing = np.ma.getmaskarray(values)
    data = np.ma.getdata(values)
    if column.kind in {"numeric", "boolean", "timestamp"}:
        return np.where(missing, np.nan, data.astype(np.float64))
    if column.kind == "vector":
        length = max((len(data[row]) for row in np.flatnonzero(~missing)), default=0)
        vectors = np.full((len(data), length), np.nan, np.float32)
        for row in np.flatnonzero(~missing):
            vectors[row] = data[row]
        return vectors
    plain = np.empty(len(data), dtype=object)
    if column.kind == "list":
        for row in np.flatnonzero(~missing):
            plain[row] = data[row].tolist()
    else:
        np.copyto(plain, data, where=~missing)
    return plain


def all_missing(column: Column, num_rows: int, *, dimension: int = 0) -> Values:
    """Rows in which nothing is known; ``dimension`` is that of a vector."""
    if column.kind in {"numeric", "boolean", "timestamp"}:
        return np.full(num_rows, np.nan)
    if column.kind == "vector":
        return np.full((num_rows, dimension), np.nan, np.float32)
    return np.full(num_rows, None, dtype=object)


def plain_json(column: Column, value: Any) -> Values:
    """One row from a JSON value, as from a table that holds it.

    Raises:
        DataError: a value that its kind can not be.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return all_missing(column, 1)
    try:
        if column.kind == "numeric":
            return np.array([_finite(value)])
        if column.kind == "boolean":
            return np.array([_yes_or_no(value)])
        if column.kind == "timestamp":
            return np.array([_seconds(column, value)])
        if column.kind == "vector":
            return _vector(value)[None]
        one = np.empty(1, dtype=object)
        one[0] = _parts(column, value) if column.kind == "list" else plain_category(value)
        return one
    except (TypeError, ValueError, OverflowError):
        raise DataError(
            f"feature {column.name!r}: expected a {column.kind}, got {value!r}"
        ) from None


def plain_category(value: Any) -> str | None:
    """A category given in JSON, written as the table engine writes it.

    Raises:
        TypeError: a value with parts.

    >>> plain_category(3.0), plain_category(True), plain_category("a"), plain_category(None)
    ('3', 'true', 'a', None)
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping | list | tuple | set | np.ndarray):
        raise TypeError("a category has no parts")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_WHOLE:
        return str(int(value))
    return str(value)


def _parts(column: Column, value: Any) -> list[str]:
    if isinstance(value, str):
        given: list[Any] = value.split("|") if column.pattern else [value]
    elif isinstance(value, Mapping):
        raise TypeError("a list has no names")
    else:
        given = list(value)
    return [part for part in map(plain_category, given) if part]


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _yes_or_no(value: Any) -> float:
    if not isinstance(value, str):
        return float(bool(_finite(value)))
    if value.lower() not in _YES | _NO:
        raise ValueError("neither yes nor no")
    return float(value.lower() in _YES)


def _seconds(column: Column, value: Any) -> float:
    """Seconds since 1970; a number is in the column's own unit, a time without zone in UTC."""
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime(value.year, value.month, value.day)
    elif isinstance(value, str):
        moment = _read_date(column, value)
    else:
        microseconds = _microseconds(column, value)
        if abs(microseconds) >= 2**63:
            raise ValueError("no time")
        return microseconds / 1e6
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    since = aware - _EPOCH
    return (since.days * 86_400_000_000 + since.seconds * 1_000_000 + since.microseconds) / 1e6


def _microseconds(column: Column, value: Any) -> int:
    """A number in the column's own unit, by the same arithmetic as ``moment_sql``."""
    times, by = _MICROSECONDS[column.pattern if column.pattern in _MICROSECONDS else "s"]
    if isinstance(value, int) and is_integer(column.sql_type):
        # Towards zero, as the engine divides.
        return (abs(value) * times // by) * (1 if value >= 0 else -1)
    return round(_finite(value) * (times / by))


def _read_date(column: Column, text: str) -> datetime:
    try:
        return datetime.strptime(text, column.pattern)
    except ValueError:
        return datetime.fromisoformat(text)


def _vector(value: Any) -> np.ndarray:
    numbers = np.asarray(value, np.float64)
    within = np.abs(numbers) <= np.finfo(np.float32).max
    if numbers.ndim != 1 or not len(numbers) or not within.all():
        raise ValueError("no vector of finite numbers")
    return numbers.astype(np.float32)
