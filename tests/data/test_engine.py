"""The table engine under limits; ``test_tables.py`` has what is read by it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pytest

from twotower.config import DataConfig
from twotower.data import engine
from twotower.errors import DataError

# A table that is sorted as a whole.
MUCH = "CREATE TEMP TABLE much AS SELECT hash(n) AS h FROM range(3_000_000) AS t(n) ORDER BY h"


def test_where_memory_does_not_suffice_it_says_that_and_blames_no_file() -> None:
    with engine.connect() as connection:
        connection.execute("SET memory_limit = '8MiB'")
        connection.execute("SET temp_directory = ''")
        with pytest.raises(
            DataError, match=r"^shop: memory does not suffice .* raise the limit"
        ):
            engine.rows(connection, MUCH, "shop")


@pytest.mark.parametrize(("mib", "threads"), [(64, 1), (640, 1), (1200, 2)])
def test_little_memory_is_not_shared_among_threads(
    mib: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "available_bytes", lambda _: mib << 20)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    with engine.connect() as connection:
        found = connection.execute("SELECT current_setting('threads')").fetchone()
    assert found == (threads,)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([np.int64(5), np.int64(2**40)], [5, 2**40]),
        ([np.int32(5), None], [5, None]),
        ([np.float32(0.5), 1], [0.5, 1.0]),
        ([np.bool_(True), False], [True, False]),
        ([np.str_("5"), "a"], ["5", "a"]),
    ],
)
def test_scalars_of_numpy_are_read_as_pythons_own(values: Any, expected: Any) -> None:
    with engine.connect() as connection:
        engine.open_frame(connection, "t", {"x": values})
        assert engine.rows(connection, "SELECT x FROM t", "t") == [(each,) for each in expected]


def test_a_text_larger_than_the_engine_may_take_is_read_through_the_disk(
    tmp_path: Path,
) -> None:
    place = tmp_path / "log.csv"
    with engine.connect() as connection:
        words = "SELECT i AS user_id, md5(i::VARCHAR) || md5((i + 1)::VARCHAR) AS note"
        connection.execute(f"COPY ({words} FROM range(1_000_000) t(i)) TO '{place}' (HEADER)")
    # The least that it must have, and less than these are.
    with engine.connect(DataConfig(memory_gib=1e-6)) as connection:
        limit = connection.execute("SELECT current_setting('memory_limit')").fetchall()
        assert limit == [("128.0 MiB",)]
        assert engine.open_files(connection, "log", str(place)).num_rows == 1_000_000


def test_a_text_for_which_there_is_no_room_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "log.csv"
    place.write_text("user_id,item_id\n" + "1,2\n" * 500, encoding="utf-8")
    monkeypatch.setattr(engine, "available_bytes", lambda _: 2**9)
    monkeypatch.setattr(engine, "disk_usage", lambda _: SimpleNamespace(free=2**9))
    with duckdb.connect() as connection, pytest.raises(DataError) as error:
        engine.open_files(connection, "log", str(place))
    assert "log.csv: it is text, of 2.0 KiB, and parsing it takes about 1.2 KiB" in str(
        error.value
    )
    assert "1.0 KiB are free; write it as Parquet" in str(error.value)
