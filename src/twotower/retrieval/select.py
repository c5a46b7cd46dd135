"""The k best of many scores that pass by in tiles, for little more than reading them costs.

Only the largest scores of small groups of items are looked at. The k-th largest of these is
reached by k items, so what lies below it is lost; items are looked at one by one in the few
groups that reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

GROUP = 16
# Queries that are searched together: their numbers are sorted as 16 bits.
MOST_QUERIES = 2**16
# Half a unit in the last place of bfloat16, and something for the rounding of this bound.
_HALF_UNIT = 2.0**-8 * (1 + 2.0**-10)
_LOWEST = np.finfo(np.float32).min
# By size in bytes.
_ALL_BUT_SIGN = {2: 2**15 - 1, 4: 2**31 - 1}
# Where each query's candidates begin, and their positions -> their exact scores.
Exactly = Callable[
    [Int64[np.ndarray, " B1"], Int64[np.ndarray, " N"]], Float32[np.ndarray, " N"]
]


class Best:
    """The k best items of B queries: the highest scores, and of equal ones the first positions.

    Args:
        exactly: the scores that decide; None where those that pass by do.
        error: of each query, how far from the score that decides one that passes by may be,
            before it is rounded to its type.
    """

    def __init__(
        self,
        num_queries: int,
        k: int,
        exactly: Exactly | None = None,
        error: Float[np.ndarray, " B"] | None = None,
    ) -> None:
        self.k, self.exactly = k, exactly
        # Both the k-th best and what is compared with it may be as far from their exact scores.
        self.slack = 2 * (np.zeros(num_queries) if error is None else error)
        self.keys = np.full((num_queries, k), _NOTHING)
        self.num_tiles = 0
        self.maxima: list[np.ndarray] = []
        # What a score of each query must reach, as the tiles' type sorts.
        self.floor: np.ndarray = np.empty(0)
        self.is_positive = False
        self.waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def offer(self, scores: Tensor, first: int) -> None:
        """Take what can be among the best from the scores of some items; ``-inf`` never can.

        Args:
            scores: (B, n) float32 or bfloat16, one type for all tiles; n is a multiple of
                ``GROUP``.
            first: the position of the first of these items.
        """
        if not self.keys.size:
            return
        size = GROUP
        while size > 1 and scores.shape[1] < 2 * size * self.k:
            size //= 2
        # Item n of these is in group n modulo width: a maximum of whole rows is the fastest.
        groups = scores.view(len(scores), size, -1)
        maxima = self._maxima(groups)
        self.num_tiles += 1
        self.maxima.append(maxima if self.num_tiles == 1 else _coarser(maxima, self.k))
        # Raised each time that as many tiles have passed again: the more, the less it rises.
        if self.num_tiles.bit_count() == 1:
            self._raise_floor()
        hits = np.flatnonzero(maxima >= self.floor[:, None])
        owners, group = np.divmod(hits, maxima.shape[1])
        values = _sortable(groups).transpose(0, 2, 1)[owners, group]
        if values.dtype == np.int16 and not self.is_positive:
            values = _flipped(values)
        chosen = np.flatnonzero(values >= self.floor[owners, None])
        hit, member = np.divmod(chosen, size)
        positions = first + group[hit] + member * maxima.shape[1]
        self.waiting.append((owners[hit], positions, values.reshape(-1)[chosen]))
        if sum(len(each) for each, _, _ in self.waiting) > 16 * self.keys.size:
            self._settle()

    def of_few(
        self, scores: Float32[Tensor, "B I"]
    ) -> tuple[Int64[np.ndarray, "B K"], Float32[np.ndarray, "B K"]]:
        """What ``found`` gives after these were offered alone; sooner where they are few."""
        if not self.keys.size:
            return self._decoded()
        rows = scores.numpy()
        kth = torch.topk(scores, self.k, dim=1, sorted=False).values.amin(1).numpy()
        # The error has room for the rounding of these to the scores' own type.
        low = np.fmax(kth - self.slack, _LOWEST).astype(np.float32)
        hits = [np.flatnonzero(row >= least) for row, least in zip(rows, low, strict=True)]
        positions = np.concatenate(hits)
        ends = np.cumsum([0, *map(len, hits)])
        if self.exactly is None:
            values = np.concatenate([row[hit] for row, hit in zip(rows, hits, strict=True)])
        else:
            values = self.exactly(ends, positions)
        keys = _keys(values, positions)
        for own, begin, end in zip(self.keys, ends, ends[1:], strict=False):
            best = keys[begin:end]
            if len(best) > self.k:
                best = np.partition(best, -self.k)[-self.k :]
            own[: len(best)] = np.sort(best)[::-1]
        return self._decoded()

    def found(self) -> tuple[Int64[np.ndarray, "B K"], Float32[np.ndarray, "B K"]]:
        """Positions, best first, -1 where fewer than k are left, and scores, ``-inf`` there."""
        self._settle()
        return self._decoded()

    def _decoded(self) -> tuple[Int64[np.ndarray, "B K"], Float32[np.ndarray, "B K"]]:
        scores = _flipped((self.keys >> 32).astype(np.int32)).view(np.float32)
        positions = 0xFFFF_FFFF - (self.keys & 0xFFFF_FFFF)
        return np.where(scores == -np.inf, -1, positions), scores

    def _maxima(self, groups: Tensor) -> np.ndarray:
        """The largest of axis 1; of bfloat16 as ``_flipped`` ones, which sort alike."""
        if groups.dtype == torch.float32:
            return groups.amax(1).numpy()
        bits = groups.view(torch.int16)
        largest: np.ndarray = bits.amax(1).numpy()
        if self.is_positive:
            # Groups without a positive number, whose maxima these are not, stay below anyway.
            return largest
        # Bits of positive numbers sort as these do, and of negative ones the other way round.
        return np.where(largest >= 0, largest, _flipped(bits.amin(1).numpy()))

    def _raise_floor(self) -> None:
        """Ask for what may be as good as the k-th largest maximum so far."""
        seen = np.concatenate(self.maxima, 1)
        low = np.full(len(seen), _LOWEST)
        is_narrow = seen.dtype == np.int16
        if seen.shape[1] >= self.k:
            seen = np.partition(seen, -self.k, axis=1)[:, -self.k :].copy()
            kth = seen[:, 0]
            if is_narrow:
                kth = (_flipped(kth).astype(np.int32) << 16).view(np.float32)
            reached = kth.astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                reached -= self.slack + is_narrow * _HALF_UNIT * np.abs(reached)
                below = np.nextafter(reached.astype(np.float32), np.float32(-np.inf))
            low = np.fmax(low, below)
        self.maxima = [seen]
        self.is_positive = bool(low.min(initial=1) > 0)
        # The upper half of a flipped float32 is the flipped bfloat16 at or below it.
        self.floor = (_flipped(low.view(np.int32)) >> 16).astype(np.int16) if is_narrow else low

    def _settle(self) -> None:
        """Score the candidates that wait exactly, and keep the k best of each query."""
        if not self.waiting:
            return
        self._raise_floor()
        owners, positions, values = map(np.concatenate, zip(*self.waiting, strict=True))
        self.waiting = []
        still = np.flatnonzero(values >= self.floor[owners])
        still = still[np.argsort(owners[still].astype(np.uint16), kind="stable")]
        self._keep(owners[still], positions[still], values[still])

    def _keep(self, owners: np.ndarray, positions: np.ndarray, values: np.ndarray) -> None:
        """Keep the k best of each query among some more; owners ascending."""
        counts = np.bincount(owners, minlength=len(self.keys))
        if self.exactly is not None:
            values = self.exactly(np.concatenate([[0], np.cumsum(counts)]), positions)
        for rows, table in _tables(_keys(values, positions), counts):
            both = np.concatenate([self.keys[rows], table], 1)
            best = np.partition(both, -self.k, axis=1)[:, -self.k :]
            self.keys[rows] = np.sort(best, axis=1)[:, ::-1]


def _coarser(maxima: np.ndarray, k: int) -> np.ndarray:
    """Maxima of larger groups: they tell nearly as much and are fewer to sort."""
    while maxima.shape[1] % 2 == 0 and maxima.shape[1] > max(128, k):
        half = maxima.shape[1] // 2
        maxima = np.maximum(maxima[:, :half], maxima[:, half:])
    return maxima


def _tables(
    keys: Int64[np.ndarray, " N"], counts: Int64[np.ndarray, " B"]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Keys of one row after the other -> some rows and their table, filled up with nothing.

    A table is of rows about as long, lest one long row make all of them wide.
    """
    widths = 1 << np.ceil(np.log2(np.maximum(counts, 1))).astype(np.int64)
    of_each = np.repeat(widths, counts)
    for width in np.unique(widths):
        rows = np.flatnonzero(widths == width)
        table = np.full((len(rows), width), _NOTHING)
        table[np.arange(width) < counts[rows, None]] = keys[of_each == width]
        yield rows, table


def _sortable(scores: Tensor) -> np.ndarray:
    bits = scores if scores.dtype == torch.float32 else scores.view(torch.int16)
    sortable: np.ndarray = bits.numpy()
    return sortable


def _flipped(bits: np.ndarray) -> np.ndarray:
    """Bits of floats -> whole numbers that sort as these do, and back."""
    sign = bits >> (8 * bits.itemsize - 1)
    flipped: np.ndarray = bits ^ (sign & _ALL_BUT_SIGN[bits.itemsize])
    return flipped


def _keys(scores: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """A number each: larger for a higher score and, of equal ones, for an earlier position."""
    bits = (scores + np.float32(0)).view(np.int32)  # there are two zeros, which are equal
    keys: np.ndarray = (_flipped(bits).astype(np.int64) << 32) | (0xFFFF_FFFF - positions)
    return keys


# Minus infinity, after all positions.
_NOTHING = _keys(np.full(1, -np.inf, np.float32), np.array([2**32 - 1]))[0]
