"""What the proofs of the service share: two runs, a service that may be killed, who asks it."""

from __future__ import annotations

import contextlib
import http.client
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.serving import free_port, recommender_of
from twotower import runs
from twotower.retrieval.recommender import Recommender
from twotower.serving.gate import Limits
from twotower.serving.keys import read_keys
from twotower.serving.server import serve

SECONDS_TO_START = 120
# Forked from a process that has the imports, so that a start is not mostly those.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["torch._dynamo", "twotower.pipeline", "benchmarks.services"])


def two_runs(place: Path, num_items: int) -> dict[str, Recommender]:
    """Runs in ``place / "runs"``; the second likes what the first does not."""
    one = recommender_of(place / "world", num_items, 32)
    found = {"one": one, "two": replace(one, user_vectors=-one.user_vectors)}
    for name, recommender in found.items():
        runs.save(recommender, place / "runs" / name)
    return found


@dataclass
class Service:
    """A service in a process of its own."""

    url: str
    process: ForkServerProcess
    log: Path

    def kill(self) -> None:
        """As a failure of power would."""
        self.process.kill()
        self.process.join()

    def resident_mib(self) -> float:
        """What it has in memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        line = next(each for each in status.splitlines() if each.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


@contextlib.contextmanager
def service(
    run: Path, *, state: str | None = None, keys: Path | None = None, seconds: float = 10
) -> Iterator[Service]:
    """A service from when it is ready until it is told to end, or was killed.

    Args:
        seconds: its limit of a body and of an answer.
    """
    port = free_port()
    log = run.parent / "service.log"
    process = _SERVER.Process(target=_serve, args=(run, port, state, keys, seconds, log))
    process.start()
    try:
        found = Service(f"http://127.0.0.1:{port}", process, log)
        deadline = time.monotonic() + SECONDS_TO_START
        while not _is_ready(found):
            if not process.is_alive() or time.monotonic() > deadline:
                raise SystemExit(f"the service did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)
        yield found
    finally:
        process.terminate()
        process.join()


def _serve(
    run: Path, port: int, state: str | None, keys: Path | None, seconds: float, log: Path
) -> None:
    """As ``twotower serve`` does."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
    limits = Limits(seconds=seconds, body_seconds=seconds)
    given = read_keys(keys) if keys else ()
    serve(run, host="127.0.0.1", port=port, state=state, keys=given, limits=limits)


def _is_ready(given: Service) -> bool:
    try:
        return Asker(given.url).ask("GET", "/readyz").status == 200
    except OSError:
        return False


@dataclass(frozen=True)
class Reply:
    """What came back, and how long that took."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def is_stated_refusal(self) -> bool:
        """The service is busy or its database away, and it says when to come again."""
        return self.status in {429, 503} and "retry-after" in self.headers


class Asker:
    """One client: a connection that is kept, and no second try."""

    def __init__(self, url: str, *, seconds: float = 30, key: str | None = None) -> None:
        place = urlsplit(url)
        self._connection = http.client.HTTPConnection(
            str(place.hostname), place.port, timeout=seconds
        )
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"

    def ask(self, method: str, path: str, body: Any = None) -> Reply:
        """One request.

        Raises:
            OSError: the connection broke.
        """
        sent = None if body is None else json.dumps(body)
        started = time.perf_counter()
        try:
            self._connection.request(method, path, sent, self._headers)
            with self._connection.getresponse() as response:
                text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ConnectionError(f"{type(error).__name__}: {error}") from None
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, headers, text, time.perf_counter() - started)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
