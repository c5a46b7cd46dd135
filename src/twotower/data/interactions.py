"""Who met what: row numbers, labels, times; and every user's history as a slice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64

from twotower.data.arrays import blocks_of_groups, chosen, grouped, is_ascending, room_for


@dataclass(frozen=True)
class Interactions:
    """Interactions as arrays of N rows, oldest first where times are known.

    Attributes:
        user_rows: row of each user in the users table; from 1, since 0 means unknown.
        item_rows: likewise for items.
        labels: what a loss aims at, 0 to 1; 1 where every interaction counts as positive.
        times: microseconds since 1970 UTC, or None.
        weights: how much a row counts, or None for equally.
        ratings: what the table says, in its own unit, NaN where it says nothing, or None.
    """

    user_rows: Int32[np.ndarray, " N"]
    item_rows: Int32[np.ndarray, " N"]
    labels: Float32[np.ndarray, " N"]
    times: Int64[np.ndarray, " N"] | None = None
    weights: Float32[np.ndarray, " N"] | None = None
    ratings: Float32[np.ndarray, " N"] | None = None

    def __len__(self) -> int:
        return len(self.user_rows)

    def take(self, rows: np.ndarray | slice) -> Interactions:
        """The rows given by numbers, by a mask or, without a copy, from one to another."""
        return Interactions(
            *(chosen(column, rows) for column in (self.user_rows, self.item_rows, self.labels)),
            *(
                None if column is None else chosen(column, rows)
                for column in (self.times, self.weights, self.ratings)
            ),
        )

    def positives(self) -> Interactions:
        """The rows whose label is above one half."""
        liked = self.labels > 0.5
        return self if liked.all() else self.take(liked)

    def followed_by(self, other: Interactions) -> Interactions:
        """These rows, then the other's; times, weights, ratings only where both have them."""
        return Interactions(
            _joined(self.user_rows, other.user_rows),
            _joined(self.item_rows, other.item_rows),
            _joined(self.labels, other.labels),
            _both(self.times, other.times),
            _both(self.weights, other.weights),
            _both(self.ratings, other.ratings),
        )

    @cached_property
    def by_user(self) -> Histories:
        """What each user met, oldest first, up to the last user who met anything."""
        users, items, times = self.user_rows, self.item_rows, self.times
        if times is not None and not is_ascending(times):
            order = np.argsort(times, kind="stable")
            users, items, times = users[order], items[order], times[order]
        columns = [items] if times is None else [items, times]
        offsets, found = grouped(users, columns)
        return Histories(offsets, found[0], None if times is None else found[1])

    def without_times(self) -> Interactions:
        """The same rows, their times forgotten."""
        return replace(self, times=None)


def _both(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    return None if one is None or other is None else _joined(one, other)


def _joined(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Two arrays end to end; without a copy where they are parts of one, end to end."""
    begins, follows = (array.__array_interface__["data"][0] for array in (one, other))
    is_whole = _owner(one) is _owner(other)
    if is_whole and one.strides == other.strides == (one.itemsize,):
        if begins + one.nbytes == follows:
            shape = (len(one) + len(other),)
            return np.lib.stride_tricks.as_strided(one, shape, subok=True)
    elif is_whole and one.strides == other.strides == (0,):
        return np.broadcast_to(one[:1], (len(one) + len(other),))
    return np.concatenate([one, other])


def _owner(array: Any) -> Any:
    """Whose memory an array is a part of."""
    while getattr(array, "base", None) is not None:
        array = array.base
    return array


def likes(count: int) -> Float32[np.ndarray, " N"]:
    """Labels of interactions that are all liked, which take no room."""
    return np.broadcast_to(np.float32(1), count)


def offsets_of(counts: Int64[np.ndarray, " G"]) -> Int64[np.ndarray, " G1"]:
    """Where groups of so many rows begin, end to end, and where the last one ends."""
    offsets: np.ndarray = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return offsets


def ranges(
    starts: Int64[np.ndarray, " G"], lengths: Int64[np.ndarray, " G"]
) -> Int64[np.ndarray, " N"]:
    """Runs of numbers end to end.

    >>> ranges(np.array([7, 2]), np.array([2, 3]))
    array([7, 8, 2, 3, 4])
    """
    offsets = offsets_of(lengths)
    shifts: np.ndarray = np.repeat(starts - offsets[:-1], lengths)
    return shifts + np.arange(offsets[-1])


@dataclass(frozen=True)
class Histories:
    """Every user's items as one slice of one array, oldest first.

    The items of user row u are ``items[offsets[u] : offsets[u + 1]]``; row 0, the unknown
    user, has none. ``times`` goes along with ``items`` where times are known.
    """

    offsets: Int64[np.ndarray, " U1"]
    items: Int32[np.ndarray, " N"]
    times: Int64[np.ndarray, " N"] | None = None

    @property
    def num_users(self) -> int:
        """Users, the unknown one not counted."""
        return len(self.offsets) - 2

    def of(self, user_row: int) -> Int32[np.ndarray, " L"]:
        """The items of one user, oldest first."""
        return self.items[self.offsets[user_row] : self.offsets[user_row + 1]]

    def lengths(self) -> Int64[np.ndarray, " U0"]:
        """How many items each user row has; the first entry is the unknown user's."""
        return np.diff(self.offsets)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Users from one to before another, who together have about a block of items."""
        return blocks_of_groups(self.offsets)

    def pack(
        self, user_rows: Int64[np.ndarray, " B"] | Int32[np.ndarray, " B"]
    ) -> tuple[Int32[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
        """The items of many users end to end, and whose each is: a place in ``user_rows``."""
        places, owners = self.places(user_rows)
        return self.items[places], owners

    def places(
        self, user_rows: Int64[np.ndarray, " B"] | Int32[np.ndarray, " B"]
    ) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
        """Where in ``items`` the items of many users stand, and whose each is."""
        starts = self.offsets[user_rows]
        lengths = self.offsets[np.asarray(user_rows) + 1] - starts
        owners = np.repeat(np.arange(len(user_rows)), lengths)
        return ranges(starts, lengths), owners

    def latest(self, length: int) -> Histories:
        """The last ``length`` items of each user, without their times; on the disk where the
        items are.
        """
        lengths = np.minimum(self.lengths(), length)
        offsets = offsets_of(lengths)
        if offsets[-1] == len(self.items):
            return replace(self, times=None)
        items = room_for(int(offsets[-1]), self.items.dtype, self.items)
        for first, last in self.blocks():
            some = lengths[first:last]
            places = ranges(self.offsets[first + 1 : last + 1] - some, some)
            items[offsets[first] : offsets[last]] = self.items[places]
        return Histories(offsets, items)


def histories(interactions: Interactions, *, num_users: int) -> Histories:
    """Each user's items in order of time; in the order of the rows where there is none.

    >>> met = Interactions(
    ...     np.array([2, 1, 2], np.int32), np.array([7, 8, 9], np.int32), np.ones(3, np.float32)
    ... )
    >>> histories(met, num_users=2).of(2)
    array([7, 9], dtype=int32)
    """
    known = interactions.by_user
    # Whoever came without an interaction is behind the others.
    offsets = known.offsets[: num_users + 2]
    spare = num_users + 2 - len(offsets)
    return replace(known, offsets=np.pad(offsets, (0, spare), "edge"))
