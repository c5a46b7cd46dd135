"""What is measured after each epoch, on the validation part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from twotower.config import Config
from twotower.data.interactions import Histories, Interactions, histories
from twotower.data.splits import Split
from twotower.evaluation import evaluate as ev
from twotower.evaluation.calibration import fit_line
from twotower.evaluation.metrics import auc, each_log_loss, log_loss
from twotower.retrieval.encode import (
    item_vectors,
    require_finite,
    user_vectors,
)
from twotower.training.closed_form import log_popularity
from twotower.training.learn import Learned
from twotower.training.sampling import PositivePairs, uniform_negatives

Scores = Callable[[slice], Tensor]

# As many users rank the catalogue after each epoch, and as many each time to choose a weight.
_MOST_USERS = 10_000
_FEW_USERS = 2_000
# Of larger catalogues fewer users rank more items, down to a tenth of the users.
_MANY_ITEMS = 200_000
# With fewer of whom training saw something, those it did not are asked too.
_ENOUGH_WARM = 50
# How much popularity may be added to the scores, as a multiple of its log.
_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Validation:
    """What is measured after each epoch: NDCG@10, and loss and AUC over labelled pairs.

    Attributes:
        held: the validation positives, to be found among what train did not show.
        seen: what train showed.
        user_rows, item_rows, labels: pairs; where data has no dislikes, one uniform item that
            the user is not known to like stands beside each positive.
        log_popularity: of each item in train.
        weights: how much of it may be added to the scores, ascending.
    """

    held: ev.HeldOut
    seen: Histories
    user_rows: np.ndarray
    item_rows: np.ndarray
    labels: np.ndarray
    history_length: int
    log_popularity: Float[Tensor, " I1"]
    weights: tuple[float, ...]

    def __call__(self, learned: Learned) -> dict[str, float]:
        """The epoch's values by name, with as much popularity as serves them best.

        What was met together says who likes what, and too loudly where times have changed
        since: how much it should count beside popularity, only what came later can tell.
        """
        items, users, weight = self._weighed(learned)
        scores, labels = self._pairs(items, users), self.labels
        both = 0 < (labels > 0.5).sum() < len(labels)
        ndcg = self._each_ndcg(learned, items, users, self.held)
        return {
            "val_loss": log_loss(labels, _chances(scores, labels)),
            "val_auc": auc(labels > 0.5, scores) if both else float("nan"),
            "val_ndcg": float(ndcg.mean()) if len(ndcg) else 0.0,
            "val_popularity": weight,
        }

    def by_user(self, learned: Learned, metric: str) -> Float[np.ndarray, " U"]:
        """A number a user whose mean is the value of ``metric``, to compare two towers by.

        Of the loss, which is a mean over pairs, it is what the user's pairs add to that.
        """
        items, users, _ = self._weighed(learned)
        if metric == "val_ndcg":
            return self._each_ndcg(learned, items, users, self.held)
        assert metric == "val_loss"
        chances = _chances(self._pairs(items, users), self.labels)
        losses = each_log_loss(self.labels, chances)
        _, places = np.unique(self.user_rows, return_inverse=True)
        sums: np.ndarray = np.bincount(places, losses)
        return sums * (len(sums) / len(losses))

    def pairs(self, learned: Learned) -> tuple[np.ndarray, np.ndarray]:
        """Scores and labels of the pairs."""
        return self._pairs(*self._vectors(learned)), self.labels

    def histories(self, learned: Learned) -> Histories:
        """What of each user's items is read."""
        return learned.liked.latest(self.history_length)

    def scores_of(self, learned: Learned) -> Scores:
        """Some of the users in ``held``, by their places -> the scores of all items."""
        items, users = self._vectors(learned)
        return self._products(items, users, self.held)

    def each_ndcg(
        self, learned: Learned, scores_of: Scores, held: ev.HeldOut | None = None
    ) -> Float[np.ndarray, " U"]:
        """NDCG@10 of each user, where an item is ranked by these scores."""
        can_judge = learned.has_own_id | (len(learned.item_encoders.by_column) > 0)
        return ev.each_ndcg(
            scores_of,
            self.held if held is None else held,
            self.seen,
            is_candidate=torch.from_numpy(can_judge[1:]),
        )

    def _vectors(self, learned: Learned) -> tuple[Tensor, Tensor]:
        """Of all items, and of all users in validation, those of ``_users``."""
        items = item_vectors(learned.model, learned.items)
        users = user_vectors(
            learned.model,
            learned.users,
            self._users,
            self.histories(learned),
            items,
            learned.items.ids,
        )
        return items.cpu(), users.cpu()

    def _products(self, items: Tensor, users: Tensor, held: ev.HeldOut) -> Scores:
        places = torch.from_numpy(np.searchsorted(self._users, held.user_rows))
        asking, candidates = users[places], items[1:]
        return lambda part: asking[part] @ candidates.T

    def _weighed(self, learned: Learned) -> tuple[Tensor, Tensor, float]:
        """Vectors with popularity in the biases of items, and its weight, the best there is."""
        items, users = self._vectors(learned)
        best, *more = self.weights

        def weighed(weight: float) -> Tensor:
            added = items.clone()
            added[: len(self.log_popularity), -1] += weight * self.log_popularity
            return added

        if more and len(self.held):
            ndcg = {
                weight: self._each_ndcg(learned, weighed(weight), users, self._few).mean()
                for weight in self.weights
            }
            best = max(ndcg, key=ndcg.__getitem__)
        return weighed(best), users, best

    @cached_property
    def _few(self) -> ev.HeldOut:
        """Some of those in ``held``, evenly spread."""
        step = -(-len(self.held) // _as_many(_FEW_USERS, len(self.log_popularity) - 1))
        return self.held.only(np.arange(0, len(self.held), max(step, 1)))

    @cached_property
    def _users(self) -> np.ndarray:
        return np.union1d(self.user_rows, self.held.user_rows)

    def _pairs(self, items: Tensor, users: Tensor) -> np.ndarray:
        places = torch.from_numpy(np.searchsorted(self._users, self.user_rows))
        rows = torch.from_numpy(self.item_rows.astype(np.int64))
        scores = torch.linalg.vecdot(users[places], items[rows])
        require_finite(scores)
        found: np.ndarray = scores.numpy()
        return found

    def _each_ndcg(
        self, learned: Learned, items: Tensor, users: Tensor, held: ev.HeldOut
    ) -> Float[np.ndarray, " U"]:
        if not len(held):
            return np.empty(0)
        return self.each_ndcg(learned, self._products(items, users, held), held)


def _chances(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the affinity's own line will make of the scores.

    An epoch is judged by what it can tell apart, not by how sure of itself it is.
    """
    slope, offset = fit_line(scores, labels)
    logits = np.clip(slope * scores.astype(np.float64) + offset, -500, 500)
    chances: np.ndarray = 1 / (1 + np.exp(-logits))
    return chances


def validation(parts: Split, config: Config) -> Validation:
    """What to measure after each epoch on this split."""
    num_users = int(max(parts.train.user_rows.max(), parts.val.user_rows.max()))
    num_items = int(max(parts.train.item_rows.max(), parts.val.item_rows.max()))
    seen = histories(parts.train, num_users=num_users)
    known = PositivePairs.of(seen, num_items=num_items)
    pairs = parts.val
    liked = pairs.labels > 0.5
    if liked.all():
        every = known.and_of(histories(pairs, num_users=num_users))
        pairs = _with_others(pairs, every, num_items, config.training.seed)
    held = ev.held_out(parts.val.positives(), seen, known)
    if held.is_warm.sum() >= _ENOUGH_WARM:
        held = held.only(np.flatnonzero(held.is_warm))
    most = _as_many(_MOST_USERS, num_items)
    if len(held) > most:
        rng = np.random.default_rng([config.training.seed, 7])
        held = held.only(np.sort(rng.choice(len(held), most, replace=False)))
    return Validation(
        held,
        seen,
        pairs.user_rows,
        pairs.item_rows,
        pairs.labels,
        config.model.history_length,
        log_popularity(parts.train.positives(), num_items=num_items),
        _WEIGHTS if config.model.popularity == "auto" else (config.model.popularity,),
    )


def _as_many(users: int, num_items: int) -> int:
    """How many users rank so many items."""
    return max(min(users, users * _MANY_ITEMS // max(num_items, 1)), users // 10)


def _with_others(
    positives: Interactions, known: PositivePairs, num_items: int, seed: int
) -> Interactions:
    rng = np.random.default_rng([seed, 4])
    every = np.arange(1, num_items + 1)
    drawn = uniform_negatives(positives.user_rows, known, every, rng=rng)
    others = replace(
        positives.without_times(),
        item_rows=drawn.astype(np.int32),
        labels=np.zeros(len(positives), np.float32),
    )
    return positives.without_times().followed_by(others)
