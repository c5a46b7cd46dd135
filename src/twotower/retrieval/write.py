"""Many blocks of columns -> one Parquet file, whole or not at all, in bounded memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from twotower.data import engine
from twotower.data.ids import refuse_hidden
from twotower.data.writing import whole_file
from twotower.errors import RequestError
from twotower.retrieval.recommender import Recommender

# The engine keeps up to this and puts the rest into its temporary folder.
_MEMORY = "1GB"


def write_blocks(blocks: Iterator[Mapping[str, np.ndarray]], path: Path) -> int:
    """Write blocks of the same columns; the file appears when it is whole.

    Returns:
        How many rows were written.

    Raises:
        RequestError: it can not be written there.
    """
    rows = 0
    with whole_file(path) as beside, _spilling(Path(f"{beside}.tmp")) as connection:
        if path.suffix.lower() not in {".parquet", ".pq"}:
            raise RequestError(
                f"{path}: what is written is Parquet; give a file that ends in .parquet"
            )
        for number, block in enumerate(blocks):
            count = len(next(iter(block.values())))
            if count == 0 and number > 0:
                continue
            connection.register("block", dict(block))
            # A block without rows does not tell the types of its columns.
            verb = "INSERT INTO rows" if rows else "CREATE OR REPLACE TEMP TABLE rows AS"
            connection.execute(f"{verb} SELECT * FROM block")
            connection.unregister("block")
            rows += count
        target = engine.literal(str(beside))
        connection.execute(f"COPY rows TO {target} (FORMAT parquet, COMPRESSION zstd)")
    return rows


@contextmanager
def _spilling(into: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An engine that keeps in memory what it may, and puts the rest into a folder."""
    connection = engine.connect()
    try:
        connection.execute(f"SET memory_limit = '{_MEMORY}'")
        connection.execute(f"SET temp_directory = {engine.literal(str(into))}")
        yield connection
    finally:
        connection.close()
        shutil.rmtree(into, ignore_errors=True)


def write_embeddings(recommender: Recommender, what: str, path: Path) -> int:
    """Write ids and vectors of the ``users`` or the ``items``; returns how many.

    The inner product of a user's vector and an item's is the score.

    Raises:
        RequestError: neither users nor items, or the file can not be written.
    """
    sides = {
        "users": (recommender.users, recommender.user_vectors),
        "items": (recommender.items, recommender.item_vectors),
    }
    if what == "all":
        raise RequestError(
            "embed: a file holds 'users' or 'items'; 'all' goes into a database (--into "
            "postgresql://...)"
        )
    if what not in sides:
        raise RequestError(
            f"embed: {what!r} is neither 'users' nor 'items' (nor, on the command line, 'all' "
            "or 'towers'); ask for one of them"
        )
    ids, vectors = sides[what]
    refuse_hidden([ids.column], ["vector"])
    size = 16_384

    def blocks() -> Iterator[dict[str, Any]]:
        for start in range(0, len(ids), size):
            part = np.empty(len(ids.values[start : start + size]), dtype=object)
            part[:] = list(vectors[start + 1 : start + size + 1].numpy())
            yield {ids.column: ids.values[start : start + size], "vector": part}

    return write_blocks(blocks(), path)
