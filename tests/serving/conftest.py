"""A service that most tests ask, and the runs it is of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from servers import Server, serving

from databases import Postgres
from twotower import runs
from twotower.retrieval.recommender import Recommender
from worlds import trained


@pytest.fixture(scope="session")
def one() -> Recommender:
    """What answers first."""
    return trained()


@pytest.fixture(scope="session")
def two(one: Recommender) -> Recommender:
    """Another that likes what the first dislikes, so that answers tell them apart."""
    return replace(one, user_vectors=-one.user_vectors)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory, one: Recommender, two: Recommender) -> Path:
    """A folder of two runs, never served from."""
    place = tmp_path_factory.mktemp("shelf")
    runs.save(one, place / "one")
    runs.save(two, place / "two")
    return place


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, one: Recommender, two: Recommender
) -> Iterator[Server]:
    """A service of the first run; tests leave items and users of the world as they are."""
    place = tmp_path_factory.mktemp("served") / "runs"
    place.mkdir()
    runs.save(one, place / "one")
    runs.save(two, place / "two")
    with serving(place / "one") as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that runs."""
    server = Postgres()
    server.start()
    try:
        yield server
    finally:
        server.close()
