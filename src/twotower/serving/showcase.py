"""What the page shows beside recommendations: read from what answers, changing nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from twotower.evaluation.words import headline
from twotower.report import tables
from twotower.report.atlas import atlas
from twotower.retrieval.people import history_of, look_up, vectors_of
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.wish import Id, Person
from twotower.serving.metrics import Metrics
from twotower.serving.schemas import MOST_ITEMS, Card, Figure, Opponents
from twotower.serving.served import Served, json_values
from twotower.serving.service import Service
from twotower.serving.shelf import Shelf, items_of, users_of

_log = logging.getLogger("twotower.serving")
_SHOWN = 100
# So many items say where on the map a person is.
_NEAREST = 10


@dataclass(frozen=True)
class _Shelves:
    """Of one recommender, made when first asked for."""

    recommender: Recommender

    @cached_property
    def items(self) -> Shelf:
        return items_of(self.recommender)

    @cached_property
    def users(self) -> Shelf:
        return users_of(self.recommender)


@dataclass(frozen=True)
class _Map:
    """The items of a run on a plane; empty where they have no map.

    Attributes:
        told: the map as it is answered.
        rows: of its entries, in the order of the map.
    """

    told: Mapping[str, Any]
    rows: Int64[Tensor, " M"]


class Showcase:
    """A service, and how its items and users are shown."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._shelves: _Shelves | None = None
        self._maps: tuple[Recommender, list[_Map]] | None = None
        self._mapping = threading.Lock()

    def _open(self) -> tuple[Served, _Shelves]:
        served, shelves = self._service.served, self._shelves
        if shelves is None or shelves.recommender is not served.recommender:
            shelves = self._shelves = _Shelves(served.recommender)
        return served, shelves

    def about(self) -> tuple[Served, dict[str, Any]]:
        """Columns, verdict and health, by the names of ``AboutAnswer``."""
        served, shelves = self._open()
        recommender, measured = served.recommender, served.recommender.metrics
        told, how = headline(measured)
        found = measured.get("verdict")
        against = tables.against(measured["ranking"][found["group"]]) if found else []
        features = recommender.user_encoders.by_column
        return served, {
            "users": len(recommender.users),
            "items": len(recommender.items) - len(recommender.removed),
            "user_column": recommender.users.column,
            "item_column": recommender.items.column,
            "user_titles": shelves.users.title is not None,
            "reads_history": recommender.model.history is not None,
            "written_at": datetime.fromtimestamp(served.written_at, UTC),
            "item_columns": shelves.items.columns,
            "user_columns": [c for c in shelves.users.columns if c.name in features],
            "headline": told,
            "outcome": how,
            "against": [
                Opponents(outcome=each, says=f"{verb} {names}") for each, verb, names in against
            ],
            "figures": [
                Figure(name=name, figure=figure, note=note)
                for name, figure, note in tables.key_figures(measured)
            ],
            "alarms": list(measured.get("warnings", [])),
            "health": _health(self._service.metrics),
        }

    def find(
        self, among: Literal["users", "items"], words: str, k: int
    ) -> tuple[Served, list[Card]]:
        """Who or what is called so; items that are no longer to be had are left out."""
        served, shelves = self._open()
        if among == "users":
            return served, shelves.users.cards(shelves.users.find(words, k))
        removed = served.recommender.removed
        rows = shelves.items.find(words, k + len(removed))
        return served, shelves.items.cards([row for row in rows if row not in removed][:k])

    def cards(self, items: Sequence[Id]) -> tuple[Served, list[Card]]:
        """How some items are shown, those that are known."""
        served, shelves = self._open()
        rows = served.recommender.items.rows(items)
        return served, shelves.items.cards(rows[rows > 0])

    def user(self, identity: Id) -> tuple[Served, dict[str, Any]]:
        """What is known of a user, by the names of ``UserAnswer``."""
        served, shelves = self._open()
        recommender, recent = served.recommender, self._service.recent
        known = look_up(recommender, Person(user=identity), recent)
        liked = history_of(recommender, identity, recent)
        met = np.unique(np.concatenate([liked[::-1], known.met]))
        values = {}
        if known.row > 0:
            encoders = recommender.user_encoders
            values = json_values(recommender.user_values, known.row, encoders)
        return served, {
            "user": recommender.users.of(np.array([known.row])).tolist()[0]
            if known.row
            else identity,
            "is_known": known.row > 0,
            "card": shelves.users.cards([known.row])[0] if known.row else None,
            "values": values,
            "liked": shelves.items.cards(liked[::-1][:_SHOWN]),
            "met": recommender.items.of(met[:MOST_ITEMS]).tolist(),
            "num_liked": len(liked),
            "num_met": len(met),
        }

    def map(self) -> tuple[Served, Mapping[str, Any] | None]:
        """Where the run's items lie; None while that is being found out."""
        served, found = self._map()
        return served, found.told if found else None

    def _map(self) -> tuple[Served, _Map | None]:
        served = self._service.served
        with self._mapping:
            if self._maps is None or self._maps[0] is not served.base:
                self._maps = served.base, []
                threading.Thread(
                    target=self._draw, args=(self._maps,), name="map", daemon=True
                ).start()
            found = self._maps[1]
        return served, found[0] if found else None

    def place(self, person: Person) -> tuple[Served, tuple[float | None, float | None]]:
        """Where a person is on the map: amid the items there that are nearest to their vector.

        Each counts as the model's own scale has it. Neither dials nor filters have a say.
        """
        served, found = self._map()
        known = look_up(served.recommender, person, self._service.recent)
        if found is None or not len(found.rows) or known.is_nobody:
            return served, (None, None)
        vector = vectors_of(served.recommender, [known])[0, :-1]
        # What was put anew keeps its place on the map, and its row.
        items = served.recommender.item_vectors[found.rows, :-1]
        nearest = (items @ vector).topk(min(_NEAREST, len(items)))
        weights = torch.softmax(nearest.values.double(), 0).tolist()
        places = nearest.indices.tolist()
        x, y = (
            sum(w * found.told[axis][n] for w, n in zip(weights, places, strict=True))
            for axis in ("x", "y")
        )
        return served, (x, y)

    def _draw(self, maps: tuple[Recommender, list[_Map]]) -> None:
        recommender, into = maps
        try:
            into.append(_named(recommender))
        except Exception:
            # In a thread of its own nobody else would say so; the service goes on without.
            _log.exception("the map of the items can not be made")
            into.append(_NO_MAP)


_NO_MAP = _Map({}, torch.empty(0, dtype=torch.int64))


def _named(recommender: Recommender) -> _Map:
    """The map of the report, without its pictures, and each item as elsewhere on the page."""
    shelf = items_of(recommender)
    values = {
        n: column
        for n, column in recommender.item_values.items()
        if n not in {shelf.picture, *shelf.pictures}
    }
    found = atlas(replace(recommender, item_values=values))
    if found is None:
        return _NO_MAP
    rows = recommender.items.rows(found["ids"])
    cards = shelf.cards(rows)
    named = {"titles": [c.title for c in cards], "about": [c.about for c in cards]}
    return _Map({**found, **named}, torch.from_numpy(rows))


def _health(metrics: Metrics) -> list[Figure]:
    people, unknown = metrics.value("people_total"), metrics.value("unknown_people_total")
    asked, given = metrics.value("items_asked_total"), metrics.value("items_given_total")
    share = f"{unknown / people:.0%}" if people else "none yet"
    filled = f"{given / asked:.1%}" if asked else "none yet"
    return [
        Figure(name="people recommended to", figure=f"{people:,.0f}", note="you among them"),
        Figure(name="of them unknown", figure=share, note="answered from what else is known"),
        Figure(name="lists filled", figure=filled, note="items given of those asked for"),
        Figure(name="events told", figure=f"{metrics.value('events_total'):,.0f}", note=""),
        Figure(
            name="refused",
            figure=f"{metrics.value('refused_total'):,.0f}",
            note="too many at once",
        ),
        Figure(
            name="database failures",
            figure=f"{metrics.value('state_failures_total'):,.0f}",
            note="",
        ),
    ]
