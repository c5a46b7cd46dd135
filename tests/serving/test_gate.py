"""Whatever goes wrong behind the gate, one answer comes out, one line of log, one count."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from twotower.serving.app import create_app
from twotower.serving.metrics import Metrics
from twotower.serving.served import Served
from twotower.serving.service import Service


class Broken(Service):
    """A service with a mistake in it."""

    def __init__(self) -> None:
        self.metrics = Metrics()

    @property
    def served(self) -> Served:
        raise RuntimeError("nobody thought of this")


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/v1/recommend", b"application/json"),
        ("POST", "/v1/recommend", b"application/json; charset=utf-8"),
        ("GET", "/readyz", b""),
    ],
)
def test_a_mistake_of_ours_is_answered_once_and_counted(
    method: str, path: str, kind: bytes
) -> None:
    broken = Broken()
    app = create_app(broken)
    headers = [(b"host", b"localhost"), (b"content-type", kind), (b"x-request-id", b"mine")]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    scope |= {"query_string": b"", "root_path": "", "server": ("localhost", 80)}
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b'{"people":[{"user":1}]}'}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert [message["type"] for message in sent] == [
        "http.response.start",
        "http.response.body",
    ]
    assert sent[0]["status"] == 500
    problem = json.loads(sent[1]["body"])
    assert problem["request_id"] == "mine"
    assert "mistake of ours" in problem["error"]
    counted = f'twotower_request_seconds_count{{route="{path}",status="500"}} 1.0'
    assert counted in broken.metrics.text().decode()
