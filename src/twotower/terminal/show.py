"""Tables for people: metrics beside baselines, recommendations beside their evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from twotower.evaluation.verdict import Outcome
from twotower.evaluation.words import (
    FEWEST_USERS,
    NAMES,
    VERBS,
    against_each,
    best_first,
    costs,
    for_whom,
    headline,
    main_metrics,
    num_users,
    of_blend,
    of_left_out,
    price,
    tuned,
)
from twotower.retrieval.recommendations import Recommendations
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.words import items_in_words, users_in_words
from twotower.training.stages import STAGES, TRACE

_STYLES: Mapping[Outcome, str] = {"win": "green", "loss": "red", "tie": "yellow"}


def metrics(console: Console, measured: Mapping[str, Any]) -> None:
    """The screen that training and evaluation end with."""
    for group, summary in measured.get("ranking", {}).items():
        count = num_users(measured, group)
        if count < FEWEST_USERS:
            console.print(f"test, {count} {group} users: too few to say", highlight=False)
            continue
        title = f"test, {count:,} {group} users"
        console.print(_ranking_table(title, summary, costs(measured)))
        console.print(_against_each(summary), highlight=False)
    if measured.get("verdict"):
        said = " ".join([f"[bold]{escape(headline(measured)[0])}[/]", *price(measured)])
        console.print(said, highlight=False)
    for line in (
        *of_left_out(measured),
        *tuned(measured),
        *of_blend(measured),
        *for_whom(measured),
    ):
        console.print(escape(line), highlight=False)
    for warning in measured.get("warnings", []):
        said = f"[yellow]warning[/] {escape(warning)}"
        console.print(said, highlight=False, soft_wrap=True)
    if measured.get("test_auc") is not None:
        console.print(_labels_table(measured))


def profile(console: Console, measured: Mapping[str, Any]) -> None:
    """Where the time of the training went, if that was asked."""
    if "profile" not in measured:
        return
    seconds: Mapping[str, float] = measured["profile"]["seconds"]
    steps = max(measured["profile"]["steps"], 1)
    of_steps = {name: each for name, each in seconds.items() if name != "validation"}
    whole, most = sum(of_steps.values()), max(of_steps, key=lambda name: of_steps[name])
    table = Table(title="where the time went", title_justify="left")
    table.add_column("stage")
    table.add_column("of a step", justify="right")
    table.add_column("a step, ms", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("what happens")
    for name, each in seconds.items():
        is_step = name in of_steps
        share = f"{each / whole:.0%}" if is_step and whole else ""
        a_step = f"{1000 * each / steps:.2f}" if is_step else ""
        table.add_row(name, share, a_step, f"{each:.1f}", STAGES[name])
    console.print(table)
    console.print(
        f"{steps:,} steps of {1000 * whole / steps:.1f} ms, most of it in {most}; validation "
        f"took {seconds['validation']:.1f} s. {TRACE} in the run holds the first steps: open "
        "it at ui.perfetto.dev",
        highlight=False,
        soft_wrap=True,
    )


def _ranking_table(
    title: str, summary: Mapping[str, Any], seconds: Mapping[str, float]
) -> Table:
    """The towers first, then the baselines, best first."""
    names = main_metrics(summary)
    table = Table(
        title=title,
        title_justify="left",
        caption="mean, 95 % interval over users",
    )
    table.add_column("")
    for name in [*names, f"towers less these, {names[0]}", "seconds"]:
        table.add_column(name, justify="right")
    differences = summary["difference"]
    for who in ["towers", *best_first(summary, names[0])]:
        cells = [_interval(summary[who][name]) for name in names]
        less = "" if who == "towers" else _interval(differences[who][names[0]], sign="+")
        took = f"{seconds[who]:,.1f}" if who in seconds else ""
        table.add_row(NAMES[who], *cells, less, took)
    return table


def _interval(value: Mapping[str, float], sign: str = "") -> str:
    low, high = (f"{value[end]:{sign}.4f}" for end in ("low", "high"))
    return f"[bold]{value['mean']:{sign}.4f}[/]\n[dim]{low} {high}[/]"


def _against_each(summary: Mapping[str, Any]) -> str:
    """Whom the towers lose to, tie with and beat, as one sentence."""
    parts = [
        f"[{_STYLES[each]}]{VERBS[each]}[/] {', '.join(names)}"
        for each, names in against_each(summary).items()
    ]
    return f"By {main_metrics(summary)[0]}, the towers {'; '.join(parts)}." if parts else ""


def _labels_table(measured: Mapping[str, Any]) -> Table:
    best = measured.get("best_possible")
    luck = "best possible: what the true chances score here; luck may pass it" if best else None
    table = Table(title="test, labels", title_justify="left", caption=luck)
    columns = {"AUC": "auc", "log-loss": "log_loss", "accuracy": "accuracy"}
    table.add_column("")
    for column in [*columns, "calibration error"]:
        table.add_column(column, justify="right")
    cells = [f"{measured['test_' + key]:.4f}" for key in columns.values()]
    table.add_row("two towers", *cells, f"{measured['test_calibration_error']:.4f}")
    if best:
        table.add_row("best possible", *(f"{best[key]:.4f}" for key in columns.values()), "")
    return table


def recommendations(
    console: Console, recommender: Recommender, found: Recommendations, title: str
) -> None:
    """Each user's list, with what speaks for it."""
    for user, pairs in zip(found.user_ids.tolist(), found, strict=True):
        table = Table(title=escape(f"{title} {user}"), title_justify="left")
        for column, justify in (("rank", "right"), (escape(found.item_column), "right")):
            table.add_column(column, justify=justify)  # type: ignore[arg-type]
        table.add_column("score", justify="right")
        table.add_column("affinity", justify="right")
        table.add_column("what it is")
        rows = recommender.items.rows([item for item, _ in pairs])
        chances = recommender.affinity(np.array([score for _, score in pairs]))
        about = items_in_words(recommender, rows)
        for rank, ((item, score), text) in enumerate(zip(pairs, about, strict=True), 1):
            chance = f"{chances[rank - 1]:.0%}"
            table.add_row(str(rank), escape(str(item)), f"{score:.3f}", chance, escape(text))
        console.print(table)
        if len(pairs) == 0:
            console.print("nothing is left to recommend: everything was seen")


def evidence(console: Console, recommender: Recommender, user: Any) -> None:
    """What the recommendations of one known user rest on."""
    row = int(recommender.users.rows([user])[0])
    [about] = users_in_words(recommender, [row])
    if about:
        console.print(f"[bold]who[/] {escape(about)}", highlight=False)
    liked = recommender.liked.of(row)
    seen = len(recommender.seen.of(row))
    console.print(f"[bold]met[/] {seen} items, liked {len(liked)}", highlight=False)
    latest = liked[-3:][::-1]
    for item_row, text in zip(latest, items_in_words(recommender, latest), strict=True):
        item = recommender.items.values[item_row - 1]
        console.print(f"  liked {escape(str(item))}  {escape(text)}", highlight=False)


def run_table(rows: Sequence[tuple[Path, Mapping[str, Any]]]) -> Table:
    """Runs beside each other."""
    table = Table(title="runs", title_justify="left")
    longest = max((len(str(directory)) for directory, _ in rows), default=0)
    for column in ("run", "loss", "ndcg@10 (interval)", "best baseline", "AUC", "seconds"):
        if column == "run":
            # What one copies into the next command stays whole.
            table.add_column(column, no_wrap=True, min_width=longest)
        else:
            table.add_column(column, justify="right", overflow="fold")
    for directory, measured in rows:
        summary = measured.get("ranking", {}).get("warm", {})
        ours = summary.get("towers", {}).get("ndcg@10")
        others = [
            (values["ndcg@10"]["mean"], name)
            for name, values in summary.items()
            if name not in {"towers", "alone", "difference"} and "ndcg@10" in values
        ]
        best = max(others, default=None)
        auc = measured.get("test_auc")
        table.add_row(
            escape(str(directory)),
            str(measured.get("loss", "")),
            _interval(ours) if ours else "",
            f"{best[0]:.4f} {NAMES.get(best[1], best[1])}" if best else "",
            f"{auc:.4f}" if auc is not None else "",
            f"{measured.get('train_seconds', 0):.1f}",
        )
    return table


def similar(console: Console, recommender: Recommender, found: Recommendations) -> None:
    """The neighbours of items."""
    for item, pairs in zip(found.user_ids.tolist(), found, strict=True):
        [about] = items_in_words(recommender, recommender.items.rows([item]))
        table = Table(title=escape(f"nearest to {item}  {about}"), title_justify="left")
        for column in ("rank", escape(found.item_column), "cosine"):
            table.add_column(column, justify="right")
        table.add_column("what it is")
        rows = recommender.items.rows([other for other, _ in pairs])
        texts = items_in_words(recommender, rows)
        for rank, ((other, score), text) in enumerate(zip(pairs, texts, strict=True), 1):
            table.add_row(str(rank), escape(str(other)), f"{score:.3f}", escape(text))
        console.print(table)
