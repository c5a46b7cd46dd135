"""What is measured after each epoch, on the validation part."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from twotower.config import Config
from twotower.data.interactions import Histories, Interactions, histories
from twotower.data.splits import Split
from twotower.evaluation import evaluate as ev
from twotower.evaluation.calibration import fit_line
from twotower.evaluation.metrics import auc, log_loss
from twotower.retrieval.encode import (
    item_vectors,
    require_finite,
    user_vectors,
)
from twotower.training.learn import Learned
from twotower.training.sampling import PositivePairs, uniform_negatives


@dataclass(frozen=True)
class Validation:
    """What is measured after each epoch: NDCG@10, and loss and AUC over labelled pairs.

    Attributes:
        held: the validation positives, to be found among what train did not show.
        seen: what train showed.
        user_rows, item_rows, labels: pairs; where data has no dislikes, one uniform item that
            the user is not known to like stands beside each positive.
    """

    held: ev.HeldOut
    seen: Histories
    user_rows: np.ndarray
    item_rows: np.ndarray
    labels: np.ndarray
    history_length: int

    def __call__(self, learned: Learned) -> dict[str, float]:
        """The epoch's values by name."""
        scores, labels = self.pairs(learned)
        # What the affinity's own line will be: an epoch is judged by what it can tell apart,
        # not by how sure of itself it is.
        slope, offset = fit_line(scores, labels)
        logits = np.clip(slope * scores.astype(np.float64) + offset, -500, 500)
        chance = 1 / (1 + np.exp(-logits))
        both = 0 < (labels > 0.5).sum() < len(labels)
        return {
            "val_loss": log_loss(labels, chance),
            "val_auc": auc(labels > 0.5, scores) if both else float("nan"),
            "val_ndcg": self._ndcg(learned),
        }

    def _ndcg(self, learned: Learned) -> float:
        if not len(self.held):
            return 0.0
        liked = learned.liked.latest(self.history_length)
        items = item_vectors(learned.model, learned.items)
        users = user_vectors(learned.model, learned.users, self.held.user_rows, liked, items)
        can_judge = learned.has_own_id | (len(learned.item_encoders.by_column) > 0)
        users, candidates = users.cpu(), items[1:].cpu()
        return ev.mean_ndcg(
            lambda part: users[part] @ candidates.T,
            self.held,
            self.seen,
            is_candidate=torch.from_numpy(can_judge[1:]),
        )

    def pairs(self, learned: Learned) -> tuple[np.ndarray, np.ndarray]:
        """Scores and labels of the pairs."""
        liked = learned.liked.latest(self.history_length)
        items = item_vectors(learned.model, learned.items)
        distinct, place = np.unique(self.user_rows, return_inverse=True)
        users = user_vectors(learned.model, learned.users, distinct, liked, items)
        chosen = users[torch.from_numpy(place).to(users.device)]
        rows = torch.from_numpy(self.item_rows.astype(np.int64)).to(users.device)
        scores = (chosen * items[rows]).sum(1)
        require_finite(scores)
        return scores.cpu().numpy(), self.labels


def validation(parts: Split, config: Config) -> Validation:
    """What to measure after each epoch on this split."""
    num_users = int(max(parts.train.user_rows.max(), parts.val.user_rows.max()))
    num_items = int(max(parts.train.item_rows.max(), parts.val.item_rows.max()))
    seen = histories(parts.train, num_users=num_users)
    pairs = parts.val
    liked = pairs.labels > 0.5
    if liked.all():
        pairs = _with_others(pairs, parts, num_items, config.training.seed)
    return Validation(
        ev.held_out(parts.val.positives(), seen),
        seen,
        pairs.user_rows,
        pairs.item_rows,
        pairs.labels,
        config.model.history_length,
    )


def _with_others(
    positives: Interactions, parts: Split, num_items: int, seed: int
) -> Interactions:
    every = parts.train.followed_by(parts.val)
    known = PositivePairs(every.user_rows, every.item_rows, num_items=num_items)
    rng = np.random.default_rng([seed, 4])
    drawn = uniform_negatives(positives.user_rows, known, num_items=num_items, rng=rng)
    others = replace(
        positives.without_times(),
        item_rows=drawn.astype(np.int32),
        labels=np.zeros(len(positives), np.float32),
    )
    return positives.without_times().followed_by(others)
