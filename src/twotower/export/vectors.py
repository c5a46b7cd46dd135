"""Vectors of users and items, into a Parquet file or a database."""

from __future__ import annotations

from pathlib import Path

from twotower import runs
from twotower.errors import RequestError
from twotower.export.milvus import is_milvus, write_to_milvus
from twotower.export.postgres import SIDES, is_database, write_to_postgres
from twotower.retrieval.write import write_embeddings


def write_vectors(run: str | Path, what: str, into: str) -> dict[str, int]:
    """Write ids and vectors; a user's and an item's inner product is the score.

    Args:
        what: "users" or "items"; a database takes "all" too, PostgreSQL both in one
            transaction.
        into: a Parquet file, ``postgresql://USER@HOST/NAME`` with pgvector, or
            ``milvus:http://HOST:19530`` or ``milvus:FILE.db``.

    Returns:
        How many rows each file or table has.

    Raises:
        RunError: the run can not be read.
        RequestError: something else is asked for, or it can not be written.
    """
    recommender = runs.load(run)
    if not is_database(into) and not is_milvus(into):
        return {into: write_embeddings(recommender, what, Path(into))}
    if what not in {*SIDES, "all"}:
        raise RequestError(
            f"embed: {what!r} is neither 'users' nor 'items' nor 'all'; ask for one of them"
        )
    sides = SIDES if what == "all" else (what,)
    write = write_to_milvus if is_milvus(into) else write_to_postgres
    return write(recommender, into, run=runs.version(Path(run)), sides=sides)
