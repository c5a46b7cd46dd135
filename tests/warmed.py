"""What commands of tests need not do again: imports, and what all reports have in common."""

from __future__ import annotations

import typer  # noqa: F401

import twotower.export.lists
import twotower.pipeline
import twotower.serving.server
import twotower.terminal.inspection
import twotower.terminal.progress
import twotower.terminal.show  # noqa: F401
from twotower.report import figures, page

# Nothing that starts a thread: a fork takes none along.
page._plotly()
figures.curves({"val_loss": [1.0, 2.0]}, best_epoch=1, start={})
