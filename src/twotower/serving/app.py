"""The routes: each says to the service what it was told; no logic here."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, get_type_hints

from fastapi import Depends, FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

import twotower
from twotower.errors import RequestError, ServiceError, StateError, TwoTowerError, shortened
from twotower.retrieval.answer import is_quick
from twotower.retrieval.wish import Person
from twotower.serving import look, schemas
from twotower.serving.desk import Desk
from twotower.serving.express import Express, Lane
from twotower.serving.front import add_page
from twotower.serving.gate import MISTAKE, Gate, Limits
from twotower.serving.keys import SCOPES, Key, Scope, find_key
from twotower.serving.replies import answered, parts, path_id, text
from twotower.serving.service import Service
from twotower.serving.showcase import Showcase
from twotower.serving.state import Event

_bearer = HTTPBearer(auto_error=False, description="A key that `twotower key` made.")
# A tenth of the largest answer takes as long as many others do.
_LARGE = 10
# In microseconds.
_DAY = 86_400_000_000
_LOCAL_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d*)?", re.IGNORECASE)


class Doors:
    """Who may come in; without keys everybody, but under a local name only."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = keys

    def open(self, scope: Scope, request: Request) -> None:
        """Let a request in, or not.

        Raises:
            ServiceError: no key, a wrong one, or one for something else.
        """
        if not self._keys:
            if not _LOCAL_HOST.fullmatch(request.headers.get("host", "")):
                # A page elsewhere may have its name lead here (DNS rebinding).
                raise ServiceError(403, "without keys only localhost is answered")
            return
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        key = find_key(self._keys, secret.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise ServiceError(401, "give a key: Authorization: Bearer KEY")
        request.state.key = key.name
        if scope not in key.scopes:
            raise ServiceError(403, f"this key is not for {scope}")

    def before(self, scope: Scope) -> Any:
        """What a route of a scope depends on; with keys its schema says so."""

        # Not a plain function: those are each run in another thread.
        async def opened(request: Request) -> None:
            self.open(scope, request)

        return [Depends(opened), *([Depends(_bearer)] if self._keys else [])]


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": schemas.Problem} for status in (*statuses, 408, 413, 500)}


# Whoever was told of can be asked for: links from one operation to the next.
_USER = {
    "operationId": "get_user_v1_users__user_id__get",
    "parameters": {"user_id": "$request.body#/events/0/user"},
}
_LINKS: dict[str, dict[int | str, dict[str, Any]]] = {
    "/v1/events": {200: {"links": {"user": _USER}}}
}
_GUARDED = (401, 403, 422, 429, 503)
ItemId = Annotated[str, Path(min_length=1, max_length=256)]


def create_app(
    service: Service, keys: Sequence[Key] = (), limits: Limits | None = None
) -> Gate:
    """The application, to be given to a server.

    Args:
        keys: who may come in; with none everybody may, so listen on loopback only.
    """
    limits = limits or Limits()
    app = FastAPI(
        title="twotower",
        version=twotower.__version__,
        description="Recommendations of two towers.",
        docs_url=None,
        redoc_url=None,
        # Its address would be made of the host that the request claims.
        redirect_slashes=False,
    )
    app.state.service, app.state.limits = service, limits
    app.state.showcase = Showcase(service)
    app.state.desk = Desk(limits, service.metrics, threads=limits.threads)
    # Writes come one after the other, and a slow database must not keep answers waiting.
    app.state.writes = Desk(limits, service.metrics, threads=1)
    app.add_exception_handler(TwoTowerError, _refused)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(Exception, _mistaken)
    doors, lanes = Doors(keys), {}
    read, write, admin = SCOPES
    add = app.add_api_route
    item = "/v1/items/{item_id:path}"
    for method, path, route, model, scope, more in (
        ("POST", "/v1/recommend", recommend, schemas.RecommendAnswer, read, ()),
        ("POST", "/v1/similar", similar, schemas.SimilarAnswer, read, ()),
        ("POST", "/v1/score", score, schemas.ScoreAnswer, read, ()),
        ("POST", "/v1/events", events, schemas.EventsAnswer, write, ()),
        ("POST", "/v1/admin/load", load, schemas.Answered, admin, (404, 409)),
        ("POST", "/v1/admin/rollback", rollback, schemas.Answered, admin, (409,)),
        ("PUT", "/v1/items", put_items, schemas.ItemsAnswer, write, ()),
        ("GET", item, get_item, schemas.ItemAnswer, read, (404,)),
        ("DELETE", item, delete_item, schemas.ItemsAnswer, write, (404,)),
        *((*each, read, ()) for each in look.ROUTES),
    ):
        body = get_type_hints(route).get("body")
        add(
            path,
            route,
            methods=[method],
            response_model=model,
            dependencies=doors.before(scope),
            responses=_problems(*([400] if body else []), *_GUARDED, *more)
            | _LINKS.get(path, {}),
        )
        if body:
            lanes[method, path] = Lane(app.routes[-1], partial(doors.open, scope), body, route)
    add_page(app)
    add("/livez", livez, methods=["GET"], response_class=Response)
    add(
        "/readyz",
        readyz,
        methods=["GET"],
        response_model=schemas.Answered,
        responses=_problems(503),
    )
    add(
        "/metrics",
        metrics,
        methods=["GET"],
        dependencies=doors.before(read),
        response_class=Response,
        responses=_problems(401, 403),
    )
    return Gate(
        Express(app, lanes, _refused),
        limits=limits,
        metrics=service.metrics,
        closing=[app.state.desk.close, app.state.writes.close],
    )


async def recommend(request: Request, body: schemas.RecommendBody) -> Response:
    """Lists for people: by id, features, history or any mix of them."""
    service, desk = parts(request)
    wish, recommender = body.wish, service.served.recommender
    is_dear = bool(wish.diversity or wish.at_most or wish.explain)
    is_large = _is_large(request, "people", len(body.people), wish.k, is_dear=is_dear)
    served, answers = await desk.ask_together(
        service.recommend,
        body.people,
        wish,
        is_quick=not is_large and is_quick(recommender, body.people, wish),
        is_large=is_large,
    )
    return answered(schemas.RecommendAnswer, served, answers=answers)


async def similar(request: Request, body: schemas.SimilarBody) -> Response:
    """The items nearest to each of some items."""
    service, desk = parts(request)
    is_large = _is_large(request, "items", len(body.items), body.k)
    served, found = await desk.ask(service.similar, body.items, body.k, is_large=is_large)
    answers = [
        schemas.Neighbours.model_construct(
            item=item,
            items=[schemas.Neighbour.model_construct(item=i, score=s) for i, s in pairs],
        )
        for item, pairs in zip(found.user_ids.tolist(), found, strict=True)
    ]
    return answered(schemas.SimilarAnswer, served, answers=answers)


async def score(request: Request, body: schemas.ScoreBody) -> Response:
    """What users make of items."""
    service, desk = parts(request)
    people = [Person(user=pair.user) for pair in body.pairs]
    served, scores = await desk.ask(service.score, people, [pair.item for pair in body.pairs])
    return answered(schemas.ScoreAnswer, served, scores=scores)


async def get_item(request: Request, item_id: ItemId) -> Response:
    """An item and what is known of it."""
    service, desk = parts(request)
    served, item, values = await desk.ask(service.item, path_id(item_id, "item"))
    return answered(schemas.ItemAnswer, served, item=item, values=values)


async def put_items(request: Request, body: schemas.ItemsBody) -> Response:
    """Items that are new or have new features; the next request knows them."""
    service, _ = parts(request)
    known = service.served.recommender.items
    items = {known.key(each.item): each.features for each in body.items}
    if len(items) < len(body.items):
        raise RequestError("items: an item is there twice; send each once")
    served = await _writes(request).ask(service.put_items, items)
    return answered(schemas.ItemsAnswer, served, changed=len(items))


async def delete_item(request: Request, item_id: ItemId) -> Response:
    """An item that is no longer to be had."""
    service, _ = parts(request)
    served = await _writes(request).ask(service.delete_item, path_id(item_id, "item"))
    return answered(schemas.ItemsAnswer, served, changed=1)


async def events(request: Request, body: schemas.EventsBody) -> Response:
    """What people did: stored durably, in their histories from the next request on."""
    service, _ = parts(request)
    known = service.served.recommender
    now = datetime.now(UTC)
    received = [
        Event(
            each.id,
            known.users.key(each.user),
            known.items.key(each.item),
            each.kind,
            each.liked,
            each.microseconds(now),
            int(now.timestamp() * 1e6),
        )
        for each in body.events
    ]
    for place, event in enumerate(received):
        # One that is far off would hide what comes after it, and the unit of the next training.
        if not 0 <= event.happened_at <= event.received_at + _DAY:
            raise ServiceError(
                422,
                f"events.{place}.at: expected a time from 1970 to a day ahead, got "
                f"{body.events[place].at}",
            )
    stored = await _writes(request).ask(service.add_events, received)
    return text(
        schemas.EventsAnswer.model_construct(stored=stored, repeated=len(received) - stored)
    )


async def load(request: Request, body: schemas.LoadBody) -> Response:
    """Another run of the runs folder, loaded beside and swapped; the old one is kept."""
    service, _ = parts(request)
    # Not at the desk: it takes longer than an answer may.
    return answered(schemas.Answered, await asyncio.to_thread(service.load, body.run))


async def rollback(request: Request) -> Response:
    """Back to the run before."""
    service, _ = parts(request)
    return answered(schemas.Answered, await asyncio.to_thread(service.rollback))


async def livez() -> Response:
    """Whether the process answers."""
    return Response("ok", media_type="text/plain")


async def readyz(request: Request) -> Response:
    """Whether a run is loaded and warm."""
    service, _ = parts(request)
    return answered(schemas.Answered, service.served)


async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    service, _ = parts(request)
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _is_large(
    request: Request, what: str, count: int, k: int, *, is_dear: bool = False
) -> bool:
    """Whether so many lists are a good part of what one answer may hold.

    Raises:
        RequestError: they are more.
    """
    limits: Limits = request.app.state.limits
    most = limits.dear_items if is_dear else limits.items
    if count * k > most:
        why = " with diversity, at_most or explain" if is_dear else ""
        raise RequestError(
            f"{what}: {count:,} lists of {k:,} are {count * k:,} items, and an answer has at "
            f"most {most:,}{why}; ask for fewer {what} at once, or a smaller k"
        )
    return _LARGE * count * k > most


def _writes(request: Request) -> Desk:
    desk: Desk = request.app.state.writes
    return desk


def _problem(
    request: Request, status: int, text: str, headers: dict[str, str] | None = None
) -> Response:
    body = {"error": text, "request_id": request.scope["state"]["request_id"]}
    # Plain ASCII, since an id that is quoted may hold what is no text.
    return _AsciiResponse(body, status_code=status, headers=headers)


class _AsciiResponse(JSONResponse):
    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()


async def _refused(request: Request, error: Exception) -> Response:
    status, headers = 422, {}
    if isinstance(error, ServiceError):
        status = error.status
        if error.retry_after is not None:
            headers["Retry-After"] = str(error.retry_after)
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
    elif isinstance(error, StateError):
        request.app.state.service.metrics.state_failures.inc()
        status, headers = 503, {"Retry-After": "5"}
    return _problem(request, status, _short(str(error)), headers)


async def _not_valid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # Names of the alternatives that were tried tell the reader nothing.
    named = [str(part) for part in first["loc"] if part != "body"]
    where = ".".join(part[:80] for part in named if not re.search(r"[-\[]", part))
    what = str(first["msg"]).removeprefix("Value error, ")
    return _problem(request, 422, _short(f"{where or 'body'}: {what}"))


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    return _problem(request, error.status_code, _short(str(error.detail)), headers)


async def _mistaken(request: Request, _: Exception) -> Response:
    return _problem(request, 500, MISTAKE)


def _short(text: str) -> str:
    return shortened(" ".join(text.split()), 400)
