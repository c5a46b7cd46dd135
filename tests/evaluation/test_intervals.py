from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from twotower.evaluation import intervals
from twotower.evaluation.intervals import (
    Interval,
    bootstrap_mean,
    bootstrap_means,
    paired_difference,
)

shares = st.floats(0, 1)


def numbers(interval: Interval) -> tuple[float, float, float]:
    return interval.mean, interval.low, interval.high


def slow_bootstrap(values: np.ndarray, seed: int, num_resamples: int, level: float) -> Interval:
    rng = np.random.default_rng(seed)
    means = [rng.choice(values, len(values)).mean() for _ in range(num_resamples)]
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(values.mean(), low, high)


@settings(deadline=None)
@given(arrays(np.float64, st.integers(1, 12), elements=shares), st.sampled_from([0.5, 0.9]))
def test_an_interval_equals_drawing_users_one_resample_at_a_time(values, level):
    fast = bootstrap_mean(values, seed=3, num_resamples=50, level=level)
    slow = slow_bootstrap(values, 3, 50, level)
    np.testing.assert_allclose(numbers(fast), numbers(slow), rtol=0, atol=1e-12)


def test_the_interval_does_not_depend_on_how_many_resamples_fit_into_memory(monkeypatch):
    values = np.random.default_rng(0).random(30)
    at_once = bootstrap_mean(values, seed=1, num_resamples=100)
    monkeypatch.setattr(intervals, "DRAWS_AT_A_TIME", 7 * len(values))
    in_chunks = bootstrap_mean(values, seed=1, num_resamples=100)
    monkeypatch.setattr(intervals, "DRAWS_AT_A_TIME", 1)
    one_by_one = bootstrap_mean(values, seed=1, num_resamples=100)
    np.testing.assert_allclose(numbers(at_once), numbers(in_chunks), rtol=0, atol=1e-12)
    np.testing.assert_allclose(numbers(at_once), numbers(one_by_one), rtol=0, atol=1e-12)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # A skewed metric, as ours are: most users score 0, few score high. Its true mean is 0.1.
    rng = np.random.default_rng(0)
    repetitions, covered = 400, 0
    for repetition in range(repetitions):
        values = rng.random(300) * (rng.random(300) < 0.2)
        interval = bootstrap_mean(values, seed=repetition, num_resamples=300)
        covered += interval.low <= 0.1 <= interval.high
    assert 0.90 <= covered / repetitions <= 0.99


def test_the_seed_decides_the_interval():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_several_metrics_share_their_resamples():
    values = np.random.default_rng(0).random((40, 3))
    together = bootstrap_means(values, seed=5, num_resamples=200)
    for column, interval in enumerate(together):
        alone = bootstrap_mean(values[:, column], seed=5, num_resamples=200)
        np.testing.assert_allclose(numbers(interval), numbers(alone), rtol=0, atol=1e-12)


def test_a_higher_level_makes_a_wider_interval():
    values = np.random.default_rng(0).random(50)
    half, most = (bootstrap_mean(values, seed=0, level=level) for level in (0.5, 0.99))
    assert most.low < half.low < half.mean < half.high < most.high


def test_the_mean_of_single_precision_values_is_taken_in_double():
    values = np.full(3000, 0.1, dtype=np.float32)
    assert bootstrap_mean(values, seed=0).mean == pytest.approx(float(values[0]), abs=1e-12)


def test_one_user_has_an_interval_without_width():
    assert bootstrap_mean(np.array([0.3]), seed=0) == Interval(0.3, 0.3, 0.3)


def test_no_users_are_refused():
    with pytest.raises(ValueError, match="no users"):
        bootstrap_mean(np.zeros(0), seed=0)


@pytest.mark.parametrize(
    "wrong", [{"level": 0.0}, {"level": 1.0}, {"level": 95.0}, {"num_resamples": 0}]
)
def test_a_level_or_a_number_of_resamples_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="need resamples and a level"):
        bootstrap_mean(np.ones(3), seed=0, **wrong)


def test_a_small_gain_for_everybody_is_seen_through_large_differences_between_users():
    rng = np.random.default_rng(0)
    theirs = rng.random(200)
    ours = theirs + 0.01 + rng.normal(0, 0.01, 200)
    difference = paired_difference(ours, theirs, seed=0)
    assert 0 < difference.low < 0.01 < difference.high < 0.02
    # Side by side, the two intervals overlap almost wholly.
    assert bootstrap_mean(ours, seed=0).low < bootstrap_mean(theirs, seed=0).mean


def test_the_difference_changes_its_sign_with_the_order():
    rng = np.random.default_rng(0)
    one, other = rng.random(30), rng.random(30)
    forth, back = paired_difference(one, other, seed=0), paired_difference(other, one, seed=0)
    np.testing.assert_allclose(numbers(forth), (-back.mean, -back.high, -back.low), atol=1e-12)


def test_an_interval_reads_as_a_mean_and_its_bounds():
    assert str(Interval(0.1234, 0.1181, 0.1279)) == "0.123 [0.118, 0.128]"
    assert f"{Interval(0.1234, 0.1181, 0.1279)}" == "0.123 [0.118, 0.128]"
    assert str(Interval(-0.0001, -0.002, 0.0)) == "0.000 [-0.002, 0.000]"
