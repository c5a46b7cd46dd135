"""Which of the items that are compared with are in truth liked: no others at all."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from twotower.data.interactions import ranges

# A table of places is made for so many items at most, for each that is looked for.
_LOOKED_UP = 16


def matches(
    items: Int64[np.ndarray, " P"],
    owners: Int64[np.ndarray, " P"],
    others: Int64[np.ndarray, " N"],
) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
    """Where an owner's items stand among the others: owners, as given, and places.

    >>> matches(np.array([7, 8, 7]), np.array([0, 0, 1]), np.array([8, 7, 7]))
    (array([0, 0, 0, 1, 1]), array([1, 2, 0, 1, 2]))
    """
    order = np.argsort(others, kind="stable")
    distinct, firsts, times = np.unique(others[order], return_index=True, return_counts=True)
    found, place = _places(items, distinct)
    if len(distinct) == len(others):
        return owners[found], order[place]
    first, counts = firsts[place], times[place]
    return np.repeat(owners[found], counts), order[ranges(first, counts)]


def _places(
    items: Int64[np.ndarray, " P"], among: Int64[np.ndarray, " N"]
) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
    """Which of the items are there, and where; ``among`` is ascending."""
    if len(among) and among[-1] < _LOOKED_UP * len(items):
        # To look up in a table costs less than to search, while the table is small.
        table = np.full(int(items.max(initial=among[-1])) + 1, -1, np.int32)
        table[among] = np.arange(len(among), dtype=np.int32)
        place = table[items]
        found = np.flatnonzero(place >= 0)
    else:
        place = np.searchsorted(among, items)
        place[place == len(among)] = 0
        found = np.flatnonzero(among[place] == items) if len(among) else place[:0]
    return found, place[found].astype(np.int64)


def each_beside_its_users_items(
    users: Int64[np.ndarray, " Q"], offsets: Int64[np.ndarray, " B1"]
) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
    """Everybody who asks, beside the places of all items of their user; askers ascending.

    >>> each_beside_its_users_items(np.array([0, 0, 1]), np.array([0, 2, 3]))
    (array([0, 0, 1, 1, 2]), array([0, 1, 0, 1, 2]))
    """
    counts = np.diff(offsets)[users]
    return np.repeat(np.arange(len(users)), counts), ranges(offsets[:-1][users], counts)
