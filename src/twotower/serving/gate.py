"""The gate before the routes: sizes, slowness, request ids, one line of log a request."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from twotower.errors import ServiceError
from twotower.serving.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_log = logging.getLogger("twotower.serving")
# How many times too large a body may be until its sender is cut off.
_PATIENCE = 32
MISTAKE = "this is a mistake of ours; the log knows more under the request's id"
# Set in the state of a request that came while too many connections were open.
CROWDED = "is_crowded"
# What is asked of a service that others find too busy; to refuse it would have it replaced.
_HEALTH = ("/livez", "/readyz", "/metrics")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Limits:
    """What one service takes on.

    Attributes:
        body_bytes: of a request.
        body_seconds: until the last byte of a request has come.
        seconds: until an answer is given up.
        items: of an answer, over all its lists; more are refused with 422.
        dear_items: likewise where each list is chosen or explained by itself.
        in_flight: requests computed or waiting to be; more are refused with 429.
        connections: at once; what comes on more is refused with 429, but for health.
        threads: that compute.
    """

    body_bytes: int = 2**20
    body_seconds: float = 10.0
    seconds: float = 10.0
    items: int = 100_000
    dear_items: int = 10_000
    in_flight: int = 256
    connections: int = 1000
    threads: int = 2


class Gate:
    """An application behind limits; whatever happens in it, somebody gets an answer.

    Args:
        closing: what ends its threads.
    """

    def __init__(
        self,
        app: App,
        *,
        limits: Limits,
        metrics: Metrics,
        closing: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._app, self._limits, self._metrics, self._closing = app, limits, metrics, closing

    def close(self) -> None:
        """Let the threads behind it end."""
        for close in self._closing:
            close()

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send
    ) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status, has_begun = 500, False
        started = time.perf_counter()

        async def answer(message: Message) -> None:
            nonlocal status, has_begun
            if message["type"] == "http.response.start":
                status, has_begun = message["status"], True
                extra = [
                    (b"x-request-id", request_id.encode()),
                    (b"cache-control", b"no-store"),
                ]
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        try:
            if scope["state"].get(CROWDED) and scope["path"] not in _HEALTH:
                self._metrics.refused.inc()
                raise ServiceError(
                    429, "too many connections are open; try again", retry_after=1
                )
            body = await self._body(receive)
            started = time.perf_counter()
            await self._app(scope, given(body, receive), answer)
        except ServiceError as refusal:
            await answer_problem(
                answer,
                refusal.status,
                str(refusal),
                request_id,
                refusal.retry_after,
                close=True,
            )
        except _GoneError:
            status = 499
        except Exception:
            # Nothing is known of it but that it must not take the service down.
            _log.exception("failed", extra={"fields": {"request_id": request_id}})
            # The framework raises again what it has answered already.
            if not has_begun:
                await answer_problem(answer, 500, MISTAKE, request_id)
        self.note(
            request_id,
            status,
            time.perf_counter() - started,
            method=scope["method"],
            route=getattr(scope.get("route"), "path", "other"),
            key=scope["state"].get("key", ""),
        )

    def note(
        self,
        request_id: str,
        status: int,
        seconds: float,
        *,
        method: str = "",
        route: str = "other",
        key: str = "",
    ) -> None:
        """Count a request that was answered, be it before its head was whole, and log it."""
        self._metrics.took(route, status, seconds)
        if _log.isEnabledFor(logging.INFO):
            fields = {
                "request_id": request_id,
                "method": method,
                "route": route,
                "status": status,
                "seconds": round(seconds, 6),
                "key": key,
            }
            # Past the logging of the library, which takes as long as a small answer.
            sys.stderr.write(_line(time.time(), "info", "answered", fields))

    async def _body(self, receive: Receive) -> bytes:
        most = self._limits.body_bytes
        parts, size, is_whole = bytearray(), 0, False
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while not is_whole and size <= _PATIENCE * most:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _GoneError
                    part = message.get("body", b"")
                    size += len(part)
                    # Read on without keeping it, since who still sends does not listen.
                    if size <= most:
                        parts += part
                    is_whole = not message.get("more_body", False)
        except TimeoutError:
            raise ServiceError(
                408, f"the body did not come within {self._limits.body_seconds:g} s"
            ) from None
        if size > most:
            raise ServiceError(413, f"the body is larger than {most:,} bytes; send less")
        return bytes(parts)


class _GoneError(Exception):
    """Whoever asked has left."""


def given(body: bytes, receive: Receive) -> Receive:
    """A body that was read already, then whatever comes."""
    waiting = [body]

    async def again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return again


def _request_id(scope: MutableMapping[str, Any]) -> str:
    for name, given in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(given):
            return bytes(given).decode()
    return fresh_id()


def fresh_id() -> str:
    """An id for a request that has none, or none that may stand in a log."""
    return f"{random.getrandbits(64):016x}"


async def answer_problem(
    send: Send,
    status: int,
    text: str,
    request_id: str,
    retry_after: int | None = None,
    *,
    close: bool = False,
) -> None:
    """Answer with one sentence of what is wrong."""
    body = problem_body(text, request_id)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if retry_after is not None:
        headers.append((b"retry-after", str(retry_after).encode()))
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def problem_body(text: str, request_id: str) -> bytes:
    """One sentence of what is wrong, as every refusal has it."""
    return json.dumps({"error": text, "request_id": request_id}).encode()


class JsonLines(logging.Formatter):
    """A JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields = dict(getattr(record, "fields", {}))
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        line = _line(record.created, record.levelname.lower(), record.getMessage(), fields)
        return line.rstrip()


def _line(at: float, level: str, message: str, fields: Mapping[str, Any]) -> str:
    moment = f"{_second(int(at))}.{int(at % 1 * 1000):03}Z"
    return json.dumps({"time": moment, "level": level, "message": message, **fields}) + "\n"


@lru_cache(1)
def _second(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))


def log_as_json() -> None:
    """Let all logs of the process be JSON lines on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _log.setLevel(logging.INFO)
