"""A connection that nobody can hold: uvicorn's, with an end for who sends or reads nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from twotower.serving.gate import CROWDED, fresh_id, problem_body

_MOST_HEAD_BYTES = 2**16


def patient_for(
    seconds: float, most: int, note: Callable[[str, int, float], None]
) -> type[asyncio.Protocol]:
    """Connections that are ended after so long without what they are for.

    Args:
        seconds: until the head of a request has come, and in which who is sent an answer has to
            read some of it. The gate sees to bodies.
        most: connections at once; what comes on more is for the gate to refuse.
        note: told the id, status and seconds of what is refused here.
    """

    class Patient(Connection):
        patience = seconds
        most_connections = most
        told = staticmethod(note)

    return Patient


class Connection(HttpToolsProtocol):
    """What uvicorn makes of a connection, within bounds that it does not have."""

    patience: float
    most_connections: int
    told: Callable[[str, int, float], None]
    _began = 0.0
    _head: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None
    _has_begun = False
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Somebody came, and has to say something."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Somebody went."""
        self._stop(self._head)
        self._stop(self._reading)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes, of a head or of a body."""
        head = self._head
        super().data_received(data)
        if head is not None and self._head is head:
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD_BYTES:
                most = f"the head is larger than {_MOST_HEAD_BYTES:,} bytes; send less"
                self._refuse(431, most)

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        super().on_message_begin()
        self._has_begun = True
        if self._head is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """The last byte of a head."""
        self._stop(self._head)
        self._head, self._has_begun = None, False
        if len(self.connections) > self.most_connections:
            self.scope["state"][CROWDED] = True
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """More of an answer waits to be read than the system keeps."""
        super().pause_writing()
        self._await_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It was read."""
        self._stop(self._reading)
        super().resume_writing()

    def _await_head(self) -> None:
        self._head_bytes, self._began = 0, time.perf_counter()
        self._head = self.loop.call_later(self.patience, self._give_up)

    def _give_up(self) -> None:
        self._refuse(408, f"the head did not come within {self.patience:g} s")

    def _await_reader(self, unread: int) -> None:
        self._reading = self.loop.call_later(self.patience, self._look, unread)

    def _look(self, before: int) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread < before:
            self._await_reader(unread)
        else:
            # What was not read would be kept until it is.
            self.transport.abort()

    def _refuse(self, status: int, text: str) -> None:
        self._stop(self._head)
        if self.transport.is_closing():
            return
        # Who said nothing, or still waits for another answer, would take it for that.
        if self._has_begun and (self.cycle is None or self.cycle.response_complete):
            request_id = fresh_id()
            body = problem_body(text, request_id)
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
                f"x-request-id: {request_id}\r\nconnection: close\r\n\r\n"
            )
            self.told(request_id, status, time.perf_counter() - self._began)
            self.transport.write(head.encode() + body)
        self.transport.close()

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()
