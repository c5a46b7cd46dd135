"""One recommender on one data set: every number that metrics.json holds, baselines included."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twotower.config import Config
from twotower.data.interactions import Histories, Interactions, histories
from twotower.data.splits import Split
from twotower.data.tables import Dataset
from twotower.evaluation import evaluate as ev
from twotower.evaluation.baselines import Factors, ials, popularity, tuned_ials
from twotower.evaluation.calibration import fit_line
from twotower.evaluation.metrics import auc, log_loss
from twotower.retrieval.encode import (
    history_vectors,
    item_vectors,
    require_finite,
    user_vectors,
)
from twotower.retrieval.index import ExactIndex
from twotower.retrieval.recommender import Recommender
from twotower.training.learn import Learned
from twotower.training.sampling import PositivePairs, uniform_negatives
from twotower.watch import Watch

_K = 10


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
        in_history = history_vectors(learned.model, items, learned.has_own_id)
        users = user_vectors(
            learned.model, learned.users, self.held.user_rows, liked, in_history
        )
        can_judge = learned.has_own_id | (len(learned.item_encoders.by_column) > 0)
        index = ExactIndex(items[1:].cpu(), torch.from_numpy(can_judge[1:]))
        found = ev.rank(users.cpu(), index, self.held, self.seen, _K)
        return float(ev.ranking_values(found, self.held, [_K])[f"ndcg@{_K}"].mean())

    def pairs(self, learned: Learned) -> tuple[np.ndarray, np.ndarray]:
        """Scores and labels of the pairs."""
        liked = learned.liked.latest(self.history_length)
        items = item_vectors(learned.model, learned.items)
        distinct, place = np.unique(self.user_rows, return_inverse=True)
        in_history = history_vectors(learned.model, items, learned.has_own_id)
        users = user_vectors(learned.model, learned.users, distinct, liked, in_history)
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


def assess(
    recommender: Recommender, dataset: Dataset, parts: Split, config: Config, watch: Watch
) -> dict[str, Any]:
    """Rankings and labels of the test part, ours and the baselines', with intervals.

    The rows are those of ``dataset``. An item that the recommender does not know is judged by
    its features; a user, by features and by what the parts before test say is liked.
    """
    report: dict[str, Any] = {
        "test_loss": None,
        "test_accuracy": None,
        "test_auc": None,
        "protocol": {"split": parts.name, "k": list(config.evaluation.k)},
    }
    if parts.test is None:
        return report
    watch.stage("evaluation")
    known = parts.train.followed_by(parts.val)
    items, is_candidate = _items_in_rows_of(recommender, dataset)
    users = _users_in_rows_of(recommender, dataset, known)
    report.update(_labels(recommender, users, items, parts.test))
    num_users, num_items = len(dataset.users), len(dataset.items)
    seen = histories(known, num_users=num_users)
    held = ev.held_out(parts.test.positives(), seen)
    if not len(held):
        report["warnings"] = ["no test user has a liked item that was not already seen"]
        return report
    ks = list(config.evaluation.k)
    longest = min(max(ks), num_items)
    rows = torch.from_numpy(held.user_rows)
    lists = {
        "towers": ev.rank(users[rows], ExactIndex(items[1:], is_candidate), held, seen, longest)
    }
    settings: dict[str, Any] = {}
    for factors in _baselines(dataset, parts, config, is_candidate, watch):
        vectors = torch.from_numpy(factors.users)[rows]
        index = ev.factor_index(factors, is_candidate)
        lists[factors.name] = ev.rank(vectors, index, held, seen, longest)
        settings[factors.name] = {**factors.settings, "seconds": factors.seconds}
    values = {name: ev.ranking_values(found, held, ks) for name, found in lists.items()}
    report["baselines"] = settings
    report["warnings"] = ev.user_warning(held)
    report["protocol"]["users"] = {"warm": int(held.is_warm.sum()), "all": len(held)}
    report["ranking"] = {}
    for group, mask in {"warm": held.is_warm, "cold": ~held.is_warm}.items():
        if mask.any():
            # A factor model has no vector for somebody it never met: no fair opponent.
            fair = {n: v for n, v in values.items() if n != "ials" or group == "warm"}
            report["ranking"][group] = _summaries(fair, mask, config)
    report["beyond_accuracy"] = {
        name: ev.beyond_accuracy(found[:, :_K], held, seen, num_items)
        for name, found in lists.items()
    }
    return report


def _summaries(
    values: dict[str, dict[str, np.ndarray]], mask: np.ndarray, config: Config
) -> dict[str, Any]:
    draws = {"seed": config.training.seed, "num_resamples": config.evaluation.bootstrap}
    chosen = {
        name: {metric: each[mask] for metric, each in metrics.items()}
        for name, metrics in values.items()
    }
    summary: dict[str, Any] = {
        name: ev.summarize(metrics, **draws) for name, metrics in chosen.items()
    }
    summary["difference"] = {
        name: {
            metric: ev.compare(chosen["towers"][metric], theirs[metric], **draws)
            for metric in theirs
        }
        for name, theirs in chosen.items()
        if name != "towers"
    }
    return summary


def _items_in_rows_of(recommender: Recommender, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Item vectors in the rows of a data set, and which may be recommended (row 0 left out)."""
    rows = recommender.items.rows(dataset.items.ids)
    vectors = recommender.item_vectors[torch.from_numpy(np.concatenate([[0], rows]))]
    new = np.flatnonzero(rows == 0)
    if len(new):
        values = {name: each[new] for name, each in dataset.items.values.items()}
        vectors[torch.from_numpy(new + 1)] = recommender.encode_items(values, len(new))
    has_features = len(recommender.item_encoders.by_column) > 0
    return vectors, torch.from_numpy(recommender.has_own_id[rows] | has_features)


def _users_in_rows_of(
    recommender: Recommender, dataset: Dataset, known: Interactions
) -> Tensor:
    """User vectors in the rows of a data set."""
    rows = recommender.users.rows(dataset.users.ids)
    vectors = recommender.user_vectors[torch.from_numpy(np.concatenate([[0], rows]))]
    new = np.flatnonzero(rows == 0)
    if len(new):
        values = {name: each[new] for name, each in dataset.users.values.items()}
        table = recommender.user_encoders.encode(values, np.zeros(len(new), np.int64))
        item_rows = recommender.items.rows(dataset.items.ids)
        liked = histories(known.positives(), num_users=len(dataset.users))
        places, owners = liked.pack(new + 1)
        items = item_rows[places - 1]
        counts = np.bincount(owners[items > 0], minlength=len(new))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        packed = Histories(np.concatenate([[0], offsets]), items[items > 0].astype(np.int32))
        vectors[torch.from_numpy(new + 1)] = recommender.encode_users(table, packed)
    return vectors


def _labels(
    recommender: Recommender, users: Tensor, items: Tensor, test: Interactions
) -> dict[str, Any]:
    user_rows = torch.from_numpy(test.user_rows.astype(np.int64))
    item_rows = torch.from_numpy(test.item_rows.astype(np.int64))
    scores = (users[user_rows] * items[item_rows]).sum(1).numpy()
    measured = ev.label_metrics(test.labels, recommender.affinity(scores))
    if not measured:
        return {}
    return {
        "test_loss": measured["log_loss"],
        "test_accuracy": measured["accuracy"],
        "test_auc": measured["auc"],
        "test_log_loss": measured["log_loss"],
        "test_calibration_error": measured["calibration_error"],
    }


def _baselines(
    dataset: Dataset, parts: Split, config: Config, is_candidate: Tensor, watch: Watch
) -> list[Factors]:
    """The baselines, tuned on validation and then fitted on train and validation."""
    sizes = {"num_users": len(dataset.users) + 1, "num_items": len(dataset.items) + 1}
    train = parts.train.positives()
    known = parts.train.followed_by(parts.val).positives()
    fitted = []
    if "popularity" in config.evaluation.baselines:
        fitted.append(popularity(known.user_rows, known.item_rows, **sizes))
    if "ials" in config.evaluation.baselines:
        watch.stage("tuning iALS")
        seen = histories(parts.train, num_users=len(dataset.users))
        held = ev.held_out(parts.val.positives(), seen)

        def score(factors: Factors) -> float:
            vectors = torch.from_numpy(factors.users[held.user_rows])
            index = ev.factor_index(factors, is_candidate)
            found = ev.rank(vectors, index, held, seen, _K)
            return float(ev.ranking_values(found, held, [_K])[f"ndcg@{_K}"].mean())

        seed = config.training.seed
        started = time.perf_counter()
        if len(held):
            settings, trials = tuned_ials(
                train.user_rows,
                train.item_rows,
                score,
                budget_seconds=config.evaluation.baseline_seconds,
                seed=seed,
                num_users=sizes["num_users"],
                num_items=sizes["num_items"],
            )
            best = ials(known.user_rows, known.item_rows, seed=seed, **sizes, **settings)
            tuning = {
                "trials": len(trials),
                "tuning_seconds": time.perf_counter() - started - best.seconds,
            }
            fitted.append(replace(best, settings={**best.settings, **tuning}))
    return fitted
