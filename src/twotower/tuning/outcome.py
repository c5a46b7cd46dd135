"""What a search came to: its trials, the best config, and the files that hold them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from twotower.config import Config
from twotower.data.writing import whole_file
from twotower.evaluation.intervals import Interval
from twotower.tuning.space import Knob, Value

BEST, TRIALS, PICTURE = "best.yaml", "trials.csv", "tuning.html"

End = Literal["done", "pruned", "stopped", "failed"]


@dataclass(frozen=True)
class Trial:
    """Settings that were tried, and what they were worth on validation.

    Attributes:
        number: from 1, which is the untouched default.
        config: nothing on ``auto``; trained with it, the towers are worth ``value`` again.
        picked: the value of each knob.
        value: that of the best epoch; None where it failed.
        end: done; pruned, as it was behind others after as many epochs; stopped, by the time or
            by the user, to be tried again when the search goes on; or failed.
        curve: the best value so far after each epoch.
        best_epoch: 0 for the start.
        seconds, first_seconds: that it took, and that it took up to the end of its first epoch.
        gain: how much better than the default, paired by user; None where nobody asked.
        said: why it failed.
    """

    number: int
    config: Config
    picked: Mapping[str, Value]
    value: float | None
    end: End
    curve: tuple[float, ...] = ()
    best_epoch: int = 0
    seconds: float = 0.0
    first_seconds: float = 0.0
    gain: Interval | None = None
    said: str = ""


@dataclass(frozen=True)
class Standing:
    """Where a search stands when a trial begins.

    Attributes:
        number: of that trial.
        best: the best trial so far.
        most_trials: of the whole search; None for as many as there is time for.
        seconds, seconds_left: of the whole search, where its time is limited.
    """

    number: int
    metric: str
    best: Trial | None
    most_trials: int | None
    seconds: float | None
    seconds_left: float | None


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        metric: what decided; a name with "loss" in it is better when smaller.
        knobs: what was tuned.
        trials: all that were tried, the untouched default first.
        directory: where the files are; None where nothing was written.
    """

    metric: str
    knobs: tuple[Knob, ...]
    trials: tuple[Trial, ...]
    directory: Path | None = None

    @property
    def default(self) -> Trial:
        """The untouched default."""
        return self.trials[0]

    @property
    def best(self) -> Trial:
        """The best trial, no worse than the default; of two equals the earlier one."""
        return self.ranking()[0]

    @property
    def config(self) -> Config:
        """The best config."""
        return self.best.config

    def ranking(self) -> list[Trial]:
        """The trials that were not given up, best first."""
        return ranked(self.trials, self.metric)


def ranked(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """The trials that were not given up, best first; the earlier one of two equals."""
    sign = 1 if "loss" in metric else -1
    worth = [(sign * t.value, t) for t in trials if t.value is not None and t.end != "pruned"]
    return [trial for _, trial in sorted(worth, key=lambda pair: pair[0])]


def write_files(tuned: Tuned, directory: Path) -> None:
    """Write the best config and the table of trials, each whole or not at all."""
    best, default = tuned.best, tuned.default
    about = (
        f"# twotower tune: trial {best.number} of {len(tuned.trials)}, {tuned.metric} "
        f"{best.value:.6g}; the untouched default: {default.value:.6g}.\n"
        "# The best of many trials is optimistic on what chose it; test says what it is worth\n"
    )
    for name, text in ((BEST, about + best.config.to_yaml()), (TRIALS, table(tuned))):
        with whole_file(directory / name) as beside:
            beside.write_text(text, encoding="utf-8")


def table(tuned: Tuned) -> str:
    """The trials as CSV, one a row."""
    names = [knob.name for knob in tuned.knobs]
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    rows.writerow(
        [
            *("trial", "end", tuned.metric, "gain", "gain_low", "gain_high"),
            *("epochs", "best_epoch", "seconds", *names, "said"),
        ]
    )
    for trial in tuned.trials:
        gain = trial.gain
        rows.writerow(
            [
                *(trial.number, trial.end, trial.value),
                *((gain.mean, gain.low, gain.high) if gain else (None,) * 3),
                *(len(trial.curve), trial.best_epoch, round(trial.seconds, 2)),
                *(in_words(trial.picked[n]) if n in trial.picked else None for n in names),
                trial.said,
            ]
        )
    return written.getvalue()


def in_words(value: Value) -> str:
    """A setting as the config file writes it, numbers to four digits.

    >>> [in_words(value) for value in (True, (256, 128), 0.25, 64)]
    ['true', '[256, 128]', '0.25', '64']
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
