"""What an independent library says of lists, from ids alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import ir_measures
import numpy as np
from ir_measures import RR, P, Qrel, R, ScoredDoc, Success, nDCG

from twotower.retrieval.recommendations import Recommendations


def judged(
    lists: Mapping[Any, Sequence[Any]], held_out: Mapping[Any, Collection[Any]], k: int
) -> dict[str, float]:
    """The mean of each metric over the users who have something to be found.

    Args:
        lists: items by user, best first.
        held_out: what is to be found, by user; every user has a list.
    """
    measures = {
        f"ndcg@{k}": nDCG @ k,
        f"precision@{k}": P @ k,
        f"recall@{k}": R @ k,
        f"hit_rate@{k}": Success @ k,
        f"reciprocal_rank@{k}": RR,
    }
    wanted = {user: items for user, items in held_out.items() if items}
    qrels = [Qrel(str(user), str(item), 1) for user in wanted for item in wanted[user]]
    run = [
        ScoredDoc(str(user), str(item), -rank)
        for user in wanted
        for rank, item in enumerate(lists[user][:k])
    ]
    found = list(ir_measures.pytrec_eval.iter_calc(measures.values(), qrels, run))
    values: dict[str, list[float]] = {name: [] for name in measures}
    names = {str(measure): name for name, measure in measures.items()}
    for metric in found:
        values[names[str(metric.measure)]].append(metric.value)
    # Whoever got an empty list is left out by the library.
    return {name: float(np.sum(each)) / len(wanted) for name, each in values.items()}


def by_user(found: Recommendations) -> dict[Any, list[Any]]:
    """The items of each user, best first."""
    users = found.user_ids.tolist()
    return {user: [i for i, _ in pairs] for user, pairs in zip(users, found, strict=True)}
