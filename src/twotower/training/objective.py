"""One batch -> one loss: which rows the towers read, and what they are asked to tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from twotower.config import Loss, TrainingConfig
from twotower.data.features import FeatureTable
from twotower.data.interactions import Histories, Interactions, histories, offsets_of, ranges
from twotower.errors import DataError
from twotower.model import losses
from twotower.model.history import PackedHistory
from twotower.model.two_tower import TwoTower
from twotower.training import batches
from twotower.training.batches import PairBatch, UserBatch
from twotower.training.sampling import PositivePairs, log_share

Batch = PairBatch | UserBatch
# Rows of a user in a batch, where the user tower reads features alone: it encodes each user
# once. An id or a history of its own wants a step of its own.
_SIDE_BY_SIDE = 8


@dataclass(frozen=True)
class Objective:
    """What is learned from: features, interactions and the loss.

    Attributes:
        users, items: feature tables, row 0 included, on the model's device.
        train: all training interactions.
        liked: each user's positives, oldest first; under softmax each once.
        met: item rows that somebody liked, ascending.
        history_length: how many of the last items a history holds.
        is_by_features: that users have neither an id of their own nor a history.
        is_in_order: that a history is read in order, and an item found from those before it.
    """

    loss: Loss
    config: TrainingConfig
    users: FeatureTable
    items: FeatureTable
    train: Interactions
    liked: Histories
    positives: Interactions
    disliked: Histories
    met: np.ndarray
    known: PositivePairs
    log_q: Tensor
    history_length: int
    is_by_features: bool
    is_in_order: bool

    @property
    def num_items(self) -> int:
        """Items, row 0 not counted."""
        return len(self.items) - 1

    def batches(self, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
        """An epoch."""
        if self.loss == "softmax":
            for batch in batches.whole_users(
                self.liked, self.history_length, batch_size, rng, in_order=self.is_in_order
            ):
                yield replace(batch, negatives=self._negatives(rng))
        elif self.loss == "triplet":
            yield from batches.triplets(
                self.positives,
                self.disliked,
                batch_size,
                rng,
                side_by_side=self._side_by_side(),
            )
        elif self.loss == "bpr":
            yield from batches.pairwise(
                self.positives, self.known, self.num_items, batch_size, rng
            )
        else:
            rows = self.train if self.loss == "bce" else self.positives
            yield from batches.pointwise(
                rows, batch_size, rng, side_by_side=self._side_by_side()
            )

    def _negatives(self, rng: np.random.Generator) -> np.ndarray | None:
        """Items drawn from those that were met; a new one is nobody's negative."""
        if self.config.negatives == 0:
            return None
        assert self.config.negatives != "auto"
        return rng.choice(self.met, self.config.negatives)

    def _side_by_side(self) -> int:
        # In a softmax over the batch the user's own items would be no negatives.
        return _SIDE_BY_SIDE if self.is_by_features and self.loss != "in_batch_softmax" else 1

    def num_rows(self) -> int:
        """Rows of an epoch."""
        if self.loss == "softmax":
            lengths = np.minimum(self.liked.lengths(), self.history_length)
            return int(lengths[lengths > 1].sum())
        if self.loss == "triplet":
            return int((self.disliked.lengths()[self.positives.user_rows] > 0).sum())
        return len(self.train if self.loss == "bce" else self.positives)

    def loss_of(self, model: TwoTower, batch: Batch) -> Tensor:
        """The loss of one batch, ready for ``backward``."""
        if isinstance(batch, UserBatch):
            return self._softmax(model, batch)
        return self._pairs(model, batch)

    def _softmax(self, model: TwoTower, batch: UserBatch) -> Tensor:
        device = self.users.ids.device
        candidates = self.met
        if batch.negatives is not None:
            candidates = np.unique(np.concatenate([batch.items, batch.negatives]))
        rows = torch.from_numpy(candidates).to(device)
        table = model.hide_item_ids(self.items.take(rows))
        embeddings = model.encode_items(table)
        items = model.item_vectors(embeddings, table)
        targets = torch.from_numpy(np.searchsorted(candidates, batch.items)).to(device)
        offsets = torch.from_numpy(batch.offsets).to(device)
        history = PackedHistory(targets, offsets, embeddings, table.ids)
        user_rows = torch.from_numpy(batch.user_rows).to(device)
        people = model.hide_user_ids(self.users.take(user_rows))
        users = model.user_vectors(model.encode_users_for_each(people, history))
        if batch.negatives is None:
            pairs, others = _each_beside_its_users_others(batch.offsets)
            return losses.full_softmax(
                users,
                items,
                targets,
                torch.arange(len(batch), device=device),
                excluded_rows=targets[torch.from_numpy(others).to(device)],
                excluded_users=torch.from_numpy(pairs).to(device),
            )
        negatives = torch.from_numpy(np.searchsorted(candidates, batch.negatives)).to(device)
        is_hit = torch.from_numpy(_hits(batch)).to(device)
        return losses.sampled_softmax(
            users,
            items.index_select(0, targets),
            items.index_select(0, negatives),
            is_hit.index_select(0, history.owners()),
            log_q_negative=users.new_full((len(negatives),), -np.log(len(self.met))),
        )

    def _pairs(self, model: TwoTower, batch: PairBatch) -> Tensor:
        device = self.users.ids.device
        history_items, counts = np.empty(0, np.int64), np.zeros(len(batch), np.int64)
        if model.history is not None:
            history_items, counts = self._past(batch)
        parts = [batch.item_rows, history_items]
        if batch.other_rows is not None:
            parts.insert(1, batch.other_rows)
        # Each item of the batch goes through the tower once, however often it occurs.
        unique, inverse = np.unique(np.concatenate(parts), return_inverse=True)
        place = torch.from_numpy(inverse.astype(np.int64)).to(device)
        table = model.hide_item_ids(self.items.take(torch.from_numpy(unique).to(device)))
        embeddings = model.encode_items(table)
        packed = None
        if model.history is not None:
            past = place[len(place) - len(history_items) :]
            offsets = torch.from_numpy(offsets_of(counts)).to(device)
            packed = PackedHistory(past, offsets, embeddings, table.ids)
            users = self._encode_users(model, batch.user_rows, packed)
        else:
            distinct, user_place = np.unique(batch.user_rows, return_inverse=True)
            users = self._encode_users(model, distinct, None)
            # index_select adds its gradients up several times faster than indexing does.
            users = users.index_select(0, torch.from_numpy(user_place).to(device))
        own, other = place[: len(batch)], place[len(batch) : 2 * len(batch)]
        if self.loss == "in_batch_softmax":
            vectors = model.item_vectors(embeddings, table).index_select(0, own)
            return self._in_batch(model.user_vectors(users), vectors, batch)
        liked = embeddings.index_select(0, own)
        if self.loss == "triplet":
            disliked = embeddings.index_select(0, other)
            return losses.triplet(users, liked, disliked, margin=self.config.margin)
        scores = model.pair_scores(users, liked, table.ids[own])
        if self.loss == "bpr":
            negatives = embeddings.index_select(0, other)
            less = model.pair_scores(users, negatives, table.ids[other])
            return losses.bpr(scores, less)
        labels = torch.from_numpy(batch.labels).to(device)
        weights = None if batch.weights is None else torch.from_numpy(batch.weights).to(device)
        return losses.binary_cross_entropy(model.logits(scores), labels, weights)

    def _encode_users(
        self, model: TwoTower, user_rows: np.ndarray, packed: PackedHistory | None
    ) -> Tensor:
        rows = torch.from_numpy(user_rows).to(self.users.ids.device)
        shown = packed and packed.only(model.is_shown(packed))
        return model.encode_users(model.hide_user_ids(self.users.take(rows)), shown)

    def _in_batch(self, users: Tensor, items: Tensor, batch: PairBatch) -> Tensor:
        is_hit = self.known.contain(batch.user_rows[:, None], batch.item_rows[None, :])
        device = users.device
        rows = torch.from_numpy(batch.item_rows).to(device)
        weights = None if batch.weights is None else torch.from_numpy(batch.weights).to(device)
        hits = torch.from_numpy(is_hit).to(device)
        log_q = self.log_q.to(device)[rows]
        return losses.in_batch_softmax(users, items, hits, log_q=log_q, weights=weights)

    def _past(self, batch: PairBatch) -> tuple[np.ndarray, np.ndarray]:
        """Each row's history: the last items that the user liked, never the row's own."""
        places, owners = self.liked.places(batch.user_rows)
        items = self.liked.items[places].astype(np.int64)
        kept = items != batch.item_rows[owners]
        if self.liked.times is not None and batch.times is not None:
            # Nothing later leaks into what was known then.
            kept &= self.liked.times[places] < batch.times[owners]
        items, owners = items[kept], owners[kept]
        counts = np.bincount(owners, minlength=len(batch))
        from_last = np.repeat(np.cumsum(counts), counts) - np.arange(len(items))
        recent = from_last <= self.history_length
        return items[recent], np.minimum(counts, self.history_length)


def make_objective(
    loss: Loss,
    config: TrainingConfig,
    users: FeatureTable,
    items: FeatureTable,
    train: Interactions,
    *,
    history_length: int,
    is_by_features: bool = False,
    is_in_order: bool = False,
) -> Objective:
    """Gather what the loss needs, and refuse data it can not learn from.

    Raises:
        DataError: labels all alike under bce, no dislikes under triplet, no positives, or
            weights all 0.
    """
    num_users, num_items = len(users) - 1, len(items) - 1
    positives = train.positives()
    disliked = train.take(train.labels <= 0.5)
    _require_learnable(loss, positives, disliked, num_items)
    if train.weights is not None and not train.weights.any():
        raise DataError(
            "the weights in train are all 0: nothing counts; mend that column or declare it "
            "'ignore'"
        )
    objective = Objective(
        loss=loss,
        config=config,
        users=users,
        items=items,
        train=train,
        liked=histories(
            _distinct(positives) if loss == "softmax" else positives, num_users=num_users
        ),
        positives=positives,
        disliked=histories(disliked, num_users=num_users),
        met=np.unique(positives.item_rows).astype(np.int64),
        known=PositivePairs(positives.user_rows, positives.item_rows, num_items=num_items),
        log_q=torch.from_numpy(log_share(positives.item_rows, num_items=num_items)),
        history_length=history_length,
        is_by_features=is_by_features,
        is_in_order=is_in_order,
    )
    if objective.num_rows() == 0:
        need = "a user with two liked items" if loss == "softmax" else "a user with both"
        raise DataError(f"training.loss {loss!r} needs {need}; found none in train")
    return objective


def _require_learnable(
    loss: Loss, positives: Interactions, disliked: Interactions, num_items: int
) -> None:
    if len(positives) == 0:
        raise DataError(
            "the labels in train are all 0: nothing is liked; check the label column, or lower "
            "data.rating_threshold"
        )
    if num_items < 2:
        raise DataError(
            "the items: there is only one, which leaves nothing to choose from; bring "
            "interactions with several"
        )
    if loss in {"bce", "triplet"} and len(disliked) == 0:
        raise DataError(
            f"the labels in train are all 1, and training.loss {loss!r} needs dislikes too; "
            "set data.rating_threshold, or use loss 'softmax' or 'auto'"
        )


def _distinct(positives: Interactions) -> Interactions:
    """Each pair once, where it was met last: an item must not be found from itself."""
    keys = [positives.item_rows, positives.user_rows]
    order = np.lexsort(keys if positives.times is None else [positives.times, *keys])
    users, items = positives.user_rows[order], positives.item_rows[order]
    is_last = np.ones(len(order), bool)
    is_last[:-1] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    return positives.take(np.sort(order[is_last]))


def _each_beside_its_users_others(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of places of one user, one with the other, first ones ascending."""
    counts = np.diff(offsets)
    wide = np.repeat(counts, counts)
    begins = np.repeat(offsets[:-1], counts)
    return np.repeat(np.arange(len(wide)), wide), ranges(begins, wide)


def _hits(batch: UserBatch) -> np.ndarray:
    """(B, N) whether a negative is one of the user's items."""
    assert batch.negatives is not None
    order = np.argsort(batch.negatives, kind="stable")
    ranked = batch.negatives[order]
    first = np.searchsorted(ranked, batch.items)
    counts = np.searchsorted(ranked, batch.items, side="right") - first
    owners = np.repeat(np.arange(len(batch.user_rows)), np.diff(batch.offsets))
    found = np.zeros((len(batch.user_rows), len(batch.negatives)), bool)
    found[np.repeat(owners, counts), order[ranges(first, counts)]] = True
    return found
