"""A recommender on data that it was not trained on: read alike, and how much of it it knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twotower.config import Kind
from twotower.data.arrays import rows_met
from twotower.data.entities import Entities
from twotower.data.features import Encoders
from twotower.data.ids import Ids
from twotower.data.interactions import Interactions
from twotower.data.tables import Dataset, read
from twotower.errors import DataError
from twotower.retrieval.recommender import Recommender

# So many columns are named in one sentence.
_MOST_NAMED = 6


def read_like(recommender: Recommender, source: Any) -> Dataset:
    """Read a data set, its features of the kinds that training took them for."""
    config = recommender.config.data
    dataset = read(source, config)
    users = _kinds_to_declare(recommender.user_encoders, dataset.users)
    items = _kinds_to_declare(recommender.item_encoders, dataset.items)
    if not users and not items:
        return dataset
    columns = {
        **config.columns,
        "users": {**config.columns.get("users", {}), **users},
        "items": {**config.columns.get("items", {}), **items},
    }
    return read(source, config.model_copy(update={"columns": columns}))


def _kinds_to_declare(encoders: Encoders, entities: Entities) -> dict[str, Kind]:
    return {
        name: column.kind
        for name, (column, _) in encoders.by_column.items()
        if name in entities.columns and entities.columns[name].kind != column.kind
    }


def acquaintance(recommender: Recommender, dataset: Dataset, test: Interactions) -> list[str]:
    """What a recommender knows of other data, in sentences.

    Raises:
        DataError: it knows nobody and nothing there, so that no figure would mean anything.
    """
    test_users = dataset.users.ids[rows_met(test.user_rows) - 1]
    knows_users = recommender.users.rows(test_users) > 0
    knows_items = recommender.items.rows(dataset.items.ids) > 0
    sides = (
        (recommender.users, dataset.user_column, test_users, knows_users),
        (recommender.items, dataset.item_column, dataset.items.ids, knows_items),
    )
    foreign = [
        f"the run's {ours.column!r} are {_kind(ours)}, such as {ours.values[0]!s}, and the "
        f"data's {column!r} are {_kind(theirs)}, such as {ids[0]!s}"
        for ours, column, ids, knows in sides
        if _kind(ours) != _kind(theirs := Ids(column, ids)) and not knows.any()
    ]
    if not foreign and not knows_users.any() and not knows_items.any():
        foreign = [
            f"the run knows none of the {len(test_users):,} test users and none of the "
            f"{len(knows_items):,} items"
        ]
    if foreign:
        raise DataError(
            f"{dataset.source}: {'; '.join(foreign)}; give data with the users or the items "
            "of the run, or train on this data"
        )
    return [
        "this is not the data that the run was trained on: the run knows "
        f"{knows_users.sum():,} of the {len(test_users):,} test users and "
        f"{knows_items.sum():,} of the {len(knows_items):,} items",
        *_missing("users", recommender.user_encoders, dataset.users),
        *_missing("items", recommender.item_encoders, dataset.items),
    ]


def _kind(ids: Ids) -> str:
    return "numbers" if ids.are_numbers else "texts"


def _missing(table: str, encoders: Encoders, entities: Entities) -> Iterator[str]:
    """A sentence about the columns that the towers read and the data does not have."""
    gone = [name for name in encoders.by_column if name not in entities.values]
    if not gone:
        return
    new = [
        name
        for name in entities.values
        if name not in encoders.by_column and entities.columns[name].kind != "shown"
    ]
    unread = f"; not read by the run: {_named(new)}" if new else ""
    yield (
        f"{table}: the data lacks {_named(gone)}, which the run learned from; of {table} that "
        f"the run does not know they count as missing{unread}"
    )


def _named(columns: list[str]) -> str:
    """The first of the columns, and how many there are if that is not all.

    >>> _named(["age", "city"])
    "'age', 'city'"
    >>> _named(list("abcdefgh"))
    "'a', 'b', 'c', 'd', 'e', 'f' and 2 more"
    """
    named = ", ".join(repr(name) for name in columns[:_MOST_NAMED])
    more = len(columns) - _MOST_NAMED
    return f"{named} and {more} more" if more > 0 else named
