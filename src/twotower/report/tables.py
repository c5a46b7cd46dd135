"""The page's sentences and tables: every cell a text, before it becomes HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower.evaluation.popularity import GROUPS
from twotower.evaluation.verdict import Outcome, outcome
from twotower.evaluation.words import (
    NAMES,
    VERBS,
    against_each,
    best_first,
    costs,
    main_metrics,
    num_users,
)
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.words import items_in_words, users_in_words

Cell = str | tuple[str, str]
"""A text, or one and its interval."""


@dataclass(frozen=True)
class Row:
    """A line of a table, and how what it tells went for the towers."""

    name: str
    cells: Sequence[Cell]
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Table:
    """What a table says; ``columns`` name the cells of its rows."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]


# Whose items a bar of popularity is of.
BARS: Mapping[str, str] = {"seen": "data: met before", "held_out": "data: held out", **NAMES}
# What the page's style puts before a row's name.
_MARKS = "▲ the towers are better, ● a tie, ▼ they are worse."
_LABELS = {"AUC": "auc", "log-loss": "log_loss", "accuracy": "accuracy"}


def key_figures(measured: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The figures that say most: what it is, the figure, and what goes with it."""
    found = measured.get("verdict")
    group = found["group"] if found else next(iter(measured.get("ranking", {})), None)
    if group is not None:
        summary = measured["ranking"][group]
        metric = main_metrics(summary)[0]
        yield metric, *_pair(summary["towers"][metric])
        if found:
            best = found["best_baseline"]
            yield f"{metric} of {NAMES[best]}", *_pair(summary[best][metric])
            yield "difference", *_pair(summary["difference"][best][metric], sign="+")
        yield "test users", f"{num_users(measured, group):,}", group
    if measured.get("test_auc") is not None:
        best_auc = (measured.get("best_possible") or {}).get("auc")
        note = f"best possible {best_auc:.4f}" if best_auc else ""
        yield "AUC", f"{measured['test_auc']:.4f}", note
    if measured.get("train_seconds") is not None:
        yield "training", f"{measured['train_seconds']:,.1f} s", ""


def against(summary: Mapping[str, Any]) -> list[tuple[Outcome, str, str]]:
    """The sentence of the terminal in its parts: how it went, the verb, and with whom."""
    found = against_each(summary)
    return [(each, VERBS[each], ", ".join(names)) for each, names in found.items()]


def ranking(measured: Mapping[str, Any], group: str) -> Table:
    """The towers first, then the baselines, best first: the table of the terminal."""
    summary = measured["ranking"][group]
    metrics = main_metrics(summary)
    seconds, differences = costs(measured), summary["difference"]
    rows = []
    for who in ["towers", *best_first(summary, metrics[0])]:
        difference = None if who == "towers" else differences[who][metrics[0]]
        cells = [
            *(_pair(summary[who][metric]) for metric in metrics),
            "" if difference is None else _pair(difference, sign="+"),
            f"{seconds[who]:,.1f}" if who in seconds else "",
        ]
        rows.append(Row(NAMES[who], cells, outcome(difference) if difference else None))
    return Table(
        f"Mean over users, 95 % interval. {_MARKS}",
        [*metrics, f"towers less these, {metrics[0]}", "seconds"],
        rows,
    )


def every_metric(summary: Mapping[str, Any]) -> Table:
    """All that was measured of each, a row a metric."""
    who = ["towers", *best_first(summary, main_metrics(summary)[0])]
    return Table(
        "Every metric: mean over users, 95 % interval.",
        [NAMES[name] for name in who],
        [Row(each, [_pair(summary[name][each]) for name in who]) for each in summary["towers"]],
    )


def slices(parts: Sequence[Mapping[str, Any]], metric: str) -> Table:
    """Slices of one group of users."""
    rows = []
    for part in parts:
        scores = [f"{part['users']:,}", f"{part['towers']:.4f}", f"{part['baseline']:.4f}"]
        difference = part["difference"]
        cells: list[Cell] = [*scores, _pair(difference, sign="+")]
        rows.append(Row(part["slice"], cells, outcome(difference)))
    return Table(
        f"{metric} of each slice's users. {_MARKS}",
        ["users", NAMES["towers"], NAMES[parts[0]["against"]], "difference"],
        rows,
    )


def labels(measured: Mapping[str, Any]) -> Table | None:
    """How well chances tell liked from not liked; None where there are no such labels."""
    if measured.get("test_auc") is None:
        return None
    cells = [f"{measured['test_' + key]:.4f}" for key in _LABELS.values()]
    rows = [Row(NAMES["towers"], [*cells, f"{measured['test_calibration_error']:.4f}"])]
    caption = "Every row of the test part."
    if measured.get("best_possible"):
        best = [f"{measured['best_possible'][key]:.4f}" for key in _LABELS.values()]
        rows.append(Row("best possible", [*best, ""]))
        caption += " Best possible: what the true chances score here; luck may pass it."
    return Table(caption, [*_LABELS, "calibration error"], rows)


def reliability(bins: Sequence[Mapping[str, float]]) -> Table:
    """Each bin of the reliability diagram."""
    rows = []
    for number, each in enumerate(bins, 1):
        was = (f"{each['share']:.1%}", f"{each['low']:.1%} to {each['high']:.1%}")
        rows.append(Row(str(number), [f"{each['rows']:,}", f"{each['chance']:.1%}", was]))
    return Table(
        "Rows of the test part in order of their chance, in bins of equal size.",
        ["rows", "said", "was"],
        rows,
    )


def popularity(measured: Mapping[str, Any]) -> Table:
    """Coverage, popularity bias and the share of popular items, ours beside the baselines'."""
    shares = measured.get("popularity", {}).get("shares", {})
    beyond = measured["beyond_accuracy"]
    rows = []
    for who in [*(name for name in shares if name not in beyond), *beyond]:
        values = beyond.get(who, {})
        cells = [
            f"{values['coverage']:.1%}" if "coverage" in values else "",
            f"{values['popularity_bias']:+.1%}" if "popularity_bias" in values else "",
            *(f"{shares[who][group]:.1%}" if who in shares else "" for group in GROUPS),
        ]
        rows.append(Row(BARS[who], cells))
    return Table(
        "The first ten of each test user's list.",
        ["coverage", "popularity bias", *GROUPS],
        rows,
    )


def examples(recommender: Recommender, measured: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Users with what they liked and what they get, in words where the model knows them."""
    for each in measured.get("examples", []):
        [about] = users_in_words(recommender, recommender.users.rows([each["user"]]))
        lists = {
            name: list(zip(map(str, each[name]), _items(recommender, each[name]), strict=True))
            for name in ("latest", "recommended", "missed")
        }
        hits = set(map(str, each["hits"]))
        yield {
            **lists,
            "user": str(each["user"]),
            "about": about,
            "history": each["history"],
            "liked": each["liked"],
            "held_out": each["held_out"],
            "hits": hits,
            "unseen": each["held_out"] - len(hits) - len(lists["missed"]),
        }


def _items(recommender: Recommender, ids: Sequence[Any]) -> list[str]:
    return items_in_words(recommender, recommender.items.rows(ids), parts=2)


def facts(
    recommender: Recommender, measured: Mapping[str, Any]
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What was measured, on what, with what; a title and its lines."""
    trained, data = recommender.metrics, measured.get("data") or {}
    rows = data.get("interactions", {})
    config, protocol = recommender.config, measured.get("protocol", {})
    yield (
        "Data",
        [
            ("source", str(data.get("source", "not said"))),
            ("users", f"{data.get('users', len(recommender.users)):,}"),
            ("items", f"{data.get('items', len(recommender.items)):,}"),
            *((f"interactions, {name}", f"{count:,}") for name, count in rows.items()),
            ("sha256", str(data.get("sha256", "not said"))),
        ],
    )
    users = protocol.get("users", {})
    yield (
        "Split",
        [
            ("cut", str(protocol.get("split", "not said"))),
            *((f"{n} rows", f"{c:,}") for n, c in protocol.get("interactions", {}).items()),
            *((f"test users, {name}", f"{count:,}") for name, count in users.items()),
        ],
    )
    epoch = trained.get("best_epoch")
    yield (
        "Training",
        [
            ("loss", str(config.training.loss)),
            ("embedding", f"{recommender.item_vectors.shape[1] - 1} numbers"),
            ("weights", f"{sum(each.numel() for each in recommender.model.parameters()):,}"),
            ("best epoch", str(epoch) if epoch else "none was better than the start"),
            ("seed", str(config.training.seed)),
        ],
    )
    versions = measured.get("versions") or trained.get("versions", {})
    yield "Versions", [(name, str(version)) for name, version in versions.items()]


def title(measured: Mapping[str, Any]) -> str:
    """What the page is about: the name of its data."""
    return Path(str((measured.get("data") or {}).get("source", ""))).name or "a recommender"


def _pair(value: Mapping[str, float], sign: str = "") -> tuple[str, str]:
    low, high = (f"{value[end]:{sign}.4f}" for end in ("low", "high"))
    return f"{value['mean']:{sign}.4f}", f"{low} to {high}"
