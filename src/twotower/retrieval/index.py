"""The items with the largest inner product, exactly, in tiles of bounded memory.

A first pass multiplies in bfloat16 where that is faster. It decides nothing: how far its
products can be from the true ones is known, and all that might be among the best are scored in
float32. So an answer depends neither on the pass, nor on the tiles, nor on who else asks.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from threading import Barrier

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from twotower.model.precision import bfloat16_pays
from twotower.retrieval.select import GROUP, MOST_QUERIES, Best, Exactly

# A tile of scores: so many queries, so many bytes for each. Its 3 MiB fit into a large cache.
_QUERIES, _TILE_BYTES = 256, 12_288
# Below this many scores neither threads nor a second copy of the items pay.
_FEW_SCORES = 2**22
# Scores of a block that come from elsewhere: 16 MiB of float32.
_BLOCK_SCORES = 2**22

with warnings.catch_warnings():
    # The first sparse matrix of a process warns that they may change one day.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], [], [], (1, 1))


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
        """The k best items of each query, best first; of equal ones the first.

        Args:
            k: length of the lists; at most the number of items.
            excluded_items, excluded_owners: pairs that are not to be found: a position here
                and the query's place, owners ascending.

        Returns:
            Positions, -1 where fewer than k items are left, and scores, ``-inf`` there.
        """
        k = min(k, len(self))
        positions = torch.empty((len(queries), k), dtype=torch.int64)
        scores = torch.empty((len(queries), k))
        is_large = len(queries) * len(self) > _FEW_SCORES
        first = self._narrow if is_large and bfloat16_pays() else self._wide
        excluded = first.places(excluded_items, excluded_owners)
        threads = torch.get_num_threads() if is_large else 1
        # Of equal size, and so many that all threads have something to do to the end.
        rounds = math.ceil(len(queries) / _QUERIES / threads)
        size = math.ceil(len(queries) / max(rounds * threads, 1)) or 1

        def search(start: int) -> None:
            part = slice(start, start + size)
            pairs = _of_owners(excluded, start, start + size)
            found = self._search(first, queries[part].contiguous(), k, *pairs)
            positions[part], scores[part] = map(torch.from_numpy, found)

        starts = range(0, len(queries), size)
        if threads > 1 and len(starts) > 1:
            list(_one_core_each(threads).map(search, starts))
        else:
            list(map(search, starts))
        return positions, scores

    def _search(
        self,
        first: _FirstPass,
        queries: Float32[Tensor, "b D"],
        k: int,
        excluded: Int64[np.ndarray, " E"],
        owners: Int64[np.ndarray, " E"],
    ) -> tuple[Int64[np.ndarray, "b K"], Float32[np.ndarray, "b K"]]:
        """``search`` for a block of queries."""

        def exactly(begins: np.ndarray, places: np.ndarray) -> np.ndarray:
            return pair_products(queries, self.vectors, begins, first.positions(places))

        best = Best(len(queries), k, exactly, first.error(queries))
        left = queries.to(first.vectors.dtype)
        width = max(_TILE_BYTES // left.element_size(), 1)
        buffer = torch.empty(len(queries) * min(width, len(first.vectors)), dtype=left.dtype)
        by_tile = np.argsort((excluded // width).astype(np.uint16), kind="stable")
        excluded, owners = excluded[by_tile], owners[by_tile]
        starts = range(0, len(first.vectors), width)
        cuts = np.searchsorted(excluded // width, np.arange(len(starts) + 1))
        for tile, start in enumerate(starts):
            vectors = first.vectors[start : start + width]
            scores = buffer[: len(queries) * len(vectors)].view(len(queries), len(vectors))
            torch.mm(left, vectors.T, out=scores)
            if cuts[tile] < cuts[tile + 1]:
                part = slice(cuts[tile], cuts[tile + 1])
                barred = owners[part] * len(vectors) + (excluded[part] - start)
                scores.view(-1).index_fill_(0, torch.from_numpy(barred), -torch.inf)
            best.offer(_padded(scores), start)
        places, exact = best.found()
        return first.positions(places), exact

    @cached_property
    def _wide(self) -> _FirstPass:
        return _FirstPass.of(self.vectors, self.is_candidate, torch.float32)

    @cached_property
    def _narrow(self) -> _FirstPass:
        return _FirstPass.of(self.vectors, self.is_candidate, torch.bfloat16)


@dataclass(frozen=True)
class _FirstPass:
    """The candidates' vectors as the first pass multiplies them; places count among these.

    Attributes:
        kept: their positions in the index, and -1 after the last; None for all.
        length: of the longest vector.
        rounding: the length of the largest difference to a true vector.
    """

    vectors: Float[Tensor, "J D"]
    kept: Int64[np.ndarray, " J1"] | None
    length: float
    rounding: float

    @classmethod
    def of(
        cls,
        vectors: Float32[Tensor, "I D"],
        is_candidate: Bool[Tensor, " I"] | None,
        dtype: torch.dtype,
    ) -> _FirstPass:
        """Those of an index, at some type."""
        kept = None
        if is_candidate is not None and not bool(is_candidate.all()):
            kept = is_candidate.nonzero().squeeze(1)
        true = vectors if kept is None else vectors[kept]
        rounded = true.to(dtype)
        length = rounding = torch.zeros(1, dtype=torch.float64)
        for start in range(0, len(true), 8192):
            part, other = (each[start : start + 8192] for each in (true, rounded))
            length = torch.maximum(length, _lengths(part).max())
            rounding = torch.maximum(rounding, _lengths(part - other).max())
        places = None if kept is None else np.append(kept.numpy(), -1)
        return cls(rounded, places, float(length), float(rounding))

    def error(self, queries: Float32[Tensor, "B D"]) -> Float[np.ndarray, " B"]:
        """How far a product here may be from the float32 one, by Cauchy and Schwarz."""
        length, dim = _lengths(queries), queries.shape[1]
        rounding = _lengths(queries - queries.to(self.vectors.dtype))
        by_rounding = rounding * self.length + (length + rounding) * self.rounding
        # Both are sums of D products that are rounded at each step, and what is too small for a
        # float32 may count as nothing.
        by_sums = 4 * dim * 2.0**-24 * (length + rounding) * (self.length + self.rounding)
        return np.asarray(by_rounding + by_sums + dim * 2.0**-120)

    def positions(self, places: np.ndarray) -> np.ndarray:
        """Positions in the index; -1 stays."""
        return places if self.kept is None else self.kept[places]

    def places(
        self, items: Int64[Tensor, " E"] | None, owners: Int64[Tensor, " E"] | None
    ) -> tuple[Int64[np.ndarray, " F"], Int64[np.ndarray, " F"]]:
        """Pairs of positions and owners as pairs of places and owners."""
        if items is None or owners is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        if self.kept is None:
            return items.numpy(), owners.numpy()
        there = np.isin(items.numpy(), self.kept)
        return np.searchsorted(self.kept[:-1], items.numpy()[there]), owners.numpy()[there]


def products(
    queries: Float32[Tensor, "B D"], vectors: Float32[Tensor, "I D"]
) -> Float32[Tensor, "B I"]:
    """The inner product of each query with each vector; on the CPU."""
    if len(queries) == 1:
        # The product of a matrix and one vector takes torch's library twice as long.
        return torch.from_numpy(vectors.numpy() @ queries[0].numpy())[None]
    return queries @ vectors.T


def pair_products(
    queries: Float32[Tensor, "B D"],
    vectors: Float32[Tensor, "I D"],
    begins: Int64[np.ndarray, " B1"],
    positions: Int64[np.ndarray, " N"],
) -> Float32[np.ndarray, " N"]:
    """The product of each query with some vectors, whatever it is multiplied with besides.

    Args:
        begins: where the positions of each query begin, and where the last one's end.
    """
    pattern = torch.sparse_csr_tensor(
        torch.from_numpy(begins),
        torch.from_numpy(positions),
        torch.zeros(len(positions)),
        (len(queries), len(vectors)),
    )
    sampled = torch.sparse.sampled_addmm(pattern, queries, vectors.T, beta=0.0)
    scores: np.ndarray = sampled.values().numpy()
    return scores


def top_k(
    scores_of: Callable[[slice], Float32[Tensor, "b I"]],
    num_queries: int,
    num_items: int,
    k: int,
    *,
    is_candidate: Bool[Tensor, " I"] | None = None,
    excluded_items: Int64[Tensor, " E"] | None = None,
    excluded_owners: Int64[Tensor, " E"] | None = None,
    exactly_of: Callable[[slice], Exactly] | None = None,
    error: Float[np.ndarray, " B"] | None = None,
) -> tuple[Int64[Tensor, "B K"], Float32[Tensor, "B K"]]:
    """The k best items of each query by scores that are made a block of queries at a time.

    Args:
        scores_of: some queries -> their scores of all items; what it gives is written to.
        exactly_of: some queries -> the scores that decide; None where those of all items do.
        error: of each query, how far from these the scores of all items may be.

    The other arguments and what comes back are those of ``ExactIndex.search``.
    """
    k = min(k, num_items)
    size = min(max(1, _BLOCK_SCORES // max(num_items, 1)), MOST_QUERIES)
    positions = np.empty((num_queries, k), np.int64)
    values = np.empty((num_queries, k), np.float32)
    barred = None if is_candidate is None else ~is_candidate
    excluded = np.empty(0, np.int64), np.empty(0, np.int64)
    if excluded_items is not None and excluded_owners is not None:
        excluded = excluded_items.numpy(), excluded_owners.numpy()
    for start in range(0, num_queries, size):
        stop = min(start + size, num_queries)
        scores = scores_of(slice(start, stop))
        if barred is not None:
            scores.masked_fill_(barred, -torch.inf)
        items, owners = _of_owners(excluded, start, stop)
        # By numpy: each step of torch gives way to other threads, and waits for them.
        scores.numpy()[owners, items] = -np.inf
        exactly = None if exactly_of is None else exactly_of(slice(start, stop))
        best = Best(stop - start, k, exactly, None if error is None else error[start:stop])
        if scores.numel() < _FEW_SCORES // 16:
            found = best.of_few(scores)
        else:
            best.offer(_padded(scores), 0)
            found = best.found()
        positions[start:stop], values[start:stop] = found
    return torch.from_numpy(positions), torch.from_numpy(values)


def _of_owners(
    pairs: tuple[np.ndarray, np.ndarray], start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of (items, owners) those of some owners, who count from the first of these."""
    items, owners = pairs
    begin, end = owners.searchsorted((start, stop))
    return items[begin:end], owners[begin:end] - start


def _padded(scores: Float[Tensor, "b I"]) -> Float[Tensor, "b J"]:
    """Scores beside ``-inf``, as many as ``Best.offer`` takes."""
    missing = -scores.shape[1] % GROUP
    if missing:
        scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
    return scores.contiguous()


def _lengths(vectors: Float32[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """Of each vector its length, in double: squares of small numbers are nothing in float32."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    return lengths


@cache
def _one_core_each(threads: int) -> ThreadPoolExecutor:
    """Threads in each of which torch computes alone.

    What torch is told in one thread holds for that thread and for those that begin later. So
    this one tells it what it was before, as soon as all are there.
    """
    all_there = Barrier(threads + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        all_there.wait()

    pool = ThreadPoolExecutor(threads, "search", begin)
    for _ in range(threads):
        pool.submit(int)
    all_there.wait()
    torch.set_num_threads(threads)
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_core_each.cache_clear)
