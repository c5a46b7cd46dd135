"""Requests that are as they should be, answered without the layers of the framework.

A request that waits among many others keeps all layers that it came through, and to go back
through them takes longer than a small answer. So a body that is valid goes to its route at
once. All else is for the framework, which has the same routes: it says what is wrong.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ValidationError
from starlette.routing import BaseRoute

from twotower.errors import TwoTowerError
from twotower.serving.gate import Receive, Send, given


@dataclass(frozen=True)
class Lane:
    """A route of the framework that takes a body.

    Attributes:
        enter: lets a request in, or raises.
        body: what is expected.
        answer: the function behind the route.
    """

    route: BaseRoute
    enter: Callable[[Request], None]
    body: type[BaseModel]
    answer: Callable[[Request, Any], Awaitable[Response]]


class Express:
    """An application, and lanes past it by method and path.

    Args:
        refuse: what is answered where one of our own errors is raised.
    """

    def __init__(
        self,
        app: FastAPI,
        lanes: Mapping[tuple[str, str], Lane],
        refuse: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        self._app, self._lanes, self._refuse = app, lanes, refuse

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send
    ) -> None:
        """Handle one request, whose body comes in one piece."""
        lane = self._lanes.get((scope["method"], scope["path"]))
        if lane is None or not _is_json(scope):
            await self._app(scope, receive, send)
            return
        whole = (await receive())["body"]
        try:
            body = lane.body.model_validate_json(whole)
        except ValidationError:
            await self._app(scope, given(whole, receive), send)
            return
        scope["app"], scope["route"] = self._app, lane.route
        request = Request(scope, receive)
        try:
            lane.enter(request)
            response = await lane.answer(request, body)
        except TwoTowerError as error:
            response = await self._refuse(request, error)
        await response(scope, receive, send)


def _is_json(scope: MutableMapping[str, Any]) -> bool:
    kinds = [value for name, value in scope["headers"] if name == b"content-type"]
    return kinds == [b"application/json"]
