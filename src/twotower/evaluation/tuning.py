"""Baselines tuned on validation within a budget: one that nobody tuned is no fair opponent.

A search first tries a few settings, then the best so far with one of them changed by a step,
until nothing near the best is better or the time is spent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from twotower.data.interactions import Interactions
from twotower.evaluation import baselines
from twotower.evaluation.baselines import MICROSECONDS_A_DAY
from twotower.evaluation.rankers import Ranker, Settings

MOST_FACTORS = 512.0
# EASE of so many items takes about a second; it is timed to foretell one that is larger.
_EASE_TIMED = 2000


@dataclass(frozen=True)
class Search:
    """How one baseline is fitted, and which of its settings are tried.

    Attributes:
        fit: the settings, as keywords -> a baseline fitted on some interactions.
        first: settings to try in any case, as far as time goes; nothing to tune where that is
            one, and nothing near it.
        steps: of each number that is tuned the factors it is multiplied by, in the order in
            which they are tried.
        limits: of each such number the least and the most.
        share: what fits on the same interactions have in common, as further keywords of
            ``fit``.
        foretell: about how many seconds a fit takes with so many items.
    """

    fit: Callable[..., Ranker]
    first: Sequence[Settings]
    steps: Sequence[tuple[str, float]] = ()
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    share: Callable[..., Mapping[str, Any]] = lambda *_, **__: {}
    foretell: Callable[[int], float] = lambda _: 0.0

    def near(self, settings: Settings) -> Iterator[Settings]:
        """The settings one step away."""
        for name, factor in self.steps:
            value = settings[name]
            assert not isinstance(value, str)
            least, most = self.limits.get(name, (0.0, math.inf))
            if least <= value * factor <= most:
                yield {**settings, name: type(value)(value * factor)}


def searches(train: Interactions, *, seed: int) -> dict[str, Search]:
    """The search of every baseline, its steps where that depends on the data.

    Where iALS begins, cheap ones: on dense data (MovieLens) the first two are near the best
    found, on sparse data (Gowalla, Amazon Beauty) the third is, with more factors; the fourth
    won on ML-1M split by time. Steps finer than doubling gained nothing on ML-100K.
    """

    def ials(met: Interactions, **settings: Any) -> Ranker:
        return baselines.ials(met, seed=seed, **settings)

    found = {
        "popularity": Search(baselines.popularity, [{}]),
        "item_knn": Search(
            baselines.item_knn,
            [{"neighbours": 100, "weighting": kind} for kind in ("cosine", "tfidf", "bm25")],
            [("neighbours", 2.0), ("neighbours", 0.5)],
            {"neighbours": (5.0, 2000.0)},
        ),
        "ease": Search(
            baselines.ease,
            [{"ridge": 200.0}, {"ridge": 50.0}, {"ridge": 800.0}],
            [("ridge", 2.0), ("ridge", 0.5)],
            share=lambda *met, **sizes: {"together": baselines.met_together(*met, **sizes)},
            foretell=_seconds_of_ease,
        ),
        "ials": Search(
            ials,
            [
                {"factors": 64, "regularization": pull, "alpha": alpha, "iterations": 12}
                for pull, alpha in [(40.0, 5.0), (10.0, 1.0), (10.0, 40.0), (40.0, 1.0)]
            ],
            [
                ("factors", 2.0),
                ("regularization", 2.0),
                ("alpha", 2.0),
                ("regularization", 0.5),
                ("alpha", 0.5),
                ("factors", 0.5),
            ],
            {"factors": (1.0, MOST_FACTORS)},
        ),
    }
    if train.times is not None and len(train):
        days = max(float(np.ptp(train.times)) / MICROSECONDS_A_DAY, 1e-6)
        found["recent_popularity"] = Search(
            baselines.recent_popularity,
            [{"half_life_days": days / 8}, {"half_life_days": days / 64}],
            [("half_life_days", 0.5), ("half_life_days", 2.0)],
            {"half_life_days": (days / 4096, days)},
        )
    return found


def _seconds_of_ease(num_items: int) -> float:
    """As the cube of the items, from a small one on this machine as busy as it is."""
    if num_items < 2 * _EASE_TIMED:
        return 0.0
    row = np.zeros(1, np.int32)
    one = Interactions(row, row, np.ones(1, np.float32))
    fitted = baselines.ease(one, num_users=1, num_items=_EASE_TIMED, ridge=1.0)
    return fitted.seconds * (num_items / _EASE_TIMED) ** 3


@dataclass(frozen=True)
class Trial:
    """One setting tried, what it scored on validation, and fit plus scoring time."""

    settings: Settings
    score: float
    seconds: float


def tune(
    search: Search,
    train: Interactions,
    score: Callable[[Ranker], float],
    *,
    num_users: int,
    num_items: int,
    budget_seconds: float,
    fits: Callable[[Settings], bool] = lambda _: True,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Trial]:
    """All that was tried within the budget, in order; ``settings_of`` picks those to use.

    Fits on train and asks ``score`` how well it ranks the *validation* part, which is neither
    in train nor in test: one tuned on test would be no fair opponent. The caller then fits once
    more, with the best settings, on train and validation together.

    A trial is not begun when one as long as the longest so far would not fit any more, and not
    cut short when it has begun; the first is always made. But nothing is tried where two fits
    are foretold to take longer than that: one alone leaves nothing to choose from.

    Args:
        score: what the report ranks by, on validation; higher is better.
        num_users, num_items: rows, row 0 included.
        budget_seconds: for fits and scores together.
        fits: whether there is room for some settings; others near the best are passed over.
        clock: tells the time, in seconds.

    Raises:
        ValueError: a score that is not a finite number.
    """
    trials: list[Trial] = []
    if 2 * search.foretell(num_items) > budget_seconds:
        return trials
    start = clock()
    sizes = {"num_users": num_users, "num_items": num_items}
    shared = search.share(train, **sizes)
    longest = 0.0
    while not trials or clock() - start + longest <= budget_seconds:
        settings = _next_settings(search, trials, fits)
        if settings is None:
            break
        trial_start = clock()
        result = score(search.fit(train, **sizes, **settings, **shared))
        if not math.isfinite(result):
            raise ValueError(f"the score of {settings} is {result}")
        trials.append(Trial(settings, result, clock() - trial_start))
        longest = max(longest, trials[-1].seconds)
    return trials


def _next_settings(
    search: Search,
    trials: Sequence[Trial],
    fits: Callable[[Settings], bool] = lambda _: True,
) -> Settings | None:
    """What to try after these trials; None when nothing near the best is untried."""
    if len(trials) < len(search.first):
        return search.first[len(trials)]
    tried = [trial.settings for trial in trials]
    near = search.near(best(trials).settings)
    return next((each for each in near if each not in tried and fits(each)), None)


def is_over(search: Search, trials: Sequence[Trial]) -> bool:
    """Whether nothing near the best of these trials is left to try."""
    return _next_settings(search, trials) is None


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the highest score; the earlier one of two equals."""
    return max(trials, key=lambda trial: trial.score)


def settings_of(search: Search, trials: Sequence[Trial]) -> Settings:
    """Those of the best trial; where nothing was tried, the first that would have been."""
    return best(trials).settings if trials else search.first[0]
