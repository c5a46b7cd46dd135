"""Time to quality: seconds until the towers' validation NDCG@10 passes that of tuned iALS.

Both learn from the same train part and rank for the same validation users. The towers' clock
runs through everything `train` does: reading, trying settings, and validation after each epoch.
That of iALS is one fit with the best settings found, and beside it the search for them, which
begins no trial after ``--budget`` seconds.

    TWOTOWER_DATA=... python -m benchmarks.racing [NAME ...] [--seeds 42 43 ...] [--budget 300]
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.public import Cell, asked, print_rows
from benchmarks.published import JOBS as PUBLISHED
from benchmarks.published import candidates
from twotower import parse_config
from twotower.evaluation.opponents import scoring
from twotower.evaluation.tuning import best, searches, tune
from twotower.evaluation.validation import Validation, validation
from twotower.pipeline import Plan, plan
from twotower.training.learn import Learned
from twotower.training.search import search
from twotower.watch import Watch

METRIC = "val_ndcg"
RANDOM: Mapping[str, Any] = {"data": {"split": "random_per_user"}}
PUBLIC = ("gowalla", "yelp2018")


def row(name: str, seed: int, folder: Path, *, budget: float) -> list[Cell]:
    is_public = name in PUBLIC
    tables = PUBLISHED[name].tables(folder)[0] if is_public else folder / name
    settings = PUBLISHED[name].settings if is_public else RANDOM
    tuned_for = {"evaluation": {"baseline_seconds": budget}}
    config = parse_config({**settings, **tuned_for, "training": {"seed": seed}})
    started = time.perf_counter()
    planned = plan(tables, config, Watch())
    measure = validation(planned.parts, planned.contenders[0])
    curve: list[tuple[float, float]] = []

    def watched(learned: Learned) -> dict[str, float]:
        values = measure(learned)
        curve.append((time.perf_counter() - started, values[METRIC]))
        return values

    with TemporaryDirectory() as work:
        _, learned = search(
            planned.dataset,
            planned.parts.train,
            planned.contenders,
            watched,
            work=Path(work),
            identity="",
            resume=False,
            watch=Watch(),
        )
    ours = learned.progress.best_value(METRIC)
    tuned, fitting, tuning = ials(planned, measure, seed)
    passed = next((at for at, value in curve if value > tuned), None)
    reached = next(at for at, value in curve if value == ours)
    until = "never" if passed is None else f"{passed:.0f} s, {passed / fitting:.1f} x"
    assert ours is not None
    seconds = (fitting, tuning, reached, curve[-1][0])
    fit_took, search_took, best_after, stopped = (f"{each:.0f} s" for each in seconds)
    return [ours, tuned, fit_took, search_took, until, best_after, stopped]


def ials(planned: Plan, measure: Validation, seed: int) -> tuple[float, float, float]:
    """Its NDCG@10 on validation, the seconds of one fit, and those of the search."""
    dataset, train, held = planned.dataset, planned.parts.train.positives(), measure.held
    score = scoring(held, measure.seen, candidates(dataset, train))
    sizes = {"num_users": len(dataset.users) + 1, "num_items": len(dataset.items) + 1}
    its = searches(train, seed=seed)["ials"]
    budget = planned.contenders[0].evaluation.baseline_seconds
    started = time.perf_counter()
    trials = tune(
        its,
        train,
        score,
        num_users=sizes["num_users"],
        num_items=sizes["num_items"],
        budget_seconds=budget,
    )
    tuning = time.perf_counter() - started
    started = time.perf_counter()
    its.fit(train, **sizes, **best(trials).settings)
    return best(trials).score, time.perf_counter() - started, tuning


def main() -> None:
    header = (
        "| data | seed | two towers | iALS, tuned | its fit | its search | towers pass it "
        "after | their best after | they stop after |\n|---|--:|--:|--:|--:|--:|---|--:|--:|"
    )
    given = asked(__doc__, ("ml-1m", *PUBLIC), {"budget": 300.0})
    print_rows(given, header, partial(row, budget=given.more.budget))


if __name__ == "__main__":
    main()
