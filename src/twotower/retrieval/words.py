"""Users and items in a few words, from the plain values of their columns."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from twotower.data.features import Encoders
from twotower.data.schema import is_picture
from twotower.errors import shortened
from twotower.retrieval.recommender import Recommender

Rows = Sequence[int] | np.ndarray


def users_in_words(recommender: Recommender, rows: Rows, *, parts: int = 4) -> list[str]:
    """Users by rows from 1; of 0, which is nobody, there is nothing to say."""
    times = timestamps(recommender.user_encoders)
    return in_words(recommender.user_values, rows, times=times, parts=parts)


def items_in_words(recommender: Recommender, rows: Rows, *, parts: int = 4) -> list[str]:
    """Items by rows from 1; of 0, which is nothing, there is nothing to say."""
    times = timestamps(recommender.item_encoders)
    return in_words(recommender.item_values, rows, times=times, parts=parts)


def timestamps(encoders: Encoders) -> set[str]:
    """Which columns are times, in seconds since 1970."""
    kinds = {name: column.kind for name, (column, _) in encoders.by_column.items()}
    return {name for name, kind in kinds.items() if kind == "timestamp"}


def in_words(
    values: Mapping[str, np.ndarray],
    rows: Rows,
    *,
    times: Collection[str] = (),
    parts: int = 4,
) -> list[str]:
    """Rows in a few words: texts and categories first, then what is yes, then numbers.

    Args:
        values: plain values of columns (see ``Entities``).
        times: which of them are seconds since 1970.
        parts: so many of the columns are told.

    >>> in_words({"price": np.array([2.5]), "name": np.array(["tea"], dtype=object)}, [1, 0])
    ['tea · price 2.5', '']
    """
    columns = {name: column for name, column in values.items() if column.ndim == 1}
    flags = {n for n, c in columns.items() if c.dtype != object and is_yes_no(c)}
    found = []
    for row in rows:
        words, numbers = [], []
        for name, column in columns.items() if row else ():
            value = column[row - 1]
            if isinstance(value, list):
                words += [", ".join(map(str, value[:4]))] if value else []
            elif isinstance(value, str):
                words += [] if is_picture(value) else [shortened(value, 40)]
            elif name in flags:
                words += [name] if value == 1.0 else []
            elif value is not None and not math.isnan(value):
                numbers.append(f"{name} {_day(value) if name in times else f'{value:.4g}'}")
        found.append(" · ".join((words + numbers)[:parts]))
    return found


def is_yes_no(column: np.ndarray) -> bool:
    """Whether a column of numbers holds nothing but 0 and 1, as its first rows tell."""
    there = column[~np.isnan(column)]
    return bool(np.isin(there[:1000], (0.0, 1.0)).all())


def _day(seconds: float) -> str:
    return str(np.datetime64(int(seconds), "s").astype("datetime64[D]"))
