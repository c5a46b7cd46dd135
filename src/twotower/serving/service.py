"""A recommender that is told things and swapped while it answers; nothing of HTTP.

What answers is a frozen value, taken once a request: whatever is swapped meanwhile, an answer
is of one version. Changes come one after the other, each first into the database, and all come
back out of it in one order: those of this process and those of others that share it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from twotower import runs
from twotower.errors import ServiceError, StateError, TwoTowerError
from twotower.retrieval.answer import Tally, answer, score_pairs
from twotower.retrieval.changes import ItemRecords, Recent
from twotower.retrieval.recommendations import Recommendations
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.wish import Answer, Id, Person, Scored, Wish
from twotower.serving.metrics import Metrics
from twotower.serving.origin import Origin, OtherDataError
from twotower.serving.sample import Sample
from twotower.serving.served import Served, json_values, load, warm, with_changes
from twotower.serving.state import ITEM, Event, News, State

_log = logging.getLogger("twotower.serving")
# More changes than this are read with all others.
_MANY = 1000


class Service:
    """A run, the database beside it, and what people did since.

    Args:
        runs_folder: where runs lie that may be loaded, by name only.
        crew: whatever processes that are to answer by the same run have in common.
    """

    def __init__(
        self,
        runs_folder: Path,
        state: State,
        metrics: Metrics,
        *,
        crew: str = "",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._topic = f"run {crew}"
        self._last_event = self._last_news = 0
        self._folder, self._state, self.metrics, self._now = runs_folder, state, metrics, now
        self._sample = Sample(metrics)
        self._served: Served | None = None
        self._previous: Served | None = None
        self._recent = Recent()
        self._changing = threading.Lock()
        self._noting = threading.Lock()
        self._loading = threading.Lock()

    def start(self, run: Path, *, adopts: bool = False) -> None:
        """Load a run, bring it up to what was told before, and warm it up.

        Args:
            adopts: whether what is in the database was told about the run's data, whatever it
                says of itself.

        Raises:
            RunError: the run can not be read.
            StateError: the database can not be read, or is of other data.
        """
        self._last_news = self._state.last_news()
        told = [news.name for news in self._state.news(0) if news.topic == self._topic]
        loaded = load(self._path_of(told[-1]) if told else run)
        if foreign := self._claim(loaded, adopts=adopts):
            raise StateError(
                f"state: {self._state.name} keeps what was told about {foreign}. Give this run "
                "a state of its own, --state sqlite:///FILE; or say --adopt if the data are "
                "the same after all"
            )
        with self._noting:
            count = self._note_events()
        with self._changing:
            self._serve(self._brought_up(loaded))
        _log.info("ready", extra={"fields": {"run": loaded.name, "events": count}})

    def catch_up(self) -> None:
        """Take in what other processes were told since.

        Raises:
            StateError: the database can not be read; nothing was taken in.
        """
        with self._noting:
            self._note_events()
        with self._changing:
            self._take_in()

    @property
    def is_ready(self) -> bool:
        """Whether a run answers."""
        return self._served is not None

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

    def recommend(
        self,
        people: Sequence[Person],
        wish: Wish,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> tuple[Served, list[Answer]]:
        """What some people are recommended, and by which run.

        Args:
            is_wanted: whether somebody still waits; asked again and again between people.

        Raises:
            GivenUpError: nobody does.
            RequestError: a column or feature that does not exist, or can not have a value.
        """
        served = self.served
        recommender, recent, tally = served.recommender, self._recent, Tally()
        exact = self._sample.refuses
        answers = answer(
            recommender,
            people,
            wish,
            recent=recent,
            exact=exact,
            tally=tally,
            is_wanted=is_wanted,
        )
        self._sample.look(recommender, people, wish, recent, answers, tally)
        self.metrics.answered(people, answers, wish, tally)
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
        values = json_values(recommender.item_values, row, recommender.item_encoders)
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
            told = self._state.change_items(items, at=self._microseconds())
            self._take_in(told, changed)
            return self.served

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
            told = self._state.change_items({key: None}, at=self._microseconds())
            self._take_in(told, changed)
            return self.served

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
            self._note_events()
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
            served = self._swap(self._find(name), tells=True)
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
            served = self._serve(self._brought_up(old))
            self._tell_run(served)
        return served

    def _find(self, name: str) -> Served:
        """A run of the runs folder, loaded and warm."""
        loaded = load(self._path_of(name))
        if foreign := self._claim(loaded):
            raise OtherDataError(f"the state that is open keeps what was told about {foreign}")
        warm(loaded.recommender)
        return loaded

    def _path_of(self, name: str) -> Path:
        # A name is looked up, never made into a path.
        there = {path.name: path for path in runs.list_runs(self._folder)}
        if name not in there:
            raise ServiceError(
                404, "no run of that name in the runs folder; `twotower runs` lists them"
            )
        return there[name]

    def _claim(self, loaded: Served, *, adopts: bool = False) -> str:
        """Let the state be of a run's data; if it is of others, which: nothing is done."""
        before, own = self._state.origin(), Origin.of(loaded.base)
        if before is not None and not adopts and not before.is_that_of(loaded.base):
            return (
                f"other data: {before.source}, while {loaded.name} is of {own.source}, where "
                "those users did not meet those items"
            )
        # Data grow, and what is known of the latest rows tells the next ones.
        if own != before:
            self._state.belong_to(own)
        return ""

    def _swap(self, loaded: Served, *, tells: bool) -> Served:
        with self._changing:
            old = self.served
            served = self._serve(self._brought_up(loaded))
            self._previous = old
            if tells:
                self._tell_run(served)
        return served

    def _follow(self, name: str) -> None:
        """Answer by the run that another process of the crew was told to load."""
        with self._loading:
            try:
                if self.served.name == name:
                    return
                if self._previous is not None and self._previous.name == name:
                    self._swap(self._previous, tells=False)
                else:
                    self._swap(self._find(name), tells=False)
            except TwoTowerError as error:
                _log.error("not loaded", extra={"fields": {"run": name, "why": str(error)}})

    def _tell_run(self, served: Served) -> None:
        # Within the lock, or the news of the run before would be followed in between.
        try:
            self._state.tell(self._topic, served.name)
        except StateError as error:
            _log.error("others do not know of the run", extra={"fields": {"why": str(error)}})

    def _note_events(self) -> int:
        """Events of all processes that are not in histories yet; how many these were."""
        count = 0
        for number, event in self._state.events(self._last_event):
            at = event.happened_at
            self._recent.add(event.user_id, event.item_id, liked=event.liked, at=at)
            self._last_event = number
            count += 1
        return count

    def _take_in(self, own: Sequence[News] = (), changed: Recommender | None = None) -> None:
        """Bring items up to what all processes were told, and load the run that is to answer.

        Args:
            own: what this process told itself, and ``changed`` is with that.
        """
        news = self._state.news(self._last_news)
        items = [each.name for each in news if each.topic == ITEM]
        if changed is None or news != list(own):
            some = items if len(items) <= _MANY else None
            changes = self._state.item_changes(some) if items else {}
            changed = with_changes(self.served.recommender, changes)
        if items:
            self._serve(replace(self.served, recommender=changed))
        if news:
            self._last_news = news[-1].number
        told = [each.name for each in news if each.topic == self._topic]
        if told and told[-1] != self.served.name:
            # Beside, since it takes longer than what was told may wait.
            threading.Thread(target=self._follow, args=told[-1:], name="load").start()

    def _serve(self, served: Served) -> Served:
        warm(served.recommender)
        self._served = served
        self._sample.of(served.recommender)
        self.metrics.serve(served.name, served.version, lambda: self._now() - served.written_at)
        return served

    def _brought_up(self, loaded: Served) -> Served:
        """A run with the items as they were changed; what no longer fits it is left out."""
        recommender = with_changes(loaded.base, self._state.item_changes())
        return replace(loaded, recommender=recommender)

    def _microseconds(self) -> int:
        return int(self._now() * 1e6)


def _no_item(identity: Id) -> ServiceError:
    return ServiceError(404, f"no item {str(identity)[:80]!r}; PUT /v1/items brings new ones")
