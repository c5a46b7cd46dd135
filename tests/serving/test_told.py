"""What a service was told is trained on, together with the tables that were given."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from processes import warm
from twotower import pipeline, read, runs
from twotower.data import engine
from twotower.serving.origin import Origin
from twotower.serving.state import Event, State
from worlds import checkerboard, settings, shop

DAY = 1_704_067_200_000_000  # 2024-01-01


def stored(place: Path, events: list[Event], items: dict[str, Any]) -> str:
    """A database beside the run, as a service leaves it."""
    url = f"sqlite:///{place / 'service.sqlite'}"
    with closing(State(url)) as state:
        state.add_events(events)
        if items:
            state.change_items(items, at=1)
    return url


def event(number: int, user: str, item: str, *, liked: bool = True) -> Event:
    return Event(f"e{number}", user, item, "buy", liked, DAY + 1_500_000 * number, 0)


def rows(path: Path) -> list[tuple[Any, ...]]:
    return duckdb.sql(f"FROM '{path}'").fetchall()


def saved(
    tables: dict[str, dict[str, Any]], place: Path, columns: Any = None, **changed: Any
) -> Path:
    """A data folder and a run of it, hardly trained; the run's config names the folder."""
    data = place / "data"
    data.mkdir(parents=True)
    with engine.connect() as connection:
        for name, table in tables.items():
            opened = engine.open_frame(connection, name, table).name
            connection.execute(f"COPY {opened} TO '{data / name}.parquet'")
    changed = {"training": {"epochs": 1}, **changed}
    config = settings(**changed)
    columns = {"interactions": columns} if columns else {}
    own = config.data.model_copy(update={"data_path": str(data), "columns": columns})
    config = config.model_copy(update={"data": own})
    (place / "runs").mkdir()
    return runs.save(pipeline.fit(str(data), config), place / "runs" / "one")


def test_old_rows_and_events_are_trained_on_together(tmp_path: Path) -> None:
    run = saved(shop(), tmp_path)
    new = {
        "title": "a new jazz record",
        "tags": ["jazz"],
        "look": [0.1, 0.2, 0.3],
        "price": 9.5,
    }
    told = [event(1, "c1", "5000"), event(2, "stranger", "1003"), event(3, "c2", "none")]
    told.append(event(4, "c3", "1001", liked=False))
    stored(
        run.parent, told, {"5000": {**new, "released": "2024-05-17"}, "1001": new, "1002": None}
    )
    done = warm(f"events {run} --into {tmp_path / 'told'}", tmp_path)
    assert (done.code, done.err.count("2 events and items were left out")) == (0, 1), done
    both = tmp_path / "both"
    (both / "interactions").mkdir(parents=True)
    given = tmp_path / "data"
    (both / "interactions" / "0.parquet").symlink_to(given / "interactions.parquet")
    (both / "interactions" / "1.parquet").symlink_to(tmp_path / "told" / "interactions.parquet")
    (both / "users.parquet").symlink_to(given / "users.parquet")
    (both / "items.parquet").symlink_to(tmp_path / "told" / "items.parquet")
    old, dataset = read(given), read(both)
    assert len(dataset.interactions["all"]) == len(old.interactions["all"]) + 2
    assert len(dataset.items.ids) == len(old.items.ids) + 1
    trained = pipeline.fit(str(both), settings(training={"epochs": 1}))
    [stranger] = trained.user_rows(["stranger"])
    assert trained.items.of(trained.seen.of(int(stranger))).tolist() == [1003]
    titles = trained.item_values["title"]
    assert {titles[row - 1] for row in trained.item_rows([1001, 5000])} == {new["title"]}
    times = [row[2] for row in rows(tmp_path / "told" / "interactions.parquet")]
    assert [f"{time:%F %T.%f}" for time in times] == [
        "2024-01-01 00:00:01.500000",
        "2024-01-01 00:00:03.000000",
    ]


def test_labels_and_times_are_written_as_the_given_ones_are(tmp_path: Path) -> None:
    run = saved(checkerboard(disliked=8), tmp_path, training={"epochs": 1, "loss": "bce"})
    stored(run.parent, [event(2, "100", "502"), event(4, "101", "503", liked=False)], {})
    done = warm(f"events {run} --into {tmp_path / 'told'}", tmp_path)
    assert done.code == 0, done
    old, new = (tmp_path / name / "interactions.parquet" for name in ("data", "told"))
    given, types = (duckdb.sql(f"DESCRIBE FROM '{path}'").fetchall() for path in (old, new))
    assert [each[:2] for each in types] == [*(each[:2] for each in given), ("kind", "VARCHAR")]
    table = duckdb.sql(f"FROM '{new}'").fetchnumpy()
    assert table["label"].tolist() == [1, 0]


def test_a_database_is_never_made(tmp_path: Path) -> None:
    run = saved(shop(), tmp_path)
    done = warm(f"events {run} --into {tmp_path / 'told'}", tmp_path)
    assert done.code == 2
    assert "no database at" in done.err
    assert not (run.parent / "service.sqlite").exists()


def test_what_the_columns_can_not_hold_is_left_out_and_nothing_else(tmp_path: Path) -> None:
    run = saved(shop(), tmp_path)
    told = [event(1, "c1", "1000"), event(2, "c1", "01001"), event(3, "c1", "1e3")]
    stored(run.parent, told, {"1000": {"price": "dear"}, "1001": {"price": 3.5}})
    done = warm(f"events {run} --into {tmp_path / 'told'}", tmp_path)
    assert (done.code, done.err.count("3 events and items were left out")) == (0, 1), done
    assert [row[1] for row in rows(tmp_path / "told" / "interactions.parquet")] == [1000]
    price = {
        place: dict(duckdb.sql(f"SELECT sku, price FROM '{path}'").fetchall())
        for place, path in (
            ("given", tmp_path / "data" / "items.parquet"),
            ("told", tmp_path / "told" / "items.parquet"),
        )
    }
    assert price["told"] == {**price["given"], 1001: 3.5}


def test_a_like_that_was_taken_back_is_none(tmp_path: Path) -> None:
    run = saved(shop(), tmp_path)
    told = [event(1, "c1", "1000"), event(3, "c2", "1001"), event(2, "c2", "1001", liked=False)]
    stored(run.parent, [*told, event(4, "c1", "1000", liked=False)], {})
    assert warm(f"events {run} --into {tmp_path / 'told'}", tmp_path).code == 0
    found = rows(tmp_path / "told" / "interactions.parquet")
    assert [row[:2] for row in found] == [("c2", 1001)]


@pytest.mark.parametrize(("threshold", "least"), [(4.4, 5), (4.0, 4)])
def test_what_is_liked_is_rated_as_liked(tmp_path: Path, threshold: float, least: int) -> None:
    tables = checkerboard()
    count = len(next(iter(tables["interactions"].values())))
    tables["interactions"]["stars"] = np.full(count, 5)
    data = {"rating_threshold": threshold}
    run = saved(tables, tmp_path, {"stars": "rating"}, data=data)
    stored(run.parent, [event(2, "100", "502")], {})
    assert warm(f"events {run} --into {tmp_path / 'told'}", tmp_path).code == 0
    table = duckdb.sql(f"FROM '{tmp_path / 'told' / 'interactions.parquet'}'").fetchnumpy()
    assert table["stars"].tolist() == [least]


def test_what_was_told_about_other_data_is_refused(tmp_path: Path) -> None:
    run = saved(shop(), tmp_path)
    other = pipeline.fit(checkerboard(), settings(training={"epochs": 1}))
    url = stored(run.parent, [event(1, "c1", "1000")], {})
    with closing(State(url)) as state:
        state.belong_to(Origin.of(other))
    done = warm(f"events {run} --into {tmp_path / 'told'}", tmp_path)
    assert done.code == 2
    assert "other data" in done.err
    assert not (tmp_path / "told").exists()


def test_a_run_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    done = warm(f"events {tmp_path / 'nope'} --into {tmp_path / 'told'}", tmp_path)
    assert (done.code, done.err.count("no such run")) == (2, 1)


@pytest.mark.parametrize(
    ("unit", "expected"), [("s", 1_704_067_203), ("ms", 1_704_067_203_000)]
)
def test_a_time_that_is_a_number_keeps_its_unit(
    tmp_path: Path, unit: str, expected: int
) -> None:
    tables = shop()
    seconds = tables["interactions"]["bought_at"].astype(f"datetime64[{unit}]").astype(np.int64)
    tables["interactions"]["bought_at"] = seconds
    run = saved(tables, tmp_path, {"bought_at": "timestamp"})
    stored(run.parent, [event(2, "c1", "1000")], {})
    assert warm(f"events {run} --into {tmp_path / 'told'}", tmp_path).code == 0
    assert [row[2] for row in rows(tmp_path / "told" / "interactions.parquet")] == [expected]
