"""The items with the largest inner product, exactly, in blocks of bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

# Scores held at once: 64 MiB of float32.
_BLOCK_SCORES = 2**24


@dataclass(frozen=True)
class ExactIndex:
    """Item vectors that are searched whole.

    Attributes:
        vectors: one item a row; positions count from 0.
        is_candidate: which items may be recommended; None for all.
    """

    vectors: Float32[Tensor, "I D"]
    is_candidate: Bool[Tensor, " I"] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def search(
        self,
        queries: Float32[Tensor, "B D"],
        k: int,
        *,
        excluded_items: Int64[Tensor, " E"] | None = None,
        excluded_owners: Int64[Tensor, " E"] | None = None,
    ) -> tuple[Int64[Tensor, "B K"], Float32[Tensor, "B K"]]:
        """The k best items of each query, best first.

        Args:
            k: length of the lists; at most the number of items.
            excluded_items, excluded_owners: pairs that are not to be found: a position here
                and the query's place, owners ascending.

        Returns:
            Positions, -1 where fewer than k items are left, and scores, ``-inf`` there.
        """
        k = min(k, len(self))
        block = max(1, _BLOCK_SCORES // max(len(self), 1))
        positions = torch.empty((len(queries), k), dtype=torch.int64)
        scores = torch.empty((len(queries), k))
        barred = None if self.is_candidate is None else ~self.is_candidate
        for start in range(0, len(queries), block):
            stop = min(start + block, len(queries))
            product = queries[start:stop] @ self.vectors.T
            if barred is not None:
                product[:, barred] = -torch.inf
            if excluded_items is not None and excluded_owners is not None:
                span = torch.searchsorted(excluded_owners, torch.tensor([start, stop]))
                part = slice(int(span[0]), int(span[1]))
                product[excluded_owners[part] - start, excluded_items[part]] = -torch.inf
            best = torch.topk(product, k, dim=1)
            scores[start:stop], positions[start:stop] = best.values, best.indices
        return positions.masked_fill(scores == -torch.inf, -1), scores
