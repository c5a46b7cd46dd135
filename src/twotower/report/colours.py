"""By what the items of a map can be coloured: their columns, and how popular they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from twotower.retrieval.words import is_yes_no

# As many values of a column have a colour of their own.
_VALUES = 9
_MOST_COLUMNS = 12
# A column whose coloured values fewer items than this share is one of titles.
_LEAST_COVERED = 0.2
_SECONDS_A_YEAR = 31_556_952

Colouring = dict[str, Any]
"""``name`` and ``values``, one an item, in JSON's types.

Of a category: codes into ``labels``; one past the last is none of them. Of a number: ``low``
and ``high``, where the colours end, None where the number is missing, and perhaps ``ticks``,
pairs of a value and how it is written.
"""


def colourings(
    values: Mapping[str, np.ndarray], times: set[str], met: Int64[np.ndarray, " I"]
) -> Iterator[Colouring]:
    """First by what an item is, then by its numbers, by what is yes or no, by popularity.

    Args:
        values: plain values of the items' columns (see ``Entities``).
        times: which columns are seconds since 1970.
        met: how often each item was met.
    """
    flat = {name: column for name, column in values.items() if column.ndim == 1}
    flags = {n: column for n, column in flat.items() if column.dtype != object}
    flags = {n: column for n, column in flags.items() if is_yes_no(column)}
    groups = _one_of_several({name: column == 1 for name, column in flags.items()})
    grouped = {f"{prefix}_{value}" for prefix, each in groups.items() for value in each}
    categories: dict[str, Sequence[str | None]] = {
        name: [_first(value) for value in column.tolist()]
        for name, column in flat.items()
        if column.dtype == object
    }
    yield from _by_categories({**categories, **groups})
    numbers = {n: c for n, c in flat.items() if c.dtype != object and n not in flags}
    for name, column in list(numbers.items())[:_MOST_COLUMNS]:
        if len(np.unique(column[~np.isnan(column)])) > 1:
            yield _by_number(name, 1970 + column / _SECONDS_A_YEAR if name in times else column)
    yield from _by_categories(
        {
            name: [None if math.isnan(v) else "yes" if v else "no" for v in column.tolist()]
            for name, column in flags.items()
            if name not in grouped
        }
    )
    yield _by_popularity(met)


def _first(value: Any) -> str | None:
    """Of a list its first value."""
    if isinstance(value, list):
        return value[0] if value else None
    return None if value is None else str(value)


def _one_of_several(flags: Mapping[str, Bool[np.ndarray, " I"]]) -> dict[str, list[str | None]]:
    """Columns such as ``genre_jazz`` and ``genre_folk``, of which each item has one, as one."""
    by_prefix: dict[str, list[str]] = {}
    for name in flags:
        prefix, _, value = name.rpartition("_")
        if prefix and value:
            by_prefix.setdefault(prefix, []).append(value)
    found: dict[str, list[str | None]] = {}
    for prefix, values in by_prefix.items():
        table = np.stack([flags[f"{prefix}_{value}"] for value in values], 1)
        if len(values) > 1 and (table.sum(1) <= 1).all() and table.any(0).all():
            # One past the last for an item that has none.
            places = np.where(table.any(1), table.argmax(1), len(values)).tolist()
            found[prefix] = [[*values, None][place] for place in places]
    return found


def _by_categories(columns: Mapping[str, Sequence[str | None]]) -> Iterator[Colouring]:
    """By the commonest values of each column, if these say enough."""
    for name, values in list(columns.items())[:_MOST_COLUMNS]:
        counts = Counter(value for value in values if value is not None)
        common = counts.most_common(_VALUES)
        if len(counts) > 1 and sum(n for _, n in common) >= _LEAST_COVERED * len(values):
            labels = [value for value, _ in common]
            code_of = {value: code for code, value in enumerate(labels)}
            codes = [len(labels) if v is None else code_of.get(v, len(labels)) for v in values]
            yield {"name": name, "labels": labels, "values": codes}


def _by_number(name: str, values: Float64[np.ndarray, " I"]) -> Colouring:
    """The colours end before a few extremes, lest all others look alike."""
    low, high = np.nanquantile(values, [0.02, 0.98]).tolist()
    return {"name": name, "values": rounded(values.tolist()), "low": low, "high": high}


def _by_popularity(met: Int64[np.ndarray, " I"]) -> Colouring:
    """On a scale of logarithms."""
    most = max(int(met.max(initial=0)), 1)
    ticks = [0, *(10**n for n in range(len(str(most))))]
    return {
        "name": "popularity",
        "values": rounded(np.log10(1 + met).tolist()),
        "low": 0.0,
        "high": math.log10(1 + most),
        "ticks": [[math.log10(1 + n), f"{n:,}"] for n in ticks],
    }


def rounded(values: Sequence[float]) -> list[float | None]:
    """Five digits are more than a screen has; what is no number is None."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]
