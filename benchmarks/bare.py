"""What the service is measured beside: a route that returns a constant, or asks a peer.

Requests and answers are those of ``/v1/recommend``, checked by pydantic on the way in and out.
The peers search the vectors of a run, and leave out what its users met.

    python -m benchmarks.bare constant|implicit|tfrs PORT [VECTORS]

``tfrs`` wants an environment of its own, so nothing of this project is imported here.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Person(BaseModel):
    user: int


class Body(BaseModel):
    people: list[Person]
    k: int = 10


class Item(BaseModel):
    item: int
    score: float


class List(BaseModel):
    items: list[Item]


class Lists(BaseModel):
    answers: list[List]


Lister = Callable[[int, int], list[Item]]


def constant() -> Lister:
    """The same list for everybody."""
    items = [Item(item=n, score=1 / (n + 1)) for n in range(1000)]
    return lambda _, k: items[:k]


def implicits(vectors: dict[str, np.ndarray]) -> Lister:
    """Factors searched by implicit."""
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    model = AlternatingLeastSquares(factors=vectors["items"].shape[1])
    model.user_factors, model.item_factors = vectors["users"], vectors["items"]
    items, offsets = vectors["seen"], vectors["offsets"]
    shape = (len(vectors["users"]), len(vectors["items"]))
    met = csr_matrix((np.ones(len(items), np.float32), items, offsets), shape=shape)

    def recommend(user: int, k: int) -> list[Item]:
        return listed(*model.recommend(user, met[user], N=k, filter_already_liked_items=True))

    return recommend


def tfrs(vectors: dict[str, np.ndarray]) -> Lister:
    """TensorFlow Recommenders' exact search, as a graph of one shape: met items are padded."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf  # type: ignore[import-not-found, import-untyped, unused-ignore]
    import tensorflow_recommenders  # type: ignore[import-not-found, unused-ignore]

    tf.config.threading.set_intra_op_parallelism_threads(1)
    index = tensorflow_recommenders.layers.factorized_top_k.BruteForce()
    index.index(tf.constant(vectors["items"]))
    search = tf.function(index.query_with_exclusions)
    users, offsets = vectors["users"], vectors["offsets"]
    lengths = np.diff(offsets)
    seen = np.full((len(users), lengths.max()), -1, np.int32)
    seen[np.arange(seen.shape[1]) < lengths[:, None]] = vectors["seen"]

    def recommend(user: int, k: int) -> list[Item]:
        whose = slice(user, user + 1)
        scores, found = search(tf.constant(users[whose]), tf.constant(seen[whose]), k)
        return listed(found[0].numpy(), scores[0].numpy())

    return recommend


def listed(found: np.ndarray, scores: np.ndarray) -> list[Item]:
    pairs = zip(found.tolist(), scores.tolist(), strict=True)
    return [Item(item=item, score=score) for item, score in pairs]


PEERS = {"implicit": implicits, "tfrs": tfrs}


def app_of(lister: Lister) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/recommend")
    async def recommend(body: Body) -> Lists:
        return Lists(answers=[List(items=lister(p.user, body.k)) for p in body.people])

    @app.get("/readyz")
    async def readyz() -> str:
        return "ok"

    return app


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("lister", choices=["constant", *PEERS])
    arguments.add_argument("port", type=int)
    arguments.add_argument(
        "vectors", type=Path, nargs="?", help=".npz of vectors and met items"
    )
    given = arguments.parse_args()
    lister = constant()
    if given.lister != "constant":
        lister = PEERS[given.lister](dict(np.load(given.vectors)))
    uvicorn.run(app_of(lister), port=given.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
