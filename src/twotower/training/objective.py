"""One batch -> one loss: which rows the towers read, and what they are asked to tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from twotower.config import Loss, TrainingConfig
from twotower.data.arrays import is_last_of_pair
from twotower.data.features import FeatureTable
from twotower.data.interactions import Histories, Interactions, histories
from twotower.errors import ConfigError, DataError
from twotower.model import losses
from twotower.model.two_tower import TwoTower
from twotower.training import batches, encoding
from twotower.training.batches import Batch, PairBatch, UserBatch, num_baskets
from twotower.training.choices import SOFTMAX
from twotower.training.comparison import Comparison, row_loss_of, vectors_of
from twotower.training.described import Described, steps_beside_all, steps_beside_some
from twotower.training.encoding import Encoded
from twotower.training.mining import draw, mine
from twotower.training.negatives import Memory, Negatives, Shared, negatives_of
from twotower.training.sampling import PositivePairs

# Rows of a user in a batch, where the user tower reads features alone: it encodes each user
# once. An id or a history of its own wants a step of its own.
_SIDE_BY_SIDE = 16


@dataclass(frozen=True)
class Objective:
    """What is learned from: features, interactions and the loss.

    Attributes:
        config: with nothing about losses left on "auto".
        users, items: feature tables, row 0 included, on the model's device.
        train: all training interactions.
        liked: each user's positives, oldest first; each once where users come whole.
        negatives: where others come from.
        history_length: how many of the last items a history holds.
        is_by_features: that users have neither an id of their own nor a history.
        is_by_users: that a batch holds whole users, parts of their items found from the rest.
        is_in_order: that a history is read in order, and an item found from those before it.
    """

    loss: Loss
    config: TrainingConfig
    users: FeatureTable
    items: FeatureTable
    train: Interactions
    liked: Histories
    positives: Interactions
    negatives: Negatives
    history_length: int
    is_by_features: bool
    is_by_users: bool
    is_in_order: bool

    @property
    def num_items(self) -> int:
        """Items, row 0 not counted."""
        return len(self.items) - 1

    @property
    def met(self) -> np.ndarray:
        """Item rows that somebody liked, ascending."""
        return self.negatives.met

    # What not every loss needs is made when one does.

    @cached_property
    def known(self) -> PositivePairs:
        """All pairs that are liked."""
        return PositivePairs.of(self.liked, num_items=self.num_items)

    @cached_property
    def num_liked(self) -> np.ndarray:
        """Of each user how many items."""
        return self.known.of_each_user(len(self.users))

    @cached_property
    def disliked(self) -> Histories:
        """What each user disliked."""
        others = self.train.take(self.train.labels <= 0.5)
        return histories(others, num_users=len(self.users) - 1)

    def windows(self, model: TwoTower, epoch: int) -> np.ndarray | None:
        """Of each user what hard negatives are drawn from; None in an epoch without."""
        if not self.config.hard_negatives or epoch <= self.config.hard_after:
            return None
        return mine(
            model,
            self.users,
            self.items,
            self.liked,
            self.met,
            self.config.hard_ranks,
            history_length=self.history_length,
        )

    def batches(
        self, batch_size: int, rng: np.random.Generator, windows: np.ndarray | None = None
    ) -> Iterator[Batch]:
        """An epoch.

        Args:
            windows: what ``windows`` gave. A batch's memory is filled by ``loss_of`` of those
                before it.
        """
        count = self.config.memory_batches
        memory = Memory(count) if count else None
        for batch in self._rows(batch_size, rng):
            if self.negatives.is_sampled:
                batch = replace(batch, negatives=self.negatives.draw(rng), memory=memory)
            if windows is not None:
                own = windows[batch.user_rows[batch.owners()]]
                batch = replace(batch, hard=draw(own, self.config.hard_negatives, rng))
            yield batch

    def _rows(self, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
        """An epoch's rows, before anything is drawn that they share."""
        source, runs = self.config.negatives_from, {"side_by_side": self._side_by_side()}
        if self.is_by_users:
            yield from batches.whole_users(
                self.liked, self.history_length, batch_size, rng, in_order=self.is_in_order
            )
        elif source == "one":
            yield from batches.pairwise(self.positives, self.known, self.met, batch_size, rng)
        elif source == "labels" and self.loss != "bce":
            yield from batches.triplets(self.positives, self.disliked, batch_size, rng, **runs)
        else:
            rows = self.train if source == "labels" else self.positives
            yield from batches.pointwise(rows, batch_size, rng, **runs)

    def _side_by_side(self) -> int:
        # Rows of one user would be no negatives of each other.
        has_baskets = self.negatives.is_in_batch or self.config.memory_batches > 0
        return _SIDE_BY_SIDE if self.is_by_features and not has_baskets else 1

    def num_rows(self) -> int:
        """Rows of an epoch."""
        if self.is_by_users:
            lengths = np.minimum(self.liked.lengths(), self.history_length)
            return int(lengths[lengths > 1].sum())
        if self.config.negatives_from != "labels":
            return len(self.positives)
        if self.loss == "bce":
            return len(self.train)
        return int((self.disliked.lengths()[self.positives.user_rows] > 0).sum())

    def described(self, model: TwoTower, batch_size: int) -> Described | None:
        """Descriptions of the items to share among steps; None where each makes its own.

        Shared where a softmax beside ids compares with all items, and where labels are learned
        and a few steps read each item. Elsewhere the layers would learn too slowly.
        """
        source, rows, steps = self.config.negatives_from, self.met, 1
        if source == "labels":
            rows = np.arange(len(self.items))
            steps = steps_beside_some(self.num_items, batch_size, self.num_rows())
        elif source == "all" and self.is_by_users and model.has_item_ids:
            steps = steps_beside_all(len(self.met))
        if model.item_tower is None or steps == 1:
            return None
        return Described(self.items, rows, steps=steps)

    def loss_of(
        self, model: TwoTower, batch: Batch, described: Described | None = None
    ) -> Tensor:
        """The loss of one batch, ready for ``backward``.

        Args:
            described: what ``described`` gave; None describes the items for this batch alone.
        """
        if isinstance(batch, PairBatch) and self._is_one_to_one(batch):
            return self._one_to_one(model, batch, described)
        shared = None
        if batch.negatives is not None:
            shared = self.negatives.together(
                batch.negatives, batch.items, batch.owners(), batch.memory
            )
        rows = self._encode(model, batch, shared, described)
        is_by_row = self.loss not in SOFTMAX or batch.hard is not None
        beside = Comparison(
            self.loss,
            self.config,
            self.negatives,
            self.liked,
            self.num_liked if is_by_row else None,
            batch,
            rows,
            shared,
        )
        if is_by_row:
            loss = beside.of_rows(row_loss_of(model, self.config, self.loss))
        else:
            loss = beside.of_all_items() if shared is None else beside.of_samples()
        if batch.memory is not None:
            vectors = rows.items.index_select(0, rows.liked)
            batch.memory.keep(batch.items, vectors, num_baskets(batch))
        return loss

    def _encode(
        self,
        model: TwoTower,
        batch: Batch,
        shared: Shared | None,
        described: Described | None,
    ) -> Encoded:
        """Vectors of a batch's users and of all items that it needs."""
        others = [] if shared is None else [shared.fresh]
        if self.config.negatives_from == "all":
            others.append(self.met)
        if batch.hard is not None:
            others.append(batch.hard.items.ravel())
        if isinstance(batch, UserBatch):
            # Where all that were met are others, the batch's own are among them.
            numbers = self.met
            if self.config.negatives_from != "all":
                numbers = np.unique(np.concatenate([batch.items, *others]))
            return encoding.whole_users(
                model, self.users, self.items, batch, numbers, described
            )
        if batch.other_rows is not None:
            others.append(batch.other_rows)
        encoded = self._encode_pairs(model, batch, np.concatenate(others), described)
        return vectors_of(model, self.loss, encoded)

    def _encode_pairs(
        self,
        model: TwoTower,
        batch: PairBatch,
        others: np.ndarray,
        described: Described | None,
    ) -> Encoded:
        return encoding.pairs(
            model,
            self.users,
            self.items,
            batch,
            others,
            self.liked,
            self.history_length,
            described,
        )

    def _is_one_to_one(self, batch: PairBatch) -> bool:
        """Whether a row is compared with one other, or with its own label."""
        if self.loss == "bce":
            return self.config.negatives_from == "labels"
        has_one = batch.other_rows is not None and batch.hard is None
        return has_one and self.loss in {"triplet", "bpr"}

    def _one_to_one(
        self, model: TwoTower, batch: PairBatch, described: Described | None
    ) -> Tensor:
        others = batch.items[:0] if batch.other_rows is None else batch.other_rows
        encoded = self._encode_pairs(model, batch, others, described)
        users, embeddings = encoded.users_of_rows(), encoded.items
        ids = encoded.table.ids
        own, other = encoded.liked, encoded.places(others)
        liked = embeddings.index_select(0, own)
        if self.loss == "triplet":
            assert self.config.margin != "auto"
            disliked = embeddings.index_select(0, other)
            return losses.triplet(users, liked, disliked, margin=self.config.margin)
        scores = model.pair_scores(users, liked, ids[own])
        if self.loss == "bpr":
            negatives = embeddings.index_select(0, other)
            return losses.bpr(scores, model.pair_scores(users, negatives, ids[other]))
        labels = torch.from_numpy(batch.labels).to(users.device)
        weights = None if batch.weights is None else torch.from_numpy(batch.weights)
        logits = model.logits(scores)
        return losses.binary_cross_entropy(
            logits, labels, None if weights is None else weights.to(users.device)
        )


def make_objective(
    loss: Loss,
    config: TrainingConfig,
    users: FeatureTable,
    items: FeatureTable,
    train: Interactions,
    *,
    history_length: int,
    has_history: bool = True,
    is_by_features: bool = False,
    is_in_order: bool = False,
) -> Objective:
    """Gather what the loss needs, and refuse data it can not learn from.

    Args:
        config: with nothing about losses left on "auto".

    Raises:
        DataError: no dislikes where others come from labels, no positives, or weights all 0.
        ConfigError: histories too short to find one item from another.
    """
    num_users, num_items = len(users) - 1, len(items) - 1
    positives = train.positives()
    has_dislikes = len(positives) < len(train)
    _require_learnable(loss, config, positives, num_items, has_dislikes=has_dislikes)
    if train.weights is not None and not train.weights.any():
        raise DataError(
            "the weights in train are all 0: nothing counts; mend that column or declare it "
            "'ignore'"
        )
    is_by_users = loss == "softmax" and has_history
    liked = histories(_distinct(positives) if is_by_users else positives, num_users=num_users)
    source, count = config.negatives_from, config.negatives
    assert source != "auto"
    assert count != "auto"
    objective = Objective(
        loss=loss,
        config=config,
        users=users,
        items=items,
        train=train,
        liked=liked,
        positives=positives,
        negatives=negatives_of(
            source,
            count,
            positives,
            liked,
            is_distinct=config.distinct_negatives,
            num_items=num_items,
            most_items=history_length if is_by_users else None,
        ),
        history_length=history_length,
        is_by_features=is_by_features,
        is_by_users=is_by_users,
        is_in_order=is_in_order,
    )
    if objective.num_rows() == 0:
        if is_by_users and history_length < 2:
            raise ConfigError(
                f"model.history_length {history_length} leaves nothing that an item could be "
                f"found from under training.loss {loss!r}; set it to 2 or more"
            )
        need = "a user with two liked items" if is_by_users else "a user with both"
        raise DataError(f"training.loss {loss!r} needs {need}; found none in train")
    return objective


def _require_learnable(
    loss: Loss,
    config: TrainingConfig,
    positives: Interactions,
    num_items: int,
    *,
    has_dislikes: bool,
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
    if config.negatives_from == "labels" and not has_dislikes:
        raise DataError(
            f"the labels in train are all 1, and training.loss {loss!r} needs dislikes too; "
            "set data.rating_threshold, or use loss 'softmax' or 'auto', or negatives_from "
            "'uniform'"
        )


def _distinct(positives: Interactions) -> Interactions:
    """Each pair once, where it was met last: an item must not be found from itself."""
    kept = is_last_of_pair(positives.user_rows, positives.item_rows, positives.times)
    return positives if kept.all() else positives.take(kept)
