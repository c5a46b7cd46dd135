"""A file of many blocks appears when it is whole, and costs the memory of one block."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest

from twotower.data.ids import Ids
from twotower.errors import RequestError
from twotower.retrieval import write
from twotower.retrieval.write import write_blocks, write_embeddings
from worlds import shopkeeper

Block = dict[str, np.ndarray]


def block(start: int, size: int) -> Block:
    numbers = np.arange(start, start + size)
    names = np.array([f"é{n}" for n in numbers], dtype=object)
    return {"id": numbers, "na me": names, "score": np.sqrt(numbers).astype(np.float32)}


def files(place: Path) -> list[str]:
    return sorted(path.name for path in place.rglob("*"))


def test_blocks_follow_each_other_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "o'ne.parquet"
    sizes = [3, 1, 0, 5]
    starts = np.cumsum([0, *sizes]).tolist()
    count = write_blocks(iter(map(block, starts, sizes)), path)
    whole = block(0, 9)
    frame = polars.read_parquet(path)
    assert count == 9
    assert frame.to_dict(as_series=False) == {n: v.tolist() for n, v in whole.items()}
    assert frame.dtypes == [polars.Int64, polars.String, polars.Float32]
    assert files(tmp_path) == ["o'ne.parquet"]


def test_a_first_block_without_rows_does_not_decide_what_the_columns_are(
    tmp_path: Path,
) -> None:
    nothing = {"id": np.empty(0, dtype=object), "score": np.empty(0, np.float32)}
    some = {"id": np.array([5, 6]), "score": np.ones(2, np.float32)}
    path = tmp_path / "x.parquet"
    write_blocks(iter([nothing, some]), path)
    assert polars.read_parquet(path)["id"].to_list() == [5, 6]
    assert polars.read_parquet(path)["id"].dtype == polars.Int64
    assert write_blocks(iter([nothing]), path) == 0
    assert polars.read_parquet(path).columns == ["id", "score"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, RequestError])
def test_what_stops_halfway_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def blocks() -> Iterator[Block]:
        yield block(0, 1000)
        raise error("in the middle")

    for before in ([], ["x.parquet"]):
        with pytest.raises(error, match="in the middle"):
            write_blocks(blocks(), tmp_path / "x.parquet")
        assert files(tmp_path) == before
        (tmp_path / "x.parquet").write_text("mine")
    assert (tmp_path / "x.parquet").read_text() == "mine"


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    (tmp_path / "x.parquet").write_text("mine")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
    try:
        with pytest.raises(RequestError, match="make room or name another place"):
            write_blocks(iter([block(0, 50_000)]), tmp_path / "x.parquet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert files(tmp_path) == ["x.parquet"]
    assert (tmp_path / "x.parquet").read_text() == "mine"


def test_a_place_that_is_taken_meanwhile_stays_as_it_is(tmp_path: Path) -> None:
    def blocks() -> Iterator[Block]:
        (tmp_path / "x.parquet").mkdir()
        yield block(0, 10)

    with pytest.raises(RequestError, match="Is a directory"):
        write_blocks(blocks(), tmp_path / "x.parquet")
    assert files(tmp_path) == ["x.parquet"]


def test_a_block_is_forgotten_before_the_next_but_one_is_made(tmp_path: Path) -> None:
    made: list[Any] = []

    def blocks() -> Iterator[Block]:
        for start in range(0, 8000, 1000):
            alive = [each for each in made if each() is not None]
            assert len(alive) <= 1
            column = np.arange(start, start + 1000)
            made.append(weakref.ref(column))
            yield {"id": column}

    assert write_blocks(blocks(), tmp_path / "x.parquet") == 8000


def test_more_is_written_than_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(write, "_MEMORY", "48MB")
    noise = ({"noise": rng.random(1_000_000)} for _ in range(12))
    assert write_blocks(noise, tmp_path / "x.parquet") == 12_000_000
    assert (tmp_path / "x.parquet").stat().st_size > 80_000_000
    assert files(tmp_path) == ["x.parquet"]


@pytest.mark.parametrize(
    ("name", "problem"), [(".", "is a directory"), ("no/x.parquet", "no does not exist")]
)
def test_a_place_that_can_not_be_is_refused(tmp_path: Path, name: str, problem: str) -> None:
    with pytest.raises(RequestError, match=rf"{problem}\); give the path of a file"):
        write_blocks(iter([block(0, 1)]), tmp_path / name)
    assert files(tmp_path) == []


def test_the_product_of_the_vectors_in_the_files_is_the_score(tmp_path: Path) -> None:
    keeper = shopkeeper()
    frames = {}
    for what in ("users", "items"):
        path = tmp_path / f"{what}.parquet"
        assert write_embeddings(keeper, what, path) == len(getattr(keeper, what))
        frames[what] = polars.read_parquet(path)
    assert frames["users"].columns == ["customer", "vector"]
    assert frames["items"].columns == ["sku", "vector"]
    users, items = (np.array(f["vector"].to_list(), np.float32) for f in frames.values())
    pairs = [
        (user, item) for user in frames["users"]["customer"] for item in frames["items"]["sku"]
    ]
    scores = keeper.score(pairs).reshape(60, 40)
    np.testing.assert_allclose(users @ items.T, scores, rtol=1e-4, atol=1e-4)


def test_vectors_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="'movies' is neither 'users' nor 'items'"):
        write_embeddings(shopkeeper(), "movies", tmp_path / "x.parquet")


def test_vectors_do_not_hide_ids_that_are_called_so(tmp_path: Path) -> None:
    keeper = replace(shopkeeper(), items=Ids("vector", shopkeeper().items.values))
    with pytest.raises(RequestError, match="the id column is called 'vector'"):
        write_embeddings(keeper, "items", tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []
