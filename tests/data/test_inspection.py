"""What is odd in data is said, once, with what to do; what is not odd is not said."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
from rich.console import Console

from twotower.config import DataConfig
from twotower.data.inspection import Finding, Inspection, inspect
from twotower.data.tables import read
from twotower.terminal.inspection import show

Tables = dict[str, dict[str, Any]]
NUM_USERS, NUM_ITEMS = 300, 60
# The one thing said of every data set that has a test part.
SIZES = r"the split by .* gives .* rows to train, validation and test; .* are warm"


def ordinary() -> Tables:
    """Users with a dozen rows each, liked and not, of no particular order."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(NUM_USERS), 12)
    items = np.concatenate([rng.permutation(NUM_ITEMS)[:12] for _ in range(NUM_USERS)])
    return {
        "users": {"user_id": 7 * np.arange(NUM_USERS), "age": rng.normal(40, 9, NUM_USERS)},
        "items": {"item_id": 9 * np.arange(NUM_ITEMS), "year": rng.normal(0, 1, NUM_ITEMS)},
        "interactions": {
            "user_id": 7 * users,
            "item_id": 9 * items,
            "label": rng.integers(0, 2, len(users)),
        },
    }


def looked(tables: Tables | Path, **config: Any) -> Inspection:
    settings = DataConfig(**config)
    return inspect(read(tables, settings), settings)


def said(tables: Tables | Path, **config: Any) -> list[Finding]:
    return list(looked(tables, **config).findings)


def changed(table: str, **columns: Any) -> Tables:
    world = ordinary()
    return {**world, table: {**world[table], **columns}}


def rows(world: Tables, keep: np.ndarray) -> Tables:
    log = {name: values[keep] for name, values in world["interactions"].items()}
    return {**world, "interactions": log}


def without(world: Tables, column: str) -> Tables:
    log = {name: values for name, values in world["interactions"].items() if name != column}
    return {**world, "interactions": log}


def item_with(share: float) -> Tables:
    """Every user met item 0, which is a share of all rows; the other items are met alike."""
    others = round(NUM_USERS * (1 - share) / share)
    users, items = np.arange(NUM_USERS + others) % NUM_USERS, np.arange(others) % 59
    log = {
        "user_id": 7 * users,
        "item_id": 9 * np.r_[np.zeros(NUM_USERS, int), 1 + items],
        "label": np.arange(NUM_USERS + others) % 2,
    }
    return {**ordinary(), "interactions": log}


def user_with(share: float) -> Tables:
    """User 0 has a share of all rows, each with an item of its own."""
    world = ordinary()
    log = world["interactions"]
    number = round(len(log["user_id"]) * share / (1 - share))
    items = 100_000 + np.arange(number)
    world["items"] = {
        "item_id": np.r_[world["items"]["item_id"], items],
        "year": np.random.default_rng(2).normal(size=NUM_ITEMS + number),
    }
    return {
        **world,
        "interactions": {
            "user_id": np.r_[log["user_id"] + 7 * (log["user_id"] == 0), np.zeros(number, int)],
            "item_id": np.r_[log["item_id"], items],
            "label": np.r_[log["label"], np.arange(number) % 2],
        },
    }


def timed(times: Callable[[int], np.ndarray]) -> Tables:
    world = ordinary()
    size = len(world["interactions"]["user_id"])
    return changed("interactions", timestamp=times(size))


def given(test: Callable[[Tables], dict[str, Any]], **extra: Any) -> Tables:
    """The log in three given parts; ``test`` makes the last."""
    world = ordinary()
    log = {**world.pop("interactions"), **extra}
    cuts = {"train": slice(0, None, 2), "val": slice(1, None, 4), "test": slice(3, None, 4)}
    parts: Tables = {
        name: {column: values[cut] for column, values in log.items()}
        for name, cut in cuts.items()
    }
    return {**world, **parts, "test": test(parts)}


def counts() -> np.ndarray:
    met = ordinary()["interactions"]["item_id"]
    return np.bincount(met, minlength=9 * NUM_ITEMS)[::9] * 2.5


SHUFFLED = np.random.default_rng(3).permutation(NUM_USERS * 12)
NOON = 1_700_000_000
ODD: dict[str, tuple[str, str, Callable[[], Tables]]] = {
    "an empty column": (
        "note",
        r"users: column 'nothing' is empty and not used; drop it or fill it",
        lambda: changed("users", nothing=[None] * NUM_USERS),
    ),
    "a constant column": (
        "note",
        r"items: column 'shop' has the same value in every row \(north\).*; drop it",
        lambda: changed("items", shop=["north"] * NUM_ITEMS),
    ),
    "a column that is nearly always missing": (
        "note",
        r"users: column 'income' is missing in 95\.0% of the rows; fill it, or declare it 'ig",
        lambda: changed("users", income=[n + 0.5 if n < 15 else None for n in range(300)]),
    ),
    "a column that counts rows": (
        "warning",
        r"users: column 'line' counts the rows of the table; declare it 'ignore'",
        lambda: changed("users", line=np.arange(NUM_USERS)),
    ),
    "ids that are row numbers": (
        "note",
        r"the item ids are the numbers 1 to 60 without a gap.*; see that the same item",
        lambda: {
            **changed("items", item_id=np.arange(1, 61)),
            "interactions": {
                **ordinary()["interactions"],
                "item_id": ordinary()["interactions"]["item_id"] // 9 + 1,
            },
        },
    ),
    "a feature computed from the interactions": (
        "warning",
        r"items: column 'seen' follows the number of interactions .* of the items .*'ignore'",
        lambda: changed("items", seen=counts()),
    ),
    "pairs that repeat, where one counts": (
        "note",
        r"36 rows repeat a user and an item; only the last of each pair counts",
        lambda: rows(ordinary(), np.r_[SHUFFLED, np.arange(36)]),
    ),
    "users without a row of their own": (
        "note",
        r"1 users of the interactions are not there .* 12 interactions are kept",
        lambda: {
            **ordinary(),
            "users": {n: v[1:] for n, v in ordinary()["users"].items()},
        },
    ),
    "people without interactions": (
        "note",
        r"1 of 300 users have no interaction; only their features speak for them",
        lambda: rows(ordinary(), np.arange(12, NUM_USERS * 12)),
    ),
    "a user with half of all rows": (
        "warning",
        r"user 0 has 50% of all interactions; a robot, a test account.* drop its rows",
        lambda: user_with(0.5),
    ),
    "a user with a tenth of all rows": (
        "note",
        r"user 0 has 12% of all interactions; a robot",
        lambda: user_with(0.12),
    ),
    "an item with half of all rows": (
        "warning",
        r"item 0 has 60% of all interactions; a robot",
        lambda: item_with(0.6),
    ),
    "users with few interactions": (
        "warning",
        r"users have few interactions \(the median is 3\).* bring features, or a longer time",
        lambda: rows(ordinary(), np.arange(NUM_USERS * 12) % 12 < 3),
    ),
    "users with one interaction": (
        "warning",
        r"67% of the users have only one interaction",
        lambda: rows(
            ordinary(),
            (np.arange(NUM_USERS * 12) // 12 < 100) | (np.arange(NUM_USERS * 12) % 12 == 0),
        ),
    ),
    "nothing liked": (
        "warning",
        r"no interaction is liked .*; look at the labels, or lower data\.rating_threshold",
        lambda: changed("interactions", label=np.zeros(NUM_USERS * 12)),
    ),
    "labels that are all equal": (
        "warning",
        r"all labels are equal \(every interaction is liked\): bce and triplet.*softmax loss",
        lambda: changed("interactions", label=np.ones(NUM_USERS * 12)),
    ),
    "no labels": (
        "note",
        r"all labels are equal \(every interaction is liked\)",
        lambda: without(ordinary(), "label"),
    ),
    "ratings that do not count": (
        "note",
        r"every interaction counts as liked, whatever column 'stars' says; set data\.rating_",
        lambda: without(changed("interactions", stars=np.arange(3600) % 5 + 1), "label"),
    ),
    "a moment that many rows share": (
        "warning",
        r"25% of the rows have the very same time; .*random_per_user",
        lambda: timed(lambda n: np.where(np.arange(n) % 4, NOON + SHUFFLED * 60, NOON)),
    ),
    "times that are none": (
        "warning",
        r"no time is later than 1979: .* declare the column 'ignore'",
        lambda: timed(lambda n: SHUFFLED),
    ),
    "a test part that repeats train": (
        "warning",
        r"100\.0% of the test pairs also stand in train .*; remove them from one of the two",
        lambda: given(lambda parts: parts["train"]),
    ),
    "a test part that is older than train": (
        "note",
        # Every fourth row in turn: only the very last one is newer.
        r"99\.9% of the test rows are older than the newest row of train.*split by time",
        lambda: given(lambda parts: parts["test"], timestamp=NOON + np.arange(3600)),
    ),
    "no test part": (
        "note",
        r"there is no test part, so nothing will be measured; add test/interactions",
        lambda: {n: t for n, t in given(lambda parts: parts["test"]).items() if n != "test"},
    ),
    "a split that the data does not allow": (
        "warning",
        r"the test split by 'time' leaves train empty",
        lambda: timed(lambda n: np.full(n, NOON)),
    ),
    "too few users that train knows": (
        "warning",
        r"only \d+ of the \d+ test users are warm under the split by 'time'.*random_per_user",
        # Everybody comes once and never again.
        lambda: timed(lambda n: NOON + 3600 * np.arange(n)),
    ),
    "too few users at all": (
        "warning",
        r"only 78 test users are warm .* mean little; bring more data",
        lambda: rows(ordinary(), np.arange(1200)),
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_said_with_its_severity_and_what_to_do(name: str) -> None:
    severity, text, make = ODD[name]
    found = [finding for finding in said(make()) if re.search(text, finding.text)]
    assert [finding.severity for finding in found] == [severity]


def test_nothing_is_said_of_an_ordinary_world_but_what_its_split_gives() -> None:
    [finding] = said(ordinary())
    assert finding.severity == "note"
    assert re.search(SIZES, finding.text)


def test_warnings_come_first() -> None:
    severities = [finding.severity for finding in said(user_with(0.5))]
    assert severities == sorted(severities, reverse=True)
    assert set(severities) == {"note", "warning"}


def test_repeats_count_where_the_config_lets_them() -> None:
    twice = rows(ordinary(), np.r_[SHUFFLED, np.arange(36)])
    texts = [finding.text for finding in said(twice, duplicates="keep")]
    assert sum("36 rows repeat a user and an item, and each counts" in t for t in texts) == 1


def test_the_split_is_the_one_that_the_config_asks_for() -> None:
    world = timed(lambda n: NOON + 3600 * np.arange(n))
    [few] = [f for f in said(world) if f.severity == "warning"]
    assert "under the split by 'time'" in few.text
    assert all(f.severity == "note" for f in said(world, split="random_per_user"))


def test_every_column_is_shown_with_what_it_was_taken_for_and_what_is_in_it() -> None:
    world = changed("users", city=["Delft"] * 30 + ["Ghent"] * 120 + [None] * 150)
    tables = {table.name: table for table in looked(world).tables}
    assert {name: table.num_rows for name, table in tables.items()} == {
        "users": NUM_USERS,
        "items": NUM_ITEMS,
        "interactions": NUM_USERS * 12,
    }
    columns = {column.name: column for column in tables["users"].columns}
    assert list(columns) == ["user_id", "age", "city"]
    city = columns["city"]
    assert (city.kind, city.sql_type, city.num_distinct) == ("categorical", "VARCHAR", 2)
    assert city.share_missing == pytest.approx(0.5)
    assert city.example == "Delft"
    assert [c.kind for c in tables["interactions"].columns] == ["user_id", "item_id", "label"]


@pytest.mark.data
@pytest.mark.parametrize(("name", "num_users"), [("ml-latest-small", 610), ("ml-100k", 943)])
def test_a_split_by_time_of_real_data_leaves_few_users_that_train_knows(
    data_sets: Path, name: str, num_users: int
) -> None:
    log = polars.read_parquet(data_sets / name / "interactions.parquet")
    assert log["user_id"].n_unique() == num_users
    # The last fifth of the rows by time, and whatever else happened in its first moment.
    first = log["timestamp"].sort()[-round(0.2 * len(log))]
    test, known = (
        log.filter((polars.col("timestamp") >= first) == is_test) for is_test in (1, 0)
    )
    users = set(test["user_id"])
    warm = len(users & set(known["user_id"]))
    texts = [
        finding.text for finding in said(data_sets / name) if finding.severity == "warning"
    ]
    [few] = [text for text in texts if "warm" in text]
    assert f"only {warm} of the {len(users)} test users are warm" in few
    assert "use data.split: random_per_user" in few


@pytest.mark.data
def test_of_real_data_only_what_is_so_is_said(data_sets: Path) -> None:
    assert not [f for f in said(data_sets / "lab") if f.severity == "warning"]
    by_user = said(data_sets / "ml-100k", split="random_per_user", rating_threshold=4)
    assert not [f for f in by_user if f.severity == "warning"]
    small = [f.text for f in said(data_sets / "ml-latest-small")]
    assert any("18 of 9,742 items have no interaction" in text for text in small)
    assert any("1996-03-29T18:36:55 to 2018-09-24T14:27:30 UTC" in text for text in small)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_why_a_column_was_taken_so_is_shown_in_any_width(width: int) -> None:
    long = "stock_keeping_unit_number"
    texts = [f"a{n} red teapot" for n in range(NUM_ITEMS)]
    inspection = looked(changed("items", title=texts, **{long: np.arange(NUM_ITEMS) % 7}))
    console = Console(width=width)
    with console.capture() as capture:
        show(console, inspection)
    shown = capture.get()
    assert max(map(len, shown.splitlines())) <= width
    for table in inspection.tables:
        _, _, rest = shown.partition(f"{table.name}: ")
        for column in table.columns:
            assert column.kind in rest
            # What does not fit in a line goes on in the next one.
            for word in f"{column.name} {column.reason}, {column.sql_type}".split():
                assert word in rest
