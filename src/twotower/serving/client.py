"""A client of a service: asks and gets the same values as Python does, without torch."""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import TypeAdapter

from twotower.errors import RequestError, ServiceError
from twotower.retrieval.wish import Answer, Id, Person, Scored, Wish
from twotower.serving.schemas import (
    AboutAnswer,
    Answered,
    Card,
    CardsAnswer,
    MapAnswer,
    UserAnswer,
)

T = TypeVar("T")
_MOST_WAITED = 30.0
_answers = TypeAdapter(list[Answer])
_scores = TypeAdapter(list[Scored])


def _new_id() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True)
class ClientEvent:
    """A user met an item; the id is made here, so that a retry counts once."""

    user: Id
    item: Id
    kind: str = "interaction"
    liked: bool = True
    at: datetime | None = None
    id: str = field(default_factory=_new_id)


class Client:
    """A service at an address.

    A service that is busy or away for a moment is asked again, after as long as it says; all
    requests may be sent twice without harm.

    Args:
        url: such as ``http://127.0.0.1:8000``.
        key: as ``twotower key`` made it, if the service wants one.
        timeout_seconds: of one attempt.
        retries: how often to ask again.

    Raises:
        RequestError: from every method, where the service says that the request is wrong.
        ServiceError: where it can not answer.
    """

    def __init__(
        self, url: str, key: str | None = None, *, timeout_seconds: float = 10, retries: int = 3
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise RequestError(f"{url!r} is no address of a service; give http://HOST:PORT")
        self._parts, self._timeout, self._retries = parts, timeout_seconds, retries
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._own = threading.local()

    @property
    def answered_by(self) -> Answered | None:
        """The run and version of the last answer in this thread; of events there is none."""
        found: Answered | None = getattr(self._own, "answered_by", None)
        return found

    def answer(self, people: Sequence[Person], wish: Wish | None = None) -> list[Answer]:
        """What ``twotower.answer`` says, and what was done since counts too."""
        body = (wish or Wish()).model_dump(mode="json", exclude_unset=True)
        body["people"] = [each.model_dump(mode="json", exclude_unset=True) for each in people]
        return _answers.validate_python(self._ask("POST", "/v1/recommend", body)["answers"])

    def similar(self, items: Sequence[Id], k: int = 10) -> dict[Id, list[tuple[Id, float]]]:
        """The items nearest to each, and their cosines."""
        found = self._ask("POST", "/v1/similar", {"items": list(items), "k": k})["answers"]
        return {
            each["item"]: [(near["item"], near["score"]) for near in each["items"]]
            for each in found
        }

    def score(self, pairs: Sequence[tuple[Id, Id]]) -> list[Scored]:
        """What users make of items; a pair is a user's id and an item's."""
        body = {"pairs": [{"user": user, "item": item} for user, item in pairs]}
        return _scores.validate_python(self._ask("POST", "/v1/score", body)["scores"])

    def item(self, item: Id) -> dict[str, Any]:
        """The values of an item's columns."""
        values: dict[str, Any] = self._ask("GET", _item_path(item))["values"]
        return values

    def find(self, among: Literal["users", "items"], words: str, k: int = 10) -> list[Card]:
        """Users or items by their id or by words of their title."""
        body = {"among": among, "words": words, "k": k}
        return CardsAnswer.model_validate(self._ask("POST", "/v1/find", body)).cards

    def cards(self, items: Sequence[Id]) -> list[Card]:
        """How some items are shown; those that are not known are left out."""
        found = self._ask("POST", "/v1/cards", {"items": list(items)})
        return CardsAnswer.model_validate(found).cards

    def user(self, user: Id) -> UserAnswer:
        """What is known of a user, by training and since."""
        found = self._ask("GET", f"/v1/users/{quote(str(user), safe='')}")
        return UserAnswer.model_validate(found)

    def about(self) -> AboutAnswer:
        """The run that answers: its columns, its verdict, how it is doing."""
        return AboutAnswer.model_validate(self._ask("GET", "/v1/about"))

    def map(self) -> dict[str, Any] | None:
        """Where the items lie by their embeddings; None while that is being found out."""
        return MapAnswer.model_validate(self._ask("GET", "/v1/map")).map

    def put_items(self, items: Mapping[Id, Mapping[str, Any]]) -> None:
        """New items, or known ones anew: a column that is not given is missing then."""
        listed = [{"item": item, "features": dict(each)} for item, each in items.items()]
        self._ask("PUT", "/v1/items", {"items": listed})

    def delete_item(self, item: Id) -> None:
        """An item less."""
        self._ask("DELETE", _item_path(item))

    def add_events(self, events: Sequence[ClientEvent]) -> int:
        """Tell what people did; returns how many were not known yet."""
        listed = []
        for event in events:
            body = {name: value for name, value in vars(event).items() if value is not None}
            listed.append(body | ({"at": event.at.isoformat()} if event.at else {}))
        stored: int = self._ask("POST", "/v1/events", {"events": listed})["stored"]
        return stored

    def load(self, run: str) -> None:
        """Let another run answer, by its name in the runs folder."""
        self._ask("POST", "/v1/admin/load", {"run": run})

    def rollback(self) -> None:
        """Let the run before answer again."""
        self._ask("POST", "/v1/admin/rollback")

    def is_ready(self) -> bool:
        """Whether the service can answer."""
        try:
            return self._once("GET", "/readyz", b"")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        sent = b"" if body is None else json.dumps(body).encode()
        for attempt in range(self._retries + 1):
            try:
                status, again, text = self._once(method, path, sent)
            except (OSError, http.client.HTTPException) as error:
                status, again, text = 0, None, f"{type(error).__name__}: {error}"
            if 200 <= status < 300:
                found = json.loads(text)
                if "run" in found:
                    by = Answered(run=found["run"], version=found["version"])
                    self._own.answered_by = by
                return found
            may_help = status in {0, 429, 503} and path != "/v1/admin/rollback"
            if not may_help or attempt == self._retries:
                break
            time.sleep(min(float(again or 2**attempt / 4), _MOST_WAITED))
        if status == 0:
            raise ServiceError(0, f"{self._parts.geturl()} can not be reached ({text})")
        message = _sentence(text)
        if status in {400, 404, 413, 422}:
            raise RequestError(message)
        raise ServiceError(status, message)

    def _once(self, method: str, path: str, body: bytes) -> tuple[int, str | None, str]:
        connection = getattr(self._own, "connection", None)
        if connection is None:
            secure = self._parts.scheme == "https"
            kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
            connection = kind(
                self._parts.hostname or "", self._parts.port, timeout=self._timeout
            )
            self._own.connection = connection
        try:
            prefix = self._parts.path.rstrip("/")
            connection.request(method, prefix + path, body or None, self._headers)
            response = connection.getresponse()
            return response.status, response.getheader("Retry-After"), response.read().decode()
        except BaseException:
            connection.close()
            self._own.connection = None
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._own, "connection", None)
        if connection is not None:
            connection.close()
            self._own.connection = None


def _item_path(item: Id) -> str:
    return f"/v1/items/{quote(str(item), safe='')}"


def _sentence(text: str) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text[:200]
