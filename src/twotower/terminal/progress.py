"""Progress bars for whatever takes over a second."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.progress import TimeRemainingColumn as Remaining

from twotower.watch import Watch

if TYPE_CHECKING:
    from twotower.training.loop import Progress as Training


class Bars(Watch):
    """A ``Watch`` that draws one bar for the stage at hand; use it as a context."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            Remaining(),
            TextColumn("{task.fields[said]}"),
            console=console,
            transient=True,
            # Into a file a bar is a blank line.
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._said = ""

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def stage(self, name: str, total: int | None = None) -> None:
        """Draw another bar."""
        # An interrupt may come between any two lines, and then another stage.
        before, self._task = self._task, None
        if before is not None:
            self._progress.remove_task(before)
        self._task = self._progress.add_task(name, total=total, said=self._said)

    def advance(self, rows: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.advance(self._task, rows)

    def share(self, name: str, done: float) -> None:
        """Move the bar of a stage that knows only its share, 0 to 1."""
        if self._task is None or self._progress.tasks[-1].description != name:
            self.stage(name, 100)
        assert self._task is not None
        self._progress.update(self._task, completed=round(100 * done))

    def epoch(self, progress: Training, metric: str) -> None:
        """Say how the epoch went beside the bar."""
        values = progress.history or {}
        parts = [f"epoch {progress.epoch}", f"loss {values['train_loss'][-1]:.4f}"]
        best = progress.best_value(metric) if metric in values else None
        if best is not None:
            parts.append(f"{metric} {values[metric][-1]:.4f}")
            parts.append(f"best {best:.4f} in {progress.best_in_words()}")
        self._said = " · ".join(parts)
        if self._task is not None:
            self._progress.update(self._task, said=self._said)

    def note(self, text: str) -> None:
        """Print a sentence above the bar."""
        self._console.print(f"[yellow]note[/] {escape(text)}", highlight=False, soft_wrap=True)
