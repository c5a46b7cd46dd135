"""What a long piece of work tells whoever watches it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twotower.training.loop import Progress
    from twotower.tuning.outcome import Standing, Trial


class Enough(Exception):
    """Raised by a watch's ``epoch`` to end a training there; the best so far is kept."""


class Watch:
    """Told how the work goes; this one says nothing. The command line draws bars with it."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A new stage begins, of ``total`` rows if that is known."""

    def advance(self, rows: int) -> None:
        """So many rows more are done."""

    def epoch(self, progress: Progress, metric: str) -> None:
        """An epoch is done; ``metric`` is what decides which is best."""

    def trial(self, standing: Standing) -> None:
        """A trial of tuning begins."""

    def tried(self, trial: Trial, standing: Standing) -> None:
        """It came to an end."""

    def note(self, text: str) -> None:
        """Something the reader should know."""
