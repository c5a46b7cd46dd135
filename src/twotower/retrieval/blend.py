"""What the items of a history say of other items, beside the towers: weights between items.

Where few items are met by many, no inner product tells all that pairs of items do. The scores
of EASE or item-kNN are then added to the towers'; everything that ranks or explains adds them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64
from safetensors.torch import load_file, save_file
from torch import Tensor

from twotower.data.arrays import blocks
from twotower.data.interactions import Histories, offsets_of
from twotower.retrieval.index import products, top_k

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

# Of each item so many others that it says most of: all of them rank no better.
MOST_NEAR = 500
# Rows of users whose scores are held at once where only some are wanted.
_AT_ONCE = 256


@dataclass(frozen=True)
class Blend:
    """Of each item of a history what it adds to the scores of some others.

    Attributes:
        offsets: what row i adds is ``values[offsets[i] : offsets[i + 1]]``, to the rows in
            ``items``; row 0, the unknown, adds nothing.
    """

    offsets: Int64[np.ndarray, " I1"]
    items: Int32[np.ndarray, " N"]
    values: Float32[np.ndarray, " N"]

    @classmethod
    def of_weights(cls, weights: np.ndarray | csr_matrix) -> Blend:
        """The largest of the weights (I + 1, I + 1) from the item met to the item scored."""
        items, values = [], []
        for start in range(0, weights.shape[0], _AT_ONCE):
            part = weights[start : start + _AT_ONCE]
            for row in part if isinstance(part, np.ndarray) else part.toarray():
                near = np.flatnonzero(row)
                if len(near) > MOST_NEAR:
                    near = np.sort(np.argpartition(-np.abs(row), MOST_NEAR)[:MOST_NEAR])
                items.append(near.astype(np.int32))
                values.append(row[near].astype(np.float32))
        counts = np.array([len(near) for near in items], np.int64)
        return cls(offsets_of(counts), np.concatenate(items), np.concatenate(values))

    @classmethod
    def read(cls, path: Path) -> Blend:
        """What ``write`` wrote."""
        return cls(**{name: each.numpy() for name, each in load_file(path).items()})

    def write(self, path: Path) -> None:
        """Into one file of safetensors."""
        parts = {each.name: getattr(self, each.name) for each in fields(self)}
        save_file({name: torch.from_numpy(each) for name, each in parts.items()}, path)

    def times(self, factor: float) -> Blend:
        """The same, some times as loud."""
        return Blend(self.offsets, self.items, self.values * np.float32(factor))

    def scores(
        self, liked: Histories, rows: Int64[np.ndarray, " B"], num_items: int
    ) -> Float32[np.ndarray, "B I"]:
        """What the histories of some users add to the scores of all items, row 0 left out.

        Args:
            num_items: how many there are now; those that came since get nothing.
        """
        met, owners = liked.pack(rows)
        summed = self._sums(met, owners, len(rows), num_items + 1)
        return summed[:, 1:]

    def search(
        self,
        liked: Histories,
        rows: Int64[np.ndarray, " B"],
        items: Float32[Tensor, "I D"],
        is_candidate: Bool[Tensor, " I"],
        queries: Float32[Tensor, "B D"],
        k: int,
        **excluded: Tensor,
    ) -> tuple[Int64[Tensor, "B K"], Float32[Tensor, "B K"]]:
        """``ExactIndex.search``, by what queries and the histories in ``rows`` say together."""

        def scores_of(part: slice) -> Tensor:
            beside = torch.from_numpy(self.scores(liked, rows[part], len(items)))
            return products(queries[part], items).add_(beside)

        return top_k(
            scores_of,
            len(queries),
            len(items),
            k,
            is_candidate=is_candidate,
            excluded_items=excluded.get("excluded_items"),
            excluded_owners=excluded.get("excluded_owners"),
        )

    def pairs(
        self,
        liked: Histories,
        user_rows: Int64[np.ndarray, " N"],
        item_rows: Int64[np.ndarray, " N"],
    ) -> Float32[np.ndarray, " N"]:
        """What the history of each user adds to the score of the item of the same place."""
        found = np.empty(len(user_rows), np.float32)
        width = max(int(item_rows.max(initial=0)) + 1, len(self.offsets) - 1)
        for part in blocks(len(user_rows), _AT_ONCE):
            met, owners = liked.pack(user_rows[part])
            size = part.stop - part.start
            sums = self._sums(met, owners, size, width)
            found[part] = sums[np.arange(size), item_rows[part]]
        return found

    def of_each(
        self, history: Int32[np.ndarray, " L"], item_rows: Int64[np.ndarray, " K"]
    ) -> Float32[np.ndarray, "L K"]:
        """What each item of a history adds to the scores of some items."""
        width = max(int(item_rows.max(initial=0)) + 1, len(self.offsets) - 1)
        return self._sums(history, np.arange(len(history)), len(history), width)[:, item_rows]

    def _sums(
        self, met: np.ndarray, owners: np.ndarray, count: int, width: int
    ) -> Float32[np.ndarray, "B W"]:
        from scipy.sparse import csr_matrix

        weights = self._matrix
        known = np.where(met < weights.shape[0], met, 0)
        begins = np.searchsorted(owners, np.arange(count + 1))
        ones = np.ones(len(known), np.float32)
        read = csr_matrix((ones, known, begins), shape=(count, weights.shape[0]))
        summed = read @ weights
        summed.resize(count, width)
        dense: np.ndarray = summed.toarray()
        return dense

    @cached_property
    def _matrix(self) -> csr_matrix:
        from scipy.sparse import csr_matrix

        size = len(self.offsets) - 1
        return csr_matrix((self.values, self.items, self.offsets), shape=(size, size))
