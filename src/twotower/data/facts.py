"""Look at the values of a table: what is there, how much differs, what an example is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from twotower.data import engine
from twotower.data.engine import Table, literal, quote
from twotower.data.schema import (
    DATE_FORMATS,
    PICTURE,
    Column,
    ColumnFacts,
    is_integer,
    is_number,
)

_EXACT_UP_TO = 2_000_000
_EXAMPLE_ROWS = 100


@dataclass(frozen=True)
class TableFacts:
    """A table that was read: its columns, used or not, and what a look at them told.

    Attributes:
        name: users, items, interactions, train, val or test.
        source: the file, or the kind of data frame.
        columns: in the table's order, the id among them.
    """

    name: str
    source: str
    num_rows: int
    columns: Mapping[str, Column]
    facts: Mapping[str, ColumnFacts]


def look(table: Table) -> dict[str, ColumnFacts]:
    """How many values each column has and how many differ, and an early one as an example."""
    if not table.num_rows:
        return {name: ColumnFacts(0, 0) for name in table.types}
    distinct = "count(DISTINCT {})"
    if table.num_rows > _EXACT_UP_TO:
        distinct = "approx_count_distinct({})"
    wanted = [f"count({quote(name)}), {distinct.format(quote(name))}" for name in table.types]
    select = f"SELECT {', '.join(wanted)} FROM {table.name}"
    counts = iter(engine.rows(table.engine, select, table.source)[0])
    texts = ", ".join(f"TRY_CAST({quote(name)} AS VARCHAR)" for name in table.types)
    early = f"SELECT {texts} FROM {table.name} LIMIT {_EXAMPLE_ROWS}"
    examples = zip(*engine.rows(table.engine, early, table.source), strict=True)
    facts = {}
    for name, values in zip(table.types, examples, strict=True):
        count, different = next(counts), next(counts)
        example = next((value for value in values if value is not None), "")
        facts[name] = ColumnFacts(count, min(count, different), example)
    return facts


def look_closely(table: Table, facts: Mapping[str, ColumnFacts]) -> dict[str, ColumnFacts]:
    """What is needed besides to tell a feature's kind: whole numbers, texts, dates, lists."""
    return {
        name: _closer(table, name, known) if known.num_values else known
        for name, known in facts.items()
    }


def _closer(table: Table, name: str, known: ColumnFacts) -> ColumnFacts:
    sql, sql_type = quote(name), table.types[name]
    if is_integer(sql_type):
        return replace(known, is_whole=True)
    if is_number(sql_type):
        number = f"CAST({sql} AS DOUBLE)"
        broken = table.value(f"count(*) FILTER (NOT isfinite({number}) OR {number} % 1 <> 0)")
        return replace(known, is_whole=broken == 0)
    if sql_type == "VARCHAR":
        words = f"avg(len(string_split_regex(trim({sql}), '\\s+')))"
        bars = f"avg(CAST(contains({sql}, '|') AS INTEGER))"
        pictures = f"avg(CAST(regexp_matches({sql}, {literal(PICTURE)}, 'i') AS INTEGER))"
        every = f"SELECT {words}, {bars}, {pictures} FROM {table.name}"
        mean_words, share, of_pictures = engine.rows(table.engine, every, table.source)[0]
        return replace(
            known,
            mean_words=mean_words,
            share_with_bars=share,
            share_of_pictures=of_pictures,
            date_format=date_format([table], name),
        )
    if sql_type.endswith("]"):
        lengths = f"SELECT min(len({sql})), max(len({sql})) FROM {table.name}"
        shortest, longest = engine.rows(table.engine, lengths, table.source)[0]
        return replace(known, list_length=longest if shortest == longest else 0)
    return known


def date_format(tables: list[Table], column: str) -> str:
    """The first known format that reads every text of a column in all tables, or ""."""
    sql = quote(column)
    for pattern in DATE_FORMATS:
        unread = f"{sql} IS NOT NULL AND try_strptime({sql}, {literal(pattern)}) IS NULL"
        # The search ends at the first row that a format can not read: mostly the very first.
        if not any(_any_row(table, unread) for table in tables):
            return pattern
    return ""


def _any_row(table: Table, condition: str) -> bool:
    found = f"SELECT 1 FROM {table.name} WHERE {condition} LIMIT 1"
    return bool(engine.rows(table.engine, found, table.source))
