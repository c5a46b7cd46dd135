"""Interactions -> an iterator of row numbers: what one step learns from.

Each way to learn has its own batch. An epoch's batches are made from a generator of random
numbers that is the epoch's own, so that any epoch can be repeated alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Int64

from twotower.data.interactions import Histories, Interactions, offsets_of, ranges
from twotower.training.mining import Hard
from twotower.training.negatives import Memory
from twotower.training.sampling import PositivePairs, uniform_negatives


@dataclass(frozen=True)
class PairBatch:
    """B users, an item each, and perhaps another item each that they like less.

    Attributes:
        labels: what the item's affinity should be.
        times: when they met, or None.
        other_rows: the other items; None for losses that need none.
        negatives: items drawn for all rows; None where nothing is shared by them.
        hard: of each row others of its own; None where nothing was mined.
        memory: what is left of the batches before.
    """

    user_rows: Int64[np.ndarray, " B"]
    item_rows: Int64[np.ndarray, " B"]
    labels: Float32[np.ndarray, " B"]
    weights: Float32[np.ndarray, " B"] | None
    times: Int64[np.ndarray, " B"] | None
    other_rows: Int64[np.ndarray, " B"] | None = None
    negatives: Int64[np.ndarray, " N"] | None = None
    hard: Hard | None = None
    memory: Memory | None = None

    def __len__(self) -> int:
        return len(self.user_rows)

    @property
    def items(self) -> Int64[np.ndarray, " B"]:
        """Of each row the item."""
        return self.item_rows

    def owners(self) -> Int64[np.ndarray, " B"]:
        """Of each item the basket: its row."""
        return np.arange(len(self))


@dataclass(frozen=True)
class UserBatch:
    """B users with P items, parts of which are to be found from the rest of their user's.

    Attributes:
        items: of each pair the item.
        offsets: the pairs of user b are ``offsets[b]`` to ``offsets[b + 1]``.
        negatives: items that stand for all others; None where all others are there themselves.
        hard: of each pair others of its own; None where nothing was mined.
        memory: what is left of the batches before.
    """

    user_rows: Int64[np.ndarray, " B"]
    items: Int64[np.ndarray, " P"]
    offsets: Int64[np.ndarray, " B1"]
    negatives: Int64[np.ndarray, " N"] | None = None
    hard: Hard | None = None
    memory: Memory | None = None

    def __len__(self) -> int:
        return len(self.items)

    def owners(self) -> Int64[np.ndarray, " P"]:
        """Of each item the basket: its user's place."""
        return np.repeat(np.arange(len(self.user_rows)), np.diff(self.offsets))


Batch = PairBatch | UserBatch


def num_baskets(batch: Batch) -> int:
    """How many rows, or whole users, a batch is made of."""
    return len(batch.user_rows)


def pointwise(
    interactions: Interactions,
    batch_size: int,
    rng: np.random.Generator,
    *,
    side_by_side: int = 1,
) -> Iterator[PairBatch]:
    """Every interaction once, in random order.

    Args:
        side_by_side: up to so many rows of a user follow one another, which a tower that
            encodes each user of a batch once finishes the sooner.
    """
    for rows in _in_batches(interactions.user_rows, side_by_side, batch_size, rng):
        yield PairBatch(
            interactions.user_rows[rows].astype(np.int64),
            interactions.item_rows[rows].astype(np.int64),
            interactions.labels[rows],
            None if interactions.weights is None else interactions.weights[rows],
            None if interactions.times is None else interactions.times[rows],
        )


def pairwise(
    positives: Interactions,
    known: PositivePairs,
    met: np.ndarray,
    batch_size: int,
    rng: np.random.Generator,
) -> Iterator[PairBatch]:
    """Every positive once, each beside a uniform item that its user is not known to like.

    Args:
        met: what may be drawn; a new item is nobody's negative.
    """
    for batch in pointwise(positives, batch_size, rng):
        other = uniform_negatives(batch.user_rows, known, met, rng=rng)
        yield replace(batch, other_rows=other)


def triplets(
    positives: Interactions,
    disliked: Histories,
    batch_size: int,
    rng: np.random.Generator,
    *,
    side_by_side: int = 1,
) -> Iterator[PairBatch]:
    """Every liked item of a user who also disliked one, beside one of those, drawn anew."""
    counts = disliked.lengths()
    usable = positives.take(counts[positives.user_rows] > 0)
    for batch in pointwise(usable, batch_size, rng, side_by_side=side_by_side):
        users = batch.user_rows
        drawn = (rng.random(len(users)) * counts[users]).astype(np.int64)
        other = disliked.items[disliked.offsets[users] + drawn].astype(np.int64)
        yield replace(batch, other_rows=other)


def whole_users(
    liked: Histories,
    most_items: int,
    batch_size: int,
    rng: np.random.Generator,
    *,
    in_order: bool = False,
) -> Iterator[UserBatch]:
    """Every user with two items or more once, in batches of about ``batch_size`` pairs.

    Args:
        liked: no user has an item twice.
        most_items: of a user with more so many are drawn anew in each epoch.
        in_order: whether they are drawn as a piece, one after another.
    """
    every = liked.lengths()
    lengths = np.minimum(every, most_items)
    order = rng.permutation(np.flatnonzero(lengths > 1))
    number = (np.cumsum(lengths[order]) - 1) // batch_size
    for users in np.split(order, np.flatnonzero(np.diff(number)) + 1):
        counts = lengths[users]
        if in_order:
            spare = every[users] - counts
            begins = liked.offsets[users] + rng.integers(0, spare + 1)
            items = liked.items[ranges(begins, counts)]
        else:
            items, owners = liked.pack(users)
            if len(items) > counts.sum():
                drawn = np.lexsort([rng.random(len(items)), owners])
                items = items[drawn[_equals_before(owners) < counts[owners]]]
        if len(users):
            yield UserBatch(users, items.astype(np.int64), offsets_of(counts))


def _cut(order: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _in_batches(
    owners: np.ndarray, most: int, batch_size: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """All rows in random order; where they lie on the disk, a part of them after another."""
    if not isinstance(owners, np.memmap):
        yield from _cut(_in_runs(owners, most, rng), batch_size)
        return
    rest = np.empty(0, np.int64)
    for rows in shuffled_pieces(len(owners), rng):
        order = np.concatenate([rest, rows[_in_runs(owners[rows], most, rng)]])
        whole = len(order) - len(order) % batch_size
        yield from _cut(order[:whole], batch_size)
        rest = order[whole:]
    if len(rest):
        yield rest


def shuffled_pieces(
    size: int, rng: np.random.Generator, *, piece: int = 1 << 14, held: int = 1 << 8
) -> Iterator[np.ndarray]:
    """The rows 0 to ``size``, in pieces of neighbours; ``held`` pieces from anywhere together.

    A disk reads neighbours in one go, and in memory is what is held.
    """
    starts = rng.permutation(-(-size // piece)) * piece
    for first in range(0, len(starts), held):
        chosen = starts[first : first + held]
        yield np.concatenate([np.arange(at, min(at + piece, size)) for at in chosen])


def _in_runs(owners: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """A random order of all rows in which up to ``most`` of an owner's follow one another."""
    order = rng.permutation(len(owners))
    if most == 1:
        return order
    order = order[np.argsort(owners[order], kind="stable")]
    run = np.cumsum(_equals_before(owners[order]) % most == 0) - 1
    place = rng.permutation(run[-1] + 1) if len(run) else run
    return order[np.argsort(place[run], kind="stable")]


def _equals_before(ascending: np.ndarray) -> np.ndarray:
    """How many like it stand before each: 0, 1, 2, ... in each group of equals."""
    places = np.arange(len(ascending))
    is_first = np.diff(ascending, prepend=-1) != 0
    return places - np.maximum.accumulate(np.where(is_first, places, 0))
