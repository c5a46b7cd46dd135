"""What comes out: a list of items for each user."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from twotower.data.ids import refuse_hidden


@dataclass(frozen=True)
class Recommendations:
    """Lists of items, best first.

    Attributes:
        user_column, item_column: the ids' names in the tables that went in.
        user_ids: (U,).
        item_ids: (U, K), of the ids' own type; objects where some list is shorter than K,
            with None there.
        scores: (U, K) float32, ``-inf`` there.
    """

    user_column: str
    item_column: str
    user_ids: np.ndarray
    item_ids: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.user_ids)

    def __iter__(self) -> Iterator[list[tuple[Any, float]]]:
        """For each user, (item id, score) pairs."""
        for ids, scores in zip(self.item_ids, self.scores, strict=True):
            there = np.isfinite(scores)
            yield list(zip(ids[there].tolist(), scores[there].tolist(), strict=True))

    def columns(self) -> dict[str, np.ndarray]:
        """A row a recommendation: the user's id, the item's id, rank from 1, score.

        Any data frame library makes a table of it: ``polars.DataFrame(found.columns())``.

        Raises:
            RequestError: the ids are called ``rank`` or ``score`` themselves.
        """
        refuse_hidden((self.user_column, self.item_column), ("rank", "score"))
        there = np.isfinite(self.scores)
        users, ranks = np.nonzero(there)
        items = self.item_ids[there]
        if items.dtype == object and len(items) and isinstance(items[0], int):
            items = items.astype(np.int64)
        return {
            self.user_column: self.user_ids[users],
            self.item_column: items,
            "rank": (ranks + 1).astype(np.int32),
            "score": self.scores[there],
        }
