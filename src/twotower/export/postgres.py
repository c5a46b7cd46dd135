"""Vectors -> two tables of PostgreSQL with pgvector, replaced in one transaction.

    twotower_users (<user id> PRIMARY KEY, vector vector(D), run text)
    twotower_items (<item id> PRIMARY KEY, vector vector(D), run text)

``<#>`` of pgvector is the negative inner product, so an ascending order by it is one of falling
scores. Whoever reads sees all of the old vectors or all of the new ones, of users and of items.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from twotower.data.ids import Ids, refuse_hidden
from twotower.errors import RequestError
from twotower.retrieval.recommender import Recommender

if TYPE_CHECKING:
    import psycopg

SIDES = ("users", "items")
_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
_END = struct.pack("!h", -1)
_BLOCK = 16_384


def is_database(target: str) -> bool:
    """Whether this is the address of a PostgreSQL and no file."""
    return re.match(r"postgres(ql)?://", target) is not None


def write_to_postgres(
    recommender: Recommender, url: str, *, run: str, sides: tuple[str, ...] = SIDES
) -> dict[str, int]:
    """Put the vectors of users, of items that may be recommended, or of both in their tables.

    What the tables hold already is updated, and what is not there any more is deleted, so
    indices on them and references to them stay.

    Args:
        url: ``postgresql://USER@HOST/NAME``; a password may be left to ``PGPASSWORD``.
        run: told in each row, since scores compare within one run only.

    Returns:
        How many rows each table has.

    Raises:
        RequestError: psycopg or pgvector is not installed, the database can not be reached or
            refuses, or a table of that name is something else. Nothing was changed then.
    """
    try:
        import psycopg
    except ImportError:
        raise RequestError(
            "embed: PostgreSQL needs psycopg, which is not installed: "
            "pip install 'twotower[postgresql]'"
        ) from None
    counts = {}
    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            _require_pgvector(connection)
            for side in SIDES:
                if side in sides:
                    ids, vectors = rows_of(recommender, side)
                    _replace(connection, f"twotower_{side}", ids, vectors, run)
                    counts[side] = len(ids)
    except (psycopg.Error, UnicodeError) as error:
        # The address is left out: it may hold a password.
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise RequestError(
            f"embed: the database refuses ({first.strip()}); nothing was changed, mend it and "
            "try again"
        ) from None
    return counts


def rows_of(recommender: Recommender, side: str) -> tuple[Ids, np.ndarray]:
    """Ids and vectors of the users, or of the items that may be recommended."""
    if side == "users":
        return recommender.users, recommender.user_vectors[1:].numpy()
    chosen = torch.nonzero(recommender.is_candidate).squeeze(1)
    ids = Ids(recommender.items.column, recommender.items.values[chosen.numpy()])
    return ids, recommender.item_vectors[1:][chosen].numpy()


def _require_pgvector(connection: psycopg.Connection[Any]) -> None:
    import psycopg

    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.Error as error:
        first = str(error).splitlines()[0]
        raise RequestError(
            f"embed: the database has no pgvector ({first}); install it on the server, and let "
            "an administrator of the database CREATE EXTENSION vector"
        ) from None


def _replace(
    connection: psycopg.Connection[Any], table: str, ids: Ids, vectors: np.ndarray, run: str
) -> None:
    """Make a table hold these rows and no others, as part of a transaction."""
    from psycopg import sql

    refuse_hidden([ids.column], ("vector", "run"))
    kind = "bigint" if ids.are_numbers else "text"
    dimension = sql.SQL(str(vectors.shape[1]))
    names = {"table": sql.Identifier(table), "key": sql.Identifier(ids.column)}

    def execute(text: str, **more: sql.Composable) -> psycopg.Cursor[Any]:
        return connection.execute(sql.SQL(text).format(**names, dimension=dimension, **more))

    execute(
        "CREATE TABLE IF NOT EXISTS {table} ({key} {kind} PRIMARY KEY, "
        "vector vector({dimension}) NOT NULL, run text NOT NULL)",
        kind=sql.SQL(kind),
    )
    # Readers go on; another who writes waits for the end of this.
    execute("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
    found = connection.execute(
        "SELECT attname, format_type(atttypid, NULL), atttypmod FROM pg_attribute "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        [sql.Identifier(table).as_string(connection)],
    ).fetchall()
    expected = {ids.column: kind, "vector": "vector", "run": "text"}
    if {name: its for name, its, _ in found} != expected:
        columns = ", ".join(f"{name} {its}" for name, its, _ in found)
        raise RequestError(
            f"embed: the table {table} has other columns ({columns}) than {ids.column} {kind}, "
            "vector vector, run text; nothing was changed, rename or drop that table"
        )
    if next(length for name, _, length in found if name == "vector") != vectors.shape[1]:
        execute("DELETE FROM {table}")
        execute("ALTER TABLE {table} ALTER COLUMN vector TYPE vector({dimension})")
    execute(
        "CREATE TEMP TABLE fresh ON COMMIT DROP AS "
        "SELECT {key}, vector FROM {table} WITH NO DATA"
    )
    with connection.cursor().copy("COPY fresh FROM STDIN (FORMAT binary)") as copy:
        for block in _packed(ids, vectors):
            copy.write(block)
    execute("ANALYZE fresh")
    execute(
        "INSERT INTO {table} SELECT {key}, vector, {run} FROM fresh "
        "ON CONFLICT ({key}) DO UPDATE SET vector = excluded.vector, run = excluded.run",
        run=sql.Literal(run),
    )
    execute(
        "DELETE FROM {table} AS old "
        "WHERE NOT EXISTS (SELECT FROM fresh WHERE fresh.{key} = old.{key})"
    )
    execute("DROP TABLE fresh")


def _packed(ids: Ids, vectors: np.ndarray) -> Iterator[bytes]:
    """Rows as COPY reads them: two fields each, the id and pgvector's own form of a vector."""
    yield _SIGNATURE
    size = vectors.shape[1]
    before = struct.pack("!ihh", 4 + 4 * size, size, 0)
    for start in range(0, len(ids), _BLOCK):
        numbers = vectors[start : start + _BLOCK].astype(">f4")
        block = bytearray()
        for identity, row in zip(ids.values[start : start + _BLOCK], numbers, strict=True):
            key = struct.pack("!q", identity) if ids.are_numbers else identity.encode()
            block += struct.pack("!hi", 2, len(key)) + key + before + row.tobytes()
        yield bytes(block)
    yield _END
