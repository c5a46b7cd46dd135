from __future__ import annotations

import math
from collections.abc import Callable

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ir_measures import AP, RR, P, Qrel, R, ScoredDoc, nDCG

from twotower.evaluation import metrics
from twotower.evaluation.metrics import RANKING_METRICS


@st.composite
def lists(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Hits, numbers of relevant items that allow them, and a cut."""
    shape = draw(st.tuples(st.integers(0, 5), st.integers(1, 8)))
    is_hit = draw(arrays(bool, shape))
    missed = draw(arrays(np.int64, shape[0], elements=st.integers(0, 9)))
    num_relevant = np.maximum(1, is_hit.sum(axis=1) + missed)
    return is_hit, num_relevant, draw(st.integers(1, shape[1]))


def recommended_rows(num_items: int) -> st.SearchStrategy[np.ndarray]:
    shape = st.tuples(st.integers(1, 5), st.integers(1, 4))
    return arrays(np.int64, shape, elements=st.integers(-1, num_items - 1))


def labelled(
    share: st.SearchStrategy[float],
) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """Labels and as many shares; few distinct shares, so that there are ties."""
    return st.integers(1, 40).flatmap(
        lambda size: st.tuples(arrays(bool, size), arrays(np.float64, size, elements=share))
    )


tenths = st.integers(0, 10).map(lambda tenth: tenth / 10)


# The slow twins of the ranking metrics: one user, plain loops.


def slow_recall(hits: list[bool], num_relevant: int, k: int) -> float:
    return sum(hits[:k]) / num_relevant


def slow_precision(hits: list[bool], num_relevant: int, k: int) -> float:
    return sum(hits[:k]) / k


def slow_hit_rate(hits: list[bool], num_relevant: int, k: int) -> float:
    return 1.0 if True in hits[:k] else 0.0


def slow_reciprocal_rank(hits: list[bool], num_relevant: int, k: int) -> float:
    for rank in range(1, k + 1):
        if hits[rank - 1]:
            return 1 / rank
    return 0.0


def slow_average_precision(hits: list[bool], num_relevant: int, k: int) -> float:
    total = 0.0
    for rank in range(1, k + 1):
        if hits[rank - 1]:
            total += sum(hits[:rank]) / rank
    return total / min(num_relevant, k)


def slow_ndcg(hits: list[bool], num_relevant: int, k: int) -> float:
    gain = sum(1 / math.log2(rank + 1) for rank in range(1, k + 1) if hits[rank - 1])
    best = sum(1 / math.log2(rank + 1) for rank in range(1, min(num_relevant, k) + 1))
    return gain / best


SLOW: dict[str, Callable[[list[bool], int, int], float]] = {
    "recall": slow_recall,
    "precision": slow_precision,
    "hit_rate": slow_hit_rate,
    "reciprocal_rank": slow_reciprocal_rank,
    "average_precision": slow_average_precision,
    "ndcg": slow_ndcg,
}


@pytest.mark.parametrize("name", RANKING_METRICS)
@given(lists())
def test_a_ranking_metric_equals_its_plain_loop(name, drawn):
    is_hit, num_relevant, k = drawn
    fast = RANKING_METRICS[name](is_hit, num_relevant, k)
    slow = [
        SLOW[name](hits, num, k)
        for hits, num in zip(is_hit.tolist(), num_relevant.tolist(), strict=True)
    ]
    assert fast.dtype == np.float64
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_ranking_metrics_agree_with_trec_eval(k):
    rng = np.random.default_rng(0)
    num_users, num_items, length = 40, 60, 20
    qrels, run = [], []
    is_hit = np.zeros((num_users, length), dtype=bool)
    num_relevant = rng.integers(1, 31, num_users)
    for user in range(num_users):
        relevant = rng.choice(num_items, num_relevant[user], replace=False)
        qrels += [Qrel(str(user), str(item), 1) for item in relevant]
        # Some lists are shorter than the rest, as where few items pass a filter.
        ranked = rng.permutation(num_items)[: rng.integers(1, length + 1)]
        is_hit[user, : len(ranked)] = np.isin(ranked, relevant)
        run += [ScoredDoc(str(user), str(item), -rank) for rank, item in enumerate(ranked)]
    cut_run = [scored for scored in run if scored.score > -k]

    def trec(measure, scored):
        found = ir_measures.pytrec_eval.iter_calc([measure], qrels, scored)
        value_of = {int(metric.query_id): metric.value for metric in found}
        return np.array([value_of[user] for user in range(num_users)])

    def ours(name):
        return RANKING_METRICS[name](is_hit, num_relevant, k)

    same = {"rtol": 0, "atol": 1e-9}
    np.testing.assert_allclose(ours("ndcg"), trec(nDCG @ k, run), **same)
    np.testing.assert_allclose(ours("precision"), trec(P @ k, run), **same)
    np.testing.assert_allclose(ours("recall"), trec(R @ k, run), **same)
    np.testing.assert_allclose(ours("reciprocal_rank"), trec(RR, cut_run), **same)
    # TREC divides by all relevant items, we by as many of them as fit into the list.
    trec_divisor = np.minimum(num_relevant, k) / num_relevant
    np.testing.assert_allclose(
        ours("average_precision") * trec_divisor, trec(AP @ k, run), **same
    )


@pytest.mark.parametrize("name", ["ndcg", "average_precision", "hit_rate", "reciprocal_rank"])
@pytest.mark.parametrize("num_relevant", [2, 7])
def test_the_best_possible_list_scores_one(name, num_relevant):
    is_hit = np.arange(4)[None, :] < num_relevant
    assert RANKING_METRICS[name](is_hit, np.array([num_relevant]), 4) == pytest.approx(1)


@pytest.mark.parametrize("name", RANKING_METRICS)
def test_a_cut_beyond_the_list_or_below_one_is_refused(name):
    for k in (0, 3):
        with pytest.raises(ValueError, match=f"k must be 1 to 2.*got {k}"):
            RANKING_METRICS[name](np.ones((1, 2), dtype=bool), np.array([2]), k)


@pytest.mark.parametrize("name", RANKING_METRICS)
def test_a_user_without_a_relevant_item_is_refused(name):
    with pytest.raises(ValueError, match="without a relevant item"):
        RANKING_METRICS[name](np.zeros((2, 2), dtype=bool), np.array([1, 0]), 2)


@given(recommended_rows(num_items=6))
def test_coverage_is_the_share_of_distinct_items_shown(recommended):
    shown = {item for row in recommended.tolist() for item in row if item != -1}
    assert metrics.coverage(recommended, 6) == len(shown) / 6


@given(recommended_rows(num_items=6).filter(lambda rows: (rows >= 0).any()))
def test_gini_is_half_the_mean_difference_of_exposure_over_its_mean(recommended):
    times = [recommended.ravel().tolist().count(item) for item in range(6)]
    differences = sum(abs(one - other) for one in times for other in times)
    expected = differences / (2 * 6 * sum(times))
    assert metrics.gini(recommended, 6) == pytest.approx(expected, abs=1e-12)


def test_gini_of_empty_lists_is_refused():
    with pytest.raises(ValueError, match="nothing is recommended"):
        metrics.gini(np.array([[-1]]), 3)


@given(
    recommended_rows(num_items=5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12),
    arrays(np.int64, 5, elements=st.integers(1, 20)),
)
def test_popularity_bias_equals_its_plain_loop(recommended, consumed, counts):
    consumed = [(user, item) for user, item in consumed if user < len(recommended)]
    shown_means, consumed_means = [], []
    means = np.full(len(recommended), np.nan)
    for user, row in enumerate(recommended.tolist()):
        shown = [int(counts[item]) for item in row if item != -1]
        own = [int(counts[item]) for who, item in consumed if who == user]
        if own:
            means[user] = sum(own) / len(own)
        if shown and own:
            shown_means.append(sum(shown) / len(shown))
            consumed_means.append(sum(own) / len(own))
    if not shown_means:
        with pytest.raises(ValueError, match="no user has both"):
            metrics.popularity_bias(recommended, means, counts)
        return
    expected = sum(shown_means) / sum(consumed_means) - 1
    bias = metrics.popularity_bias(recommended, means, counts)
    assert bias == pytest.approx(expected, abs=1e-12)


def test_popularity_bias_against_items_unseen_in_training_is_refused():
    with pytest.raises(ValueError, match="seen in training"):
        metrics.popularity_bias(np.array([[0]]), np.array([0.0]), np.array([3, 0]))


@given(labelled(tenths).filter(lambda drawn: 0 < drawn[0].sum() < len(drawn[0])))
def test_auc_counts_the_pairs_that_are_in_order_and_half_of_the_ties(drawn):
    labels, scores = drawn
    wins = [
        1.0 if up > down else 0.5 if up == down else 0.0
        for up in scores[labels].tolist()
        for down in scores[~labels].tolist()
    ]
    assert metrics.auc(labels, scores) == pytest.approx(sum(wins) / len(wins), abs=1e-12)


@pytest.mark.parametrize("label", [True, False])
def test_auc_of_one_class_is_refused(label):
    with pytest.raises(ValueError, match="one class only"):
        metrics.auc(np.full(3, label), np.array([0.1, 0.2, 0.3]))


def test_auc_refuses_a_score_that_is_not_a_number():
    with pytest.raises(ValueError, match="not a number"):
        metrics.auc(np.array([True, False]), np.array([0.1, math.nan]))


def test_labels_may_be_numbers():
    labels = np.array([True, False, True, False])
    numbers = labels.astype(np.float32)
    scores = np.array([0.9, 0.2, 0.4, 0.6])
    for metric in (metrics.auc, metrics.log_loss, metrics.accuracy, metrics.calibration_error):
        assert metric(numbers, scores) == metric(labels, scores)


@given(labelled(tenths.map(lambda tenth: 0.01 + 0.98 * tenth)))
def test_log_loss_equals_its_plain_loop(drawn):
    labels, probability = drawn
    losses = [
        -math.log(share) if label else -math.log(1 - share)
        for label, share in zip(labels.tolist(), probability.tolist(), strict=True)
    ]
    assert metrics.log_loss(labels, probability) == pytest.approx(
        sum(losses) / len(losses), abs=1e-12
    )


def test_log_loss_of_a_sure_mistake_is_bounded_as_stated():
    sure = np.array([0.0, 1.0], dtype=np.float32)
    mistaken = metrics.log_loss(np.array([True, False]), sure)
    assert mistaken == pytest.approx(-math.log(1e-12), rel=1e-4)
    assert metrics.log_loss(np.array([False, True]), sure) == pytest.approx(0, abs=1e-11)


def test_log_loss_of_a_label_between_zero_and_one_is_least_at_that_label():
    labels = np.array([0.3])
    losses = [metrics.log_loss(labels, np.array([p])) for p in (0.2, 0.3, 0.4)]
    assert min(losses) == losses[1]


@given(labelled(tenths), tenths)
def test_accuracy_equals_its_plain_loop(drawn, threshold):
    labels, probability = drawn
    right = [
        (share >= threshold) == label
        for label, share in zip(labels.tolist(), probability.tolist(), strict=True)
    ]
    assert metrics.accuracy(labels, probability, threshold) == sum(right) / len(right)


@given(labelled(st.floats(0, 1)), st.integers(1, 6))
def test_calibration_error_equals_its_plain_loop(drawn, num_bins):
    labels, probability = drawn
    pairs = sorted(zip(probability.tolist(), labels.tolist(), strict=True))
    # Rows of one probability share their labels' mean.
    shared = []
    for share, _ in pairs:
        same = [label for other, label in pairs if other == share]
        shared.append((share, sum(same) / len(same)))
    # The first bins take one row more where the rows do not divide.
    size, larger = divmod(len(shared), num_bins)
    total, start = 0.0, 0
    for one in range(num_bins):
        stop = start + size + (1 if one < larger else 0)
        rows = shared[start:stop]
        total += abs(sum(share for share, _ in rows) - sum(label for _, label in rows))
        start = stop
    expected = total / len(shared)
    error = metrics.calibration_error(labels, probability, num_bins)
    assert error == pytest.approx(expected, abs=1e-12)


def test_calibration_error_tells_a_calibrated_world_from_an_overconfident_one():
    rng = np.random.default_rng(0)
    true = rng.random(20_000)
    labels = rng.random(20_000) < true
    assert metrics.calibration_error(labels, true) < 0.02
    assert metrics.calibration_error(labels, (true > 0.5).astype(np.float64)) > 0.2


@given(labelled(tenths), st.randoms(use_true_random=False))
def test_calibration_error_does_not_depend_on_the_order_of_rows(drawn, random):
    labels, probability = drawn
    order = list(range(len(labels)))
    random.shuffle(order)
    shuffled = metrics.calibration_error(labels[order], probability[order])
    assert shuffled == pytest.approx(metrics.calibration_error(labels, probability), abs=1e-12)


@pytest.mark.parametrize(
    "metric", [metrics.log_loss, metrics.accuracy, metrics.calibration_error]
)
@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_what_is_no_probability_is_refused(metric, wrong):
    with pytest.raises(ValueError, match="outside 0 to 1"):
        metric(np.array([True, False]), np.array([0.5, wrong]))


@pytest.mark.parametrize(
    "metric", [metrics.log_loss, metrics.accuracy, metrics.calibration_error]
)
def test_no_rows_have_no_metric(metric):
    with pytest.raises(ValueError, match="no rows"):
        metric(np.zeros(0, dtype=bool), np.zeros(0))
