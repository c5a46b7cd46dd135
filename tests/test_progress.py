"""Bars outlive an interrupt, wherever it comes."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from twotower.terminal.progress import Bars


@pytest.mark.parametrize("where", ["remove_task", "add_task"])
@pytest.mark.parametrize("done", [False, True], ids=["before it", "after it"])
def test_after_an_interrupt_between_two_bars_another_one_is_drawn(
    where: str, done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    with Bars(Console(file=screen, force_terminal=True)) as bars:
        bars.stage("first", 10)
        whole = getattr(bars._progress, where)

        def interrupted(*given: Any, **named: Any) -> None:
            if done:
                whole(*given, **named)
            raise KeyboardInterrupt

        with monkeypatch.context() as changed:
            changed.setattr(bars._progress, where, interrupted)
            with pytest.raises(KeyboardInterrupt):
                bars.stage("second", 10)
        bars.stage("third", 10)
        bars.advance(10)
        bars._progress.refresh()
    assert "third" in screen.getvalue()
    assert "10/10" in screen.getvalue()
