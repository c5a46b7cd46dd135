"""Services in processes of their own, on free ports, and databases likewise."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import Done, Warm


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A service that runs."""

    url: str
    process: Warm
    log: Path

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        every = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + path, sent, every, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Reply(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, dict(error.headers), error.read())

    def post(self, path: str, body: Any, **more: Any) -> Reply:
        return self.ask("POST", path, body, **more)

    def items_of(self, user: Any, **wish: Any) -> list[Any]:
        reply = self.post("/v1/recommend", {"people": [{"user": user}], **wish})
        assert reply.status == 200, reply.body
        return [each["item"] for each in reply.json["answers"][0]["items"]]

    def lines(self) -> list[dict[str, Any]]:
        """The log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def kill(self) -> None:
        """As a failure of power would."""
        assert self.process.process.pid is not None
        os.kill(self.process.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> Done:
        """As an orchestrator does."""
        if self.process.process.is_alive() and self.process.process.pid is not None:
            os.kill(self.process.process.pid, signal.SIGTERM)
        return self.process.wait()


@contextmanager
def serving(run: Path, options: str = "") -> Iterator[Server]:
    """A service of a run, from when it is ready."""
    place = run.parent
    process = Warm(f"serve {run} --port 0 {options}", place)
    out, log = (place.with_name(f"{place.name}.{kind}") for kind in ("out", "err"))
    try:
        until(lambda: " at http" in out.read_text(), process)
        server = Server(out.read_text().split(" at ")[1].strip(), process, log)
        until(lambda: server.ask("GET", "/readyz").status == 200, process)
        yield server
    finally:
        if process.process.is_alive():
            Server("", process, log).stop()


def until(is_so: Any, process: Warm) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        if not process.process.is_alive():
            done = process.wait()
            raise AssertionError(f"the service ended: {done.out}{done.err}")
        assert time.monotonic() < deadline, "the service is not ready"
        time.sleep(0.01)
