"""How popular what is shown is: the catalogue in three groups, and what falls to each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, Int64

from twotower.data.arrays import counts_of
from twotower.data.interactions import Histories
from twotower.evaluation.evaluate import HeldOut

GROUPS = ("head", "middle", "tail")
# The shares of all interactions after which head and middle end.
_ENDS = (0.5, 0.8)


def popularity_groups(item_counts: Int64[np.ndarray, " I"]) -> Int64[np.ndarray, " I"]:
    """Of each item its place in ``GROUPS``, by how many interactions each has.

    The head is the most popular items, which together have half of all interactions; the middle
    has the next 30 %; the tail is the rest, what nobody met included.

    >>> popularity_groups(np.array([1, 5, 0, 4])).tolist()
    [2, 0, 2, 1]
    """
    order: Int64[np.ndarray, " I"] = np.argsort(-item_counts, kind="stable")
    before = np.cumsum(item_counts[order]) - item_counts[order]
    groups = np.full(len(item_counts), len(GROUPS) - 1)
    for group, end in reversed(list(enumerate(_ENDS))):
        groups[order[before < end * item_counts.sum()]] = group
    return groups


def popularity(
    lists: Mapping[str, Int64[np.ndarray, "U K"]],
    held: HeldOut,
    seen: Histories,
    num_items: int,
) -> dict[str, Any]:
    """How many items each group has, and its share of what was met, held out and shown.

    Args:
        lists: of each ranker item rows for the held-out users, -1 for none.
        seen: what all users met before.

    Returns:
        ``items``: of each group their number. ``shares``: of ``seen``, of ``held_out`` and of
        each ranker the share that falls to each group; no entry for what is empty.
    """
    # Row 0 is no item.
    groups = popularity_groups(counts_of(seen.items, num_items + 1)[1:])

    def shares(items: Int[np.ndarray, " N"]) -> dict[str, float]:
        times = counts_of(items, num_items + 1)[1:]
        found = np.bincount(groups, times, minlength=len(GROUPS)) / len(items)
        return dict(zip(GROUPS, found.tolist(), strict=True))

    rows = {"seen": seen.items, "held_out": held.items}
    rows |= {name: found[found > 0] for name, found in lists.items()}
    counts = np.bincount(groups, minlength=len(GROUPS)).tolist()
    return {
        "items": dict(zip(GROUPS, counts, strict=True)),
        "shares": {name: shares(items) for name, items in rows.items() if len(items)},
    }
