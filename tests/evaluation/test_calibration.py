"""Scores become chances by the line that fits best, whatever the scores are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

from twotower.data.synthetic import BOOST, GENRES, chance_of_liking
from twotower.data.tables import read
from twotower.evaluation.calibration import fit_line, reliability
from twotower.evaluation.metrics import calibration_error
from twotower.retrieval.recommender import Recommender


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of a few rows; few distinct scores, so that there are ties."""
    size = draw(st.integers(1, 30))
    scores = draw(arrays(np.float64, size, elements=st.integers(-8, 8).map(lambda n: n / 4)))
    labels = draw(arrays(np.float64, size, elements=st.sampled_from([0.0, 1.0])))
    return scores, labels


def softened(labels: np.ndarray) -> np.ndarray:
    """Platt's targets: as if one more row of each kind had been seen, with a doubt."""
    liked = sum(label > 0.5 for label in labels)
    high, low = (liked + 1) / (liked + 2), 1 / (len(labels) - liked + 2)
    return np.array([high if label > 0.5 else low for label in labels])


def loss(line: tuple[float, float], scores: np.ndarray, targets: np.ndarray) -> float:
    logits = line[0] * scores + line[1]
    return float(np.mean(np.logaddexp(0, logits) - targets * logits))


def test_a_known_line_is_found_again() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(2, 3, 50_000)
    labels = (rng.random(50_000) < sigmoid(0.7 * scores - 1.5)).astype(np.float64)
    assert fit_line(scores, labels) == pytest.approx((0.7, -1.5), rel=0.05)


@given(pairs())
@settings(max_examples=40)
def test_no_other_line_that_keeps_the_order_fits_better(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    scores, labels = drawn
    targets = softened(labels)
    slow = minimize(loss, (1.0, 0.0), args=(scores, targets), bounds=[(0, None), (None, None)])
    assert loss(fit_line(scores, labels), scores, targets) <= slow.fun + 1e-5


@given(pairs(), st.sampled_from([1e-6, 1e-2, 1e3, 1e6]), st.floats(-100, 100))
@settings(max_examples=40)
def test_chances_do_not_depend_on_the_scores_own_scale(
    drawn: tuple[np.ndarray, np.ndarray], scale: float, shift: float
) -> None:
    scores, labels = drawn
    slope, offset = fit_line(scores, labels)
    moved = scale * scores + scale * shift
    other_slope, other_offset = fit_line(moved, labels)
    chances = sigmoid(slope * scores + offset)
    assert sigmoid(other_slope * moved + other_offset) == pytest.approx(chances, abs=1e-3)


@given(pairs())
def test_a_better_score_is_never_a_worse_chance(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    slope, offset = fit_line(*drawn)
    assert slope > 0
    assert np.isfinite(offset)


def test_scores_that_part_the_labels_leave_a_doubt() -> None:
    scores = np.arange(-20.0, 20.0)
    slope, offset = fit_line(scores, (scores >= 0).astype(np.float64))
    chances = sigmoid(slope * scores + offset)
    assert chances.max() < 1 - 1e-3
    assert chances.min() > 1e-3


def test_scores_that_tell_nothing_give_everybody_the_share_of_what_is_liked() -> None:
    labels = np.tile([1.0, 0.0, 0.0, 0.0], 250)
    for scores in (np.full(1000, 7.0), np.linspace(1, -1, 1000) + labels * -3):
        slope, offset = fit_line(scores, labels)
        assert sigmoid(slope * scores + offset) == pytest.approx(0.25, abs=0.005)


def test_in_the_labs_world_an_affinity_is_near_the_true_chance(
    lab: tuple[Recommender, Path],
) -> None:
    recommender, _ = lab
    dataset = read(recommender.config.data.data_path)
    users, items = (
        np.stack([side.values[f"{name}_{genre}"] for genre in GENRES], 1).argmax(1)
        for side, name in ((dataset.users, "favorite_genre"), (dataset.items, "genre"))
    )
    test = dataset.interactions["test"]
    scores = recommender.score_rows(test.user_rows, test.item_rows)
    affinities = recommender.affinity(scores)
    is_match = users[test.user_rows - 1] == items[test.item_rows - 1]
    unlike, like = (chance_of_liking(*bounds) for bounds in BOOST)
    for rows, chance in ((is_match, like), (~is_match, unlike)):
        assert affinities[rows].mean() == pytest.approx(chance, abs=0.06)
    chances = np.where(is_match, like, unlike)
    assert affinities.mean() == pytest.approx(chances.mean(), abs=0.04)


@given(st.data())
def test_bins_of_reliability_are_those_of_the_calibration_error(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 40))
    # Few distinct chances, so that there are ties across bins.
    chance = data.draw(
        arrays(np.float64, size, elements=st.integers(0, 8).map(lambda n: n / 8))
    )
    is_liked = data.draw(arrays(np.bool_, size))
    found = reliability(is_liked, chance)
    distance = sum(each["rows"] * abs(each["chance"] - each["share"]) for each in found) / size
    assert distance == pytest.approx(calibration_error(is_liked, chance))
    assert sum(each["rows"] for each in found) == size
    assert [each["chance"] for each in found] == sorted(each["chance"] for each in found)
    for each in found:
        assert 0 <= each["low"] <= each["share"] + 1e-12
        assert each["share"] - 1e-12 <= each["high"] <= 1 + 1e-12


def test_the_interval_of_a_share_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = []
    for truth in rng.uniform(0.02, 0.98, 2000):
        liked = rng.random(50) < truth
        [found] = reliability(liked, np.full(50, 0.5), num_bins=1)
        held.append(found["low"] <= truth <= found["high"])
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)
