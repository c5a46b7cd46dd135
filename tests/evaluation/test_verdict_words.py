"""What the figures come to, as sentences."""

from __future__ import annotations

from typing import Any

import pytest

from twotower.evaluation.verdict import beats_all
from twotower.evaluation.words import for_whom, headline, price, tuned


def test_it_is_said_with_how_many_settings_each_baseline_was_tried() -> None:
    of_one: dict[str, Any] = {"seconds": 1.0, "budget_seconds": 30.0, "tried_all": True}
    measured = {
        "baselines": {
            "popularity": {"seconds": 0.1},
            "item_knn": {**of_one, "trials": 7},
            "ials": {**of_one, "trials": 2, "tried_all": False},
        }
    }
    assert list(tuned(measured)) == [
        "Baselines were tuned on validation, 30 s at most each; settings tried: item-kNN 7, "
        "iALS 2 (time was over)."
    ]
    assert list(tuned({"baselines": {"popularity": {"seconds": 0.1}}})) == []
    assert list(tuned({})) == []
    # As runs of before have it.
    assert list(tuned({"baselines": {"ease": {"seconds": 1.0, "trials": 9}}})) == [
        "Baselines were tuned on validation; settings tried: EASE 9."
    ]


def interval(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


def summary(*, how: float) -> dict[str, Any]:
    """A group of users where the towers are so much better than EASE."""
    return {
        "towers": {"ndcg@10": interval(0.2 + how, 0.1, 0.3)},
        "ease": {"ndcg@10": interval(0.2, 0.1, 0.3)},
        "difference": {"ease": {"ndcg@10": interval(how, how - 0.01, how + 0.01)}},
    }


def judged(*, warm: float, cold: float | None = None, new: int = 100) -> dict[str, Any]:
    groups = {"warm": warm} if cold is None else {"warm": warm, "cold": cold}
    how = "win" if warm > 0.01 else "loss" if warm < -0.01 else "tie"
    return {
        "protocol": {"users": {"warm": 300, "all": 300 + new}},
        "ranking": {name: summary(how=each) for name, each in groups.items()},
        "verdict": {
            "metric": "ndcg@10",
            "group": "warm",
            "best_baseline": "ease",
            "against": {"ease": how},
        },
        "baselines": {"ease": {"seconds": 0.5, "tuning_seconds": 1.6, "trials": 5}},
        "train_seconds": 1234.5,
    }


def with_another_loss(measured: dict[str, Any]) -> dict[str, Any]:
    """Another baseline is clearly better, and yet not the best."""
    found = measured["verdict"]
    return {**measured, "verdict": {**found, "against": {**found["against"], "ials": "loss"}}}


@pytest.mark.parametrize(
    ("measured", "says"),
    [
        (judged(warm=0.1), "The towers beat every baseline."),
        (judged(warm=0.1, cold=0.05), "The towers beat every baseline."),
        (judged(warm=0.1, cold=0.0), "The towers beat every baseline."),
        (
            judged(warm=0.1, cold=-0.05),
            "The towers beat every baseline; for cold users they lose to EASE.",
        ),
        (
            judged(warm=-0.1, cold=-0.05),
            "The towers lose to EASE, the best baseline; for cold users they lose to EASE.",
        ),
        (
            with_another_loss(judged(warm=0.0)),
            "The towers tie with EASE, the best baseline, and lose to iALS.",
        ),
        # Of a few nothing is said.
        (judged(warm=0.1, cold=-0.05, new=5), "The towers beat every baseline."),
    ],
)
def test_the_headline_says_it_where_new_users_lose(measured: dict[str, Any], says: str) -> None:
    assert headline(measured)[0] == says
    # Users that training met decide.
    assert beats_all(measured) == ("beat every" in says)


def test_the_price_stands_beside_that_of_the_best_baseline() -> None:
    assert list(price(judged(warm=0.1))) == [
        "Trained in 1,234 s; EASE, tuning included, took 2.1 s."
    ]
    untuned = {**judged(warm=0.1), "baselines": {"ease": {"seconds": 0.01}}}
    assert list(price({**untuned, "train_seconds": 2.34})) == [
        "Trained in 2.3 s; EASE took under 0.1 s."
    ]
    assert list(price({**judged(warm=0.1), "verdict": None})) == []


def part(name: str, how: float, group: str, against: str) -> dict[str, Any]:
    scores = {"towers": 0.2 + how, "baseline": 0.2}
    difference = interval(how, how - 0.01, how + 0.01)
    found = {"slice": name, "users": 60, **scores, "difference": difference}
    return found | ({"group": group, "against": against} if group else {})


def test_slices_of_new_users_are_told_apart() -> None:
    slices = [
        part("the young", -0.1, "warm", "ease"),
        part("the old", 0.1, "warm", "ease"),
        part("the young", 0.1, "cold", "popularity"),
    ]
    left_out = {"users": 2, "items": 1}
    measured = {**judged(warm=0.1), "slices": slices, "columns_left_out": left_out}
    assert list(for_whom(measured)) == [
        "Of 2 slices, better than EASE for: the old (0.300 for 0.200).",
        "Of 2 slices, worse than EASE for: the young (0.100 for 0.200).",
        "Of 1 slices of cold users, better than popularity for: the young (0.300 for 0.200).",
        "Slices are by each table's first columns; left out are 2 of users and 1 of items.",
    ]
    older = {**judged(warm=0.1), "slices": [part("the old", 0.1, "", "")]}
    assert list(for_whom(older)) == [
        "Of 1 slices, better than EASE for: the old (0.300 for 0.200)."
    ]
