from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from twotower.data.interactions import Interactions
from twotower.evaluation import baselines
from twotower.evaluation.baselines import MICROSECONDS_A_DAY
from twotower.evaluation.rankers import Factors, Ranker
from twotower.evaluation.room import EASE_MOST_ITEMS
from twotower.evaluation.tuning import (
    Search,
    Trial,
    best,
    is_over,
    searches,
    settings_of,
    tune,
)

SIZE = 8
SIZES = {"num_users": SIZE + 1, "num_items": SIZE + 1}
STEPS = [("a", 2.0), ("b", 2.0), ("a", 0.5), ("b", 0.5)]


def met() -> Interactions:
    users, items = np.indices((SIZE, SIZE)).reshape(2, -1) + 1
    is_met = (users + items) % 2 == 0
    rows = int(is_met.sum())
    return Interactions(
        users[is_met].astype(np.int32),
        items[is_met].astype(np.int32),
        np.ones(rows, np.float32),
        np.arange(rows, dtype=np.int64) * MICROSECONDS_A_DAY,
    )


def nothing(_: Interactions, *, num_users: int, num_items: int, **settings: Any) -> Ranker:
    zeros = (np.zeros((size, 1), np.float32) for size in (num_users, num_items))
    return Factors("nothing", *zeros, settings)


def search(limits: dict[str, tuple[float, float]] | None = None) -> Search:
    return Search(nothing, [{"a": 4, "b": 1.0}, {"a": 8, "b": 4.0}], STEPS, limits or {})


def tried(
    score: Callable[[Ranker], float],
    budget_seconds: float = math.inf,
    clock: Callable[[], float] = lambda: 0.0,
    limits: dict[str, tuple[float, float]] | None = None,
) -> list[Trial]:
    return tune(
        search(limits), met(), score, budget_seconds=budget_seconds, clock=clock, **SIZES
    )


@pytest.mark.parametrize(
    ("budget_seconds", "num_trials"), [(0.0, 1), (10.0, 1), (19.0, 1), (20.0, 2), (35.0, 3)]
)
def test_it_keeps_to_its_budget_but_tries_once(budget_seconds: float, num_trials: int) -> None:
    now = 0.0

    def ten_seconds(_: Ranker) -> float:
        nonlocal now
        now += 10
        return 0.0

    trials = tried(ten_seconds, budget_seconds, lambda: now)
    assert [trial.seconds for trial in trials] == [10.0] * num_trials


def test_it_tries_once_even_when_the_time_is_spent_before_it_begins() -> None:
    assert len(tried(lambda _: 0.5, 0.0, itertools.count(0.0).__next__)) == 1


def test_it_climbs_to_the_best_settings() -> None:
    peak = {"a": 64, "b": 0.25}

    def height(ranker: Ranker) -> float:
        return -sum(abs(math.log2(ranker.settings[name] / peak[name])) for name in peak)  # type: ignore[operator]

    trial = best(tried(height))
    assert (trial.settings, trial.score) == (peak, 0.0)
    assert isinstance(trial.settings["a"], int)


def test_it_tries_nothing_twice_and_ends_without_a_budget() -> None:
    settings = [tuple(trial.settings.values()) for trial in tried(lambda _: 0.5)]
    assert len(settings) == len(set(settings)) == 2 + len(STEPS)


def test_a_search_is_over_where_nothing_near_the_best_is_left() -> None:
    every = tried(lambda _: 0.5)
    assert is_over(search(), every)
    assert not is_over(search(), every[:-1])


def test_it_goes_no_further_than_its_limits() -> None:
    trials = tried(lambda ranker: float(ranker.settings["a"]), limits={"a": (1.0, 32.0)})
    assert best(trials).settings["a"] == 32


def test_of_two_that_score_alike_the_first_is_best() -> None:
    assert best(tried(lambda _: 0.5)).settings == {"a": 4, "b": 1.0}


def test_it_refuses_a_score_that_is_not_a_number() -> None:
    with pytest.raises(ValueError, match=r"score of .* is nan"):
        tried(lambda _: math.nan)


@pytest.mark.parametrize("name", searches(met(), seed=0))
def test_every_baseline_can_be_tuned_and_its_settings_fit_it_again(name: str) -> None:
    found = searches(met(), seed=0)[name]

    def spread(ranker: Ranker) -> float:
        return float(ranker.scores(np.arange(1, SIZE + 1)).std())

    trials = tune(found, met(), spread, budget_seconds=0.2, **SIZES)
    again = found.fit(met(), **SIZES, **best(trials).settings)
    assert again.name == name
    assert spread(again) == pytest.approx(best(trials).score, rel=1e-5)
    assert again.settings == best(trials).settings


def test_recent_popularity_is_not_tuned_without_times() -> None:
    assert set(searches(met(), seed=0)) - set(searches(met().without_times(), seed=0)) == {
        "recent_popularity"
    }
    assert EASE_MOST_ITEMS == 20_000  # as docs/settings.md says


def test_nothing_is_tried_where_two_fits_are_foretold_to_take_too_long() -> None:
    slow = replace(search(), foretell=lambda num_items: 2.0 * num_items)
    trials = [
        tune(slow, met(), lambda _: 0.5, budget_seconds=budget, clock=lambda: 0.0, **SIZES)
        for budget in (4.0 * (SIZE + 1), 4.0 * (SIZE + 1) - 1)
    ]
    assert (bool(trials[0]), trials[1]) == (True, [])
    assert settings_of(slow, trials[1]) == slow.first[0]


def test_settings_that_do_not_fit_are_passed_over() -> None:
    trials = tune(
        search(),
        met(),
        lambda ranker: float(ranker.settings["a"]),
        budget_seconds=math.inf,
        fits=lambda settings: settings["a"] <= 32,  # type: ignore[operator]
        **SIZES,
    )
    assert best(trials).settings["a"] == 32


def test_trials_of_ease_share_one_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    found, made = searches(met(), seed=0)["ease"], []
    whole = baselines.met_together

    def counted(*args: Any, **sizes: int) -> np.ndarray:
        made.append(1)
        return whole(*args, **sizes)

    monkeypatch.setattr(baselines, "met_together", counted)
    trials = tune(found, met(), lambda _: 0.5, budget_seconds=math.inf, **SIZES)
    assert (len(made), len(trials) > 2) == (1, True)
