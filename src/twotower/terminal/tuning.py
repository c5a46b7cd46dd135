"""What ``twotower tune`` shows: bars while it searches, then the best trials."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID
from rich.table import Table

from twotower.terminal.progress import Bars
from twotower.training.learn import is_better
from twotower.tuning import words
from twotower.tuning.outcome import BEST, PICTURE, Standing, Trial, Tuned

# Beside the default so many trials have room in a window, and in one of so many columns.
_MOST_TRIALS, _WIDE = 3, 100
_FEWER_TRIALS = 2


class TrialBars(Bars):
    """A bar for the search, by its time or its trials, above that of the trial at hand."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._search: TaskID | None = None
        self._standing: Standing | None = None
        self._told_at = 0.0

    def trial(self, standing: Standing) -> None:
        """Say which trial it is, and the best so far."""
        self._standing, self._told_at, self._said = standing, time.monotonic(), ""
        by_time = standing.seconds is not None
        total = (standing.seconds or 0) / 60 if by_time else standing.most_trials
        if self._search is None:
            name = "minutes" if by_time else "trials"
            self._search = self._progress.add_task(name, total=total, said="")
        said = f"trial {standing.number}"
        if standing.best is not None and standing.best.value is not None:
            name = words.METRICS[standing.metric]
            said += f" · best {name} {standing.best.value:.4f} in {_name(standing.best)}"
        self._progress.update(self._search, said=said)
        self._move()

    def advance(self, rows: int) -> None:
        """Move both bars."""
        super().advance(rows)
        self._move()

    def tried(self, trial: Trial, standing: Standing) -> None:
        """Leave a line for each trial above the bars."""
        self._said = ""
        value = "" if trial.value is None else f"{trial.value:.4f}"
        epochs = f"{len(trial.curve)} epoch{'s' * (len(trial.curve) != 1)}"
        how = {
            "done": f"best in epoch {trial.best_epoch} of {len(trial.curve)}"
            if trial.best_epoch
            else f"no epoch of {len(trial.curve)} was better than the start",
            "pruned": f"given up after {epochs}",
            "stopped": f"stopped after {epochs}",
            "failed": "failed",
        }[trial.end]
        line = f"trial {trial.number:>3}  {value:>6}  {trial.seconds:6.1f} s  {how}"
        if trial.number == 1:
            line += ", the untouched default"
        elif _is_better(trial, standing):
            line = f"[bold green]{line}, the best so far[/]"
        elif trial.end == "pruned":
            line = f"[dim]{line}[/]"
        self._console.print(line, highlight=False, soft_wrap=True)

    def _move(self) -> None:
        if self._search is None or self._standing is None:
            return
        standing = self._standing
        done: float = standing.number - 1
        if standing.seconds is not None and standing.seconds_left is not None:
            passed = time.monotonic() - self._told_at
            done = (standing.seconds - standing.seconds_left + passed) / 60
        self._progress.update(self._search, completed=done)


def _name(trial: Trial) -> str:
    return "the default" if trial.number == 1 else f"trial {trial.number}"


def _is_better(trial: Trial, standing: Standing) -> bool:
    best = standing.best
    if trial.end == "pruned" or trial.value is None or best is None or best.value is None:
        return False
    return is_better(trial.value, best.value, standing.metric)


def tuned(console: Console, found: Tuned) -> None:
    """The screen that tuning ends with."""
    console.print(f"[bold]{escape(words.headline(found))}[/]", highlight=False)
    console.print(escape(words.counts(found)), highlight=False)
    console.print(_table(found, _MOST_TRIALS if console.width >= _WIDE else _FEWER_TRIALS))
    console.print(escape(words.how_sure(found)), highlight=False)
    if found.directory is not None:
        picture, best = found.directory / PICTURE, found.directory / BEST
        console.print(
            f"what mattered: {escape(str(picture))}\n"
            f"next: twotower train --config {escape(str(best))}",
            highlight=False,
            soft_wrap=True,
        )


def _table(found: Tuned, most: int) -> Table:
    first, *others = words.rows(found, most)
    table = Table(caption="dim: as the default; settings that are so everywhere are left out")
    table.add_column("", no_wrap=True)
    for name in first.cells:
        table.add_column(name, justify="right")
    was_setting = False
    for row in others:
        default, *cells = row.cells
        if row.is_setting and set(cells) <= {default}:
            continue
        if row.is_setting and not was_setting:
            table.add_section()
        was_setting = row.is_setting
        shown = [
            f"[dim]{escape(cell)}[/]" if row.is_setting and cell == default else escape(cell)
            for cell in cells
        ]
        table.add_row(row.name, escape(default), *shown)
    return table
