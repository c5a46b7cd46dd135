"""What the approximate index misses, by requests that are answered a second time, exactly.

An index that is found below the mark that it was built for is searched no more.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from twotower.errors import TwoTowerError
from twotower.retrieval.answer import Tally, answer
from twotower.retrieval.changes import Recent
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.wish import Answer, Person, Wish
from twotower.serving.metrics import Metrics

_log = logging.getLogger("twotower.serving")
# One request of so many, and of it so many people at most.
_EVERY, _PEOPLE = 100, 8
# Lists that recall is the mean of, and how many of them there must be.
_LISTS, _FEWEST = 1000, 50
# So many standard errors below the mark are no chance, however often one looks.
_ERRORS = 4.0


class Sample:
    """Live recall: one thread beside the requests, and never more than one.

    Args:
        every: one request of so many is answered again.
        fewest: lists before the gauge shows them.

    Attributes:
        refuses: whether the index that is there was found below its mark, so that the search
            is to be exact until another one comes.
    """

    def __init__(self, metrics: Metrics, *, every: int = _EVERY, fewest: int = _FEWEST) -> None:
        self._metrics, self._every, self._fewest = metrics, every, fewest
        self._count = itertools.count(1)
        self._busy = threading.Lock()
        self._of: Any = None
        self.refuses = False
        self._lists: deque[tuple[int, int]] = deque(maxlen=_LISTS)

    def of(self, recommender: Recommender) -> None:
        """Say what answers from now on; another index begins anew."""
        index = recommender.approximate
        inverted = None if index is None else index.inverted
        if inverted is self._of and index is not None:
            return
        self._of, self._lists = inverted, deque(maxlen=_LISTS)
        self.refuses = False
        self._metrics.index_refused.set(0)
        self._metrics.index_recall.set(1.0 if index is None else index.recall)
        self._metrics.index_mark.set(0.0 if index is None else index.mark)

    def look(
        self,
        recommender: Recommender,
        people: Sequence[Person],
        wish: Wish,
        recent: Recent,
        given: Sequence[Answer],
        tally: Tally,
    ) -> None:
        """Compare some of the lists that the index gave, if this request is one to look at."""
        if not tally.approximate or next(self._count) % self._every:
            return
        # Whoever comes while the last is looked at is not.
        if not self._busy.acquire(blocking=False):
            return
        places = sorted(tally.approximate)[:_PEOPLE]
        some, lists = [people[place] for place in places], [given[place] for place in places]

        def compare() -> None:
            try:
                true = answer(recommender, some, wish, recent=recent, exact=True)
                self._add(recommender, lists, true)
            except TwoTowerError as error:
                _log.warning("no recall", extra={"fields": {"why": str(error)}})
            finally:
                self._busy.release()

        threading.Thread(target=compare, name="recall", daemon=True).start()

    def _add(
        self, recommender: Recommender, given: Sequence[Answer], true: Sequence[Answer]
    ) -> None:
        index = recommender.approximate
        if index is None or index.inverted is not self._of:
            return
        for some, each in zip(given, true, strict=True):
            found = {one.item for one in some.items}
            self._lists.append((sum(one.item in found for one in each.items), len(each.items)))
        if len(self._lists) < self._fewest:
            return
        same, all_of_them = map(sum, zip(*self._lists, strict=True))
        recall = same / max(all_of_them, 1)
        self._metrics.index_recall.set(recall)
        if not self.refuses and recall + _ERRORS * _error(self._lists) < index.mark:
            self.refuses = True
            self._metrics.index_refused.set(1)
            fields = {"recall": round(recall, 4), "mark": index.mark, "lists": len(self._lists)}
            _log.error(
                "searching exactly: live lists found the index below its mark; build it again",
                extra={"fields": fields},
            )


def _error(lists: Sequence[tuple[int, int]]) -> float:
    """The standard error of the share found, each list counted as long as it is."""
    same, all_of_them = map(sum, zip(*lists, strict=True))
    share = same / max(all_of_them, 1)
    squares = sum((found - share * size) ** 2 for found, size in lists)
    return math.sqrt(squares) / max(all_of_them, 1)
