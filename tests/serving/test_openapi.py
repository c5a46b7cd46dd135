"""What the service says of itself is so: schemathesis asks all routes, by their own schema."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def test_who_was_told_of_can_be_asked_for_by_the_link_of_the_schema(
    asked: Server, key: str
) -> None:
    schema = schemathesis.openapi.from_url(f"{asked.url}/openapi.json")
    schema = schema.include(path_regex="/v1/(events|users)")
    followed: set[tuple[str, int]] = set()

    class Told(schema.as_state_machine()):  # type: ignore[misc]
        def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
            return {"headers": {"Authorization": f"Bearer {key}"}}

        def validate_response(
            self, response: Any, case: schemathesis.Case, **more: Any
        ) -> None:
            followed.add((f"{case.method} {case.path}", response.status_code))
            case.validate_response(
                response,
                excluded_checks=[checks.positive_data_acceptance],
                transport_kwargs=more,
                recorder=self.recorder,
            )

    Told.run(
        settings=settings(
            max_examples=20,
            stateful_step_count=5,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            deadline=None,
        )
    )
    assert {("POST /v1/events", 200), ("GET /v1/users/{user_id}", 200)} <= followed
