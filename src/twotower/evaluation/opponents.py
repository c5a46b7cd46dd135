"""An evaluation's baselines: tuned on validation, then fitted on all but the test part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from twotower.config import Config
from twotower.data.interactions import histories
from twotower.data.splits import Split
from twotower.data.tables import Dataset
from twotower.evaluation import evaluate as ev
from twotower.evaluation.rankers import IN_WORDS, Ranker
from twotower.evaluation.tuning import EASE_MOST_ITEMS, best, is_over, searches, tune
from twotower.watch import Watch


def opponents(
    dataset: Dataset, parts: Split, config: Config, is_candidate: Tensor, watch: Watch
) -> Iterator[tuple[Ranker, dict[str, Any]]]:
    """The baselines that the config names, one at a time, and how they were tuned.

    Left out are those that the data has nothing for: recent popularity without times, EASE with
    too many items for a matrix of all pairs, and what wants tuning without a validation part.
    """
    sizes = {"num_users": len(dataset.users) + 1, "num_items": len(dataset.items) + 1}
    train = parts.train.positives()
    known = parts.train.followed_by(parts.val).positives()
    seen = histories(parts.train, num_users=len(dataset.users))
    held = ev.held_out(parts.val.positives(), seen)

    def score(ranker: Ranker) -> float:
        values = ev.each_ndcg(
            lambda part: ranker.scores(held.user_rows[part]),
            held,
            seen,
            is_candidate=is_candidate,
        )
        return float(values.mean())

    every = searches(train, seed=config.training.seed)
    for name in config.evaluation.baselines:
        search = every.get(name)
        if search is None or (name == "recent_popularity" and known.times is None):
            continue
        if name == "ease" and len(dataset.items) > EASE_MOST_ITEMS:
            watch.note(
                f"EASE is left out: it needs a matrix of all pairs of {len(dataset.items):,} "
                f"items; up to {EASE_MOST_ITEMS:,} it is measured"
            )
            continue
        settings, tuning = search.first[0], {}
        if search.steps:
            if not len(held):
                continue
            watch.stage(f"tuning {IN_WORDS[name]}")
            started = time.perf_counter()
            trials = tune(
                search,
                train,
                score,
                budget_seconds=config.evaluation.baseline_seconds,
                num_users=sizes["num_users"],
                num_items=sizes["num_items"],
            )
            settings = best(trials).settings
            tuning = {
                "trials": len(trials),
                "budget_seconds": config.evaluation.baseline_seconds,
                "tried_all": is_over(search, trials),
                "tuning_seconds": time.perf_counter() - started,
            }
        yield search.fit(known, **sizes, **settings), tuning
