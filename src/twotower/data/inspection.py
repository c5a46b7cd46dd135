"""What is in the tables, what each column was taken for, and what is odd, with advice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np

from twotower.config import DataConfig, Kind
from twotower.data.entities import Entities
from twotower.data.facts import TableFacts
from twotower.data.interactions import Interactions
from twotower.data.leaks import counts_rows, leak_suspects
from twotower.data.splits import split
from twotower.data.tables import Dataset
from twotower.errors import DataError

# With fewer, intervals are so wide that a comparison of two models says nothing.
FEW_WARM_USERS = 200
_SEED = 42


@dataclass(frozen=True)
class Finding:
    """Something odd: a sentence that ends with advice; a warning can spoil what is measured."""

    severity: Literal["note", "warning"]
    text: str


@dataclass(frozen=True)
class ColumnLook:
    """A column: what it was taken for and why, and what is in it; shares are 0 to 1."""

    name: str
    sql_type: str
    kind: Kind
    reason: str
    share_missing: float
    num_distinct: int
    example: str


@dataclass(frozen=True)
class TableLook:
    """A table: users, items, interactions, train, val or test."""

    name: str
    source: str
    num_rows: int
    columns: tuple[ColumnLook, ...]


@dataclass(frozen=True)
class Inspection:
    """All that ``twotower inspect`` shows; warnings come first among the findings."""

    source: str
    tables: tuple[TableLook, ...]
    findings: tuple[Finding, ...]


def inspect(dataset: Dataset, config: DataConfig | None = None) -> Inspection:
    """Look at a data set that was read.

    Args:
        config: how it will be split; None for the defaults.
    """
    every = reduce(Interactions.followed_by, dataset.interactions.values())
    findings = [Finding("note", text) for text in dataset.notes]
    findings += _columns(dataset)
    findings += _labels(dataset, every)
    repeats = dataset.repeats.values()
    sides: tuple[tuple[Literal["user", "item"], Entities, np.ndarray], ...] = (
        ("user", dataset.users, every.user_rows),
        ("item", dataset.items, every.item_rows),
    )
    for who, entities, rows in sides:
        findings += _activity(who, entities, rows)
        findings += _ids(who, entities)
        for column, what in leak_suspects(entities, who, every, repeats).items():
            text = (
                f"{who}s: column {column!r} follows the {what} of the {who}s here. If it was "
                "computed from these interactions, it gives away the test part: compute it "
                "from earlier ones, or declare it 'ignore'"
            )
            findings.append(Finding("warning", text))
    findings += _repeats(dataset)
    findings += _times(every)
    findings += _given_parts(dataset)
    findings += _split(dataset, config or DataConfig())
    findings.sort(key=lambda finding: finding.severity != "warning")
    return Inspection(dataset.source, tuple(map(_look, dataset.tables)), tuple(findings))


def _look(table: TableFacts) -> TableLook:
    rows = max(table.num_rows, 1)
    columns = []
    for name, column in table.columns.items():
        facts = table.facts[name]
        missing = 1 - facts.num_values / rows
        columns.append(
            ColumnLook(
                name,
                column.sql_type,
                column.kind,
                column.reason,
                missing,
                facts.num_distinct,
                facts.example,
            )
        )
    return TableLook(table.name, table.source, table.num_rows, tuple(columns))


def _columns(dataset: Dataset) -> Iterator[Finding]:
    for table in dataset.tables:
        if table.name not in {"users", "items"}:
            continue
        for name, column in table.columns.items():
            facts, where = table.facts[name], f"{table.name}: column {name!r}"
            share = 1 - facts.num_values / max(table.num_rows, 1)
            if facts.num_values == 0:
                yield Finding("note", f"{where} is empty and not used; drop it or fill it")
            elif column.kind == "ignore":
                continue
            elif facts.num_distinct == 1 and share == 0 and table.num_rows > 1:
                yield Finding(
                    "note",
                    f"{where} has the same value in every row ({facts.example}) and tells "
                    "nothing; drop it, or see whether it was exported right",
                )
            elif share > 0.9:
                yield Finding(
                    "note",
                    f"{where} is missing in {share:.1%} of the rows; fill it, or declare it "
                    "'ignore'",
                )


def _labels(dataset: Dataset, every: Interactions) -> Iterator[Finding]:
    liked = every.labels > 0.5
    labelled = any(column.kind == "label" for column in dataset.columns.values())
    ratings = [c.name for c in dataset.columns.values() if c.kind == "rating"]
    if not liked.any():
        yield Finding(
            "warning",
            "no interaction is liked (every label is 0.5 or less), so there is nothing to "
            "recommend by; look at the labels, or lower data.rating_threshold",
        )
    elif liked.all() and (labelled or not ratings):
        yield Finding(
            "warning" if labelled else "note",
            "all labels are equal (every interaction is liked): bce and triplet, which need "
            "dislikes too, are impossible; leave training.loss to auto, or use a softmax loss",
        )
    elif liked.all():
        yield Finding(
            "note",
            f"every interaction counts as liked, whatever column {ratings[0]!r} says; set "
            "data.rating_threshold to count only high ratings (bce and triplet are impossible "
            "without)",
        )


def _activity(who: str, entities: Entities, rows: np.ndarray) -> Iterator[Finding]:
    """How the interactions are spread over the users, or over the items."""
    counts = np.bincount(rows, minlength=len(entities) + 1)[1:]
    active = counts[counts > 0]
    share, top = counts.max() / len(rows), entities.ids[int(counts.argmax())]
    if share >= 0.5 or (share >= 0.1 and len(active) >= 20):
        yield Finding(
            "warning" if share >= 0.5 else "note",
            f"{who} {top!s} has {share:.0%} of all interactions; a robot, a test account or a "
            "default value? If so, drop its rows",
        )
    if who == "user" and np.median(active) < 5:
        yield Finding(
            "warning",
            f"users have few interactions (the median is {np.median(active):g}); expect little "
            "more than popularity from ids alone: bring features, or a longer time",
        )
    single = float((active == 1).mean())
    if single >= 0.2:
        yield Finding(
            "warning" if who == "user" and single >= 0.5 else "note",
            f"{single:.0%} of the {who}s have only one interaction and can not be both learned "
            "from and tested on; features carry them, ids can not",
        )
    never = len(counts) - len(active)
    if never:
        yield Finding(
            "note",
            f"{never:,} of {len(counts):,} {who}s have no interaction; only their features "
            "speak for them",
        )


def _ids(who: str, entities: Entities) -> Iterator[Finding]:
    ids = entities.ids
    if ids.dtype.kind == "i" and len(ids) >= 20 and ids.max() - ids.min() == len(ids) - 1:
        yield Finding(
            "note",
            f"the {who} ids are the numbers {ids.min()} to {ids.max()} without a gap, like row "
            f"numbers; see that the same {who} keeps its number in the next export",
        )
    for name, values in entities.values.items():
        if entities.columns[name].kind == "numeric" and counts_rows(values):
            yield Finding(
                "warning",
                f"{who}s: column {name!r} counts the rows of the table; declare it 'ignore' "
                "unless the order means something",
            )


def _repeats(dataset: Dataset) -> Iterator[Finding]:
    for part in dataset.interactions.values():
        repeated = len(part) - len(np.unique(_pairs(part)))
        if repeated:
            yield Finding(
                "note",
                f"{repeated:,} rows repeat a user and an item, and each counts; set "
                "data.duplicates to 'last' if they are no meetings of their own",
            )


def _pairs(part: Interactions) -> np.ndarray:
    pairs: np.ndarray = part.user_rows.astype(np.int64) << 32 | part.item_rows
    return pairs


def _times(every: Interactions) -> Iterator[Finding]:
    if every.times is None:
        return
    moments, counts = np.unique(every.times, return_counts=True)
    first, last = np.array([moments[0], moments[-1]], "datetime64[us]").astype("datetime64[s]")
    shared = counts[counts > 1].sum() / len(every)
    yield Finding(
        "note",
        f"times run from {first} to {last} UTC; {shared:.0%} of the rows share theirs with "
        "another row; see that this is so in the source",
    )
    if counts.max() >= 0.2 * len(every) and len(every) > 1:
        yield Finding(
            "warning",
            f"{counts.max() / len(every):.0%} of the rows have the very same time; a split by "
            "time can not part them: export exact times, or use data.split: random_per_user",
        )
    if last < np.datetime64("1980-01-01"):
        yield Finding(
            "warning",
            "no time is later than 1979: are these times at all, in seconds to nanoseconds "
            "since 1970? If not, declare the column 'ignore'",
        )


def _given_parts(dataset: Dataset) -> Iterator[Finding]:
    if not dataset.has_split:
        return
    train = dataset.interactions["train"]
    for name in ("val", "test"):
        part = dataset.interactions.get(name)
        if part is None:
            continue
        again = float(np.isin(_pairs(part), _pairs(train)).mean())
        if again:
            yield Finding(
                "warning",
                f"{again:.1%} of the {name} pairs also stand in train and can not be found "
                "anew; remove them from one of the two",
            )
        if part.times is None or train.times is None:
            continue
        earlier = float((part.times < train.times.max()).mean())
        if earlier:
            yield Finding(
                "note",
                f"{earlier:.1%} of the {name} rows are older than the newest row of train; in "
                "use there is no future to learn from: split by time where you can",
            )


def _split(dataset: Dataset, config: DataConfig) -> Iterator[Finding]:
    """What the split leaves to measure: how many test users train knows anything of."""
    try:
        parts = split(dataset, config, seed=_SEED)
    except DataError as error:
        yield Finding("warning", str(error))
        return
    if parts.test is None:
        yield Finding(
            "note",
            "there is no test part, so nothing will be measured; add test/interactions, or set "
            "data.test_fraction above 0",
        )
        return
    known = parts.train.followed_by(parts.val)
    liked = parts.test.positives()
    fresh = liked.take(~np.isin(_pairs(liked), _pairs(known)))
    users = np.unique(fresh.user_rows)
    warm = int(np.isin(users, known.user_rows).sum())
    sizes = f"{len(parts.train):,} / {len(parts.val):,} / {len(parts.test):,}"
    yield Finding(
        "note",
        f"the split by {parts.name!r} gives {sizes} rows to train, validation and test; "
        f"{warm:,} of {len(users):,} test users are warm (train knows them)"
        + ("" if dataset.has_split else "; data.split chooses another"),
    )
    if warm < FEW_WARM_USERS:
        all_warm = warm == len(users) or parts.name == "random_per_user"
        who = f"{warm:,}" if all_warm else f"{warm:,} of the {len(users):,}"
        other = "" if all_warm else "use data.split: random_per_user or "
        yield Finding(
            "warning",
            f"only {who} test users are warm under the split by {parts.name!r}: intervals will "
            f"be wide and a comparison will mean little; {other}bring more data",
        )
