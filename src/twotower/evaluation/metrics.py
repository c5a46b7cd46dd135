"""How good a list or a probability is: pure functions of arrays.

**Lists.** A ranking metric gets ``is_hit``: one row a user, best rank first, True where the
item at that rank is one of the user's held-out relevant items. It returns one value a user, so
that ``intervals`` can be taken over users. Relevance is binary.

**Beyond hits.** What the lists look like together: how much of the catalogue they show, how
evenly, and how popular what they show is.

**Labels.** How well a probability tells liked from not liked, row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Real

RankingMetric = Callable[
    [Bool[np.ndarray, "U K"], Int[np.ndarray, " U"], int], Float64[np.ndarray, " U"]
]
Labels = Bool[np.ndarray, " N"] | Real[np.ndarray, " N"]

# The floor of a probability in the log loss: a sure mistake costs -log(1e-12) = 27.6 nats.
SMALLEST_PROBABILITY = 1e-12


def recall(
    is_hit: Bool[np.ndarray, "U K"], num_relevant: Int[np.ndarray, " U"], k: int
) -> Float64[np.ndarray, " U"]:
    """The share of a user's relevant items that are among the first k.

    Below 1 at best when a user has more than k relevant items.

    Args:
        is_hit: whether the item at each rank is relevant; False where the list has ended.
        num_relevant: how many items are relevant to the user, recommended or not; at least 1.
        k: how many ranks count, 1 to K.

    Raises:
        ValueError: k is not 1 to K, or a user has no relevant item; so do the five below.

    >>> recall(np.array([[True, False, True]]), np.array([4]), 3)
    array([0.5])
    """
    return np.asarray(_first(is_hit, num_relevant, k).sum(axis=1) / num_relevant)


def precision(
    is_hit: Bool[np.ndarray, "U K"], num_relevant: Int[np.ndarray, " U"], k: int
) -> Float64[np.ndarray, " U"]:
    """The share of the first k that are relevant; a list shorter than k counts as length k."""
    return np.asarray(_first(is_hit, num_relevant, k).sum(axis=1) / k)


def hit_rate(
    is_hit: Bool[np.ndarray, "U K"], num_relevant: Int[np.ndarray, " U"], k: int
) -> Float64[np.ndarray, " U"]:
    """1 for a user with a relevant item among the first k, else 0."""
    return np.asarray(_first(is_hit, num_relevant, k).any(axis=1), dtype=np.float64)


def reciprocal_rank(
    is_hit: Bool[np.ndarray, "U K"], num_relevant: Int[np.ndarray, " U"], k: int
) -> Float64[np.ndarray, " U"]:
    """One over the rank of the first relevant item, 0 if there is none among the first k.

    Its mean over users is the MRR at k.

    >>> reciprocal_rank(np.array([[False, True, True]]), np.array([2]), 3)
    array([0.5])
    """
    hits = _first(is_hit, num_relevant, k)
    # argmax gives the first True, and 0 for a row without one: that row is made 0 by any().
    return np.asarray(hits.any(axis=1) / (hits.argmax(axis=1) + 1))


def average_precision(
    is_hit: Bool[np.ndarray, "U K"], num_relevant: Int[np.ndarray, " U"], k: int
) -> Float64[np.ndarray, " U"]:
    """The precision at each relevant item's rank, summed, over ``min(num_relevant, k)``.

    Its mean over users is the MAP at k. With this divisor the best possible list scores 1.
    TREC's own divisor is ``num_relevant``, so figures from its tools are lower for users with
    more than k relevant items.

    >>> average_precision(np.array([[True, False, True]]), np.array([2]), 3).round(4)
    array([0.8333])
    """
    hits = _first(is_hit, num_relevant, k)
    precision_at_rank = hits.cumsum(axis=1) / np.arange(1, k + 1)
    return np.asarray((precision_at_rank * hits).sum(axis=1) / np.minimum(num_relevant, k))


def ndcg(
    is_hit: Bool[np.ndarray, "U K"], num_relevant: Int[np.ndarray, " U"], k: int
) -> Float64[np.ndarray, " U"]:
    """Discounted gain of the first k over that of the best possible first k.

    A relevant item at rank r (from 1) gains ``1 / log2(r + 1)`` (Järvelin and Kekäläinen, TOIS
    2002, with the discount of today's tools); the best list has ``min(num_relevant, k)``
    relevant items at its top.

    >>> ndcg(np.array([[False, True]]), np.array([1]), 2).round(4)
    array([0.6309])
    """
    hits = _first(is_hit, num_relevant, k)
    discount = 1 / np.log2(np.arange(2, k + 2))
    best = discount.cumsum()[np.minimum(num_relevant, k) - 1]
    return np.asarray((hits * discount).sum(axis=1) / best)


RANKING_METRICS: Mapping[str, RankingMetric] = MappingProxyType(
    {
        "recall": recall,
        "precision": precision,
        "hit_rate": hit_rate,
        "reciprocal_rank": reciprocal_rank,
        "average_precision": average_precision,
        "ndcg": ndcg,
    }
)


def _first(
    is_hit: Bool[np.ndarray, "U K"], num_relevant: Int[np.ndarray, " U"], k: int
) -> Bool[np.ndarray, "U k"]:
    """The first k ranks, once the arguments make sense."""
    if not 1 <= k <= is_hit.shape[1]:
        raise ValueError(f"k must be 1 to {is_hit.shape[1]}, the length of the lists, got {k}")
    if (num_relevant < 1).any():
        raise ValueError("leave out users without a relevant item: their metrics mean nothing")
    return is_hit[:, :k]


def coverage(recommended: Int[np.ndarray, "U K"], num_items: int) -> float:
    """The share of the catalogue that is recommended to somebody.

    Args:
        recommended: item rows; -1 where a list has ended.
        num_items: how many items could have been recommended.

    >>> coverage(np.array([[0, 1], [1, -1]]), num_items=8)
    0.25
    """
    return np.unique(recommended[recommended >= 0]).size / num_items


def gini(recommended: Int[np.ndarray, "U K"], num_items: int) -> float:
    """How unevenly the lists spread over the catalogue, by Gini's index.

    0 when each item is recommended equally often; near 1 when all lists hold the same few.

    Args:
        recommended: item rows; -1 where a list has ended.
        num_items: how many items could have been recommended.

    Raises:
        ValueError: nothing is recommended to anybody.

    >>> gini(np.array([[0], [0], [0]]), num_items=4)
    0.75
    """
    _, times_shown = np.unique(recommended[recommended >= 0], return_counts=True)
    if len(times_shown) == 0:
        raise ValueError("nothing is recommended to anybody")
    # Ranks among all items by times shown; those never shown come first and add nothing.
    rank = np.arange(num_items - len(times_shown), num_items) + 1
    spread = (2 * rank - num_items - 1) @ np.sort(times_shown)
    return float(spread / (num_items * times_shown.sum()))


def popularity_bias(
    recommended: Int[np.ndarray, "U K"],
    consumed: Float[np.ndarray, " U"],
    item_counts: Int[np.ndarray, " I"],
) -> float:
    """How much more popular the lists are than what the same users take by themselves.

    An item's popularity is its number of training interactions. A user's average over the list
    (average recommendation popularity, Yin et al., VLDB 2012), averaged over users, is divided
    by the same figure for what they consumed, less 1: the popularity lift of Abdollahpouri et
    al., RecSys 2020. 0: no bias; 1: twice as popular; -0.5: half as popular. A user without a
    list, or without a consumed item, is left out.

    Args:
        recommended: item rows; -1 where a list has ended.
        consumed: how popular on average is what each user consumed, most sensibly in training;
            NaN for who consumed nothing.
        item_counts: training interactions of each item row.

    Raises:
        ValueError: no user has both, or nobody consumed an item seen in training.

    >>> popularity_bias(np.array([[0]]), np.array([2.0]), np.array([6, 2]))
    2.0
    """
    is_shown = recommended >= 0
    num_shown = is_shown.sum(axis=1)
    is_counted = (num_shown > 0) & ~np.isnan(consumed)
    # The index -1 of an ended list reads the last item; is_shown takes it away again.
    shown = (item_counts[recommended] * is_shown).sum(axis=1)
    if not consumed[is_counted].any():
        raise ValueError("no user has both a list and a consumed item seen in training")
    shown_popularity = (shown[is_counted] / num_shown[is_counted]).mean()
    return float(shown_popularity / consumed[is_counted].mean() - 1)


def auc(labels: Labels, scores: Float[np.ndarray, " N"]) -> float:
    """The chance that a positive row outscores a negative one; a tie counts half.

    Exact: pairs are counted as integers, after one sort.

    Args:
        labels: a row of at least 0.5 (or True) is a positive.
        scores: higher is surer; any monotone scale.

    Raises:
        ValueError: all labels are of one class, or a score is not a number.

    >>> auc(np.array([True, False, False]), np.array([0.5, 0.5, 0.1]))
    0.75
    """
    is_positive = labels >= 0.5
    num_positive = int(is_positive.sum())
    num_negative = len(labels) - num_positive
    if num_positive == 0 or num_negative == 0:
        raise ValueError("the AUC needs positive and negative labels, and found one class only")
    if np.isnan(scores).any():
        raise ValueError("a score is not a number")
    distinct, group = np.unique(scores, return_inverse=True)
    positives = np.bincount(group[is_positive], minlength=len(distinct))
    negatives = np.bincount(group[~is_positive], minlength=len(distinct))
    below = negatives.cumsum() - negatives
    half_wins = int((positives * (2 * below + negatives)).sum())
    return half_wins / (2 * num_positive * num_negative)


def log_loss(labels: Labels, probability: Float[np.ndarray, " N"]) -> float:
    """Mean binary cross-entropy, in nats a row; see ``each_log_loss``.

    Raises:
        ValueError: no rows, or a probability outside 0 to 1 (so do the two metrics below).

    >>> round(log_loss(np.array([True, False]), np.array([0.5, 0.5])), 4)
    0.6931
    """
    return float(np.mean(each_log_loss(labels, probability)))


def each_log_loss(
    labels: Labels, probability: Float[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    """Each row's binary cross-entropy, in nats.

    Labels may be shares from 0 to 1. Probabilities are kept ``SMALLEST_PROBABILITY`` (1e-12)
    away from 0 and 1, so that one sure mistake does not make a mean infinite.
    """
    likely = _checked(probability).clip(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    losses: np.ndarray = -(labels * np.log(likely) + (1.0 - labels) * np.log1p(-likely))
    return losses


def accuracy(
    labels: Labels, probability: Float[np.ndarray, " N"], threshold: float = 0.5
) -> float:
    """The share of rows where ``probability >= threshold`` says what ``label >= 0.5`` says."""
    return float(np.mean((_checked(probability) >= threshold) == (labels >= 0.5)))


def calibration_error(
    labels: Labels, probability: Float[np.ndarray, " N"], num_bins: int = 10
) -> float:
    """How far the stated probabilities are from the observed shares, on average over rows.

    The expected calibration error over bins of equal size in order of probability (Nguyen and
    O'Connor, EMNLP 2015): in each bin the distance of the mean probability to the mean label,
    weighted by the bin's rows. Sizes differ by at most one; rows fewer than bins get one each.
    Rows of equal probability share their mean label, so their order does not matter, and one
    constant probability errs by its distance to the base rate. Even a perfect model does not
    reach 0 on finitely many rows.

    >>> calibration_error(np.array([True, False, False, False]), np.full(4, 0.5))
    0.25
    """
    bins = equal_bins(labels, probability, num_bins)
    return sum(abs(float((said - was).sum())) for said, was in bins) / len(probability)


def equal_bins(
    labels: Labels, probability: Float[np.ndarray, " N"], num_bins: int
) -> list[tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]]:
    """The rows in order of probability, in bins whose sizes differ by at most one.

    Returns:
        Of each bin its rows' probabilities, and the mean label of all rows of that probability.
    """
    distinct, group, size = np.unique(
        _checked(probability), return_inverse=True, return_counts=True
    )
    said = np.repeat(distinct, size)
    was = np.repeat(np.bincount(group, labels) / size, size)
    count = min(num_bins, len(said))
    return list(zip(np.array_split(said, count), np.array_split(was, count), strict=True))


def _checked(probability: Float[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """The probabilities in double precision, once they are some."""
    if len(probability) == 0:
        raise ValueError("no rows to score")
    # Written so that a NaN fails it too.
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("a probability is outside 0 to 1: are these logits?")
    return probability.astype(np.float64)
