"""The command line: each command says what it was told to ``pipeline``; no logic here.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from twotower import __version__
from twotower.errors import TwoTowerError
from twotower.export import commands as exporting
from twotower.serving import commands as serving

if TYPE_CHECKING:
    from twotower.config import Config


class _Commands(TyperGroup):
    """Each command ends with a word when it is interrupted; typer would end in silence."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, RuntimeError) as error:
            # The table engine has an error of its own for an interrupt.
            if isinstance(error, RuntimeError) and str(error) != "Query interrupted":
                raise
            _say("interrupted", "before the end; no result was written", "bold red")
            raise typer.Exit(130) from None


app = typer.Typer(
    name="twotower",
    cls=_Commands,
    help="Two-tower recommendations: from three tables to lists that have proved their worth.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

Run = Annotated[Path, typer.Argument(help="A run directory, as `twotower train` wrote it.")]
Data = Annotated[Path | None, typer.Option(help="The data folder; default: the config's.")]
Into = Annotated[Path | None, typer.Option(help="The Parquet file to write.")]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Exit with 1 if a baseline is not beaten, for users met before."
    ),
]
K = Annotated[int, typer.Option("-k", help="How many items, from 1.")]


def _example(command: str) -> str:
    return f"[dim]Example:[/] twotower {command}"


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Two-tower recommendations: from three tables to lists that have proved their worth."""
    if version:
        out.print(f"twotower {__version__}", highlight=False)
        raise typer.Exit


@app.command(epilog=_example("generate data/lab --users 1000 --items 500"))
def generate(
    directory: Annotated[Path, typer.Argument(help="Where the tables go.")],
    users: Annotated[int, typer.Option(help="How many users.")] = 1000,
    items: Annotated[int, typer.Option(help="How many movies.")] = 500,
    interactions: Annotated[int, typer.Option(help="How many ratings.")] = 10_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same world.")] = 42,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier world there.")] = False,
) -> None:
    """Make a world of movie ratings whose best possible score is known."""
    from twotower.data.synthetic import generate as make
    from twotower.terminal.progress import Bars

    with Bars(err) as bars:
        made: dict[str, Any] = make(
            directory,
            num_users=users,
            num_items=items,
            num_interactions=interactions,
            seed=seed,
            overwrite=overwrite,
            progress=bars.share,
        )
    best = made["splits"]["test"]
    out.print(
        f"{directory}: {users:,} users, {items:,} movies, "
        + ", ".join(f"{part['rows']:,} {name}" for name, part in made["splits"].items())
        + " interactions",
        highlight=False,
    )
    if best["auc"] is not None:
        out.print(
            f"best possible on test: AUC {best['auc']:.4f}, log-loss {best['log_loss']:.4f}, "
            f"accuracy {best['accuracy']:.4f}",
            highlight=False,
        )


@app.command(epilog=_example("download ml-latest-small --into data/ml-latest-small"))
def download(
    name: Annotated[str, typer.Argument(help="ml-latest-small, ml-100k, ml-1m, ml-20m, ...")],
    into: Annotated[Path | None, typer.Option(help="Where to; default: data/NAME.")] = None,
    archive: Annotated[
        Path | None, typer.Option("--from", help="Your own copy of the archive.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace earlier tables there.")] = False,
) -> None:
    """Fetch a public data set from its home, or convert your copy: three Parquet tables."""
    from twotower.data.sources import download as fetch
    from twotower.terminal.progress import Bars

    with Bars(err) as bars:
        into = into or Path("data") / name
        got = fetch(name, into, archive=archive, overwrite=overwrite, progress=bars.share)
        for note in got.notes:
            bars.note(note)
    rows = ", ".join(f"{count:,} {table}" for table, count in got.rows.items())
    out.print(f"{got.directory}: {rows}\nchecksum: {got.checksum}", highlight=False)
    out.print(f"licence: {got.licence}\ncite: {got.citation}", highlight=False)


@app.command(epilog=_example("inspect data/lab"))
def inspect(
    data: Annotated[Path, typer.Argument(help="The data folder.")],
    config: Annotated[
        Path | None, typer.Option(help="A config file, for its data part.")
    ] = None,
) -> None:
    """Say what is in the tables, what each column was taken for, and what is odd."""
    from twotower.config import Config, read_config
    from twotower.data.inspection import inspect as look
    from twotower.data.tables import read
    from twotower.terminal.inspection import show
    from twotower.terminal.progress import Bars

    settings = read_config(config) if config else Config()
    with Bars(err) as bars:
        bars.stage("reading")
        found = look(read(data, settings.data))
    show(out, found)


@app.command(epilog=_example("train --config config/ranking_config.yaml --data data/lab"))
def train(
    config: Annotated[Path | None, typer.Option(help="Settings; none are needed.")] = None,
    data: Data = None,
    into: Annotated[Path, typer.Option(help="The folder that runs are written to.")] = Path(
        "runs"
    ),
    name: Annotated[
        str | None, typer.Option(help="The run's name; default: the config's.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training that was stopped.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Say where the time went; leave a trace, too.")
    ] = False,
    strict: Strict = False,
) -> None:
    """Train two towers, measure them beside the baselines, and write a run."""
    from twotower import pipeline
    from twotower.report.page import REPORT
    from twotower.terminal import show
    from twotower.terminal.progress import Bars

    settings, source = _settings(config, data)
    with Bars(err) as bars:
        recommender, directory = pipeline.train(
            source,
            settings,
            into=into,
            name=name or _name(config, source),
            now=datetime.now(),
            resume=resume,
            profile=profile,
            watch=bars,
        )
    show.metrics(out, recommender.metrics)
    show.profile(out, recommender.metrics)
    best = recommender.metrics["best_epoch"]
    out.print(
        f"{directory}  trained in {recommender.metrics['train_seconds']:.1f} s, "
        + (f"best epoch {best}" if best else "no epoch was better than the start")
        + (f"; see {REPORT} there" if (directory / REPORT).is_file() else ""),
        highlight=False,
        soft_wrap=True,
    )
    _judge(recommender.metrics, strict)


@app.command(epilog=_example("tune --data data/lab --minutes 30"))
def tune(
    config: Annotated[
        Path | None, typer.Option(help="Settings; what it sets is held fixed.")
    ] = None,
    data: Data = None,
    into: Annotated[
        Path | None, typer.Option(help="The folder to write to; default: tuning/NAME.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Time for all of it; default: 30, or as --trials need.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="How many in all; default: as many as there is time for.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of what is tried; default: the training's.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the trials that the folder holds.")
    ] = False,
) -> None:
    """Search better settings on validation; write the best config and what mattered."""
    from twotower.terminal import tuning as show
    from twotower.tuning.tune import tune as search

    settings, source = _settings(config, data)
    with show.TrialBars(err) as bars:
        found = search(
            source,
            settings,
            into=into or Path("tuning") / _name(config, source),
            minutes=minutes,
            trials=trials,
            seed=seed,
            resume=resume,
            watch=bars,
        )
    show.tuned(out, found)


def _settings(config: Path | None, data: Path | None) -> tuple[Config, str]:
    """The settings of a command, and where its data is."""
    from twotower.config import Config, read_config
    from twotower.errors import ConfigError

    settings = read_config(config) if config else Config()
    if data is not None:
        update = {"data_path": str(data)}
        settings = settings.model_copy(update={"data": settings.data.model_copy(update=update)})
    if settings.data.data_path is None:
        raise ConfigError("no data: give --data DIR, or data.data_path in the config")
    return settings, settings.data.data_path


def _name(config: Path | None, source: str) -> str:
    """What is made is named after its config, else after its data."""
    return config.stem if config else Path(source).resolve().name


@app.command(epilog=_example("evaluate runs/20260131-120000-lab"))
def evaluate(run: Run, data: Data = None, strict: Strict = False) -> None:
    """Measure a run on a test part, beside the baselines."""
    from twotower import pipeline, runs
    from twotower.terminal import show
    from twotower.terminal.progress import Bars

    recommender = runs.load(run)
    with Bars(err) as bars:
        measured = pipeline.evaluate(recommender, data, watch=bars)
    show.metrics(out, measured)
    _judge(measured, strict)


def _judge(measured: Mapping[str, Any], strict: bool) -> None:
    """Under --strict, exit with 1 where the towers do not beat every baseline."""
    from twotower.evaluation.verdict import beats_all

    if strict and not beats_all(measured):
        _say("strict", "the towers do not beat every baseline", "bold red")
        raise typer.Exit(1)


@app.command(epilog=_example("report runs/20260131-120000-lab"))
def report(
    run: Run,
    data: Annotated[
        Path | None, typer.Option(help="Measure on this data; default: as training measured.")
    ] = None,
    into: Annotated[Path | None, typer.Option(help="The page; default: in the run.")] = None,
) -> None:
    """Write a run's page again, for a browser and offline: curves, verdict, map, examples."""
    from twotower import pipeline, runs
    from twotower.report.page import REPORT, write_report
    from twotower.terminal.progress import Bars

    recommender = runs.load(run)
    with Bars(err) as bars:
        measured = pipeline.evaluate(recommender, data, watch=bars) if data else None
        bars.stage("report")
        path = write_report(recommender, into or run / REPORT, measured=measured)
    size = path.stat().st_size / 1e6
    out.print(f"{path}  {size:.1f} MB, open it in a browser", highlight=False, soft_wrap=True)


@app.command(epilog=_example("recommend runs/20260131-120000-lab 42 -k 10"))
def recommend(
    run: Run,
    users: Annotated[list[str] | None, typer.Argument(help="Ids; -- goes before -5.")] = None,
    k: K = 10,
    all_users: Annotated[bool, typer.Option("--all", help="Every user of the run.")] = False,
    into: Into = None,
    include_seen: Annotated[bool, typer.Option(help="Recommend seen items too.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the job for FILE that was stopped.")
    ] = False,
) -> None:
    """Print recommendations with their evidence, or write those of all users to a file."""
    from twotower import runs
    from twotower.errors import RequestError
    from twotower.export.lists import recommend_all, recommend_some
    from twotower.terminal import show
    from twotower.terminal.progress import Bars

    if bool(users) == all_users or (all_users and into is None):
        raise RequestError("recommend: give ids of users, or --all with --into FILE.parquet")
    if resume and not all_users:
        raise RequestError(
            "recommend: --resume goes on with --all; leave it out for some users"
        )
    if all_users and into is not None:
        with Bars(err) as bars:
            count = recommend_all(
                run, into, k, include_seen=include_seen, resume=resume, watch=bars
            )
        out.print(f"{into}: {count:,} rows", highlight=False)
        return
    recommender = runs.load(run)
    if into is not None:
        count = recommend_some(recommender, users or [], into, k, include_seen=include_seen)
        out.print(f"{into}: {count:,} rows", highlight=False)
        return
    # All before any is shown, so that an unknown user is not found out halfway.
    rows = recommender.user_rows(users or [])
    each = rows[:, None]
    lists = [recommender.recommend_rows(row, k, include_seen=include_seen) for row in each]
    for user, found in zip(users or [], lists, strict=True):
        show.recommendations(out, recommender, found, f"for {found.user_column}")
        show.evidence(out, recommender, user)


@app.command(epilog=_example("similar runs/20260131-120000-lab 7 -k 5"))
def similar(
    run: Run,
    item: Annotated[str, typer.Argument(help="The id of an item.")],
    k: K = 10,
) -> None:
    """Print the items nearest to an item."""
    from twotower import runs
    from twotower.terminal import show

    recommender = runs.load(run)
    found = recommender.similar_items([item], k)
    show.similar(out, recommender, found)


app.command(epilog=_example("embed runs/20260131-120000-lab items --into items.parquet"))(
    exporting.embed
)
app.command(epilog=_example("index runs/20260131-120000-lab"))(serving.index)
app.command(epilog=_example("serve runs/20260131-120000-lab"))(serving.serve)
app.command(epilog=_example("events runs/20260131-120000-lab --into told"))(serving.events)
app.command(epilog=_example("key shop --scope read --scope write --into keys.txt"))(serving.key)


@app.command(name="runs", epilog=_example("runs"))
def list_runs(
    root: Annotated[Path, typer.Argument(help="The folder of the runs.")] = Path("runs"),
) -> None:
    """List the runs of a folder and compare them."""
    from twotower import runs
    from twotower.errors import RunError
    from twotower.terminal import show
    from twotower.training import unfinished

    found = runs.list_runs(root)
    if not found:
        raise RunError(f"{root}: no runs there; {unfinished.way_to_one(root)}")
    readable = []
    for path in found:
        try:
            readable.append((path, runs.read_metrics(path)))
        except RunError as error:
            # One broken run must not hide the others.
            _say("note", str(error), "yellow")
    out.print(show.run_table(readable))


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2."""
    try:
        app()
    except TwoTowerError as error:
        _say("error", str(error), "bold red")
        sys.exit(2)


def _say(what: str, text: str, style: str) -> None:
    from rich.markup import escape

    err.print(f"[{style}]{what}[/] {escape(text)}", highlight=False, soft_wrap=True)
