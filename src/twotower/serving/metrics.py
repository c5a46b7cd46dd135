"""What Prometheus is told."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from twotower.retrieval.answer import Tally
from twotower.retrieval.wish import Answer, Id, Person, Wish

# Of all lists so many a second are looked at, whatever the load.
_LOOKS = 50
_TOGETHER = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Scores are log-odds where nothing else was trained for, and larger at low temperatures.
_SCORES = (-20, -10, -5, -2, -1, 0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50)
_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_MODEL = "twotower_model_info"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One service's figures, in a registry of their own.

    Args:
        folder: where all processes of the service keep theirs, so that each tells those of
            all; None for a service of one process.
        now: seconds of a clock, by which it is time to look at a list again.
    """

    def __init__(
        self, folder: Path | None = None, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        registry = self.registry = CollectorRegistry()
        if folder is not None:
            # The library looks for a folder when it is imported, which is before there is one.
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
            values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
        self._now, self._looks = now, itertools.count()
        self._next_look = float("-inf")
        self._last: tuple[Wish, Person, set[Id]] | None = None
        self._seconds = Histogram(
            "twotower_request_seconds",
            "From the last byte of a request to the first of its answer.",
            ["route", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        # To find the histogram of some labels takes longer than to count in it.
        self._seconds_of = cache(lambda route, code: self._seconds.labels(route, str(code)))
        self.people = Counter(
            "twotower_people_total", "People that were recommended to.", registry=registry
        )
        self.unknown_people = Counter(
            "twotower_unknown_people_total",
            "Those of them whose id training did not know.",
            registry=registry,
        )
        self.asked = Counter(
            "twotower_items_asked_total", "Sum of k over lists.", registry=registry
        )
        self.given = Counter(
            "twotower_items_given_total",
            "Items of lists; by twotower_items_asked_total it is the fill rate.",
            registry=registry,
        )
        self.together = Histogram(
            "twotower_people_together",
            "People who were recommended to in one call, of one request or several.",
            buckets=_TOGETHER,
            registry=registry,
        )
        self.best_score = Histogram(
            "twotower_best_score",
            "The score of the first item, of some lists; comparable within one run only.",
            buckets=_SCORES,
            registry=registry,
        )
        self.overlap = Histogram(
            "twotower_list_overlap",
            "The share of a list that another person's has who was asked for alike, of some "
            "lists; near 1 everybody gets the same.",
            buckets=_SHARES,
            registry=registry,
        )
        self.filtered = Counter(
            "twotower_filtered_lists_total", "Lists that a filter narrowed.", registry=registry
        )
        self.filter_fallbacks = Counter(
            "twotower_filter_fallbacks_total",
            "Lists that an approximate search left short, so that they were searched exactly.",
            registry=registry,
        )
        self.approximate_lists = Counter(
            "twotower_approximate_lists_total",
            "Lists that the approximate index gave; none while there is no index.",
            registry=registry,
        )
        self.index_recall = Gauge(
            "twotower_index_recall",
            "The share of the exact lists that the index gives: of lists answered both ways, "
            "until there are enough of them as its build found it; 1 without an index.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.index_mark = Gauge(
            "twotower_index_recall_mark",
            "The recall that the index was built for; 0 without an index.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.index_refused = Gauge(
            "twotower_index_refused",
            "Processes that search exactly, since live lists found their index below its mark.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.events = Counter(
            "twotower_events_total", "Events stored, each id once.", registry=registry
        )
        self.state_failures = Counter(
            "twotower_state_failures_total",
            "Requests refused since the database could not be used.",
            registry=registry,
        )
        self.refused = Counter(
            "twotower_refused_total", "Requests refused with 429.", registry=registry
        )
        self.in_flight = Gauge(
            "twotower_in_flight",
            "Requests computed or waiting to be.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._model = Gauge(
            _MODEL,
            "1 for the run that answers.",
            ["run", "version"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._age = Gauge(
            "twotower_model_age_seconds",
            "Since the run was written.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._answers_by: tuple[str, str] | None = None
        self._age_seconds: Callable[[], float] | None = None
        own_or_all: Any = registry
        if folder is not None:
            own_or_all = MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]
        self._shown = CollectorRegistry()
        self._shown.register(_Shown(own_or_all))

    def serve(self, run: str, version: str, age_seconds: Callable[[], float]) -> None:
        """Say which run answers from now on."""
        before, self._answers_by = self._answers_by, (run, version)
        if before is not None and before != self._answers_by:
            self._model.labels(*before).set(0)
        self._model.labels(run, version).set(1)
        self._age_seconds = age_seconds

    def answered(
        self, people: Sequence[Person], answers: Sequence[Answer], wish: Wish, tally: Tally
    ) -> None:
        """Count lists."""
        counts = (
            (self.people, len(people)),
            (self.unknown_people, tally.unknown),
            (self.asked, wish.k * len(people)),
            (self.given, sum(len(answer.items) for answer in answers)),
            (self.filtered, len(people) if wish.where else 0),
            (self.approximate_lists, len(tally.approximate)),
            (self.filter_fallbacks, len(tally.fallbacks)),
        )
        for counter, more in counts:
            if more:
                counter.inc(more)
        self.together.observe(len(people))
        now = self._now()
        if people and now >= self._next_look:
            self._next_look = now + 1 / _LOOKS
            place = next(self._looks) % len(people)
            self._look(people[place], answers[place], wish)

    def _look(self, person: Person, answer: Answer, wish: Wish) -> None:
        """Count what one list tells of all: how high it begins, whether it is like others."""
        if not answer.items:
            return
        best, last = answer.items[0], self._last
        # What ranks without knowing anybody, or by more than the towers, is another measure.
        if best.affinity is not None and not wish.popularity:
            self.best_score.observe(best.score)
        items = {each.item for each in answer.items}
        if last is not None and last[0] == wish:
            if last[1] == person:
                return
            self.overlap.observe(len(items & last[2]) / min(len(items), len(last[2])))
        self._last = wish, person, items

    def took(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._seconds_of(route, status).observe(seconds)

    def value(self, name: str) -> float:
        """One of the counters, by its name without ``twotower_``."""
        return self._shown.get_sample_value(f"twotower_{name}") or 0.0

    def text(self) -> bytes:
        """In Prometheus' own format."""
        if self._age_seconds is not None:
            self._age.set(self._age_seconds())
        return generate_latest(self._shown)


class _Shown(Collector):
    """Figures without the runs that answer no more, whose labels can not be taken back."""

    def __init__(self, figures: Any) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """What there is now."""
        for each in self._figures.collect():
            each.samples = [one for one in each.samples if one.value or one.name != _MODEL]
            yield each


def forget(folder: Path, process: int) -> None:
    """What a process that has ended was at is no longer so; what it counted stays."""
    mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]
