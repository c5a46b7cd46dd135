"""What the service is measured beside: a route that returns a constant, or asks ``implicit``.

Requests and answers are those of ``/v1/recommend``, checked by pydantic on the way in and out.

    python -m benchmarks.bare constant|implicit PORT [RUN]
"""

from __future__ import annotations

import argparse
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


def implicits(run: Path) -> Lister:
    """Factors of the same number and length, searched by implicit; what was met is left out."""
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    from twotower import runs

    ours = runs.load(run)
    model = AlternatingLeastSquares(factors=ours.item_vectors.shape[1] - 1)
    model.user_factors = ours.user_vectors[1:, :-1].numpy().copy()
    model.item_factors = ours.item_vectors[1:, :-1].numpy().copy()
    seen = ours.seen
    met = csr_matrix(
        (np.ones(len(seen.items), np.float32), seen.items - 1, seen.offsets[1:]),
        shape=(len(ours.users), len(ours.items)),
    )

    def recommend(user: int, k: int) -> list[Item]:
        found, scores = model.recommend(user, met[user], N=k, filter_already_liked_items=True)
        pairs = zip(found.tolist(), scores.tolist(), strict=True)
        return [Item(item=item, score=score) for item, score in pairs]

    return recommend


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
    arguments.add_argument("lister", choices=["constant", "implicit"])
    arguments.add_argument("port", type=int)
    arguments.add_argument("run", type=Path, nargs="?")
    given = arguments.parse_args()
    lister = constant() if given.lister == "constant" else implicits(given.run)
    uvicorn.run(app_of(lister), port=given.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
