"""Which of the items that are compared with are in truth liked: no others at all."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64

from twotower.data.interactions import ranges


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
    ranked = others[order]
    first = np.searchsorted(ranked, items)
    counts = np.searchsorted(ranked, items, side="right") - first
    return np.repeat(owners, counts), order[ranges(first, counts)]


def as_mask(
    owners: Int64[np.ndarray, " E"], places: Int64[np.ndarray, " E"], shape: tuple[int, int]
) -> Bool[np.ndarray, "R N"]:
    """Pairs as a matrix that is true there."""
    found = np.zeros(shape, bool)
    found[owners, places] = True
    return found


def each_beside_its_users_items(
    users: Int64[np.ndarray, " Q"], offsets: Int64[np.ndarray, " B1"]
) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
    """Everybody who asks, beside the places of all items of their user; askers ascending.

    >>> each_beside_its_users_items(np.array([0, 0, 1]), np.array([0, 2, 3]))
    (array([0, 0, 1, 1, 2]), array([0, 1, 0, 1, 2]))
    """
    counts = np.diff(offsets)[users]
    return np.repeat(np.arange(len(users)), counts), ranges(offsets[:-1][users], counts)
