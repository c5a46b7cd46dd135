"""Negatives, and how likely each was."""

from __future__ import annotations

from copy import copy

import numpy as np
from jaxtyping import Bool, Float32, Int64

from twotower.data.arrays import BLOCK, counts_of, distinct, room_for
from twotower.data.interactions import Histories


class PositivePairs:
    """All known positives as sorted keys, to tell whether a pair is one of them.

    >>> pairs = PositivePairs(np.array([1, 2]), np.array([7, 8]), num_items=10)
    >>> pairs.contain(np.array([1, 1]), np.array([7, 8]))
    array([ True, False])
    """

    def __init__(self, user_rows: np.ndarray, item_rows: np.ndarray, *, num_items: int) -> None:
        self._width = num_items + 1
        self._keys = [distinct(user_rows.astype(np.int64) * self._width + item_rows)]

    @classmethod
    def of(cls, liked: Histories, *, num_items: int) -> PositivePairs:
        """The pairs of users and their items."""
        pairs = cls.__new__(cls)
        pairs._width = num_items + 1
        pairs._keys = [_keys_of(liked, pairs._width)]
        return pairs

    def and_of(self, liked: Histories) -> PositivePairs:
        """These, and those of other interactions."""
        pairs = copy(self)
        pairs._keys = [*self._keys, _keys_of(liked, self._width)]
        return pairs

    def of_each_user(self, size: int) -> Int64[np.ndarray, " U1"]:
        """How many items each of ``size`` user rows likes.

        A pair counts once in what one ``Histories`` brought.
        """
        counts = np.zeros(size, np.int64)
        for keys in self._keys:
            for start in range(0, len(keys), BLOCK):
                users = keys[start : start + BLOCK] // self._width
                counts += np.bincount(users, minlength=size)
        return counts

    def contain(self, user_rows: np.ndarray, item_rows: np.ndarray) -> Bool[np.ndarray, "*S"]:
        """Whether each user liked each item; the two broadcast."""
        wanted = user_rows.astype(np.int64) * self._width + item_rows
        # In order they are found several times faster among many.
        order = np.argsort(wanted, axis=None)
        ranked = wanted.ravel()[order]
        found = np.zeros(len(ranked), dtype=bool)
        for keys in self._keys:
            if len(keys):
                place = np.searchsorted(keys, ranked)
                found |= keys[np.minimum(place, len(keys) - 1)] == ranked
        contained = np.empty_like(found)
        contained[order] = found
        return contained.reshape(wanted.shape)


def _keys_of(liked: Histories, width: int) -> Int64[np.ndarray, " M"]:
    """Each pair as one number, ascending and once; a block of users at a time."""
    keys, filled = room_for(len(liked.items), np.int64, liked.items), 0
    for first, last in liked.blocks():
        begin, end = liked.offsets[first], liked.offsets[last]
        owners = np.repeat(np.arange(first, last), liked.lengths()[first:last])
        found = distinct(owners * width + liked.items[begin:end])
        keys[filled : filled + len(found)] = found
        filled += len(found)
    return keys[:filled]


def log_share(item_rows: np.ndarray, *, num_items: int) -> Float32[np.ndarray, " I1"]:
    """The log of each item's share of the interactions: its chance to be an in-batch negative.

    Row 0 and items never met have ``-inf``: they can not be drawn.
    """
    counts = counts_of(item_rows, num_items + 1)
    with np.errstate(divide="ignore"):
        logs: np.ndarray = np.log(counts / counts.sum())
    return logs.astype(np.float32)


def uniform_negatives(
    user_rows: np.ndarray,
    positives: PositivePairs,
    items: np.ndarray,
    *,
    rng: np.random.Generator,
    tries: int = 5,
) -> Int64[np.ndarray, " B"]:
    """One of some items a row, uniform over those that the user is not known to like.

    A user who likes nearly all of them may, after some tries, get one that is liked.
    """
    drawn = items[rng.integers(0, len(items), len(user_rows))].astype(np.int64)
    for _ in range(tries):
        again = np.flatnonzero(positives.contain(user_rows, drawn))
        if len(again) == 0:
            break
        drawn[again] = items[rng.integers(0, len(items), len(again))]
    return drawn
