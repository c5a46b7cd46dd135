"""What every route needs: the service and the desk, and an answer that names its run."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel

from twotower.errors import RequestError
from twotower.retrieval.wish import Id
from twotower.serving import schemas
from twotower.serving.desk import Desk
from twotower.serving.served import Served
from twotower.serving.service import Service


def parts(request: Request) -> tuple[Service, Desk]:
    """The service that a request is for, and where it waits to be computed."""
    return request.app.state.service, request.app.state.desk


def path_id(identity: str, what: str) -> Id:
    """The id of a path, held to what ids of bodies are held to.

    Raises:
        RequestError: it is not printable; ``what`` says whose it is.
    """
    if not identity.isprintable():
        raise RequestError(f"{what}: an id in a path is made of printable characters")
    return identity


def answered(model: type[schemas.Answered], served: Served, **values: Any) -> Response:
    """An answer, and which run gave it."""
    return text(model.model_construct(run=served.name, version=served.version, **values))


def text(answer: BaseModel) -> Response:
    """A value as JSON."""
    # Not checked again: it is ours, and to check it would take a third of the time.
    return Response(answer.model_dump_json(), media_type="application/json")
