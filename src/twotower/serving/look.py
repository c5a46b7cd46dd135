"""The routes that the page reads beside those that recommend: who and what there is."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Request, Response

from twotower.serving import schemas
from twotower.serving.desk import Desk
from twotower.serving.replies import answered, parts, path_id
from twotower.serving.showcase import Showcase

UserId = Annotated[str, Path(min_length=1, max_length=256)]


async def about(request: Request) -> Response:
    """The run that answers: its columns, its verdict, how it is doing."""
    showcase, desk = _parts(request)
    served, found = await desk.ask(showcase.about)
    return answered(schemas.AboutAnswer, served, **found)


async def find(request: Request, body: schemas.FindBody) -> Response:
    """Users or items by their id or by words of their title."""
    showcase, desk = _parts(request)
    served, found = await desk.ask(showcase.find, body.among, body.words, body.k)
    return answered(schemas.CardsAnswer, served, cards=found)


async def cards(request: Request, body: schemas.CardsBody) -> Response:
    """How some items are shown; those that are not known are left out."""
    showcase, desk = _parts(request)
    served, found = await desk.ask(showcase.cards, body.items)
    return answered(schemas.CardsAnswer, served, cards=found)


async def get_user(request: Request, user_id: UserId) -> Response:
    """What is known of a user, by training and since; of somebody unknown, nothing."""
    showcase, desk = _parts(request)
    served, found = await desk.ask(showcase.user, path_id(user_id, "user"))
    return answered(schemas.UserAnswer, served, **found)


async def get_map(request: Request) -> Response:
    """Where the items lie by their embeddings; it is made when first asked for."""
    showcase, desk = _parts(request)
    served, found = await desk.ask(showcase.map)
    return answered(schemas.MapAnswer, served, map=found)


async def place(request: Request, body: schemas.PersonBody) -> Response:
    """Where a person is on the map, by their own vector alone."""
    showcase, desk = _parts(request)
    served, (x, y) = await desk.ask(showcase.place, body)
    return answered(schemas.PlaceAnswer, served, x=x, y=y)


def _parts(request: Request) -> tuple[Showcase, Desk]:
    return request.app.state.showcase, parts(request)[1]


ROUTES: tuple[tuple[str, str, Any, Any], ...] = (
    ("GET", "/v1/about", about, schemas.AboutAnswer),
    ("POST", "/v1/find", find, schemas.CardsAnswer),
    ("POST", "/v1/cards", cards, schemas.CardsAnswer),
    ("GET", "/v1/map", get_map, schemas.MapAnswer),
    ("POST", "/v1/place", place, schemas.PlaceAnswer),
    ("GET", "/v1/users/{user_id:path}", get_user, schemas.UserAnswer),
)
