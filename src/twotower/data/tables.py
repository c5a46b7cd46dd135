"""Read users, items and interactions, and check them: every mistake named at once.

What leaves this module may be trusted: ids are whole and unique, labels lie in 0 to 1, every
interaction points at a row. Row 0 is nobody: rows count from 1, in the order of the table,
then whoever is found only in the interactions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from twotower.config import DataConfig, Kind
from twotower.data import engine, kept
from twotower.data.checks import check_ids, check_interactions, check_same_type
from twotower.data.engine import Table, quote
from twotower.data.entities import Entities, id_column, infer_columns, read_entities
from twotower.data.facts import TableFacts, look
from twotower.data.interactions import Interactions
from twotower.data.kept import Kept
from twotower.data.locate import Located, locate, where
from twotower.data.logs import (
    columns_of,
    infer_log_columns,
    join,
    number_all,
    number_known,
    read_log,
    settle_time,
)
from twotower.data.memory import bytes_to_read, require_room_to_read
from twotower.data.schema import GUESSED, Column, ColumnFacts, is_number
from twotower.errors import DataError, join_mistakes


@dataclass(frozen=True)
class Dataset:
    """Tables that were checked.

    Attributes:
        source: where they came from, for messages.
        user_column, item_column: the ids' names in the interactions, kept in what comes out.
        users, items: ids and columns.
        interactions: ``{"all": ...}``, or the given parts ``train`` and perhaps ``val``,
            ``test``.
        repeats: rows of those parts that do not count, since the same user and item came later.
        columns: what the columns of the interactions were taken for.
        notes: what was odd and what was done about it, a sentence each.
        tables: what each table looks like, for ``inspect``.
    """

    source: str
    user_column: str
    item_column: str
    users: Entities
    items: Entities
    interactions: Mapping[str, Interactions]
    columns: Mapping[str, Column]
    repeats: Mapping[str, Interactions] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tables: tuple[TableFacts, ...] = ()

    @property
    def has_split(self) -> bool:
        """Whether the data came with its own train part."""
        return "train" in self.interactions


@dataclass(frozen=True)
class _Side:
    """The users or the items: their table if there is one, its id, and the other columns."""

    table: Table | None
    id_column: str
    columns: Mapping[str, Column]
    facts: Mapping[str, ColumnFacts]


def read(
    source: Any,
    config: DataConfig | None = None,
    beside: Path | None = None,
    *,
    enough: int = kept.ENOUGH,
) -> Dataset:
    """Read and check a data set.

    Args:
        source: a folder; or a mapping with ``interactions`` (or ``train``, ``val``, ``test``)
            and perhaps ``users`` and ``items``, each a path or a polars, pandas or pyarrow
            table.
        config: paths, kinds of columns and rules that differ from the defaults.
        beside: the folder where interactions of files are kept, and found again, when there
            are ``enough`` of them; None keeps all in memory.

    Raises:
        DataError: something is missing or wrong; all that was found is in the message.
    """
    config = config or DataConfig()
    connection = engine.connect(config)
    located = locate(source, config)
    opened = _open_all(connection, located, where(source))
    users, items = opened.pop("users", None), opened.pop("items", None)
    logs, notes = opened, list[str]()
    declared = config.columns.get("interactions", {})
    columns, mistakes = infer_log_columns(logs, declared)
    by_kind = {column.kind: column.name for column in columns.values()}
    if "user_id" not in by_kind or "item_id" not in by_kind:
        raise DataError(join_mistakes(where(source), mistakes))
    user_column, item_column = by_kind["user_id"], by_kind["item_id"]
    for name in (user_column, item_column):
        if columns[name].reason == GUESSED:
            notes.append(
                f"interactions: column {name!r} was taken for the {columns[name].kind} by its "
                "place alone; if it is another, declare them under data.columns.interactions"
            )
    columns = settle_time(columns, logs, declared, notes)
    place: Path | None = None
    found: Kept | None = None
    if beside is not None and sum(log.num_rows for log in logs.values()) >= enough:
        place = kept.place_for(beside, located, config)
        found = None if place is None else kept.find(place)
    for log in logs.values() if found is None else ():
        mistakes += check_interactions(log, columns_of(log, columns), config.rating_threshold)
    if items is None:
        items = _find_items(connection, located.others, user_column, item_column)
    user_side, wrong = _check_side(users, logs, user_column, config.columns.get("users", {}))
    item_side, also = _check_side(items, logs, item_column, config.columns.get("items", {}))
    if mistakes := list(dict.fromkeys(mistakes + wrong + also)):
        raise DataError(join_mistakes(where(source), mistakes))
    sides = {"user": (user_side, user_column), "item": (item_side, item_column)}
    _require_room(sides, logs, where(source), config, is_kept=place is not None)
    room = nullcontext() if place is None or found is not None else kept.workroom(place)
    with room as work:
        if place is not None and found is None:
            # Another process may have kept them while this one waited.
            found = kept.find(place)
        if found is not None:
            _number(connection, sides, logs, config, has_orphans=found.has_orphans)
        else:
            found = _read_logs(connection, sides, logs, columns, config, work)
            found = found if place is None else kept.keep(place, found)
    return Dataset(
        source=where(source),
        user_column=user_column,
        item_column=item_column,
        users=_read_side(connection, "user", user_side),
        items=_read_side(connection, "item", item_side),
        interactions=found.interactions,
        columns=columns,
        repeats=found.repeats,
        notes=(*notes, *found.notes),
        tables=_look_at(user_side, item_side, logs, columns),
    )


@dataclass(frozen=True)
class Given:
    """Tables that were opened and looked at, and not read.

    Attributes:
        log: the interactions, of a given split those of train.
        columns: what the log's columns are.
        items: the items table, if there is one.
        item_id: the name of its id.
    """

    log: Table
    columns: Mapping[str, Column]
    items: Table | None
    item_id: str


def open_given(source: Any, config: DataConfig) -> Given:
    """Find out how the interactions and items of a data set are written.

    Raises:
        DataError: something is missing, or can not be opened.
    """
    connection = engine.connect()
    located = locate(source, config)
    logs = _open_all(connection, located, where(source))
    items = logs.pop("items", None)
    logs.pop("users", None)
    declared = config.columns.get("interactions", {})
    columns, mistakes = infer_log_columns(logs, declared)
    if mistakes:
        raise DataError(join_mistakes(where(source), mistakes))
    columns = settle_time(columns, logs, declared, [])
    by_kind = {column.kind: column.name for column in columns.values()}
    user_column, item_column = by_kind["user_id"], by_kind["item_id"]
    if items is None:
        items = _find_items(connection, located.others, user_column, item_column)
    log = logs.get("train") or next(iter(logs.values()))
    item_id = id_column(item_column, config.columns.get("items", {}))
    return Given(log, columns, items, item_id)


def _open_all(
    connection: duckdb.DuckDBPyConnection, located: Located, source: str
) -> dict[str, Table]:
    opened, mistakes = {}, []
    for name, place in located.tables.items():
        try:
            opened[name] = _open(connection, f"{name} table", place)
        except DataError as error:
            mistakes.append(str(error))
    if len(mistakes) == 1:
        raise DataError(mistakes[0])
    if mistakes:
        raise DataError(join_mistakes(source, mistakes))
    return opened


def _open(connection: duckdb.DuckDBPyConnection, name: str, place: Any) -> Table:
    if isinstance(place, str | os.PathLike):
        return engine.open_files(connection, name, os.fspath(place))
    return engine.open_frame(connection, name, place)


def _find_items(
    connection: duckdb.DuckDBPyConnection, paths: tuple[str, ...], user: str, item: str
) -> Table | None:
    """The items table is the one that has the items' id and not the users'."""
    tables = [
        engine.open_files(connection, f"table {n}", path, column=item)
        for n, path in enumerate(paths)
    ]
    fits = [table for table in tables if item in table.types and user not in table.types]
    if len(fits) > 1:
        names = ", ".join(table.source for table in fits)
        raise DataError(
            f"{names}: more than one table has column {item!r} and could be the items; name "
            "one in the config (data.items)"
        )
    return fits[0] if fits else None


def _check_side(
    table: Table | None,
    logs: Mapping[str, Table],
    log_column: str,
    declared: Mapping[str, Kind],
) -> tuple[_Side, list[str]]:
    ids = [(log, log_column) for log in logs.values()]
    if table is None:
        return _Side(None, log_column, {}, {}), check_same_type(ids)
    own = id_column(log_column, declared)
    facts = look(table)
    columns, mistakes = infer_columns(table, own, declared, facts)
    mistakes = [*check_ids(table, own), *check_same_type([(table, own), *ids]), *mistakes]
    return _Side(table, own, columns, facts), mistakes


def _require_room(
    sides: Mapping[str, tuple[_Side, str]],
    logs: Mapping[str, Table],
    source: str,
    config: DataConfig,
    *,
    is_kept: bool,
) -> None:
    num_ids, num_cells, has_texts = {}, 0, False
    for who, (side, column) in sides.items():
        has_texts |= any(not is_number(log.types[column]) for log in logs.values())
        if side.table is None:
            counts = [
                log.value(f"approx_count_distinct({quote(column)})") for log in logs.values()
            ]
            num_ids[f"{who}s"] = max(counts)
        else:
            num_ids[f"{who}s"] = side.table.num_rows
            used = sum(each.kind != "ignore" for each in side.columns.values())
            num_cells += side.table.num_rows * used
    parts = bytes_to_read(
        num_interactions=0 if is_kept else sum(log.num_rows for log in logs.values()),
        num_ids=num_ids,
        num_cells=num_cells,
        has_text_ids=has_texts,
    )
    require_room_to_read(
        source, parts, config, num_ids=sum(num_ids.values()), has_text_ids=has_texts
    )


def _number_rows(
    connection: duckdb.DuckDBPyConnection,
    sides: Mapping[str, tuple[_Side, str]],
    logs: Mapping[str, Table],
    columns: Mapping[str, Column],
    config: DataConfig,
    into: Path | None,
) -> tuple[list[int], list[str]]:
    """Make the tables of ids and rows, and those of the logs by rows.

    That somebody is in a log alone shows when the join leaves rows out: mostly none is.

    Returns:
        How many rows each log has, and who had no table.
    """
    every = list(logs.values())
    _number(connection, sides, logs, config, has_orphans=False)
    counts = [join(log, columns, config, into) for log in every]
    if counts == [log.num_rows for log in every]:
        return counts, []
    notes = _number(connection, sides, logs, config, has_orphans=True)
    return [join(log, columns, config, into) for log in every], notes


def _number(
    connection: duckdb.DuckDBPyConnection,
    sides: Mapping[str, tuple[_Side, str]],
    logs: Mapping[str, Table],
    config: DataConfig,
    *,
    has_orphans: bool,
) -> list[str]:
    """Make the tables of ids and rows; says who had no table of their own, if that is known."""
    drop, every, notes = config.orphans == "drop", list(logs.values()), list[str]()
    for who, (side, column) in sides.items():
        named = None if side.table is None else (side.table, side.id_column)
        if named is None or has_orphans:
            notes += number_all(connection, who, named, every, column, drop=drop)
        else:
            number_known(connection, who, named)
    return notes


def _read_logs(
    connection: duckdb.DuckDBPyConnection,
    sides: Mapping[str, tuple[_Side, str]],
    logs: Mapping[str, Table],
    columns: Mapping[str, Column],
    config: DataConfig,
    into: Path | None,
) -> Kept:
    counts, notes = _number_rows(connection, sides, logs, columns, config, into)
    has_orphans = bool(notes)
    interactions, repeats = {}, {}
    for (name, log), count in zip(logs.items(), counts, strict=True):
        part = "all" if name == "interactions" else name
        interactions[part], repeated = read_log(log, config, notes, count, into)
        if repeated is not None:
            repeats[part] = repeated
    return Kept(interactions, repeats, tuple(notes), has_orphans)


def _read_side(connection: duckdb.DuckDBPyConnection, who: str, side: _Side) -> Entities:
    return read_entities(connection, who, side.table, side.id_column, side.columns)


def _look_at(
    users: _Side, items: _Side, logs: Mapping[str, Table], columns: Mapping[str, Column]
) -> tuple[TableFacts, ...]:
    found = []
    for name, side in (("users", users), ("items", items)):
        if side.table is not None:
            types = side.table.types
            own = Column(side.id_column, types[side.id_column], "id", "the interactions use it")
            every = {own.name: own, **side.columns}
            ordered = {column: every[column] for column in types}
            found.append(
                TableFacts(name, side.table.source, side.table.num_rows, ordered, side.facts)
            )
    for name, log in logs.items():
        beside = {c: Column(c, t, "ignore", "not in train") for c, t in log.types.items()}
        kinds = {c: columns.get(c, unused) for c, unused in beside.items()}
        found.append(TableFacts(name, log.source, log.num_rows, kinds, look(log)))
    return tuple(found)
