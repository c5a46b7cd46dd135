"""Who wins, by how much, and for whom: what a report's figures come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from twotower.data.interactions import Histories
from twotower.data.tables import Dataset
from twotower.evaluation import evaluate as ev
from twotower.evaluation.slices import slices

Outcome = Literal["win", "tie", "loss"]


def outcome(difference: Mapping[str, float]) -> Outcome:
    """What an interval of ours less theirs says; a tie where it holds zero.

    >>> outcome({"mean": 0.02, "low": 0.01, "high": 0.03})
    'win'
    """
    return "win" if difference["low"] > 0 else "loss" if difference["high"] < 0 else "tie"


def verdict(ranking: Mapping[str, Any], k: int) -> dict[str, Any] | None:
    """The towers against each baseline, by NDCG@k over the users that training met.

    Returns:
        The ``metric``, the ``group`` of users, the ``best_baseline`` and, of each baseline, the
        outcome; None where there is no baseline, or no user.
    """
    group = "warm" if "warm" in ranking else next(iter(ranking), None)
    # The towers without what stands beside them are no opponent.
    names = [name for name in ranking[group]["difference"] if name != "alone"] if group else []
    if group is None or not names:
        return None
    summary, metric = ranking[group], f"ndcg@{k}"
    return {
        "metric": metric,
        "group": group,
        "best_baseline": max(names, key=lambda name: summary[name][metric]["mean"]),
        "against": {name: outcome(summary["difference"][name][metric]) for name in names},
    }


def beats_all(report: Mapping[str, Any]) -> bool:
    """Whether the towers beat every baseline, so that chance does not explain it."""
    found = report.get("verdict")
    return found is not None and set(found["against"].values()) == {"win"}


def by_slices(
    ours: np.ndarray,
    theirs: np.ndarray,
    held: ev.HeldOut,
    dataset: Dataset,
    seen: Histories,
    *,
    k: int,
    seed: int,
    num_resamples: int,
) -> list[dict[str, Any]]:
    """Two lists a user compared on each slice, by NDCG@k.

    Args:
        ours, theirs: (U, K) item rows for the held-out users, -1 for none.
    """
    found = []
    for part in slices(dataset, held, seen):
        each = [
            ev.ranking_values(lists[part.is_in], part.held, [k])[f"ndcg@{k}"]
            for lists in (ours, theirs)
        ]
        found.append(
            {
                "slice": part.name,
                "users": len(part.held),
                "towers": float(each[0].mean()),
                "baseline": float(each[1].mean()),
                "difference": ev.compare(*each, seed=seed, num_resamples=num_resamples),
            }
        )
    return found
