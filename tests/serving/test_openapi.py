"""What the service says of itself is so: schemathesis asks all routes, by their own schema."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from servers import Server, serving


@pytest.fixture(scope="module")
def asked(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that may be told anything."""
    place = tmp_path_factory.mktemp("asked") / "runs"
    shutil.copytree(shelf, place)
    with serving(place / "one") as server:
        yield server


@pytest.fixture(scope="module")
def described(asked: Server) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{asked.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
def test_every_route_answers_as_the_schema_says(case: schemathesis.Case) -> None:
    case.call_and_validate()
