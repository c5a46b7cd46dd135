"""The command of exports: ``twotower embed``; no logic here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

_out = Console()
_err = Console(stderr=True)


def embed(
    run: Annotated[Path, typer.Argument(help="A run directory, as `twotower train` wrote it.")],
    what: Annotated[
        str, typer.Argument(help="users, items, all (both, for a database) or towers (ONNX).")
    ],
    into: Annotated[
        str,
        typer.Option(
            help="A Parquet file, postgresql://USER@HOST/NAME with pgvector, or "
            "milvus:http://HOST:19530 or milvus:FILE.db; of towers a new folder."
        ),
    ],
) -> None:
    """Write the vectors of users or items, or the towers that make them, for use elsewhere."""
    from twotower.evaluation.rankers import IN_WORDS
    from twotower.export.onnx import export_towers
    from twotower.export.vectors import write_vectors
    from twotower.runs import read_metrics
    from twotower.terminal.progress import Bars

    blend = read_metrics(run).get("blend") or {}
    if blend.get("kind"):
        _err.print(
            f"note {IN_WORDS[blend['kind']]} stands beside the towers of this run "
            "(model.blend), and no vector holds it: their inner products are the towers' alone",
            highlight=False,
            soft_wrap=True,
        )
    if what == "towers":
        with Bars(_err) as bars:
            worst = export_towers(run, into, watch=bars)
        for name, difference in worst.items():
            _say(f"{into}/{name}: as PyTorch within {difference:.0e}")
        return
    for name, count in write_vectors(run, what, into).items():
        _say(f"{name}: {count:,} rows")


def _say(text: str) -> None:
    _out.print(text, highlight=False, soft_wrap=True)
