"""The items with nearly the largest inner products, among those near a query: for millions.

Items lie in lists by their nearest centre (an inverted file of faiss) and only the lists
nearest to a query are searched. How many is not guessed: it is doubled until real users get the
share of the exact lists that was asked for. What is found is scored again from the vectors
themselves, so scores and order are those of the exact index.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from twotower.errors import RequestError
from twotower.retrieval.index import ExactIndex, products

# Beyond this share of the lists the exact index is as fast.
_MOST_LISTS = 0.25
# faiss wants so many vectors a centre to find it.
_ROWS_A_CENTRE = 39
# Queries whose candidates are scored again at once, and the most that are looked for beside k.
_QUERIES, _MOST_EXCLUDED = 64, 1000


def require_faiss() -> Any:
    """The library.

    Raises:
        RequestError: it is not installed.
    """
    if find_spec("faiss") is None:
        raise RequestError(
            "index: faiss is not installed: pip install 'twotower[ann]', or stay exact"
        )
    import faiss

    return faiss


@dataclass(frozen=True)
class ApproximateIndex:
    """Lists of items by their nearest centre, and the items that changed since.

    Attributes:
        inverted: an inverted file of faiss with the candidates as they were when it was built.
        probes: how many lists are searched.
        k: length of the lists for which recall was measured.
        recall: the share of the exact lists that was found then.
        mark: the share that was asked for.
        changed: positions, ascending, of the items that came or changed since; these are
            searched whole, by ``changed_vectors``.
    """

    inverted: Any
    probes: int
    k: int
    recall: float
    mark: float
    changed: Int64[np.ndarray, " N"]
    changed_vectors: Float32[Tensor, "N D"]

    @classmethod
    def build(
        cls,
        exact: ExactIndex,
        queries: Float32[Tensor, "B D"],
        *,
        excluded_items: Int64[Tensor, " E"] | None = None,
        excluded_owners: Int64[Tensor, " E"] | None = None,
        recall: float = 0.99,
        k: int = 100,
        seed: int = 0,
    ) -> ApproximateIndex:
        """The index that searches as few lists as give these queries their share.

        Args:
            queries: some of those it is for; with what is not to be found for each, as in
                ``ExactIndex.search``.
            recall: the least share of the exact lists that is to be found.

        Raises:
            RequestError: a quarter of all lists is not enough, or faiss is not installed.
        """
        faiss = require_faiss()
        if not 0 < recall <= 1:
            raise RequestError(f"index: recall must be above 0 and at most 1; got {recall:g}")
        vectors = exact.vectors.numpy()
        there = np.arange(len(exact))
        if exact.is_candidate is not None:
            there = np.flatnonzero(exact.is_candidate.numpy())
        if not len(there) or not len(queries):
            raise RequestError("index: no items to be found, or no users to measure with")
        centres = max(min(int(4 * math.sqrt(len(there))), len(there) // _ROWS_A_CENTRE), 1)
        dim = vectors.shape[1]
        inverted = faiss.index_factory(dim, f"IVF{centres},Flat", faiss.METRIC_INNER_PRODUCT)
        inverted.cp.seed = seed + 1
        faiss.omp_set_num_threads(torch.get_num_threads())
        own = np.ascontiguousarray(vectors[there])
        inverted.train(own)
        inverted.add_with_ids(own, there)
        k = min(k, len(there))
        pairs = {"excluded_items": excluded_items, "excluded_owners": excluded_owners}
        true = exact.search(queries, k, **pairs)[0]
        none = np.empty(0, np.int64), exact.vectors[:0]
        index = cls(inverted, 1, k, 0.0, recall, *none)
        most = max(int(_MOST_LISTS * centres), 1)
        while True:
            found = index.search(queries, exact.vectors, k, **pairs)[0]
            index = replace(index, recall=share_found(found.numpy(), true.numpy()))
            if index.recall >= recall:
                return index
            if 2 * index.probes > most:
                raise RequestError(
                    f"index: {index.probes} of {centres} lists give a recall of "
                    f"{index.recall:.3f}, below the mark {recall:g}, and more would be no "
                    "faster than the exact search; stay exact, or lower the mark"
                )
            index = replace(index, probes=2 * index.probes)

    def search(
        self,
        queries: Float32[Tensor, "B D"],
        vectors: Float32[Tensor, "I D"],
        k: int,
        *,
        is_candidate: Bool[Tensor, " I"] | None = None,
        excluded_items: Int64[Tensor, " E"] | None = None,
        excluded_owners: Int64[Tensor, " E"] | None = None,
    ) -> tuple[Int64[Tensor, "B K"], Float32[Tensor, "B K"]]:
        """Nearly the k best items of each query, as ``ExactIndex.search`` gives them.

        Args:
            vectors: of all items as they are now.

        Returns:
            Positions, -1 where fewer than k were found, though more may be there; and scores.
        """
        items, owners = np.empty(0, np.int64), np.empty(0, np.int64)
        if excluded_items is not None and excluded_owners is not None:
            items, owners = excluded_items.numpy(), excluded_owners.numpy()
        most = int(np.bincount(owners).max()) if len(owners) else 0
        wanted = k + min(most, _MOST_EXCLUDED)
        positions = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        barred = owners * len(vectors) + items
        for start in range(0, len(queries), _QUERIES):
            part = queries[start : start + _QUERIES].contiguous()
            found = np.sort(self._candidates(part, wanted, is_candidate), axis=1)
            exact = vectors[torch.from_numpy(np.maximum(found, 0))] @ part[:, :, None]
            values = exact.squeeze(2).numpy()
            keys = np.arange(start, start + len(part))[:, None] * len(vectors) + found
            # An item that changed is found by its old vector and by its new one.
            again = np.zeros(found.shape, bool)
            again[:, 1:] = found[:, 1:] == found[:, :-1]
            values[(found < 0) | again | np.isin(keys, barred)] = -np.inf
            best = np.argsort(-values, axis=1, kind="stable")[:, :k]
            values = np.take_along_axis(values, best, axis=1)
            own = slice(start, start + len(part))
            scores[own] = values
            positions[own] = np.where(
                values > -np.inf, np.take_along_axis(found, best, axis=1), -1
            )
        return torch.from_numpy(positions), torch.from_numpy(scores)

    def _candidates(
        self, queries: Float32[Tensor, "b D"], wanted: int, is_candidate: Tensor | None
    ) -> Int64[np.ndarray, "b W"]:
        """Positions of what may be among the best, with gaps (-1) and some of them twice."""
        faiss = require_faiss()
        probes, chosen = self.probes, {}
        if is_candidate is not None:
            # What a filter leaves lies in as many more lists, as it leaves less in each.
            share = max(float(is_candidate.float().mean()), 1e-9)
            probes = min(math.ceil(probes / share), self.inverted.nlist)
            allowed = np.packbits(is_candidate.numpy(), bitorder="little")
            chosen["sel"] = faiss.IDSelectorBitmap(allowed)
        faiss.omp_set_num_threads(torch.get_num_threads())
        how = faiss.SearchParametersIVF(nprobe=probes, **chosen)
        _, found = self.inverted.search(queries.numpy(), wanted, params=how)
        if not len(self.changed):
            return np.asarray(found)
        scores = products(queries, self.changed_vectors)
        if is_candidate is not None:
            scores[:, ~is_candidate[torch.from_numpy(self.changed)]] = -torch.inf
        best, places = torch.topk(scores, min(wanted, len(self.changed)), dim=1)
        fresh = np.where(best.numpy() > -np.inf, self.changed[places.numpy()], -1)
        return np.concatenate([found, fresh], axis=1)

    def with_changed(
        self, positions: Int64[np.ndarray, " M"], vectors: Float32[Tensor, "I D"]
    ) -> ApproximateIndex:
        """An index that finds these items, new or not, by their vectors as they are now."""
        changed = np.union1d(self.changed, positions)
        return replace(
            self, changed=changed, changed_vectors=vectors[torch.from_numpy(changed)]
        )

    def write(self, path: Path) -> dict[str, Any]:
        """Write the lists to a file; returns the rest, for ``read``."""
        require_faiss().write_index(self.inverted, str(path))
        return {name: getattr(self, name) for name in ("probes", "k", "recall", "mark")}

    @classmethod
    def read(cls, path: Path, rest: Mapping[str, Any]) -> ApproximateIndex:
        """What ``write`` wrote; the lists stay in the file, mapped."""
        faiss = require_faiss()
        inverted = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        # Threads that read ahead for each query cost many times what the query does.
        faiss.downcast_InvertedLists(inverted.invlists).prefetch_nthread = 0
        figures = {name: rest[name] for name in ("probes", "k", "recall", "mark")}
        return cls(
            inverted=inverted,
            **figures,
            changed=np.empty(0, np.int64),
            changed_vectors=torch.empty((0, inverted.d)),
        )


def share_found(found: Int64[np.ndarray, "B K"], true: Int64[np.ndarray, "B K"]) -> float:
    """Of the items of the true lists the share that was found; -1 is none."""
    same = sum(
        len(np.intersect1d(some, each[each >= 0]))
        for some, each in zip(found, true, strict=True)
    )
    return same / max(int((true >= 0).sum()), 1)
