"""One trial after the other: what to try, how long, and what it is worth on validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from twotower.errors import RunError, TwoTowerError, reason
from twotower.evaluation.intervals import Interval, paired_difference
from twotower.evaluation.validation import validation
from twotower.pipeline import Plan
from twotower.training.learn import learn
from twotower.training.loop import Progress
from twotower.tuning.outcome import End, Standing, Trial, ranked
from twotower.tuning.study import Asked, Study
from twotower.watch import Enough, Watch

Clock = Callable[[], float]


@dataclass(frozen=True)
class Budget:
    """How long a search may go on.

    Attributes:
        deadline: by the clock; infinite where only trials are counted.
        trials: of the study, those before a stop included.
    """

    clock: Clock
    started: float
    deadline: float
    trials: int | None

    def has_room_for(self, seconds: float) -> bool:
        """Whether so much more ends in time."""
        return self.clock() + seconds <= self.deadline

    def allows_another(self, done: Sequence[Trial]) -> bool:
        """Whether a trial may begin: one that can not finish an epoch in time may not."""
        finished = [trial for trial in done if trial.end != "stopped"]
        if self.trials is not None and len(finished) >= self.trials:
            return False
        # The default is always begun: without it there is nothing to compare with.
        longest = max((trial.first_seconds for trial in done), default=-math.inf)
        return not finished or self.has_room_for(longest)

    def standing(self, number: int, metric: str, best: Trial | None) -> Standing:
        """What a watch is told when a trial begins."""
        limited = math.isfinite(self.deadline)
        return Standing(
            number=number,
            metric=metric,
            best=best,
            most_trials=self.trials,
            seconds=self.deadline - self.started if limited else None,
            seconds_left=self.deadline - self.clock() if limited else None,
        )


def with_trial(trials: list[Trial], trial: Trial) -> list[Trial]:
    """The trials and one more, which takes the place of the one of its number."""
    return [*(each for each in trials if each.number != trial.number), trial]


def search(
    planned: Plan, study: Study, budget: Budget, metric: str, watch: Watch
) -> Iterator[Trial]:
    """One trial after the other, until the budget is spent or one was stopped."""
    done = study.trials()
    while budget.allows_another(done):
        best = next(iter(ranked(done, metric)), None)
        asked = study.ask()
        standing = budget.standing(asked.number, metric, best)
        watch.trial(standing)
        trial = _try(planned, study, asked, budget, metric, watch)
        study.tell(asked, trial)
        done = with_trial(done, trial)
        watch.tried(trial, standing)
        yield trial
        if trial.end == "stopped":
            return


class _Pace(Watch):
    """Passes on what a trial says, and ends it where it is hopeless or the time is over."""

    def __init__(self, study: Study, asked: Asked, budget: Budget, watch: Watch) -> None:
        self._study = study
        self._asked = asked
        self._budget = budget
        self._watch = watch
        self._training = asked.config.training
        self._begun = self._epoch_begun = budget.clock()
        self.first_seconds = 0.0
        self.end: End | None = None

    def stage(self, name: str, total: int | None = None) -> None:
        self._epoch_begun = self._budget.clock()
        self._watch.stage(name, total)

    def advance(self, rows: int) -> None:
        self._watch.advance(rows)

    def note(self, text: str) -> None:
        self._watch.note(text)

    def epoch(self, progress: Progress, metric: str) -> None:
        self._watch.epoch(progress, metric)
        now = self._budget.clock()
        if progress.epoch == 1:
            self.first_seconds = now - self._begun
        best = progress.best_value(metric)
        assert best is not None
        is_hopeless = self._study.is_hopeless(self._asked, best)
        if progress.is_over(self._training):
            self.end = "done"
        elif is_hopeless:
            self.end = "pruned"
            raise Enough
        elif not self._budget.has_room_for(now - self._epoch_begun):
            self.end = "stopped"
            raise Enough


def _try(
    planned: Plan, study: Study, asked: Asked, budget: Budget, metric: str, watch: Watch
) -> Trial:
    """Train with the settings of a trial, as ``train`` does up to the refit."""
    parts, config = planned.parts, asked.config
    measure = validation(parts, config)
    pace = _Pace(study, asked, budget, watch)
    begun = budget.clock()
    trial = Trial(asked.number, config, asked.picked, value=None, end="failed")
    # A trial is not trained again on what judges it.
    alone = config.training.model_copy(update={"refit": False})
    config = config.model_copy(update={"training": alone})
    gain = None
    try:
        learned = learn(
            planned.dataset, parts.train, config, measure, metric=metric, watch=pace
        )
        if pace.end != "pruned":
            gain = _gain(study, asked, measure.by_user(learned, metric), metric)
    except (TwoTowerError, MemoryError, RuntimeError) as error:
        # Of the default it is everybody's mistake, of other settings it is theirs.
        if asked.number == 1 or isinstance(error, RunError) or not _is_of_settings(error):
            raise
        watch.note(f"trial {asked.number} failed: {reason(error)}")
        return replace(trial, seconds=budget.clock() - begun, said=reason(error))
    return replace(
        trial,
        value=learned.progress.best_value(metric),
        # Where nobody said why it ended, it was interrupted.
        end=pace.end or "stopped",
        curve=tuple(asked.curve),
        best_epoch=learned.progress.best_epoch,
        seconds=budget.clock() - begun,
        first_seconds=pace.first_seconds,
        gain=gain,
    )


def _gain(study: Study, asked: Asked, ours: np.ndarray, metric: str) -> Interval | None:
    """How much better than the default, paired by user; the default's own values are kept."""
    if asked.number == 1:
        study.keep_default_by_user(ours.tolist())
        return None
    theirs = study.default_by_user
    if not theirs:
        return None
    better, worse = ours, np.array(theirs)
    if "loss" in metric:
        better, worse = worse, better
    return paired_difference(
        better,
        worse,
        seed=asked.config.training.seed,
        num_resamples=asked.config.evaluation.bootstrap,
    )


def _is_of_settings(error: Exception) -> bool:
    """Whether other settings may do: a loss that is no number any more, or too little memory.

    torch says the latter with a RuntimeError, on a CPU with a bare one.
    """
    return not isinstance(error, RuntimeError) or "memory" in str(error).lower()
