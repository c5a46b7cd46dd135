"""For whom the towers are better, and for whom not: groups of users, and of items to be found.

A slice of users takes some of the test users. A slice of items asks all of them, and of what is
to be found only its items count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from twotower.data.arrays import counts_of
from twotower.data.entities import Entities
from twotower.data.interactions import Histories
from twotower.data.tables import Dataset
from twotower.evaluation.evaluate import HeldOut
from twotower.evaluation.popularity import GROUPS, popularity_groups

# Fewer users than this tell nothing.
FEWEST_USERS = 50
# Of a column the values that most have.
_VALUES = 3
_MOST_COLUMNS = 12
_SECONDS_A_DAY = 86_400
_SLICED = {"boolean", "categorical", "list", "numeric", "timestamp"}


@dataclass(frozen=True)
class Slice:
    """A part of what is to be found.

    Attributes:
        name: in words.
        is_in: which test users it has.
        held: what they are to find.
    """

    name: str
    is_in: Bool[np.ndarray, " U"]
    held: HeldOut


def slices(dataset: Dataset, held: HeldOut, seen: Histories) -> Iterator[Slice]:
    """Histories short and long, items popular or new or neither, and by each column's values.

    Args:
        held: what is to be found; of users without a history there are no slices by its length.
    """
    lengths = seen.lengths()[held.user_rows]
    middle = int(np.median(lengths)) if len(lengths) else 0
    groups = {
        f"histories up to {middle}": lengths <= middle,
        f"histories above {middle}": lengths > middle,
    }
    for name, mask in _by_columns(dataset.users):
        groups[f"users with {name}"] = mask[held.user_rows]
    for name, is_in in groups.items():
        if FEWEST_USERS <= is_in.sum() < len(held):
            yield Slice(name, is_in, held.only(np.flatnonzero(is_in)))
    counts = counts_of(seen.items, len(dataset.items) + 1)
    is_head = popularity_groups(counts) == GROUPS.index("head")
    is_new = counts == 0
    kinds = {
        "popular items": is_head,
        "items of the tail": ~is_head & ~is_new,
        "new items": is_new,
    }
    for name, mask in _by_columns(dataset.items):
        kinds[f"items with {name}"] = mask
    for name, is_in in kinds.items():
        part = is_in[held.items]
        users = np.bincount(held.owners[part], minlength=len(held)) > 0
        if users.sum() >= FEWEST_USERS and not part.all():
            yield Slice(name, users, _only_items(held, part).only(np.flatnonzero(users)))


def columns_left_out(dataset: Dataset) -> dict[str, int]:
    """Of which tables so many columns have no slices, since there are too many."""
    sides = {"users": dataset.users, "items": dataset.items}
    counts = {name: len(_sliced(side)) - _MOST_COLUMNS for name, side in sides.items()}
    return {name: count for name, count in counts.items() if count > 0}


def _only_items(held: HeldOut, part: Bool[np.ndarray, " P"]) -> HeldOut:
    return replace(held, items=held.items[part], owners=held.owners[part])


def _by_columns(entities: Entities) -> Iterator[tuple[str, Bool[np.ndarray, " R"]]]:
    """Of each column the commonest values, or the lower and the upper half of its numbers."""
    for column in _sliced(entities)[:_MOST_COLUMNS]:
        is_time = entities.columns[column].kind == "timestamp"
        for name, is_in in _values(entities.values[column], is_time=is_time):
            yield f"{column} {name}", np.concatenate([[False], is_in])


def _sliced(entities: Entities) -> list[str]:
    """The columns that have slices, as far as they are not too many."""
    return [
        column
        for column, values in entities.values.items()
        if values.ndim == 1 and entities.columns[column].kind in _SLICED
    ]


def _values(
    values: np.ndarray, *, is_time: bool
) -> Iterator[tuple[str, Bool[np.ndarray, " R"]]]:
    if values.dtype == object:
        lists = [each if isinstance(each, list) else [each] for each in values.tolist()]
        counts = Counter(value for each in lists for value in each if value is not None)
        for value, _ in counts.most_common(_VALUES):
            yield str(value), np.array([value in each for each in lists], bool)
        return
    there = values[~np.isnan(values)]
    if is_time and len(there):
        # Days, which people read, and each of them whole.
        last = np.floor(np.median(there) / _SECONDS_A_DAY)
        day = np.datetime64(int(last), "D")
        yield f"up to {day}", values < (last + 1) * _SECONDS_A_DAY
        yield f"after {day}", values >= (last + 1) * _SECONDS_A_DAY
    elif np.isin(there, (0.0, 1.0)).all():
        yield "yes", values == 1
        yield "no", values == 0
    elif len(there):
        middle = float(np.median(there))
        yield f"up to {middle:g}", values <= middle
        yield f"above {middle:g}", values > middle
