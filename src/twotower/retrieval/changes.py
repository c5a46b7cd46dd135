"""What comes after training: items given one by one, and what people did since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np

from twotower.data.ids import Ids, as_number
from twotower.data.plain import all_missing, plain_json
from twotower.data.schema import Column
from twotower.errors import DataError, shortened


@dataclass(frozen=True)
class ItemRecords:
    """Items as JSON has them: ids, each once, and values of their columns by name."""

    ids: Sequence[Any]
    features: Sequence[Mapping[str, Any]]

    def read(
        self, known: Ids, columns: Mapping[str, Column]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Ids and plain values, as ``read_plain`` gives those of a table.

        Raises:
            DataError: an id that can not be one here, a column that there is not, or a value
                that it can not have.
        """
        values: dict[str, np.ndarray] = {}
        for name in dict.fromkeys(name for each in self.features for name in each):
            if name not in columns:
                there = ", ".join(columns) or "none"
                shown = shortened(name, 80)
                raise DataError(f"unknown feature {shown!r}; the items' columns are: {there}")
            values[name] = plain_column(
                columns[name], [each.get(name) for each in self.features]
            )
        return self._ids(known), values

    def _ids(self, known: Ids) -> np.ndarray:
        if not known.are_numbers:
            return np.array([str(each) for each in self.ids], dtype=object)
        numbers = [as_number(each) for each in self.ids]
        for each, number in zip(self.ids, numbers, strict=True):
            if number is None:
                raise DataError(
                    f"{known.column}: {each!r} is no whole number; this model's ids are"
                )
        return np.array(numbers, np.int64)


def plain_column(column: Column, given: Sequence[Any]) -> np.ndarray:
    """Values of one column, as JSON has them, one below the other.

    Raises:
        DataError: a value that the column can not have, or vectors of several lengths.
    """
    rows = [plain_json(column, value) for value in given]
    if column.kind == "vector":
        widths = {row.shape[1] for row in rows} - {0}
        if len(widths) > 1:
            raise DataError(f"feature {column.name!r}: vectors of {sorted(widths)} numbers")
        missing = all_missing(column, 1, dimension=max(widths, default=0))
        rows = [row if row.shape[1] else missing for row in rows]
    return np.concatenate(rows)


def with_values(
    old: Mapping[str, np.ndarray],
    new: Mapping[str, np.ndarray],
    rows: np.ndarray,
    fresh: np.ndarray,
) -> dict[str, np.ndarray]:
    """The columns of the items after some were changed and some added.

    Args:
        rows: from 1, of each new value.
        fresh: which of them are of items that are not there yet.
    """
    every = {}
    for name, values in old.items():
        nothing = None if values.dtype == object else np.nan
        missing = np.full((len(rows), *values.shape[1:]), nothing, dtype=values.dtype)
        given = new.get(name, missing)
        changed = values.copy()
        changed[rows[~fresh] - 1] = given[~fresh]
        every[name] = np.concatenate([changed, given[fresh]])
    return every


def has_any_value(columns: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Of each of so many rows whether any of these columns has a value there."""
    some = np.zeros(size, bool)
    for values in columns:
        if values.dtype == object:
            some |= np.array([value is not None for value in values], bool)
        else:
            some |= ~np.isnan(values).all(axis=tuple(range(1, values.ndim)))
    return some


@dataclass
class Recent:
    """What people did since training, in the order of time; by ids, so any run can follow.

    It grows in place, since a copy an event would cost as much as there are people.

    Attributes:
        liked, disliked: of each user the items, oldest first, and when that was.
    """

    liked: dict[str, dict[str, int]] = field(default_factory=dict)
    disliked: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, user: str, item: str, *, liked: bool, at: int = 0) -> None:
        """Note that a user met an item; both are keys (see ``Ids.key``).

        The last meeting of the two counts, as in training.

        Args:
            at: when, in any unit; what happened at one time stays in the order it came.
        """
        both = [among.get(user, {}) for among in (self.liked, self.disliked)]
        if any(item in items and items[item] > at for items in both):
            return
        for items in both:
            items.pop(item, None)
        among = self.liked if liked else self.disliked
        items = among.setdefault(user, {})
        is_last = not items or items[next(reversed(items))] <= at
        items[item] = at
        if not is_last:
            # Seldom: events mostly come as they happen. Whoever reads has the old one.
            among[user] = dict(sorted(items.items(), key=itemgetter(1)))

    def liked_by(self, user: str) -> list[str]:
        """What a user liked since, oldest first."""
        # A copy at once, since another thread may add to it.
        return list(self.liked.get(user, ()))

    def disliked_by(self, user: str) -> list[str]:
        """What a user met since and did not like."""
        return list(self.disliked.get(user, ()))
