"""The commands of serving: ``serve``, ``events``, ``index`` and ``key``; no logic here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from twotower.errors import RequestError

_out = Console()
_err = Console(stderr=True)

StateUrl = Annotated[
    str | None,
    typer.Option(
        envvar="TWOTOWER_STATE",
        help="The database's URL; default: SQLite in service.sqlite beside the run.",
    ),
]


def serve(
    run: Annotated[Path, typer.Argument(help="A run directory, as `twotower train` wrote it.")],
    host: Annotated[
        str, typer.Option(help="Where to listen; elsewhere than here needs keys.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(help="The port; 0 for a free one.")] = 8000,
    state: StateUrl = None,
    keys: Annotated[
        Path | None, typer.Option(help="The file of keys, as `twotower key` wrote it.")
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(help="Where runs may be loaded from; default: the run's folder."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Until an answer is given up.")] = 10.0,
    waiting: Annotated[int, typer.Option(help="Requests at once; more get a 429.")] = 256,
    threads: Annotated[int, typer.Option(help="How many answer at once.")] = 2,
    workers: Annotated[
        int, typer.Option(help="Processes that answer; each has its own limits.")
    ] = 1,
    watch: Annotated[
        Path | None,
        typer.Option(
            help="A file that names the run to answer by, or a folder whose newest run is it."
        ),
    ] = None,
    adopt: Annotated[
        bool,
        typer.Option("--adopt", help="The state is of this run's data, whatever it says."),
    ] = False,
) -> None:
    """Recommend over HTTP; items and events that it is told are kept in a database."""
    _require_extra()
    from twotower.serving.gate import Limits
    from twotower.serving.keys import read_keys
    from twotower.serving.server import serve as listen

    if seconds <= 0 or min(waiting, threads, workers) < 1:
        raise RequestError(
            "serve: --seconds, --waiting, --threads and --workers must be above 0"
        )
    listen(
        run,
        host=host,
        port=port,
        state=state,
        keys=read_keys(keys) if keys else (),
        runs_folder=runs,
        limits=Limits(
            seconds=seconds, body_seconds=seconds, in_flight=waiting, threads=threads
        ),
        workers=workers,
        watched=watch,
        adopts=adopt,
        on_open=lambda address: _out.print(
            f"{run} at {address}", highlight=False, soft_wrap=True
        ),
    )


def events(
    run: Annotated[Path, typer.Argument(help="A run directory that a service answers by.")],
    into: Annotated[Path, typer.Option(help="The folder to write the tables to.")],
    data: Annotated[
        Path | None, typer.Option(help="The data folder; default: the run's.")
    ] = None,
    state: StateUrl = None,
    overwrite: Annotated[bool, typer.Option(help="Replace earlier tables there.")] = False,
) -> None:
    """Write what a service was told as tables, for the next training."""
    _require_extra()
    from twotower.serving.told import FILES, write_told

    told = write_told(run, into, state=state, data=data, overwrite=overwrite)
    for name, count in zip(FILES, (told.events, told.items), strict=True):
        if count is not None:
            _out.print(f"{into / name}: {count:,} rows", highlight=False, soft_wrap=True)
    if told.left_out:
        _err.print(
            f"note {told.left_out:,} events and items were left out: what is not liked, where "
            "the interactions have no label, and ids and values that the columns can not hold",
            highlight=False,
            soft_wrap=True,
        )


def index(
    run: Annotated[Path, typer.Argument(help="A run directory, as `twotower train` wrote it.")],
    recall: Annotated[
        float, typer.Option(help="The least share of the exact lists that it is to find.")
    ] = 0.99,
) -> None:
    """Build an approximate index into a run of very many items; serve searches it."""
    from twotower import pipeline

    built = pipeline.index(run, recall=recall)
    _out.print(
        f"{run}: recall@{built.k} {built.recall:.4f} in {built.probes:,} of "
        f"{built.inverted.nlist:,} lists",
        highlight=False,
        soft_wrap=True,
    )


def key(
    name: Annotated[str, typer.Argument(help="Whose it is, for the log.")],
    into: Annotated[Path, typer.Option(help="The file of keys to add it to.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="read, write or admin; several are allowed.")
    ] = None,
) -> None:
    """Make a key for a service, print it once, and keep only its hash."""
    from twotower.serving.keys import add_key, make_key

    secret, made = make_key(name, scope or ["read"])
    add_key(into, made)
    typer.echo(secret)
    _err.print(f"kept in {into} as a hash; the key is not shown again", highlight=False)


def _require_extra() -> None:
    from importlib.util import find_spec

    names = ("fastapi", "uvicorn", "sqlalchemy", "prometheus_client")
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise RequestError(
            f"serve: {', '.join(missing)} not installed: pip install 'twotower[serve]'"
        )
