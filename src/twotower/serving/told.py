"""What a service was told -> tables for the next training, written as the given ones are.

interactions.parquet  events, in the columns and types of the given interactions
items.parquet         the given items table with what was put, new items behind
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from twotower import runs
from twotower.config import DataConfig
from twotower.data import engine
from twotower.data.checks import id_sql
from twotower.data.engine import Table, literal, quote
from twotower.data.plain import written_sql
from twotower.data.schema import is_number
from twotower.data.tables import Given, open_given
from twotower.data.writing import whole_directory
from twotower.errors import DataError, RequestError
from twotower.serving.origin import Origin
from twotower.serving.state import State

FILES = ("interactions.parquet", "items.parquet")
_BLOCK = 100_000
_KIND = "kind"
# By the last that was told of a user and an item, as the service has it.
_LAST = "SELECT arg_max(rowid, (happened, rowid)) FROM told GROUP BY user_, item_"


@dataclass(frozen=True)
class Told:
    """What was written.

    Attributes:
        events: rows of interactions.
        items: rows of items; None where there is no table of them.
        changed: how many of these were put.
        left_out: events and items that the given tables can not hold.
    """

    events: int
    items: int | None
    changed: int
    left_out: int


def write_told(
    run: Path,
    into: Path,
    *,
    state: str | None = None,
    data: Path | None = None,
    overwrite: bool = False,
) -> Told:
    """Write the events and items that a service was told as tables.

    Args:
        run: a run that the service answers by; its config says what columns are.
        state: URL of the database; default: SQLite in ``service.sqlite`` beside the run.
        data: the folder of the given tables; default: where the run's were.

    Raises:
        RunError: the run can not be read.
        DataError: the given tables can not be read, or nothing can be written.
        RequestError: there is no such database, it is of other data, or nobody knows where the
            tables are.
        StateError: the database can not be used.
    """
    config = runs.read_run_config(run)
    source = config.data.data_path if data is None else str(data)
    if source is None:
        raise RequestError("events: the run does not say where its tables are; give --data DIR")
    if data is None and not Path(source).exists():
        raise RequestError(
            f"events: the run's tables are not at {source}, seen from here; give --data DIR"
        )
    state = state or f"sqlite:///{run.resolve().parent / 'service.sqlite'}"
    _require_file(state)
    given = open_given(source, config.data)
    with (
        whole_directory(into, FILES, overwrite=overwrite) as place,
        closing(State(state)) as told,
    ):
        _require_its_own(told, run)
        found = _take_events(given.log, told)
        events = _write(given.log, _events_sql(given, config.data), place / FILES[0])
        if given.items is None:
            return Told(events, None, 0, found - events)
        put = {item: each for item, each in told.item_changes().items() if each is not None}
        own = id_sql(given.item_id, given.items.types[given.item_id])
        changed = _take_items(given.items, given.item_id, put, place / ".put.ndjson")
        wanted = (
            f"FROM {given.items.name} WHERE CAST({own} AS VARCHAR) NOT IN "
            "(SELECT key FROM put) UNION ALL SELECT * EXCLUDE (key) FROM put"
        )
        items = _write(given.items, wanted, place / FILES[1])
    return Told(events, items, changed, found - events + len(put) - changed)


def _take_events(log: Table, told: State) -> int:
    """Make the table ``told`` of all events; how many they are."""
    columns = "user_ VARCHAR, item_ VARCHAR, kind_ VARCHAR, liked BOOLEAN, happened BIGINT"
    engine.rows(log.engine, f"CREATE OR REPLACE TEMP TABLE told ({columns})", log.source)
    events, count = (event for _, event in told.events()), 0
    while block := list(islice(events, _BLOCK)):
        texts = {
            name: np.array([getattr(each, name) for each in block], object)
            for name in ("user_id", "item_id", "kind")
        }
        liked = np.array([each.liked for each in block])
        happened = np.array([each.happened_at for each in block], np.int64)
        log.engine.register("block", {**texts, "liked": liked, "happened": happened})
        engine.rows(log.engine, "INSERT INTO told FROM block", log.source)
        log.engine.unregister("block")
        count += len(block)
    return count


def _events_sql(given: Given, config: DataConfig) -> str:
    """The events that the given interactions can hold, as they would hold them."""
    by_kind = {column.kind: column for column in given.columns.values()}
    user, item = by_kind["user_id"], by_kind["item_id"]
    chosen = {name: f"CAST(NULL AS {kind})" for name, kind in given.log.types.items()}
    for column, key in ((user, "user_"), (item, "item_")):
        chosen[column.name] = _as_id(key, column.sql_type)
    held = [f"{chosen[column.name]} IS NOT NULL" for column in (user, item)]
    if "timestamp" in by_kind:
        time = by_kind["timestamp"]
        chosen[time.name] = written_sql(time, "happened")
    if "weight" in by_kind:
        chosen[by_kind["weight"].name] = f"CAST(1 AS {by_kind['weight'].sql_type})"
    if config.rating_threshold is not None and "rating" in by_kind:
        rating = by_kind["rating"]
        # The least that counts as liked; of what is not liked nothing is known but that.
        least, kind = repr(config.rating_threshold), rating.sql_type
        chosen[rating.name] = (
            f"CASE WHEN CAST({least} AS {kind}) >= {least} THEN CAST({least} AS {kind}) "
            f"ELSE CAST(CEIL({least}) AS {kind}) END"
        )
    is_labelled = "label" in by_kind and config.rating_threshold is None
    if is_labelled:
        label = by_kind["label"]
        chosen[label.name] = f"CAST(CAST(liked AS INTEGER) AS {label.sql_type})"
    else:
        # A like that was taken back is none.
        held.append(f"liked AND rowid IN ({_LAST})")
    if given.log.types.get(_KIND, "VARCHAR") == "VARCHAR" and _KIND not in {
        column.name for column in by_kind.values() if column.kind != "ignore"
    }:
        chosen[_KIND] = "kind_"
    columns = ", ".join(f"{sql} AS {quote(name)}" for name, sql in chosen.items())
    return f"SELECT {columns} FROM told WHERE {' AND '.join(held)}"


def _as_id(key: str, sql_type: str) -> str:
    """A key as an id of a type; null where it is another text than such an id has."""
    cast = f"TRY_CAST({key} AS {sql_type})"
    plain = "BIGINT" if is_number(sql_type) else "VARCHAR"
    return f"CASE WHEN CAST(TRY_CAST({cast} AS {plain}) AS VARCHAR) = {key} THEN {cast} END"


def _take_items(
    items: Table, own: str, put: Mapping[str, Mapping[str, Any]], beside: Path
) -> int:
    """Make the table ``put``, of items that the given table can hold; how many they are."""
    columns = [
        f"{_as_id('key', kind)} AS {quote(own)}"
        if name == own
        else f"CAST({quote(name)} AS {kind}) AS {quote(name)}"
        for name, kind in items.types.items()
    ]
    # An array of so many numbers is read as a list, and is one again by the cast above.
    read = {name: re.sub(r"\[\d+\]", "[]", kind) for name, kind in items.types.items()}
    read = {"key": "VARCHAR", **{name: kind for name, kind in read.items() if name != own}}
    lines = [
        json.dumps({**{n: _plain(v, read.get(n, "")) for n, v in each.items()}, "key": key})
        for key, each in put.items()
    ]
    types = ", ".join(f"{literal(name)}: {literal(kind)}" for name, kind in read.items())
    how = f"format = 'newline_delimited', columns = {{{types}}}"
    made = (
        f"CREATE OR REPLACE TEMP TABLE put AS SELECT key, {', '.join(columns)} "
        f"FROM read_json({literal(str(beside))}, {how}) "
        f"WHERE {_as_id('key', items.types[own])} IS NOT NULL"
    )

    def take(some: Sequence[str]) -> int:
        beside.write_text("\n".join(some), encoding="utf-8")
        [[count]] = engine.rows(items.engine, made, "items that were put")
        return int(count)

    def fits(line: str) -> bool:
        try:
            take([line])
        except DataError:
            return False
        return True

    try:
        return take(lines)
    except DataError:
        # A value that the service has is none of the table's column, as a day that is a number.
        return take(list(filter(fits, lines)))
    finally:
        beside.unlink()


def _plain(value: Any, sql_type: str) -> Any:
    """Lists written as texts are texts in the table."""
    if isinstance(value, list) and sql_type == "VARCHAR":
        return "|".join(str(part) for part in value)
    return value


def _write(table: Table, sql: str, into: Path) -> int:
    return engine.write_files(
        table.engine, sql, into, "FORMAT parquet, COMPRESSION zstd", table.source
    )


def _require_its_own(told: State, run: Path) -> None:
    """Refuse what a service was told of other data, whose ids may be alike."""
    origin = told.origin()
    if origin is None:
        return
    recommender = runs.load(run)
    if not origin.is_that_of(recommender):
        own = Origin.of(recommender).source
        raise RequestError(
            f"events: the database at {told.name} keeps what was told about other data, "
            f"{origin.source}, while {run} is of {own}; --state names that of its service"
        )


def _require_file(state: str) -> None:
    """Refuse a file that is not there, which would be made."""
    try:
        url = make_url(state)
    except ArgumentError:
        return  # Said where it is opened.
    file = url.database if url.get_backend_name() == "sqlite" else None
    if file and not Path(file).is_file():
        raise RequestError(f"events: no database at {file}; --state names that of the service")
