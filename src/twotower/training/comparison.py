"""A batch, encoded -> one loss: WHAT is made of liked items beside their others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from twotower.config import Loss, TrainingConfig
from twotower.data.interactions import Histories, offsets_of
from twotower.model import contrasts, losses
from twotower.model.contrasts import Others, RowLoss
from twotower.model.two_tower import TwoTower
from twotower.training.batches import Batch, PairBatch, UserBatch, num_baskets
from twotower.training.choices import SOFTMAX, WEIGHED
from twotower.training.encoding import Encoded
from twotower.training.hits import each_beside_its_users_items, matches
from twotower.training.mining import Hard
from twotower.training.negatives import Negatives, Shared

_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class Comparison:
    """One batch, ready to be compared.

    Attributes:
        liked: of each user what is no other.
        num_liked: of each user how many items that is, where the loss is said of each row.
        rows: vectors of the batch's users and of all items that were encoded.
        shared: the sampled items that all rows share; None where there are none.
    """

    loss: Loss
    config: TrainingConfig
    negatives: Negatives
    liked: Histories
    num_liked: Int64[np.ndarray, " U1"] | None
    batch: Batch
    rows: Encoded
    shared: Shared | None

    def of_all_items(self) -> Tensor:
        """The softmax over everything that was met; what one user asks for competes in it."""
        rows, batch = self.rows, self.batch
        users, askers = self._asking()
        if isinstance(batch, UserBatch):
            owners = self._owners_of(askers)
            out, places = each_beside_its_users_items(owners, batch.offsets)
            excluded = rows.liked[self._tensor(places)]
        else:
            out, columns = self._hits(self.negatives.met)
            excluded = self._tensor(columns)
        vectors, bias = _apart(rows.items)
        return losses.full_softmax(
            users[:, :-1],
            vectors,
            rows.liked,
            self._tensor(askers),
            excluded_rows=excluded,
            excluded_users=self._tensor(out),
            bias=bias,
        )

    def of_samples(self) -> Tensor:
        """The softmax over the sampled items; what one user asks for competes in it."""
        rows, batch = self.rows, self.batch
        items, vectors, log_q = self._samples()
        own_log_q = None
        if self.config.log_q == "classic":
            baskets = self.negatives.num_baskets(num_baskets(batch), batch.memory)
            found = self.negatives.log_q(batch.items, len(items), baskets)
            own_log_q = self._numbers(found)
        users, askers = self._asking()
        hit_users, hit_rows = self._hits_of_askers(askers, items)
        liked, liked_bias = _apart(rows.items.index_select(0, rows.liked))
        negatives, bias = _apart(vectors)
        return losses.sampled_softmax(
            users[:, :-1],
            liked,
            negatives,
            hit_users=self._tensor(hit_users),
            hit_rows=self._tensor(hit_rows),
            positive_user=rows.askers if isinstance(batch, UserBatch) else None,
            log_q_positive=own_log_q,
            log_q_negative=self._numbers(log_q),
            positive_bias=liked_bias,
            negative_bias=bias,
            weights=self._weights(),
        )

    def _samples(
        self,
    ) -> tuple[Int64[np.ndarray, " N"], Float[Tensor, "N V"], Float[np.ndarray, " N"]]:
        """The sampled items, their vectors, and the log of each one's expected share.

        What was sampled several times now is there once, with the smaller log q that makes it
        weigh as much; only the classic log q tells a row's own item from one like it.
        """
        assert self.shared is not None
        items, log_q, fresh = self.shared.items, self.shared.log_q, self.shared.fresh
        if self.config.log_q == "none":
            log_q = np.full(len(items), -np.log(len(items)))
        if self.config.log_q == "classic" or self.config.distinct_negatives:
            return items, self._shared_vectors(fresh), log_q
        distinct, first, times = np.unique(fresh, return_index=True, return_counts=True)
        count = len(items) - len(fresh) + len(distinct)
        once = log_q[first] - np.log(times)
        kept = np.concatenate([once, log_q[len(fresh) :]]) + np.log(len(items) / count)
        every = np.concatenate([distinct, items[len(fresh) :]])
        return every, self._shared_vectors(distinct), kept

    def of_rows(self, row_loss: RowLoss) -> Tensor:
        """Any loss that can be said of a row alone."""
        rows, liked = self.rows, self.rows.items.index_select(0, self.rows.liked)
        is_even = self.config.log_q != "corrected" and self.loss not in SOFTMAX
        found = contrasts.each_row(
            row_loss, rows.users_of_rows(), liked, self._others(), is_even=is_even
        )
        return losses.weighted_mean(found, self._weights())

    def _others(self) -> Others:
        """What each row is compared with, and how many items each of them stands for."""
        batch, shared = self.batch, self.shared
        if shared is not None:
            columns, vectors = shared.items, self._shared_vectors(shared.fresh)
        else:
            columns = self.negatives.met if self.config.negatives_from == "all" else _NONE
            # Of none there is no gradient, which would be as large as that of all.
            some = self.rows.items if len(columns) else self.rows.items.detach()
            vectors = some.index_select(0, self.rows.places(columns))
        if isinstance(batch, PairBatch):
            hit_rows, hit_columns = map(self._tensor, self._hits(columns))
            assert self.num_liked is not None
            num_liked = self.num_liked[batch.user_rows]
        else:
            each = np.arange(len(batch))
            hit_rows, hit_columns = map(self._tensor, self._hits_of_askers(each, columns))
            counts = np.diff(batch.offsets)
            num_liked = np.repeat(counts, counts)
        expected = np.ones(len(columns))
        if shared is not None and self.config.log_q == "corrected":
            expected = shared.expected
        others = Others(
            vectors,
            self._numbers(1 / expected),
            hit_rows,
            hit_columns,
            self._numbers(len(self.negatives.met) - num_liked),
        )
        if isinstance(batch, PairBatch) and batch.other_rows is not None:
            return self._with_own(others, batch.other_rows[:, None])
        if batch.hard is None:
            return others
        if shared is None or self.config.log_q != "corrected":
            return self._with_own(others, batch.hard.items)
        return self._with_hard_ones(others, shared, batch.hard)

    def _with_own(
        self,
        others: Others,
        items: Int64[np.ndarray, "R H"],
        stands_for: Float[np.ndarray, "R H"] | float = 1.0,
    ) -> Others:
        """With others that each row has of its own; row 0 is none."""
        places = self.rows.places(items.ravel())
        return replace(
            others,
            own=self.rows.items.index_select(0, places).view(*items.shape, -1),
            own_stand_for=self._numbers((items > 0) * stands_for),
        )

    def _with_hard_ones(self, others: Others, shared: Shared, hard: Hard) -> Others:
        """With mined ones, whose chance is known as well: it is the same within the window.

        An item may come as shared or as the row's own, so what is expected adds up.
        """
        num_rows, width = hard.windows.shape
        times = hard.items.shape[1] / np.maximum((hard.windows > 0).sum(axis=1), 1)
        owners = np.repeat(np.arange(num_rows), width)
        rows, columns = matches(hard.windows.ravel().astype(np.int64), owners, shared.items)
        expected = np.tile(shared.expected, (num_rows, 1))
        expected[rows, columns] += times[rows]
        baskets = self.negatives.num_baskets(num_baskets(self.batch), self.batch.memory)
        of_own = self.negatives.expected(hard.items, baskets) + times[:, None]
        others = replace(others, stands_for=self._numbers(1 / expected))
        return self._with_own(others, hard.items, 1 / of_own)

    def _shared_vectors(self, fresh: Int64[np.ndarray, " F"]) -> Float[Tensor, "N V"]:
        """Vectors of some of those encoded now, and of those remembered."""
        assert self.shared is not None
        vectors = self.rows.items
        if not np.array_equal(fresh, self.rows.numbers):
            vectors = vectors.index_select(0, self.rows.places(fresh))
        if self.batch.memory is None or not len(self.shared.remembered):
            return vectors
        old = self.batch.memory.vectors()[self._tensor(self.shared.remembered)]
        return torch.cat([vectors, old])

    def _hits(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of some items are no others of which row of pairs; rows ascending."""
        assert isinstance(self.batch, PairBatch)
        items, owners = self.liked.pack(self.batch.user_rows)
        rows, places = matches(items.astype(np.int64), owners, columns)
        if self.config.log_q == "classic" and self.shared is not None:
            kept = ~self._is_drawn_own(rows, places)
            return rows[kept], places[kept]
        return rows, places

    def _asking(self) -> tuple[Float[Tensor, "Q V"], Int64[np.ndarray, " R"]]:
        """Who asks, and of each row which of them; of pairs everybody asks for one item."""
        if isinstance(self.batch, UserBatch):
            return self.rows.users, self.rows.askers.numpy(force=True)
        return self.rows.users_of_rows(), np.arange(len(self.batch))

    def _owners_of(self, askers: Int64[np.ndarray, " R"]) -> Int64[np.ndarray, " Q"]:
        """Of Q askers the users, where ``askers`` says of each row which it is."""
        owners = np.empty(askers.max() + 1, np.int64)
        owners[askers] = self.batch.owners()
        return owners

    def _hits_of_askers(
        self, askers: Int64[np.ndarray, " R"], columns: Int64[np.ndarray, " N"]
    ) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
        """Which of some items are no others of which asker; askers ascending.

        Args:
            askers: of each row who asks for it.
        """
        batch = self.batch
        if isinstance(batch, PairBatch):
            return self._hits(columns)
        owners = batch.owners()
        users, places = matches(batch.items, owners, columns)
        offsets = offsets_of(np.bincount(users, minlength=num_baskets(batch)))
        out, at = each_beside_its_users_items(self._owners_of(askers), offsets)
        places = places[at]
        if self.config.log_q == "classic":
            rows, freed = matches(batch.items, np.arange(len(owners)), columns)
            is_freed = self._is_drawn_own(rows, freed)
            keys = askers[rows[is_freed]] * len(columns) + freed[is_freed]
            kept = ~np.isin(out * len(columns) + places, keys)
            return out[kept], places[kept]
        return out, places

    def _is_drawn_own(self, rows: np.ndarray, places: np.ndarray) -> Bool[np.ndarray, " E"]:
        """Whether it is the row's own item, but sampled: the classic log q counts on that."""
        assert self.shared is not None
        is_own = self.shared.items[places] == self.batch.items[rows]
        is_sampled: np.ndarray = self.shared.baskets[places] != self.batch.owners()[rows]
        found: np.ndarray = is_own & is_sampled
        return found

    def _weights(self) -> Float[Tensor, " R"] | None:
        if not isinstance(self.batch, PairBatch) or self.batch.weights is None:
            return None
        return self._tensor(self.batch.weights) if self.loss in WEIGHED else None

    def _numbers(self, values: np.ndarray) -> Tensor:
        return self._tensor(values).to(self.rows.users.dtype)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.rows.users.device)


def _apart(vectors: Float[Tensor, "N V"]) -> tuple[Float[Tensor, "N D"], Float[Tensor, " N"]]:
    """Embeddings and biases of vectors of items."""
    return vectors[:, :-1], vectors[:, -1]


def vectors_of(model: TwoTower, loss: Loss, encoded: Encoded) -> Encoded:
    """What the loss takes inner products of, in place of embeddings."""
    if loss == "ccl":
        return encoded
    if loss == "triplet":
        users, items = contrasts.distance_vectors(encoded.users, encoded.items)
    else:
        users = model.user_vectors(encoded.users)
        items = model.item_vectors(encoded.items, encoded.table)
    return replace(encoded, users=users, items=items)


def row_loss_of(model: TwoTower, config: TrainingConfig, loss: Loss) -> RowLoss:
    """The loss of a row beside its others."""
    margin = config.margin
    assert margin != "auto"
    if loss == "bce":
        return lambda scores: contrasts.binary_cross_entropy(
            replace(scores, own=model.logits(scores.own), others=model.logits(scores.others))
        )
    if loss == "ccl":
        weight = config.negative_weight
        return partial(contrasts.cosine_contrastive, margin=margin, negative_weight=weight)
    if loss == "triplet":
        kind = contrasts.semi_hard_triplet if config.semi_hard else contrasts.triplet
        return partial(kind, margin=margin)
    if loss == "warp":
        return partial(contrasts.warp, margin=margin)
    return contrasts.bpr if loss == "bpr" else contrasts.softmax
