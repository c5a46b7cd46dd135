"""Tables for people: metrics beside baselines, recommendations beside their evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from twotower.evaluation.rankers import IN_WORDS
from twotower.evaluation.verdict import outcome
from twotower.retrieval.recommendations import Recommendations
from twotower.retrieval.recommender import Recommender

# A comparison over fewer users than this is not worth a sentence.
_FEWEST_USERS = 20
_NAMES = {"towers": "two towers", **IN_WORDS}
# Of slices where the difference is no chance, so many are told.
_MOST_SLICES = 4


def metrics(console: Console, measured: Mapping[str, Any]) -> None:
    """The screen that training and evaluation end with."""
    for group, summary in measured.get("ranking", {}).items():
        users = measured["protocol"]["users"]
        count = users["warm"] if group == "warm" else users["all"] - users["warm"]
        if count < _FEWEST_USERS:
            console.print(f"test, {count} {group} users: too few to say", highlight=False)
            continue
        title = f"test, {count:,} {group} users"
        console.print(_ranking_table(title, summary, _costs(measured)))
        console.print(_against_each(summary), highlight=False)
    for line in _for_whom(measured):
        console.print(line, highlight=False)
    for warning in measured.get("warnings", []):
        said = f"[yellow]warning[/] {escape(warning)}"
        console.print(said, highlight=False, soft_wrap=True)
    if measured.get("test_auc") is not None:
        console.print(_labels_table(measured))


def _costs(measured: Mapping[str, Any]) -> dict[str, float]:
    """Seconds that each took, tuning included; those of the towers only after training."""
    costs = {
        name: settings["seconds"] + settings.get("tuning_seconds", 0.0)
        for name, settings in measured.get("baselines", {}).items()
    }
    if "train_seconds" in measured:
        costs["towers"] = measured["train_seconds"]
    return costs


def _ranking_table(title: str, summary: Mapping[str, Any], costs: Mapping[str, float]) -> Table:
    """The towers first, then the baselines, best first."""
    names = _chosen(summary["towers"])
    table = Table(
        title=title,
        title_justify="left",
        caption="mean, 95 % interval over users; baselines tuned on validation",
    )
    table.add_column("")
    for name in [*names, f"towers less these, {names[0]}", "seconds"]:
        table.add_column(name, justify="right")
    differences = summary["difference"]
    by_score = sorted(differences, key=lambda who: -summary[who][names[0]]["mean"])
    for who in ["towers", *by_score]:
        cells = [_interval(summary[who][name]) for name in names]
        less = "" if who == "towers" else _interval(differences[who][names[0]], sign="+")
        seconds = f"{costs[who]:,.1f}" if who in costs else ""
        table.add_row(_NAMES[who], *cells, less, seconds)
    return table


def _chosen(values: Mapping[str, Any]) -> list[str]:
    """The metrics that say most, at the lengths that were measured."""
    ks = sorted({int(name.split("@")[1]) for name in values})
    return [f"ndcg@{ks[0]}", f"recall@{ks[min(1, len(ks) - 1)]}"]


def _interval(value: Mapping[str, float], sign: str = "") -> str:
    low, high = (f"{value[end]:{sign}.4f}" for end in ("low", "high"))
    return f"[bold]{value['mean']:{sign}.4f}[/]\n[dim]{low} {high}[/]"


_WORDS = {"win": "[green]beat[/]", "loss": "[red]lose to[/]", "tie": "[yellow]tie with[/]"}


def _against_each(summary: Mapping[str, Any]) -> str:
    """Whom the towers beat, lose to and tie with, and by how much of the best baseline."""
    metric = _chosen(summary["towers"])[0]
    differences = summary["difference"]
    if not differences:
        return ""
    said: dict[str, list[str]] = {"loss": [], "tie": [], "win": []}
    for name in sorted(differences, key=lambda who: -summary[who][metric]["mean"]):
        theirs = summary[name][metric]["mean"]
        # Of nearly nothing any share is enormous.
        share = f" ({differences[name][metric]['mean'] / theirs:+.1%})" if theirs > 0.01 else ""
        said[outcome(differences[name][metric])].append(f"{_NAMES[name]}{share}")
    parts = [f"{_WORDS[each]} {', '.join(names)}" for each, names in said.items() if names]
    return f"By {metric}, the towers {'; '.join(parts)}."


def _for_whom(measured: Mapping[str, Any]) -> Iterator[str]:
    """The slices where the towers and the best baseline differ most, if not by chance."""
    parts = measured.get("slices", [])
    if not parts:
        return
    name = _NAMES[measured["verdict"]["best_baseline"]]
    for word, wanted in (("better", "win"), ("worse", "loss")):
        told = [part for part in parts if outcome(part["difference"]) == wanted]
        told.sort(key=lambda part: -abs(part["difference"]["mean"]))
        if told:
            each = [
                f"{part['slice']} ({part['towers']:.3f} for {part['baseline']:.3f})"
                for part in told[:_MOST_SLICES]
            ]
            more = f" and {len(told) - len(each)} more" if len(told) > len(each) else ""
            yield escape(
                f"Of {len(parts)} slices, {word} than {name} for: {'; '.join(each)}{more}."
            )


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
        for rank, ((item, score), row) in enumerate(zip(pairs, rows, strict=True), 1):
            about = escape(describe(recommender.item_values, int(row)))
            chance = f"{chances[rank - 1]:.0%}"
            table.add_row(str(rank), escape(str(item)), f"{score:.3f}", chance, about)
        console.print(table)
        if len(pairs) == 0:
            console.print("nothing is left to recommend: everything was seen")


def evidence(console: Console, recommender: Recommender, user: Any) -> None:
    """What the recommendations of one known user rest on."""
    row = int(recommender.users.rows([user])[0])
    about = describe(recommender.user_values, row)
    if about:
        console.print(f"[bold]who[/] {escape(about)}", highlight=False)
    liked = recommender.liked.of(row)
    seen = len(recommender.seen.of(row))
    console.print(f"[bold]met[/] {seen} items, liked {len(liked)}", highlight=False)
    for item_row in liked[-3:][::-1].tolist():
        item = recommender.items.values[item_row - 1]
        text = describe(recommender.item_values, item_row)
        console.print(f"  liked {escape(str(item))}  {escape(text)}", highlight=False)


def describe(values: Mapping[str, np.ndarray], row: int, *, parts: int = 4) -> str:
    """A row in a few words: texts and categories first, then what is yes, then numbers."""
    words, numbers = [], []
    if row == 0:
        return ""
    for name, column in values.items():
        value = column[row - 1]
        if column.ndim > 1 or value is None:
            continue
        if isinstance(value, list):
            words += [", ".join(map(str, value[:4]))] if value else []
        elif isinstance(value, str):
            words.append(value if len(value) < 40 else value[:37] + "...")
        elif value == 1.0 and _is_yes_no(column):
            words.append(name)
        elif not math.isnan(value) and not _is_yes_no(column):
            numbers.append(f"{name} {value:.4g}")
    return " · ".join((words + numbers)[:parts])


def _is_yes_no(column: np.ndarray) -> bool:
    there = column[~np.isnan(column)]
    return bool(np.isin(there[:1000], (0.0, 1.0)).all())


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
            if name not in {"towers", "difference"} and "ndcg@10" in values
        ]
        best = max(others, default=None)
        auc = measured.get("test_auc")
        table.add_row(
            escape(str(directory)),
            str(measured.get("loss", "")),
            _interval(ours) if ours else "",
            f"{best[0]:.4f} {_NAMES.get(best[1], best[1])}" if best else "",
            f"{auc:.4f}" if auc is not None else "",
            f"{measured.get('train_seconds', 0):.1f}",
        )
    return table


def similar(console: Console, recommender: Recommender, found: Recommendations) -> None:
    """The neighbours of items."""
    for item, pairs in zip(found.user_ids.tolist(), found, strict=True):
        row = int(recommender.items.rows([item])[0])
        about = describe(recommender.item_values, row)
        table = Table(title=escape(f"nearest to {item}  {about}"), title_justify="left")
        for column in ("rank", escape(found.item_column), "cosine"):
            table.add_column(column, justify="right")
        table.add_column("what it is")
        rows = recommender.items.rows([other for other, _ in pairs])
        for rank, ((other, score), place) in enumerate(zip(pairs, rows, strict=True), 1):
            text = escape(describe(recommender.item_values, int(place)))
            table.add_row(str(rank), escape(str(other)), f"{score:.3f}", text)
        console.print(table)
