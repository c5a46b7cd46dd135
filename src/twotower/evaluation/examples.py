"""A handful of test users: what they liked, what they get, and what of it was a hit."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int64

from twotower.data.interactions import Histories
from twotower.data.tables import Dataset
from twotower.evaluation.evaluate import HeldOut

# Of each kind of history so many users, and of each list of items so many.
_USERS = 2
_ITEMS = 10


def examples(
    lists: Int64[np.ndarray, "U K"],
    held: HeldOut,
    liked: Histories,
    dataset: Dataset,
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Two users each of the fifth with the longest histories, the middle and the shortest.

    Args:
        lists: item rows for the held-out users, best first, -1 for none.
        liked: what was known of them, oldest first.

    Returns:
        Of each its ``user`` id, ``history`` (long, middle or short), how many items it
        ``liked``, the ``latest`` of these, newest first, what is ``recommended``, how many were
        ``held_out``, and of these the ``hits`` and some that were ``missed``.
    """
    rng = np.random.default_rng([seed, 8])
    by_length = np.argsort(liked.lengths()[held.user_rows], kind="stable")
    fifths = np.array_split(by_length, 5)
    found = []
    for name, fifth in (("long", fifths[4]), ("middle", fifths[2]), ("short", fifths[0])):
        for place in rng.choice(fifth, min(_USERS, len(fifth)), replace=False).tolist():
            row = int(held.user_rows[place])
            history, wanted = liked.of(row), held.items[held.owners == place]
            shown = lists[place][lists[place] > 0]
            is_hit = np.isin(shown, wanted)
            missed = wanted[~np.isin(wanted, shown)]
            ids = {
                "latest": history[::-1][:_ITEMS],
                "recommended": shown,
                "hits": shown[is_hit],
                "missed": missed[:_ITEMS],
            }
            found.append(
                {
                    "user": dataset.users.ids[row - 1 : row].tolist()[0],
                    "history": name,
                    "liked": len(history),
                    "held_out": len(wanted),
                    **{key: dataset.items.ids[rows - 1].tolist() for key, rows in ids.items()},
                }
            )
    return found
