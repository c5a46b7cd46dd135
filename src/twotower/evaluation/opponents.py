"""An evaluation's baselines: tuned on validation, then fitted on all but the test part."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

from torch import Tensor

from twotower.config import Config
from twotower.data.interactions import Histories, histories
from twotower.data.splits import Split
from twotower.data.tables import Dataset
from twotower.evaluation import evaluate as ev
from twotower.evaluation.rankers import IN_WORDS, Ranker, Settings
from twotower.evaluation.room import Size, what_fits
from twotower.evaluation.tuning import is_over, searches, settings_of, tune
from twotower.watch import Watch


def opponents(
    dataset: Dataset,
    parts: Split,
    config: Config,
    is_candidate: Tensor,
    watch: Watch,
    *,
    without: Collection[str] = (),
) -> Iterator[tuple[Ranker, dict[str, Any]]]:
    """The baselines that the config names, one at a time, and how they were tuned.

    Left out are those that the data has nothing for: recent popularity without times, and what
    wants tuning without a validation part.

    Args:
        without: further ones to leave out, such as those that do not fit.
    """
    sizes = {"num_users": len(dataset.users) + 1, "num_items": len(dataset.items) + 1}
    train = parts.train.positives()
    known = parts.train.followed_by(parts.val).positives()
    seen = histories(parts.train, num_users=len(dataset.users))
    held = ev.held_out(parts.val.positives(), seen)
    score = scoring(held, seen, is_candidate)
    budget = config.evaluation.baseline_seconds
    every = searches(train, seed=config.training.seed)
    for name in config.evaluation.baselines:
        search = every.get(name)
        if name in without or search is None:
            continue
        if name == "recent_popularity" and known.times is None:
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
                budget_seconds=budget,
                fits=what_fits(name, Size.of(dataset, parts), config),
                num_users=sizes["num_users"],
                num_items=sizes["num_items"],
            )
            settings = settings_of(search, trials)
            if not trials:
                watch.note(
                    f"{IN_WORDS[name]} is not tuned: fitting it twice takes more than the "
                    f"{budget:g} s of evaluation.baseline_seconds; allow it more to try others "
                    f"than {_in_words(settings)}"
                )
            tuning = {
                "trials": len(trials),
                "budget_seconds": budget,
                "tried_all": is_over(search, trials),
                "tuning_seconds": time.perf_counter() - started,
            }
        yield search.fit(known, **sizes, **settings), tuning


def scoring(
    held: ev.HeldOut, seen: Histories, is_candidate: Tensor
) -> Callable[[Ranker], float]:
    """How well rankers find what is held out: NDCG, the mean over users."""

    def score(ranker: Ranker) -> float:
        values = ev.each_ndcg(
            lambda part: ranker.scores(held.user_rows[part]),
            held,
            seen,
            is_candidate=is_candidate,
        )
        return float(values.mean())

    return score


def _in_words(settings: Settings) -> str:
    return " and ".join(f"{name} {value:g}" for name, value in settings.items())
