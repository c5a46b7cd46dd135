"""Vectors -> collections of Milvus, or of a file of Milvus Lite, behind two aliases.

    twotower_users (<user id> primary key, vector, run)
    twotower_items (<item id> primary key, vector, run)

An alias names the collection ``..._a`` or ``..._b``. The other one is filled beside it, and the
alias is moved when that is whole, so that whoever searches sees all of the old vectors, or all
of the new ones, of a side.
"""

from __future__ import annotations

import os
import re
from typing import Any

from twotower.data.ids import Ids, refuse_hidden
from twotower.errors import RequestError
from twotower.export.postgres import SIDES, rows_of
from twotower.retrieval.recommender import Recommender

_BLOCK = 4096
_SECONDS_TO_CONNECT = 10
_LONGEST_ID, _LONGEST_RUN = 1024, 256


def is_milvus(target: str) -> bool:
    """Whether this is a Milvus, ``milvus:http://HOST:19530`` or ``milvus:FILE.db``."""
    return re.match(r"milvus:.", target) is not None


def write_to_milvus(
    recommender: Recommender, target: str, *, run: str, sides: tuple[str, ...] = SIDES
) -> dict[str, int]:
    """Put the vectors of users, of items that may be recommended, or of both in collections.

    Args:
        target: see ``is_milvus``; a token is taken from ``MILVUS_TOKEN``.
        run: told in each row, since scores compare within one run only.

    Returns:
        How many rows each collection has, by its alias.

    Raises:
        RequestError: pymilvus is not installed, or Milvus can not be reached or refuses. The
            aliases still name what was there then.
    """
    try:
        from pymilvus import MilvusClient, MilvusException
    except ImportError:
        raise RequestError(
            "embed: Milvus needs pymilvus, which is not installed: "
            "pip install 'twotower[milvus]'"
        ) from None
    counts = {}
    try:
        client = MilvusClient(
            target.removeprefix("milvus:"),
            token=os.environ.get("MILVUS_TOKEN", ""),
            timeout=_SECONDS_TO_CONNECT,
        )
        try:
            fresh = {}
            for side in SIDES:
                if side in sides:
                    ids, vectors = rows_of(recommender, side)
                    fresh[f"twotower_{side}"] = _fill(client, side, ids, vectors, run)
                    counts[f"twotower_{side}"] = len(ids)
            for alias, collection in fresh.items():
                _move(client, alias, collection)
        finally:
            client.close()
    except MilvusException as error:
        # The address is left out: it may hold a password.
        first = next(iter(str(error.message).splitlines()), type(error).__name__)
        raise RequestError(
            f"embed: Milvus refuses ({first.strip()}); what it had before is still searched, "
            "mend it and try again"
        ) from None
    return counts


def _fill(client: Any, side: str, ids: Ids, vectors: Any, run: str) -> str:
    """A collection of these rows, which no alias names yet."""
    from pymilvus import DataType

    refuse_hidden([ids.column], ("vector", "run"))
    name = (
        f"twotower_{side}_{'b' if _named(client, f'twotower_{side}').endswith('_a') else 'a'}"
    )
    if client.has_collection(name):
        client.drop_collection(name)
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    if ids.are_numbers:
        schema.add_field(ids.column, DataType.INT64, is_primary=True)
    else:
        schema.add_field(ids.column, DataType.VARCHAR, is_primary=True, max_length=_LONGEST_ID)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
    schema.add_field("run", DataType.VARCHAR, max_length=_LONGEST_RUN)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
    client.create_collection(name, schema=schema, index_params=index)
    for start in range(0, len(ids), _BLOCK):
        block = slice(start, start + _BLOCK)
        pairs = zip(ids.values[block].tolist(), vectors[block], strict=True)
        rows = [{ids.column: each, "vector": row, "run": run} for each, row in pairs]
        client.insert(name, rows)
    # Only what is loaded and flushed is searched as a whole.
    client.flush(name)
    client.load_collection(name)
    return name


def _named(client: Any, alias: str) -> str:
    """The collection that an alias names; "" where it names none."""
    for slot in ("a", "b"):
        name = f"{alias}_{slot}"
        if client.has_collection(name) and alias in client.list_aliases(name)["aliases"]:
            return name
    return ""


def _move(client: Any, alias: str, collection: str) -> None:
    before = _named(client, alias)
    if not before:
        client.create_alias(collection, alias)
        return
    client.alter_alias(collection, alias)
    client.drop_collection(before)
