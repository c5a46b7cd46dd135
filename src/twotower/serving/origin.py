"""Of which data a state is, so that no other data's users and items are taken for its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twotower.errors import RunError
from twotower.retrieval.recommender import Recommender

_PAIRS = 256


class OtherDataError(RunError):
    """A run is of other data than the state that is open."""


@dataclass(frozen=True)
class Origin:
    """What tells data from other data, and stays as they grow.

    Names of columns, paths and ids that count from 1 are alike in much that has nothing else in
    common. Who met what is not: most of what was known of earlier rows is known of later ones.

    Attributes:
        source: where the data came from, for messages.
        pairs: some users and items that met, by key (see ``Ids.key``).
    """

    source: str
    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, recommender: Recommender) -> Origin:
        """The origin of what a run learned from."""
        seen = recommender.seen
        count = len(seen.items)
        rng = np.random.default_rng(0)
        places = np.unique(rng.integers(count, size=_PAIRS if count else 0))
        user_rows = np.searchsorted(seen.offsets, places, side="right") - 1
        users = map(recommender.users.key, recommender.users.of(user_rows).tolist())
        items = map(recommender.items.key, recommender.items.of(seen.items[places]).tolist())
        source = recommender.metrics.get("data", {}).get("source", "data")
        return cls(str(source), tuple(zip(users, items, strict=True)))

    def is_that_of(self, recommender: Recommender) -> bool:
        """Whether a run is of the same data, be it of later or of fewer rows.

        It is where of the pairs whose user and item it has, half or more met there too.
        """
        if not self.pairs:
            return True
        users, items = (list(each) for each in zip(*self.pairs, strict=True))
        known = zip(recommender.users.rows(users), recommender.items.rows(items), strict=True)
        met = [
            bool((recommender.seen.of(int(user)) == item).any())
            for user, item in known
            if user and item
        ]
        return bool(met) and 2 * sum(met) >= len(met)
