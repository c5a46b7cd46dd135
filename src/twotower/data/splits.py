"""Cut interactions into train, validation and test: by time, by user, at random, or cold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from twotower.config import DataConfig, SplitName
from twotower.data.arrays import is_ascending, order_of, rows_met
from twotower.data.interactions import Interactions
from twotower.data.tables import Dataset
from twotower.errors import DataError

# With fewer, one group would be most of train or of validation.
_SOME_GROUPS = 5


@dataclass(frozen=True)
class Split:
    """The three parts; ``test`` is None where nothing is held out for it.

    Attributes:
        name: how it was cut.
    """

    train: Interactions
    val: Interactions
    test: Interactions | None
    name: SplitName


def split(dataset: Dataset, config: DataConfig, *, seed: int) -> Split:
    """Cut a data set as the config says; validation is cut from train where none is given.

    Raises:
        DataError: no time to split by, or a part that stays empty.
    """
    name = choose_split(dataset, config)
    if name == "given":
        return _given(dataset, config, seed)
    train, test = dataset.interactions["all"], None
    if config.test_fraction > 0:
        train, test = cut(train, name, config.test_fraction, np.random.default_rng([seed, 1]))
        _require(train, test, name, "test", dataset.source)
    train, val = cut(train, name, config.val_fraction, np.random.default_rng([seed, 2]))
    _require(train, val, name, "validation", dataset.source)
    return Split(train, val, test, name)


def choose_split(dataset: Dataset, config: DataConfig) -> SplitName:
    """The split that the config names, or what ``auto`` means for this data.

    Raises:
        DataError: the data does not allow it.
    """
    if config.split != "auto":
        name = config.split
    elif dataset.has_split:
        name = "given"
    else:
        timed = dataset.interactions["all"].times is not None
        name = "time" if timed else "random_per_user"
    if name == "given" and not dataset.has_split:
        raise DataError(
            f"{dataset.source}: data.split is 'given' but there is no train part; expected "
            "train/interactions.parquet"
        )
    if name != "given" and dataset.has_split:
        raise DataError(
            f"{dataset.source}: has its own train part, so data.split must be 'given' or "
            f"'auto' (got {name!r}); give one table of interactions to split it anew"
        )
    if name == "time" and dataset.interactions["all"].times is None:
        raise DataError(
            f"{dataset.source}: data.split is 'time' but no column is a timestamp; declare one "
            "under data.columns.interactions, or use random_per_user"
        )
    return name


def _given(dataset: Dataset, config: DataConfig, seed: int) -> Split:
    train = dataset.interactions["train"]
    val, test = dataset.interactions.get("val"), dataset.interactions.get("test")
    if val is None:
        how = _like(train, test)
        train, val = cut(train, how, config.val_fraction, np.random.default_rng([seed, 2]))
        _require(train, val, how, "validation", dataset.source)
    return Split(train, val, test, "given")


def _like(train: Interactions, test: Interactions | None) -> SplitName | Literal["groups"]:
    """The cut that asks of validation what a given test part asks."""
    if test is not None:
        new_users = not np.isin(test.user_rows, train.user_rows).any()
        new_items = not np.isin(test.item_rows, train.item_rows).any()
        if new_users and new_items and _is_of_groups(train):
            return "groups"
        if new_users or new_items:
            return "cold_users" if new_users else "cold_items"
    return "time" if train.times is not None else "random_per_user"


def cut(
    interactions: Interactions,
    name: SplitName | Literal["groups"],
    fraction: float,
    rng: np.random.Generator,
) -> tuple[Interactions, Interactions]:
    """Keep most rows and hold out some.

    Args:
        fraction: share of rows (time, random), of each user's rows (random_per_user), of
            items or users (cold), of groups of users and items that met nobody else; leave_last
            holds out one row a user whatever it says.

    Returns:
        What is kept and what is held out, each in the order it had.
    """
    if name == "time":
        return _by_time(interactions, fraction)
    if name == "leave_last":
        held = _last_of_each_user(interactions)
    elif name == "random_per_user":
        held = _random_of_each_user(interactions, fraction, rng)
    elif name == "random":
        held = rng.permutation(len(interactions)) < round(fraction * len(interactions))
    elif name == "cold_items":
        held = _all_of_some(interactions.item_rows, fraction, rng)
    elif name == "cold_users":
        held = _all_of_some(interactions.user_rows, fraction, rng)
    elif name == "groups":
        held = _all_of_some(_groups(interactions), fraction, rng)
    else:
        raise ValueError(f"no way to cut by {name!r}")
    return interactions.take(~held), interactions.take(held)


def _by_time(interactions: Interactions, fraction: float) -> tuple[Interactions, Interactions]:
    """Hold out all from one moment on, so that the same moment is never on both sides."""
    times = interactions.times
    assert times is not None
    place = min(int((1 - fraction) * len(times)), len(times) - 1)
    if is_ascending(times):
        place = int(np.searchsorted(times, times[place]))
        return interactions.take(slice(0, place)), interactions.take(slice(place, None))
    held = times >= np.partition(times, place)[place]
    return interactions.take(~held), interactions.take(held)


def _rank_from_last(user_rows: np.ndarray, order: np.ndarray) -> np.ndarray:
    """0 for a user's last row in the given order, 1 for the one before, and so on."""
    users = user_rows[order]
    ends = np.searchsorted(users, users, side="right")
    rank = np.empty(len(users), np.int64)
    rank[order] = ends - 1 - np.arange(len(users))
    return rank


def _last_of_each_user(interactions: Interactions) -> np.ndarray:
    order = order_of(interactions.user_rows, interactions.times)
    rank = _rank_from_last(interactions.user_rows, order)
    several = np.bincount(interactions.user_rows)[interactions.user_rows] > 1
    held: np.ndarray = (rank == 0) & several
    return held


def _random_of_each_user(
    interactions: Interactions, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    users = interactions.user_rows
    rank = _rank_from_last(users, order_of(users, rng.random(len(users))))
    counts = np.bincount(users)
    # A user with few rows gives one now and then, so that the share is right over all users.
    quota = np.floor(fraction * counts + rng.random(len(counts)))
    quota = np.minimum(quota, np.maximum(counts - 1, 0))
    held: np.ndarray = rank < quota[users]
    return held


def _all_of_some(rows: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    there = rows_met(rows)
    chosen = rng.choice(there, size=max(1, round(fraction * len(there))), replace=False)
    is_chosen = np.zeros(int(there[-1]) + 1, bool)
    is_chosen[chosen] = True
    held: np.ndarray = is_chosen[rows]
    return held


def _groups(interactions: Interactions) -> np.ndarray:
    """Of each row the number of its group: who met, directly or through others, is in one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    users, items = interactions.user_rows, interactions.item_rows.astype(np.int64)
    first_item = int(users.max()) + 1
    size = first_item + int(items.max()) + 1
    met = coo_array((np.ones(len(users), bool), (users, first_item + items)), (size, size))
    _, group = connected_components(met, directed=False)
    found: np.ndarray = group[users]
    return found


def _is_of_groups(interactions: Interactions) -> bool:
    """Whether there are some groups, none of which holds most rows."""
    counts = np.bincount(_groups(interactions))
    return bool(np.count_nonzero(counts) >= _SOME_GROUPS and counts.max() <= counts.sum() / 2)


def _require(kept: Interactions, held: Interactions, name: str, part: str, source: str) -> None:
    total = len(kept) + len(held)
    if len(kept) == 0 or len(held) == 0:
        empty = part if len(held) == 0 else "train"
        hint = "give more interactions, another data.split or another fraction"
        users = rows_met(np.concatenate([kept.user_rows, held.user_rows]))
        if name in {"random_per_user", "leave_last"} and 1 < total == len(users):
            hint = (
                "no user is there twice: take another data.split, cold_users, which holds "
                "whole users out"
            )
        raise DataError(
            f"{source}: the {part} split by {name!r} leaves {empty} empty ({total:,} rows in "
            f"all); {hint}"
        )
