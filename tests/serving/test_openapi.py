"""What the service says of itself is so: schemathesis asks all routes, by their own schema."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi import checks
from servers import Server, serving

from twotower.serving.keys import SCOPES, add_key, make_key

ROUTES = [
    *("POST /v1/recommend", "POST /v1/similar", "POST /v1/score", "POST /v1/events"),
    *("PUT /v1/items", "GET /v1/items/{item_id}", "DELETE /v1/items/{item_id}"),
    *("GET /v1/about", "POST /v1/find", "POST /v1/cards", "GET /v1/map"),
    "POST /v1/place",
    "GET /v1/users/{user_id}",
    *("POST /v1/admin/load", "POST /v1/admin/rollback"),
    *("GET /livez", "GET /readyz", "GET /metrics"),
]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.txt"


@pytest.fixture(scope="module")
def key(keys: Path) -> str:
    """It opens everything."""
    secret, made = make_key("all", SCOPES)
    add_key(keys, made)
    return secret


@pytest.fixture(scope="module")
def asked(
    shelf: Path, keys: Path, key: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A service that may be told anything."""
    place = tmp_path_factory.mktemp("asked") / "runs"
    shutil.copytree(shelf, place)
    with serving(place / "one", f"--keys {keys}") as server:
        yield server


@pytest.fixture(scope="module")
def operations(asked: Server) -> dict[str, schemathesis.APIOperation]:
    schema = schemathesis.openapi.from_url(f"{asked.url}/openapi.json")
    every = [found.ok() for found in schema.get_all_operations()]
    return {f"{each.method.upper()} {each.path}": each for each in every}


def test_all_routes_are_described(operations: dict[str, schemathesis.APIOperation]) -> None:
    assert sorted(operations) == sorted(ROUTES)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", ["positive", "negative"])
def test_a_route_answers_as_the_schema_says(
    operations: dict[str, schemathesis.APIOperation], key: str, route: str, kind: str
) -> None:
    mode = schemathesis.GenerationMode(kind)

    @given(case=operations[route].as_strategy(generation_mode=mode))
    @settings(
        max_examples=12,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        deadline=None,
    )
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate(
            headers={"Authorization": f"Bearer {key}"},
            # Which items and columns there are is not for the schema to say.
            excluded_checks=[checks.positive_data_acceptance],
        )

    if kind == "negative" and route.split("/")[1] not in {"v1"}:
        pytest.skip("takes nothing that could be wrong")
    ask()
