"""Vectors in a real PostgreSQL with pgvector: replaced as a whole, and searched by it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import torch

from databases import Postgres, with_pgvector
from processes import warm
from twotower import runs
from twotower.data.ids import Ids
from twotower.errors import RequestError
from twotower.export.postgres import write_to_postgres
from twotower.export.vectors import write_vectors
from twotower.retrieval.recommender import Recommender
from worlds import shopkeeper, trained


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    server = Postgres(with_pgvector())
    server.start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def url(server: Postgres) -> str:
    """A database with no table in it."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS twotower_users, twotower_items CASCADE")
    return server.url


def asked(url: str, query: str, *values: Any) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query, values).fetchall()


def fewer_items(recommender: Recommender, count: int, dim: int) -> Recommender:
    """Another version: less items, shorter vectors."""
    rng = np.random.default_rng(1)

    def vectors(rows: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=(rows, dim)).astype(np.float32))

    return replace(
        recommender,
        items=Ids(recommender.items.column, recommender.items.values[:count]),
        item_vectors=vectors(count + 1),
        user_vectors=vectors(len(recommender.users) + 1),
        has_own_id=recommender.has_own_id[: count + 1],
    )


@pytest.mark.parametrize("keeper", [shopkeeper, trained], ids=["text ids", "numbers"])
def test_the_database_finds_what_the_recommender_finds(
    keeper: Any, url: str, tmp_path: Path
) -> None:
    recommender = keeper().remove_items(keeper().items.values[:3])
    run = runs.save(recommender, tmp_path / "run")
    who, what = recommender.users.column, recommender.items.column
    counts = write_vectors(run, "all", url)
    assert counts == {"users": len(recommender.users), "items": len(recommender.items) - 3}
    query = (
        f"SELECT {what}, -(vector <#> mine) FROM twotower_items, "
        f"(SELECT vector AS mine, run FROM twotower_users WHERE {who} = %s) AS person "
        f"WHERE twotower_items.run = person.run ORDER BY vector <#> mine LIMIT 10"
    )
    for user in recommender.users.values[[0, 7, -1]]:
        [expected] = recommender.recommend([user], 10, include_seen=True)
        found = asked(url, query, user if isinstance(user, str) else int(user))
        assert [item for item, _ in found] == [item for item, _ in expected]
        scores = [[score for _, score in pairs] for pairs in (found, expected)]
        np.testing.assert_allclose(*scores, rtol=1e-4)
    versions = "SELECT run FROM twotower_items UNION SELECT run FROM twotower_users"
    assert asked(url, versions) == [(runs.version(run),)]


def test_a_new_version_updates_adds_and_deletes_and_an_index_stays(url: str) -> None:
    first = trained()
    write_to_postgres(first, url, run="one")
    asked_for = "CREATE INDEX nearest ON twotower_items USING hnsw (vector vector_ip_ops)"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(asked_for)
    more = first.add_items({"item_id": [9001], "genre": ["folk"], "year": [1970]})
    second = replace(more, user_vectors=-first.user_vectors).remove_items([500, 501])
    counts = write_to_postgres(second, url, run="two")
    assert counts["items"] == len(first.items) + 1 - 2
    stored = dict(asked(url, "SELECT item_id, vector::text FROM twotower_items"))
    assert set(stored) == set(second.items.values.tolist()) - {500, 501}
    for item, text in stored.items():
        [row] = second.item_rows([item])
        vector = np.array(text.strip("[]").split(","), np.float32)
        np.testing.assert_array_equal(vector, second.item_vectors[row].numpy())
    [(text,)] = asked(url, "SELECT vector::text FROM twotower_users WHERE user_id = 107")
    np.testing.assert_array_equal(
        np.array(text.strip("[]").split(","), np.float32), -first.user_vectors[8].numpy()
    )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute(
            "EXPLAIN SELECT item_id FROM twotower_items "
            "ORDER BY vector <#> (SELECT vector FROM twotower_users WHERE user_id = 107) "
            "LIMIT 3"
        ).fetchall()
    assert any("nearest" in line for (line,) in plan)


def test_the_pages_own_queries_find_what_the_recommender_finds(url: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "elsewhere.md").read_text(encoding="utf-8")
    found, index = re.findall(r"^```sql\n(.*?)^```", page, re.M | re.S)
    write_to_postgres(trained(), url, run="one")
    query = found.replace("movie_id", "item_id").replace("user_id = 42", "user_id = 142")
    [expected] = trained().recommend([142], 10, include_seen=True)
    for _ in range(2):
        rows = asked(url, query)
        assert [item for item, _ in rows] == [item for item, _ in expected]
        np.testing.assert_allclose([s for _, s in rows], [s for _, s in expected], rtol=1e-4)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(index)


def test_one_side_leaves_the_other_as_it_is(url: str) -> None:
    write_to_postgres(trained(), url, run="one")
    assert write_to_postgres(trained(), url, run="two", sides=("items",)) == {
        "items": len(trained().items)
    }
    assert asked(url, "SELECT DISTINCT run FROM twotower_users") == [("one",)]
    assert asked(url, "SELECT DISTINCT run FROM twotower_items") == [("two",)]


def test_another_schema_may_be_chosen(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute("CREATE SCHEMA shop")
    elsewhere = f"{url}&options=-csearch_path%3Dshop,public"
    for _ in range(2):
        write_to_postgres(trained(), elsewhere, run="one")
    assert asked(url, "SELECT count(*) FROM shop.twotower_items") == [(48,)]
    assert asked(url, "SELECT to_regclass('public.twotower_items')") == [(None,)]


def test_vectors_of_another_length_replace_the_old_ones(url: str) -> None:
    write_to_postgres(trained(), url, run="one")
    write_to_postgres(fewer_items(trained(), 20, 5), url, run="two")
    found = asked(url, "SELECT count(*), min(vector_dims(vector)) FROM twotower_items")
    assert found == [(20, 5)]
    assert asked(url, "SELECT DISTINCT vector_dims(vector), run FROM twotower_users") == [
        (5, "two")
    ]


def test_whoever_reads_meanwhile_sees_one_version_whole(url: str) -> None:
    both = [trained(), fewer_items(trained(), 20, trained().item_vectors.shape[1])]
    write_to_postgres(both[0], url, run="0")
    seen: set[Any] = set()
    is_over = threading.Event()

    def read() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not is_over.is_set():
                query = (
                    "SELECT run, (SELECT count(*) FROM twotower_items AS i "
                    "WHERE i.run = u.run), (SELECT count(*) FROM twotower_items), count(*) "
                    "FROM twotower_users AS u GROUP BY run"
                )
                seen.add(tuple(connection.execute(query).fetchall()))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(1, 20):
        write_to_postgres(both[turn % 2], url, run=str(turn % 2))
    is_over.set()
    reader.join()
    users, items = len(both[0].users), len(both[0].items)
    assert seen == {(("0", items, items, users),), (("1", 20, 20, users),)}


def test_what_is_refused_changes_nothing_and_tells_no_password(
    url: str, server: Postgres
) -> None:
    write_to_postgres(trained(), url, run="one")
    broken = replace(
        trained(),
        items=Ids("item_id", np.array(["a\0b", *map(str, range(47))], dtype=object)),
    )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE twotower_items")
    with pytest.raises(RequestError, match=r"the database refuses \(.*; nothing was changed"):
        write_to_postgres(broken, url, run="two")
    assert asked(url, "SELECT DISTINCT run FROM twotower_users") == [("one",)]
    assert asked(url, "SELECT to_regclass('twotower_items')") == [(None,)]
    away = "postgresql://who:secret@127.0.0.1:1/nowhere"
    with pytest.raises(RequestError, match="the database refuses") as caught:
        write_to_postgres(trained(), away, run="two")
    assert "secret" not in str(caught.value)


def test_a_table_that_is_something_else_is_left_alone(url: str) -> None:
    write_to_postgres(trained(), url, run="one")
    with pytest.raises(RequestError, match=r"users has other columns \(user_id bigint"):
        write_to_postgres(shopkeeper(), url, run="two")
    assert asked(url, "SELECT DISTINCT run FROM twotower_users") == [("one",)]


def test_a_database_without_pgvector_is_refused() -> None:
    server = Postgres()
    server.start()
    try:
        with pytest.raises(RequestError, match=r"has no pgvector \(.*; install it on the ser"):
            write_to_postgres(trained(), server.url, run="one")
    finally:
        server.close()


def test_the_command_says_how_many_and_never_the_address(url: str, tmp_path: Path) -> None:
    run = runs.save(shopkeeper(), tmp_path / "run")
    done = warm(f"embed {run} all --into '{url}'", tmp_path)
    assert (done.code, done.out) == (0, "users: 60 rows\nitems: 40 rows\n")
    done = warm(f"embed {run} people --into '{url}'", tmp_path)
    assert done.code == 2
    assert "'people' is neither 'users' nor 'items' nor 'all'" in done.err
    assert "postgresql:" not in done.err
