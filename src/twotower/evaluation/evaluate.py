"""Held-out interactions through the index that serves: rankings, then numbers about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int32, Int64
from torch import Tensor

from twotower.data.arrays import blocks_of_groups, counts_of, distinct, rows_met
from twotower.data.interactions import Histories, Interactions, offsets_of
from twotower.evaluation.intervals import bootstrap_means, paired_difference
from twotower.evaluation.metrics import (
    RANKING_METRICS,
    accuracy,
    auc,
    calibration_error,
    coverage,
    log_loss,
    popularity_bias,
)
from twotower.retrieval.index import top_k
from twotower.training.sampling import PositivePairs

# Below this many users an interval is so wide that a comparison says nothing.
FEW_USERS = 200
# Seen items that are looked at together.
_SEEN_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class HeldOut:
    """What is to be found: the held-out items of U users.

    Attributes:
        user_rows: the users, each once, ascending.
        items, owners: the held-out pairs; an owner is a place in ``user_rows``, ascending.
        is_warm: whether training saw anything of the user.
    """

    user_rows: Int64[np.ndarray, " U"]
    items: Int64[np.ndarray, " P"]
    owners: Int64[np.ndarray, " P"]
    is_warm: np.ndarray

    def __len__(self) -> int:
        return len(self.user_rows)

    def only(self, places: Int64[np.ndarray, " V"]) -> HeldOut:
        """What some users are to find.

        Args:
            places: in ``user_rows``, ascending.
        """
        part = np.isin(self.owners, places)
        owners = np.searchsorted(places, self.owners[part])
        return HeldOut(self.user_rows[places], self.items[part], owners, self.is_warm[places])


def held_out(
    positives: Interactions, seen: Histories, known: PositivePairs | None = None
) -> HeldOut:
    """Group held-out positives by user; a pair that was seen already can not be held out.

    Args:
        known: the pairs of ``seen``, where somebody has them already.
    """
    items = positives.item_rows
    width = int(max(items.max(initial=0), seen.items.max(initial=0))) + 1
    pairs = distinct(positives.user_rows.astype(np.int64) * width + items)
    known = known or PositivePairs.of(seen, num_items=width)
    users, items = np.divmod(pairs, width)
    is_new = ~known.contain(users, items)
    users, items = users[is_new], items[is_new]
    chosen = rows_met(users)
    lengths = seen.lengths()
    return HeldOut(chosen, items, np.searchsorted(chosen, users), lengths[chosen] > 0)


def rank(
    scores_of: Callable[[slice], Float32[Tensor, "b I"]],
    held: HeldOut,
    seen: Histories,
    k: int,
    *,
    is_candidate: Bool[Tensor, " I"],
) -> Int64[np.ndarray, "U K"]:
    """Each held-out user's k best items that were not seen, as item rows; -1 for none left.

    The towers and all that they are compared with go through the same masks and the same top k:
    a difference in the report is a difference between models.

    Args:
        scores_of: some of the held-out users -> their scores of all items, row 0 left out.
        is_candidate: which items may be recommended, row 0 left out.
    """
    found = [np.empty((0, min(k, len(is_candidate))), np.int64)]
    for users, items, owners in _some_at_a_time(held, seen):

        def scores(part: slice, begin: int = users.start) -> Float32[Tensor, "b I"]:
            return scores_of(slice(begin + part.start, begin + part.stop))

        positions, _ = top_k(
            scores,
            users.stop - users.start,
            len(is_candidate),
            k,
            is_candidate=is_candidate,
            excluded_items=torch.from_numpy(items.astype(np.int64)) - 1,
            excluded_owners=torch.from_numpy(owners),
        )
        found.append(positions.numpy())
    rows = np.concatenate(found)
    return np.where(rows < 0, -1, rows + 1)


def each_ndcg(
    scores_of: Callable[[slice], Float32[Tensor, "b I"]],
    held: HeldOut,
    seen: Histories,
    *,
    is_candidate: Bool[Tensor, " I"],
    k: int = 10,
) -> Float[np.ndarray, " U"]:
    """NDCG@k of each held-out user: what training and tuning are judged by."""
    found = rank(scores_of, held, seen, k, is_candidate=is_candidate)
    return ranking_values(found, held, [k])[f"ndcg@{k}"]


def ranking_values(
    recommended: Int64[np.ndarray, "U K"], held: HeldOut, ks: Sequence[int]
) -> dict[str, Float[np.ndarray, " U"]]:
    """Every ranking metric at every k, a value a user: ``{"ndcg@10": ...}``."""
    width = int(max(held.items.max(initial=0), recommended.max(initial=0))) + 2
    pairs = held.owners * width + held.items
    wanted = np.arange(len(held))[:, None] * width + np.where(
        recommended < 0, width - 1, recommended
    )
    is_hit = np.isin(wanted, pairs)
    num_relevant = np.bincount(held.owners, minlength=len(held))
    longest = recommended.shape[1]
    if longest < max(ks):
        # A catalogue shorter than the list: the ranks beyond it hold nothing.
        is_hit = np.pad(is_hit, ((0, 0), (0, max(ks) - longest)))
    return {
        f"{name}@{k}": metric(is_hit, num_relevant, k)
        for k in ks
        for name, metric in RANKING_METRICS.items()
    }


def summarize(
    values: Mapping[str, Float[np.ndarray, " U"]], *, seed: int, num_resamples: int
) -> dict[str, dict[str, float]]:
    """Means with their 95 % intervals over users."""
    names = list(values)
    stacked = np.stack([values[name] for name in names], 1)
    intervals = bootstrap_means(stacked, seed=seed, num_resamples=num_resamples)
    return {
        name: {"mean": i.mean, "low": i.low, "high": i.high}
        for name, i in zip(names, intervals, strict=True)
    }


def compare(
    ours: Float[np.ndarray, " U"],
    theirs: Float[np.ndarray, " U"],
    *,
    seed: int,
    num_resamples: int,
) -> dict[str, float]:
    """Our mean less theirs, paired by user, with its 95 % interval."""
    difference = paired_difference(ours, theirs, seed=seed, num_resamples=num_resamples)
    return {"mean": difference.mean, "low": difference.low, "high": difference.high}


def beyond_accuracy(
    recommended: Int64[np.ndarray, "U K"], held: HeldOut, seen: Histories, num_items: int
) -> dict[str, float]:
    """Coverage and popularity bias of lists cut at their length."""
    counts = counts_of(seen.items, num_items + 1)
    consumed = np.full(len(held), np.nan)
    for users, items, owners in _some_at_a_time(held, seen):
        lengths = np.bincount(owners, minlength=users.stop - users.start)
        sums = np.bincount(owners, counts[items], minlength=len(lengths))
        np.divide(sums, lengths, out=consumed[users], where=lengths > 0)
    values = {"coverage": coverage(recommended, num_items)}
    if np.nansum(consumed) and (recommended >= 0).any():
        values["popularity_bias"] = popularity_bias(recommended, consumed, counts)
    return values


def _some_at_a_time(
    held: HeldOut, seen: Histories
) -> Iterator[tuple[slice, Int32[np.ndarray, " P"], Int64[np.ndarray, " P"]]]:
    """Some held-out users, what they have seen, and whose each is: a place among them.

    All together may have seen more than memory holds.
    """
    offsets = offsets_of(seen.lengths()[held.user_rows])
    for first, last in blocks_of_groups(offsets, _SEEN_AT_ONCE):
        yield slice(first, last), *seen.pack(held.user_rows[first:last])


def label_metrics(
    labels: Float[np.ndarray, " N"], chance: Float[np.ndarray, " N"]
) -> dict[str, float]:
    """How well chances foretell labels; nothing where the labels are all alike."""
    liked = labels > 0.5
    if liked.all() or not liked.any():
        return {}
    chance = chance.astype(np.float64)
    return {
        "auc": auc(liked, chance),
        "log_loss": log_loss(labels, chance),
        "accuracy": accuracy(liked, chance),
        "calibration_error": calibration_error(liked, chance),
    }


def user_warning(held: HeldOut) -> list[str]:
    """A sentence where there are too few users to tell anything; else nothing."""
    warm = int(held.is_warm.sum())
    if warm >= FEW_USERS:
        return []
    if warm == len(held):
        return [
            f"only {len(held):,} test users: the intervals are wide and a comparison means "
            "little; bring more data, or hold out more of it (data.test_fraction)"
        ]
    if warm == 0:
        return [
            f"none of the {len(held):,} test users is known from training: the figures are "
            "those of new users"
        ]
    return [
        f"only {warm:,} of the {len(held):,} test users are known from training: for these the "
        "intervals are wide and a comparison means little; to measure on known users, hold out "
        "by user (data.split: random_per_user)"
    ]


def as_text(summary: Mapping[str, Any]) -> str:
    """A mean with its interval, as people write it."""
    return f"{summary['mean']:.4f} [{summary['low']:.4f}, {summary['high']:.4f}]"
