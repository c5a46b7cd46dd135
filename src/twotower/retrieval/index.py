"""The items with the largest inner product, exactly, in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
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
        return top_k(
            lambda rows: products(queries[rows], self.vectors),
            len(queries),
            len(self),
            k,
            is_candidate=self.is_candidate,
            excluded_items=excluded_items,
            excluded_owners=excluded_owners,
        )


def products(
    queries: Float32[Tensor, "B D"], vectors: Float32[Tensor, "I D"]
) -> Float32[Tensor, "B I"]:
    """The inner product of each query with each vector; on the CPU."""
    if len(queries) == 1:
        # The product of a matrix and one vector takes torch's library twice as long.
        return torch.from_numpy(vectors.numpy() @ queries[0].numpy())[None]
    return queries @ vectors.T


def top_k(
    scores_of: Callable[[slice], Float32[Tensor, "b I"]],
    num_queries: int,
    num_items: int,
    k: int,
    *,
    is_candidate: Bool[Tensor, " I"] | None = None,
    excluded_items: Int64[Tensor, " E"] | None = None,
    excluded_owners: Int64[Tensor, " E"] | None = None,
) -> tuple[Int64[Tensor, "B K"], Float32[Tensor, "B K"]]:
    """The k best items of each query by scores that are made a block of queries at a time.

    Args:
        scores_of: some queries -> their scores of all items; what it gives is written to.

    The other arguments and what comes back are those of ``ExactIndex.search``.
    """
    k = min(k, num_items)
    block = max(1, _BLOCK_SCORES // max(num_items, 1))
    barred = None if is_candidate is None else ~is_candidate
    found = [(torch.empty((0, k)), torch.empty((0, k), dtype=torch.int64))]
    for start in range(0, num_queries, block):
        stop = min(start + block, num_queries)
        scores = scores_of(slice(start, stop))
        if barred is not None:
            scores.masked_fill_(barred, -torch.inf)
        if excluded_items is not None and excluded_owners is not None:
            first, last = np.searchsorted(excluded_owners.numpy(), [start, stop])
            owners = excluded_owners.numpy()[first:last] - start
            # By numpy: each step of torch gives way to other threads, and waits for them.
            scores.numpy()[owners, excluded_items.numpy()[first:last]] = -np.inf
        found.append(torch.topk(scores, k, dim=1))
    if len(found) == 2:
        values, positions = found[1]
    else:
        values, positions = (torch.cat(parts) for parts in zip(*found, strict=True))
    positions.numpy()[values.numpy() == -np.inf] = -1
    return positions, values
