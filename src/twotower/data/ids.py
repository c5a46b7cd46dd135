"""External ids <-> row numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int64

from twotower.errors import RequestError


@dataclass(frozen=True)
class Ids:
    """The ids of users or items; entry n is row n + 1, and row 0 is whoever is not among them.

    Attributes:
        column: the id's name in the tables.
        values: (N,) int64 or str.

    >>> Ids("movie_id", np.array([30, 10, 20])).rows([10, 99, 30])
    array([2, 0, 1])
    """

    column: str
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    @property
    def are_numbers(self) -> bool:
        """Whether ids are whole numbers and not texts."""
        return self.values.dtype.kind == "i"

    def rows(self, ids: Iterable[Any]) -> Int64[np.ndarray, " B"]:
        """The row of each id; 0 for one that is not known."""
        if not self.are_numbers:
            return np.array([self._row_of.get(str(i), 0) for i in ids], np.int64)
        if isinstance(ids, np.ndarray) and ids.dtype == np.int64:
            return self._rows_of_numbers(ids)
        numbers = [as_number(i) for i in ids]
        if not numbers:
            return np.empty(0, np.int64)
        found = self._rows_of_numbers(np.array([n or 0 for n in numbers], np.int64))
        return np.where([n is None for n in numbers], 0, found)

    def row(self, identity: Any) -> int:
        """The row of one id, or 0: ``rows`` without what arrays of one cost."""
        if not self.are_numbers:
            return self._row_of.get(str(identity), 0)
        number = as_number(identity)
        if number is None:
            return 0
        order, in_order = self._sorted
        place = int(in_order.searchsorted(number))
        is_there = place < len(order) and in_order[place] == number
        return int(order[place]) + 1 if is_there else 0

    def _rows_of_numbers(self, numbers: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        if len(self.values) == 0:
            return np.zeros(len(numbers), np.int64)
        order, in_order = self._sorted
        place = np.minimum(np.searchsorted(in_order, numbers), len(order) - 1)
        return np.where(in_order[place] == numbers, order[place] + 1, 0)

    def key(self, identity: Any) -> str:
        """One text for all ways to write an id, also of one that is not among these.

        >>> ids = Ids("user_id", np.array([42]))
        >>> {ids.key(42), ids.key("42"), ids.key(42.0)}, ids.key("who")
        ({'42'}, 'who')
        """
        number = as_number(identity) if self.are_numbers else None
        return str(identity if number is None else number)

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The id of each row from 1."""
        chosen: np.ndarray = self.values[rows - 1]
        return chosen

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {value: row for row, value in enumerate(self.values, 1)}

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.values, kind="stable")
        return order, self.values[order]


def as_number(value: Any) -> int | None:
    """A whole number of 64 bits from 42, "42", 42.0 or "42.0"; None for anything else."""
    if isinstance(value, str) and value.endswith(".0"):
        value = value[:-2]
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    is_whole = not isinstance(value, float | np.floating) or number == value
    return number if is_whole and -(2**63) <= number < 2**63 else None


def listed(ids: Any) -> list[Any]:
    """One id or several, as several."""
    return [ids] if isinstance(ids, str | int | np.integer) else list(ids)


def refuse_hidden(columns: Iterable[str], ours: Collection[str]) -> None:
    """Ids written under the input's names must not be hidden by our own columns.

    Raises:
        RequestError: an id column is called like one of ours.
    """
    for column in columns:
        if column in ours:
            raise RequestError(
                f"the id column is called {column!r}, as one of those that are written beside "
                f"it ({', '.join(ours)}); rename it in the data and train again"
            )


def some_of(unknown: Sequence[Any]) -> str:
    """How many ids are unknown, and which the first of them are."""
    named = ", ".join(repr(identity) for identity in unknown[:5])
    return f"{len(unknown):,} unknown ({named}{', ...' if unknown[5:] else ''})"
