"""Negatives, and how likely each was."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32, Int64


class PositivePairs:
    """All known positives as sorted keys, to tell whether a pair is one of them.

    >>> pairs = PositivePairs(np.array([1, 2]), np.array([7, 8]), num_items=10)
    >>> pairs.contain(np.array([1, 1]), np.array([7, 8]))
    array([ True, False])
    """

    def __init__(self, user_rows: np.ndarray, item_rows: np.ndarray, *, num_items: int) -> None:
        self._width = num_items + 1
        self._keys = np.unique(user_rows.astype(np.int64) * self._width + item_rows)

    def contain(self, user_rows: np.ndarray, item_rows: np.ndarray) -> Bool[np.ndarray, ...]:
        """Whether each user liked each item; the two broadcast."""
        wanted = user_rows.astype(np.int64) * self._width + item_rows
        if len(self._keys) == 0:
            return np.zeros(wanted.shape, dtype=bool)
        place = np.searchsorted(self._keys, wanted)
        found: np.ndarray = self._keys[np.minimum(place, len(self._keys) - 1)] == wanted
        return found


def log_share(item_rows: np.ndarray, *, num_items: int) -> Float32[np.ndarray, " I1"]:
    """The log of each item's share of the interactions: its chance to be an in-batch negative.

    Row 0 and items never met have ``-inf``: they can not be drawn.
    """
    counts = np.bincount(item_rows, minlength=num_items + 1)
    with np.errstate(divide="ignore"):
        logs: np.ndarray = np.log(counts / counts.sum())
    return logs.astype(np.float32)


def uniform_negatives(
    user_rows: np.ndarray,
    positives: PositivePairs,
    *,
    num_items: int,
    rng: np.random.Generator,
    tries: int = 5,
) -> Int64[np.ndarray, " B"]:
    """One item a row, uniform over those that the user is not known to like.

    A user who likes nearly everything may, after some tries, get one that is liked.
    """
    drawn = rng.integers(1, num_items + 1, len(user_rows))
    for _ in range(tries):
        again = np.flatnonzero(positives.contain(user_rows, drawn))
        if len(again) == 0:
            break
        drawn[again] = rng.integers(1, num_items + 1, len(again))
    return drawn
