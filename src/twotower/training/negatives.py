"""WHERE the others come from that a liked item is compared with, and how likely each was.

A batch is n baskets: rows with an item each, or users with several. Others are drawn, or are
the items of the other baskets, or both; those of earlier batches may be remembered. Items are
thus sampled in three ways at once, and `Negatives` knows how often each is to be expected
among all of them together, which is what its ``log_q`` says, also without repeats.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from twotower.config import NegativesFrom
from twotower.data.arrays import counts_of
from twotower.data.interactions import Histories, Interactions


class Memory:
    """The items of the last batches of an epoch, with the vectors that they had then.

    Cross-batch negatives (Wang et al., SIGIR 2021): they cost no encoding, and no gradient
    goes into them. An epoch begins with none, so there is nothing to save with a checkpoint.
    """

    def __init__(self, batches: int) -> None:
        self._kept: deque[tuple[np.ndarray, Tensor, int]] = deque(maxlen=batches)

    @property
    def items(self) -> Int64[np.ndarray, " M"]:
        """Their rows."""
        return np.concatenate([np.empty(0, np.int64), *(items for items, _, _ in self._kept)])

    @property
    def baskets(self) -> int:
        """How many baskets they were in."""
        return sum(baskets for _, _, baskets in self._kept)

    def vectors(self) -> Float[Tensor, "M V"]:
        """Their vectors; of no use where there are none."""
        return torch.cat([vectors for _, vectors, _ in self._kept])

    def keep(self, items: np.ndarray, vectors: Tensor, baskets: int) -> None:
        """A batch is over; the oldest is forgotten where there are too many."""
        self._kept.append((items, vectors.detach(), baskets))


@dataclass(frozen=True)
class Shared:
    """N items that all rows of a batch are compared with.

    Attributes:
        items: their rows; first those that are encoded now, then those that are remembered.
        baskets: the basket of the batch that each is from; -1 for what was drawn or remembered.
        remembered: of the last ones the places in memory.
        log_q: the log of each one's expected share of the N.
        expected: how often each was to be expected among them.
    """

    items: Int64[np.ndarray, " N"]
    baskets: Int64[np.ndarray, " N"]
    remembered: Int64[np.ndarray, " M"]
    log_q: Float[np.ndarray, " N"]
    expected: Float[np.ndarray, " N"]

    @property
    def fresh(self) -> Int64[np.ndarray, " F"]:
        """Those that are encoded now."""
        return self.items[: len(self.items) - len(self.remembered)]


@dataclass(frozen=True)
class Negatives:
    """A source of others.

    Attributes:
        count: how many are drawn each step.
        is_distinct: whether an item counts once however often it was sampled.
        met: what can be drawn uniformly.
        popular: what can be drawn by popularity: each item as often as it was liked.
        chance: (I + 1,) of an item to be one draw.
        rate: (I + 1,) chance of an item to be in a basket.
    """

    source: NegativesFrom
    count: int
    is_distinct: bool
    met: Int64[np.ndarray, " M"]
    popular: np.ndarray
    chance: Float[np.ndarray, " I1"]
    rate: Float[np.ndarray, " I1"]

    @property
    def is_sampled(self) -> bool:
        """Whether all rows of a batch share them."""
        return self.source in {"uniform", "popularity", "in_batch", "mixed"}

    @property
    def is_in_batch(self) -> bool:
        """Whether the items of the other baskets are among them."""
        return self.source in {"in_batch", "mixed"}

    def draw(self, rng: np.random.Generator) -> Int64[np.ndarray, " N"]:
        """Items drawn from those that were met; a new one is nobody's negative."""
        if self.source == "popularity":
            return self.popular[rng.integers(0, len(self.popular), self.count)].astype(np.int64)
        if self.source in {"uniform", "mixed"}:
            return rng.choice(self.met, self.count)
        return np.empty(0, np.int64)

    def together(
        self,
        drawn: Int64[np.ndarray, " N"],
        items: Int64[np.ndarray, " P"],
        owners: Int64[np.ndarray, " P"],
        memory: Memory | None,
    ) -> Shared:
        """What a batch is compared with.

        Args:
            drawn: what ``draw`` gave.
            items: of the batch's own baskets.
            owners: the basket of each.
        """
        own = items if self.is_in_batch else items[:0]
        old = memory.items if memory else items[:0]
        every = np.concatenate([own, drawn, old])
        baskets = np.full(len(every), -1)
        baskets[: len(own)] = owners[: len(own)]
        chosen = np.arange(len(every))
        if self.is_distinct:
            # Of what is there twice the first is kept: the one that is encoded now.
            chosen = np.sort(np.unique(every, return_index=True)[1])
        remembered = chosen[chosen >= len(own) + len(drawn)] - len(own) - len(drawn)
        every, baskets = every[chosen], baskets[chosen]
        sampled_from = self.num_baskets(int(owners[-1]) + 1, memory)
        return Shared(
            every,
            baskets,
            remembered,
            self.log_q(every, len(every), sampled_from),
            self.expected(every, sampled_from),
        )

    def num_baskets(self, in_batch: int, memory: Memory | None) -> int:
        """How many baskets the others of a row come from; its own is none of them."""
        own = max(in_batch - 1, 1) if self.is_in_batch else 0
        return own + (memory.baskets if memory else 0)

    def log_q(
        self, items: Int64[np.ndarray, " N"], size: int, baskets: int
    ) -> Float[np.ndarray, " N"]:
        """The log of the expected share of some items in a sample.

        Args:
            size: of the sample.
            baskets: how many of them were looked into.
        """
        with np.errstate(divide="ignore"):
            if baskets == 0 and not self.is_distinct:
                # As many as there are in the sample: the share of one is that of all.
                share: np.ndarray = np.log(self.chance[items])
            else:
                share = np.log(self.expected(items, baskets)) - np.log(max(size, 1))
        return share

    def expected(self, items: Int64[np.ndarray, "*S"], baskets: int) -> Float[np.ndarray, "*S"]:
        """How often each of some items is to be expected in a sample; of any shape.

        With repeats it is ``baskets * rate + count * chance`` times. Without, an item is there
        or not: at the chance that not all baskets and draws miss it.
        """
        rate, chance = self.rate[items], self.chance[items]
        if not self.is_distinct:
            times: np.ndarray = baskets * rate + self.count * chance
            return times
        with np.errstate(divide="ignore"):
            is_there: np.ndarray = -np.expm1(
                _log_missed(rate, baskets) + _log_missed(chance, self.count)
            )
        return is_there


def _log_missed(chance: Float[np.ndarray, "*S"], times: int) -> Float[np.ndarray, "*S"]:
    missed: np.ndarray = times * np.log1p(-chance) if times else np.zeros_like(chance)
    return missed


def negatives_of(
    source: NegativesFrom,
    count: int,
    positives: Interactions,
    liked: Histories,
    *,
    is_distinct: bool,
    num_items: int,
    most_items: int | None,
) -> Negatives:
    """A source of others for what is to be learned.

    Args:
        count: how many are drawn each step.
        most_items: where a basket is a user, how many of the user's items it holds at most;
            None where it is one row.
    """
    counts = counts_of(positives.item_rows, num_items + 1)
    met, share = np.flatnonzero(counts), counts / len(positives)
    chance, rate = np.zeros(num_items + 1), share
    if source == "popularity":
        chance = share
    elif source in {"uniform", "mixed"}:
        chance[met] = 1 / len(met)
    if most_items is not None:
        lengths = liked.lengths()
        users = np.flatnonzero(lengths > 1)
        items, owners = liked.pack(users)
        shown = np.minimum(1, most_items / lengths[users])[owners]
        rate = np.bincount(items, shown, minlength=num_items + 1) / max(len(users), 1)
    drawn = count if source in {"uniform", "mixed", "popularity"} else 0
    return Negatives(
        source, drawn, is_distinct, met, positives.item_rows, chance, np.minimum(rate, 1)
    )
