"""The tables of interactions: which column is what, who and what occurs, and then the rows."""

from __future__ import annotations

import glob
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np

from twotower.config import DataConfig, Kind
from twotower.data import engine
from twotower.data.arrays import (
    blocks,
    chosen,
    is_ascending,
    is_last_of_pair,
    room_for,
)
from twotower.data.checks import id_sql
from twotower.data.engine import Table, literal, quote
from twotower.data.facts import date_format
from twotower.data.interactions import Interactions, likes
from twotower.data.plain import moment_sql, unit_of_time
from twotower.data.schema import (
    INTERACTION_KINDS,
    Column,
    find_interaction_columns,
    is_named_like_a_time,
    is_number,
    is_time,
)
from twotower.errors import DataError

Logs = Mapping[str, Table]
# Rows of a file that the engine hands over at once: it holds them twice.
_FETCHED = 1 << 18
# What is read once more, and soon, is written in no time.
_PLAIN_FILES = (
    "FORMAT parquet, COMPRESSION uncompressed, DICTIONARY_SIZE_LIMIT 1, "
    f"ROW_GROUP_SIZE {_FETCHED}, ROW_GROUPS_PER_FILE 1"
)
_TYPES = {
    "user_row": np.int32,
    "item_row": np.int32,
    "time": np.int64,
    "label": np.float32,
    "weight": np.float32,
    "rating": np.float32,
}


def infer_log_columns(
    logs: Logs, declared: Mapping[str, Kind]
) -> tuple[dict[str, Column], list[str]]:
    """What the columns are, those of train where there are several tables; what is wrong."""
    first = logs.get("train") or next(iter(logs.values()))
    mistakes = []
    for name, kind in declared.items():
        if name not in first.types:
            close = engine.closest(name, first.types)
            hint = f"did you mean {close!r}?" if close else f"it has {', '.join(first.types)}"
            mistakes.append(
                f"{first.short}: no column {name!r}, which data.columns.interactions declares; "
                f"{hint}"
            )
        elif kind not in INTERACTION_KINDS:
            known = ", ".join(INTERACTION_KINDS)
            mistakes.append(
                f"{first.short}: column {name!r} can not be a {kind} here; one of {known}"
            )
    fitting = {name: kind for name, kind in declared.items() if kind in INTERACTION_KINDS}
    columns = find_interaction_columns(first.types, fitting)
    for kind in INTERACTION_KINDS:
        found = [name for name, column in columns.items() if column.kind == kind]
        needed = kind in {"user_id", "item_id"}
        if kind != "ignore" and (len(found) > 1 or (needed and not found)):
            what = "no column" if not found else f"{len(found)} columns"
            mistakes.append(
                f"{first.short}: {what} of kind {kind}; declare exactly one under "
                f"data.columns.interactions in the config (columns: {', '.join(first.types)})"
            )
    return columns, mistakes + _check_alike(logs, first, columns)


def _check_alike(logs: Logs, first: Table, columns: Mapping[str, Column]) -> list[str]:
    """Each part of a given split needs the ids and labels that train has."""
    mistakes = []
    for log in logs.values():
        for column in columns.values():
            if column.kind == "ignore":
                continue
            name, sql_type = column.name, log.types.get(column.name)
            if sql_type is None and column.kind in {"timestamp", "weight", "rating"}:
                continue
            if sql_type is None:
                mistakes.append(
                    f"{log.short}: no column {name!r}, which {first.short} has; found "
                    f"{', '.join(log.types)}"
                )
            elif column.kind == "timestamp" and _family(sql_type) != _family(column.sql_type):
                mistakes.append(
                    f"column {name!r} is {column.sql_type} in {first.short} and {sql_type} in "
                    f"{log.short}; write times alike in both"
                )
    return mistakes


def _family(sql_type: str) -> str:
    return "number" if is_number(sql_type) else "time" if is_time(sql_type) else "text"


def columns_of(log: Table, columns: Mapping[str, Column]) -> dict[str, Column]:
    """The columns that are used, with the types that they have in this very table."""
    used = [c for c in columns.values() if c.kind != "ignore" and c.name in log.types]
    return {column.name: replace(column, sql_type=log.types[column.name]) for column in used}


def settle_time(
    columns: Mapping[str, Column], logs: Logs, declared: Mapping[str, Kind], notes: list[str]
) -> dict[str, Column]:
    """Learn how times are written, the same way in all tables.

    A column that was only guessed to be a time, and that some rows lack, is ignored.
    """
    settled = dict(columns)
    for name, column in columns.items():
        tables = [log for log in logs.values() if name in log.types]
        if column.kind != "timestamp" or not tables:
            continue
        nulls = sum(log.num_rows - log.value(f"count({quote(name)})") for log in tables)
        if nulls and name not in declared:
            notes.append(
                f"interactions: column {name!r} looks like a time but {nulls:,} rows lack it; "
                "ignored. Fill it, or declare it 'timestamp' to be told where it is missing"
            )
            settled[name] = replace(column, kind="ignore", reason="a time that some rows lack")
        elif column.sql_type == "VARCHAR":
            settled[name] = replace(column, pattern=date_format(tables, name))
        elif is_number(column.sql_type):
            number = f"TRY_CAST({quote(name)} AS DOUBLE)"
            largest = f"max(abs({number})) FILTER (isfinite({number}))"
            pattern = unit_of_time(max(log.value(largest) or 0.0 for log in tables))
            settled[name] = replace(column, pattern=pattern)
    if all(column.kind != "timestamp" for column in columns.values()):
        notes += [
            f"interactions: column {name!r} is named like a time and is not used, so that "
            "nothing is known of the order; if it is one, declare it 'timestamp' under "
            "data.columns.interactions"
            for name, column in columns.items()
            if column.kind == "ignore" and name not in declared and is_named_like_a_time(name)
        ]
    return settled


def number_known(
    connection: duckdb.DuckDBPyConnection, who: str, entities: tuple[Table, str]
) -> None:
    """Make the table ``<who> rows`` (id, row) of those who are in their own table."""
    table, name = entities
    own = id_sql(name, table.types[name])
    sql = (
        f"CREATE OR REPLACE TEMP TABLE {quote(f'{who} rows')} AS SELECT {own} AS id, "
        f"CAST(row_number() OVER () AS INTEGER) AS row FROM {table.name}"
    )
    engine.rows(connection, sql, who)


def number_all(
    connection: duckdb.DuckDBPyConnection,
    who: str,
    entities: tuple[Table, str] | None,
    logs: Sequence[Table],
    column: str,
    *,
    drop: bool,
) -> list[str]:
    """The same with those who are only in the interactions behind; says who they are.

    Args:
        entities: the users or items table and the name of its id.
        column: the id's name in the interactions.
        drop: whether who is only in the interactions gets no row.
    """
    met = " UNION ALL ".join(
        f"SELECT {id_sql(column, log.types[column])} AS id FROM {log.name}" for log in logs
    )
    parts = []
    if entities is not None:
        table, name = entities
        own = id_sql(name, table.types[name])
        parts.append(
            f"SELECT {own} AS id, 0 AS part, row_number() OVER () AS place FROM {table.name}"
        )
        met = f"FROM ({met}) ANTI JOIN (SELECT {own} AS id FROM {table.name}) USING (id)"
    orphans = quote(f"{who} orphans")
    grouped = f"SELECT id, count(*) AS times FROM ({met}) GROUP BY id"
    engine.rows(connection, f"CREATE OR REPLACE TEMP TABLE {orphans} AS {grouped}", who)
    if entities is None or not drop:
        parts.append(
            f"SELECT id, 1 AS part, row_number() OVER (ORDER BY id) AS place FROM {orphans}"
        )
    sql = (
        f"CREATE OR REPLACE TEMP TABLE {quote(f'{who} rows')} AS SELECT id, "
        "CAST(row_number() OVER (ORDER BY part, place) AS INTEGER) AS row "
        f"FROM ({' UNION ALL '.join(parts)})"
    )
    engine.rows(connection, sql, who)
    if entities is None:
        return []
    counts = f"SELECT count(*), min(id), CAST(sum(times) AS BIGINT) FROM {orphans}"
    count, first, times = engine.rows(connection, counts, who)[0]
    if not count:
        return []
    done = "dropped" if drop else "kept, with all features missing"
    return [
        f"{entities[0].short}: {count:,} {who}s of the interactions are not there (such as "
        f"{first!r}); their {times:,} interactions are {done}"
    ]


def join(
    log: Table, columns: Mapping[str, Column], config: DataConfig, into: Path | None = None
) -> int:
    """Join a log's ids to rows; the tables ``user rows`` and ``item rows`` must be there.

    What comes of it is a table of the engine, or, where there is a folder, files of Parquet: a
    table of very many rows takes twice the memory that the engine is allowed.

    Returns:
        How many rows there are: fewer than the log's own where an id has no row.
    """
    by_kind = {column.kind: column for column in columns_of(log, columns).values()}
    sql = (
        "SELECT u.row AS user_row, i.row AS item_row, log.* EXCLUDE (user_id, item_id) "
        f"FROM (SELECT {_wanted(by_kind, config)} FROM {log.name}) AS log "
        'JOIN "user rows" AS u ON log.user_id = u.id '
        'JOIN "item rows" AS i ON log.item_id = i.id'
    )
    if into is not None:
        folder = _folder(log, into)
        shutil.rmtree(folder, ignore_errors=True)
        return engine.write_files(log.engine, sql, folder, _PLAIN_FILES, log.source)
    made = f"CREATE OR REPLACE TEMP TABLE {_joined(log)} AS {sql}"
    count: int = engine.rows(log.engine, made, log.source)[0][0]
    return count


def _joined(log: Table) -> str:
    return quote(f"{log.name} by rows")


def _folder(log: Table, into: Path) -> Path:
    return into / (log.name.strip('"') + " joined")


def _blocks_of(log: Table, count: int, into: Path | None) -> list[str]:
    """What ``join`` made, in pieces that fit into memory: a query of each."""
    if into is not None:
        files = sorted(_folder(log, into).iterdir())
        return [f"FROM read_parquet({literal(glob.escape(str(file)))})" for file in files]
    return [
        f"FROM {_joined(log)} WHERE rowid >= {part.start} AND rowid < {part.stop}"
        for part in blocks(count, _FETCHED)
    ]


def read_log(
    log: Table, config: DataConfig, notes: list[str], count: int, into: Path | None = None
) -> tuple[Interactions, Interactions | None]:
    """One table's interactions, oldest first, of which ``join`` made so many rows.

    Args:
        into: the folder for arrays that stay on the disk; None for memory.

    Returns:
        Those that count, and repeats of theirs that do not, if any.

    Raises:
        DataError: no interaction is left.
    """
    if count == 0:
        raise DataError(f"{log.source}: no interaction is left after dropping orphans")
    values = _in_order_of_rows(log, count, into)
    interactions = Interactions(
        values["user_row"],
        values["item_row"],
        values.get("label", likes(count)),
        values.get("time"),
        values.get("weight"),
        values.get("rating"),
    )
    if interactions.times is not None and not is_ascending(interactions.times):
        interactions = interactions.take(np.argsort(interactions.times, kind="stable"))
    if config.duplicates == "keep":
        return interactions, None
    return _without_repeats(interactions, log, notes)


def _in_order_of_rows(log: Table, count: int, into: Path | None) -> dict[str, np.ndarray]:
    """The joined rows, each put back where it stood in the log, a block of them at a time.

    The engine joins in parallel and promises no order.
    """
    pieces = _blocks_of(log, count, into)
    described = engine.rows(log.engine, f"DESCRIBE {pieces[0]}", log.source)
    names = [name for name, *_ in described if name != "place"]
    values = {name: room_for(log.num_rows, _TYPES[name], into) for name in names}
    is_there = np.zeros(log.num_rows if count < log.num_rows else 0, bool)
    for piece in pieces:
        found = engine.arrays(log.engine, piece, log.source)
        places = np.ma.getdata(found["place"]) - 1
        if len(is_there):
            is_there[places] = True
        for name in names:
            column = found[name]
            if values[name].dtype == np.float32:
                column = np.ma.filled(column.astype(np.float32), np.nan)
            values[name][places] = column
    if into is None:
        engine.rows(log.engine, f"DROP TABLE {_joined(log)}", log.source)
    else:
        shutil.rmtree(_folder(log, into))
    if not len(is_there):
        return values
    return {name: chosen(column, is_there) for name, column in values.items()}


def _wanted(by_kind: Mapping[Kind, Column], config: DataConfig) -> str:
    user, item = by_kind["user_id"], by_kind["item_id"]
    wanted = {
        "user_id": id_sql(user.name, user.sql_type),
        "item_id": id_sql(item.name, item.sql_type),
        "place": "CAST(row_number() OVER () AS UINTEGER)",
    }
    for kind in ("label", "weight", "rating"):
        if kind in by_kind:
            wanted[kind] = f"TRY_CAST({quote(by_kind[kind].name)} AS FLOAT)"
    if config.rating_threshold is not None:
        rating = by_kind["rating"]
        # In the column's own precision, where 4.1 is not less than 4.1.
        number = "FLOAT" if rating.sql_type == "FLOAT" else "DOUBLE"
        threshold = f"CAST('{config.rating_threshold!r}' AS {number})"
        wanted["label"] = f"CAST({quote(rating.name)} AS {number}) >= {threshold}"
    if "timestamp" in by_kind:
        wanted["time"] = moment_sql(by_kind["timestamp"])
    return ", ".join(f"{sql} AS {name}" for name, sql in wanted.items())


def _without_repeats(
    interactions: Interactions, log: Table, notes: list[str]
) -> tuple[Interactions, Interactions | None]:
    is_last = is_last_of_pair(interactions.user_rows, interactions.item_rows)
    repeated = len(is_last) - int(np.count_nonzero(is_last))
    if not repeated:
        return interactions, None
    notes.append(
        f"{log.short}: {repeated:,} rows repeat a user and an item; only the last of each pair "
        "counts"
    )
    return interactions.take(is_last), interactions.take(~is_last)
