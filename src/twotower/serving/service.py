"""A recommender that is told things and swapped while it answers; nothing of HTTP.

What answers is a frozen value, taken once a request: whatever is swapped meanwhile, an answer
is of one version. Changes come one after the other, each first into the database.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from twotower import runs
from twotower.errors import DataError, RunError, ServiceError
from twotower.retrieval.answer import answer, score_pairs
from twotower.retrieval.changes import ItemRecords, Recent
from twotower.retrieval.recommendations import Recommendations
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.wish import Answer, Id, Person, Scored, Wish
from twotower.retrieval.words import timestamps
from twotower.serving.metrics import Metrics
from twotower.serving.state import Event, State

_log = logging.getLogger("twotower.serving")


@dataclass(frozen=True)
class Served:
    """A run that answers.

    Attributes:
        base: as the run has it.
        recommender: with the items as they were changed since.
        name, version: of the run.
        written_at: seconds since 1970.
    """

    base: Recommender
    recommender: Recommender
    name: str
    version: str
    written_at: float


class Service:
    """A run, the database beside it, and what people did since.

    Args:
        runs_folder: where runs lie that may be loaded, by name only.
    """

    def __init__(
        self,
        runs_folder: Path,
        state: State,
        metrics: Metrics,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._state, self.metrics, self._now = runs_folder, state, metrics, now
        self._served: Served | None = None
        self._previous: Served | None = None
        self._recent = Recent()
        self._changing = threading.Lock()
        self._noting = threading.Lock()
        self._loading = threading.Lock()

    def start(self, run: Path) -> None:
        """Load a run, bring it up to what was told before, and warm it up.

        Raises:
            RunError: the run can not be read.
            StateError: the database can not be read.
        """
        loaded = _load(run)
        count = 0
        for count, event in enumerate(self._state.events(), 1):  # noqa: B007
            self._recent.add(event.user_id, event.item_id, liked=event.liked)
        with self._changing:
            self._serve(self._brought_up(loaded))
        _log.info("ready", extra={"fields": {"run": loaded.name, "events": count}})

    @property
    def served(self) -> Served:
        """What answers now.

        Raises:
            ServiceError: nothing yet.
        """
        if self._served is None:
            raise ServiceError(503, "the model is not loaded yet; try again", retry_after=1)
        return self._served

    @property
    def recent(self) -> Recent:
        """What people did since training."""
        return self._recent

    def recommend(self, people: Sequence[Person], wish: Wish) -> tuple[Served, list[Answer]]:
        """What some people are recommended, and by which run.

        Raises:
            RequestError: a column or feature that does not exist, or can not have a value.
        """
        served = self.served
        answers = answer(served.recommender, people, wish, recent=self._recent)
        named = [each.user for each in people if each.user is not None]
        rows = served.recommender.users.rows(named)
        self.metrics.answered(people, answers, wish, num_unknown=int((rows == 0).sum()))
        return served, answers

    def similar(self, items: Sequence[Id], k: int) -> tuple[Served, Recommendations]:
        """The items nearest to each of some.

        Raises:
            RequestError: items that are not known, or more than there are others.
        """
        served = self.served
        return served, served.recommender.similar_items(items, k)

    def score(
        self, people: Sequence[Person], items: Sequence[Id]
    ) -> tuple[Served, list[Scored]]:
        """What each person makes of the item at the same place.

        Raises:
            RequestError: an item that is not known.
        """
        served = self.served
        return served, score_pairs(served.recommender, people, items, recent=self._recent)

    def item(self, identity: Id) -> tuple[Served, Id, dict[str, Any]]:
        """An item's id and the values of its columns.

        Raises:
            ServiceError: it is not there.
        """
        served = self.served
        recommender = served.recommender
        row = int(recommender.item_rows([identity])[0])
        if row == 0:
            raise _no_item(identity)
        times = timestamps(recommender.item_encoders)
        values = {
            name: json_value(values[row - 1], is_time=name in times)
            for name, values in recommender.item_values.items()
        }
        return served, recommender.items.values[row - 1 : row].tolist()[0], values

    def put_items(self, items: Mapping[str, Mapping[str, Any]]) -> Served:
        """New items, or new features of known ones; the next request knows them.

        Args:
            items: features by key (see ``Ids.key``).

        Raises:
            DataError: features that do not exist, or can not have such values.
            StateError: they could not be stored; nothing was changed.
        """
        with self._changing:
            served = self.served
            records = ItemRecords(list(items), list(items.values()))
            changed = served.recommender.add_items(records)
            self._state.change_items(items, at=self._microseconds())
            return self._serve(replace(served, recommender=changed))

    def delete_item(self, identity: Id) -> Served:
        """An item less, from the next request on.

        Raises:
            ServiceError: it is not there.
            StateError: it could not be stored; nothing was changed.
        """
        with self._changing:
            served = self.served
            if int(served.recommender.item_rows([identity])[0]) == 0:
                raise _no_item(identity)
            changed = served.recommender.remove_items([identity])
            key = served.recommender.items.key(identity)
            self._state.change_items({key: None}, at=self._microseconds())
            return self._serve(replace(served, recommender=changed))

    def add_events(self, events: Sequence[Event]) -> int:
        """Store events; histories have them from the next request on.

        Returns:
            How many were stored; the others had been before.

        Raises:
            StateError: they could not be stored; nothing was changed.
        """
        first: dict[str, Event] = {}
        for event in events:
            first.setdefault(event.event_id, event)
        with self._noting:
            fresh = self._state.add_events(list(first.values()))
            for event in first.values():
                if event.event_id in fresh:
                    self._recent.add(event.user_id, event.item_id, liked=event.liked)
        self.metrics.events.inc(len(fresh))
        return len(fresh)

    def load(self, name: str) -> Served:
        """Load a run of the runs folder beside the one that answers, and swap; it is kept.

        Raises:
            RunError: no run of that name, or one that can not be read; the old one goes on.
            ServiceError: another is being loaded.
        """
        if not self._loading.acquire(blocking=False):
            raise ServiceError(409, "another run is being loaded; try again", retry_after=5)
        try:
            # A name is looked up, never made into a path.
            there = {path.name: path for path in runs.list_runs(self._folder)}
            if name not in there:
                raise ServiceError(
                    404, "no run of that name in the runs folder; `twotower runs` lists them"
                )
            loaded = _load(there[name])
            _warm(loaded.recommender)
            with self._changing:
                old = self.served
                served = self._serve(self._brought_up(loaded))
                self._previous = old
        finally:
            self._loading.release()
        return served

    def rollback(self) -> Served:
        """Go back to the run before, with all that was told since; twice is back again.

        Raises:
            ServiceError: there is none.
        """
        with self._changing:
            if self._previous is None:
                raise ServiceError(409, "there is no run to go back to; load one first")
            old, self._previous = self._previous, self.served
            return self._serve(self._brought_up(old))

    def _serve(self, served: Served) -> Served:
        _warm(served.recommender)
        self._served = served
        self.metrics.serve(served.name, served.version, lambda: self._now() - served.written_at)
        return served

    def _brought_up(self, loaded: Served) -> Served:
        """A run with the items as they were changed; what no longer fits it is left out."""
        recommender = loaded.base
        changes = self._state.item_changes()
        removed = [item for item, features in changes.items() if features is None]
        put = {item: features for item, features in changes.items() if features is not None}
        try:
            if put:
                records = ItemRecords(list(put), list(put.values()))
                recommender = recommender.add_items(records)
        except DataError:
            recommender = _one_by_one(recommender, put)
        return replace(loaded, recommender=recommender.remove_items(removed))

    def _microseconds(self) -> int:
        return int(self._now() * 1e6)


def _one_by_one(recommender: Recommender, put: Mapping[str, Mapping[str, Any]]) -> Recommender:
    left_out = 0
    for item, features in put.items():
        try:
            recommender = recommender.add_items(ItemRecords([item], [features]))
        except DataError:
            left_out += 1
    _log.warning("item changes do not fit the run", extra={"fields": {"left_out": left_out}})
    return recommender


def _load(run: Path) -> Served:
    version = runs.version(run) if (run / runs.MANIFEST).is_file() else ""
    recommender = runs.load(run)
    written_at = (run / runs.MANIFEST).stat().st_mtime
    if runs.version(run) != version:
        raise RunError(f"{run}: was changed while it was read; load it again")
    return Served(recommender, recommender, run.resolve().name, version, written_at)


def _warm(recommender: Recommender) -> None:
    """Make now what the first requests would have to wait for."""
    answer(recommender, [Person()], Wish(k=1))
    assert recommender.catalogue is not None


def _no_item(identity: Id) -> ServiceError:
    return ServiceError(404, f"no item {str(identity)[:80]!r}; PUT /v1/items brings new ones")


def json_value(value: Any, *, is_time: bool) -> Any:
    """A plain value of a column in JSON's types; times in UTC."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [json_value(part, is_time=False) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if is_time and value is not None:
        return f"{np.datetime64(int(value), 's')}Z"
    return value
