"""One recommender on one data set: every number that metrics.json holds, baselines included."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twotower.config import Config, TrainingConfig
from twotower.data.arrays import blocks, rows_met
from twotower.data.interactions import Histories, Interactions, histories, offsets_of
from twotower.data.splits import Split
from twotower.data.tables import Dataset
from twotower.evaluation import evaluate as ev
from twotower.evaluation.alarms import alarms, met_before
from twotower.evaluation.calibration import reliability
from twotower.evaluation.examples import examples
from twotower.evaluation.opponents import opponents
from twotower.evaluation.popularity import popularity
from twotower.evaluation.rankers import Ranker
from twotower.evaluation.room import left_out_of
from twotower.evaluation.slices import columns_left_out
from twotower.evaluation.verdict import by_slices, verdict
from twotower.retrieval.blend import Blend
from twotower.retrieval.recommender import Recommender
from twotower.watch import Watch

_K = 10
Beside = Callable[[np.ndarray], Tensor]


def assess(
    recommender: Recommender,
    dataset: Dataset,
    parts: Split,
    config: Config,
    watch: Watch,
    *,
    without: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Rankings and labels of the test part, ours and the baselines', with intervals.

    The rows are those of ``dataset``. An item that the recommender does not know is judged by
    its features; a user, by features and by what the parts before test say is liked. A user is
    warm whom the recommender has seen something of, and those parts too.

    Args:
        without: baselines that were left out before, and why; others may not fit by now.
    """
    report: dict[str, Any] = {
        "test_loss": None,
        "test_accuracy": None,
        "test_auc": None,
        "protocol": {
            "split": parts.name,
            "k": list(config.evaluation.k),
            "interactions": {
                name: len(part)
                for name in ("train", "val", "test")
                if (part := getattr(parts, name)) is not None
            },
        },
    }
    if parts.test is None:
        return report
    watch.stage("evaluation")
    known = parts.train.followed_by(parts.val)
    items, is_candidate = _items_in_rows_of(recommender, dataset)
    user_rows = np.concatenate([[0], recommender.users.rows(dataset.users.ids)])
    users = _users_in_rows_of(recommender, dataset, known, user_rows)
    beside = None
    if recommender.blend is not None:
        beside = _beside_of(recommender, recommender.blend, dataset, known, user_rows)
    report.update(_labels(recommender, users, items, parts.test, beside))
    num_users, num_items = len(dataset.users), len(dataset.items)
    seen = histories(known, num_users=num_users)
    held = ev.held_out(parts.test.positives(), seen)
    # In other data somebody may have a past that the training never saw.
    is_met = recommender.seen.lengths()[user_rows[held.user_rows]] > 0
    held = replace(held, is_warm=held.is_warm & is_met)
    if not len(held):
        nobody = "no test user has a liked item that was not already seen"
        report["warnings"] = [nobody, *met_before(known, parts)]
        return report
    ks = list(config.evaluation.k)
    longest = min(max(ks), num_items)
    ours, candidates = users[torch.from_numpy(held.user_rows)], items[1:]

    def lists_by(scores_of: Callable[[slice], Tensor]) -> np.ndarray:
        return ev.rank(scores_of, held, seen, longest, is_candidate=is_candidate)

    lists = {"towers": lists_by(lambda part: ours[part] @ candidates.T)}
    if beside is not None:
        lists = {
            "towers": lists_by(
                lambda part: (ours[part] @ candidates.T).add_(
                    beside(held.user_rows[part])[:, 1:]
                )
            ),
            "alone": lists["towers"],
        }
    without = without or {}
    by_now = left_out_of(config, dataset, parts, watch, without=without)
    report["left_out"] = {**without, **by_now}
    report["baselines"] = {}
    only_warm = set()
    for opponent, tuning in opponents(
        dataset, parts, config, is_candidate, watch, without=report["left_out"]
    ):
        lists[opponent.name] = lists_by(partial(_scores, opponent, held))
        report["baselines"][opponent.name] = {
            **opponent.settings,
            "seconds": opponent.seconds,
            **tuning,
        }
        if not opponent.knows_the_new:
            only_warm.add(opponent.name)
    values = {name: ev.ranking_values(found, held, ks) for name, found in lists.items()}
    means = {name: float(each[f"ndcg@{ks[0]}"].mean()) for name, each in values.items()}
    our_mean = means.pop("towers")
    means.pop("alone", None)
    report["warnings"] = ev.user_warning(held)
    report["protocol"]["users"] = {"warm": int(held.is_warm.sum()), "all": len(held)}
    report["ranking"] = {}
    for group, mask in {"warm": held.is_warm, "cold": ~held.is_warm}.items():
        if mask.any():
            # What knows nothing of somebody it never met is no fair opponent there.
            fair = {n: v for n, v in values.items() if group == "warm" or n not in only_warm}
            report["ranking"][group] = _summaries(fair, mask, config)
    report["verdict"] = verdict(report["ranking"], ks[0])
    if report["verdict"] is not None:
        report["slices"] = _slices(report["ranking"], lists, held, dataset, seen, config)
        report["columns_left_out"] = columns_left_out(dataset)
    report["warnings"] += alarms(
        losses=recommender.history.get("train_loss", []),
        guessing=_guessing(config.training, parts),
        ranked=recommender.history.get("val_ndcg", []),
        in_closed_form=config.training.loss == "softmax" and recommender.model.has_item_ids,
        beats_popularity=beside is None and _beats_popularity(report),
        items=recommender.item_vectors[1:, :-1],
        lists=lists["towers"][:, :_K],
        ndcg=our_mean,
        best_baseline=max(means.values(), default=None),
        is_at_bound=_learns_a_temperature(config) and recommender.model.is_scale_at_its_bound,
        baselines={
            name: report["baselines"][name]
            for name in (report["verdict"] or {"against": {}})["against"]
        },
        dataset=dataset,
        parts=parts,
    )
    # Lists for whom a baseline knows nothing of would look like an opinion.
    idle = set() if held.is_warm.any() else only_warm
    first = {name: found[:, :_K] for name, found in lists.items() if name not in idle}
    report["beyond_accuracy"] = {
        name: ev.beyond_accuracy(found, held, seen, num_items) for name, found in first.items()
    }
    report["popularity"] = popularity(first, held, seen, num_items)
    liked = histories(known.positives(), num_users=num_users)
    report["examples"] = examples(
        first["towers"], held, liked, dataset, seed=config.training.seed
    )
    return report


def _guessing(training: TrainingConfig, parts: Split) -> float:
    """What a training loss is worth where the towers tell nothing apart; NaN: nobody knows."""
    # A run of before there was a choice has auto.
    loss, is_usual = training.loss, training.log_q in {"auto", "corrected"}
    liked = float(parts.train.labels.mean())
    if loss == "softmax" and is_usual:
        return float(np.log(len(rows_met(parts.train.positives().item_rows))))
    from_labels = training.negatives_from in {"auto", "labels"}
    if loss == "bce" and from_labels and 0 < liked < 1:
        return float(-liked * np.log(liked) - (1 - liked) * np.log(1 - liked))
    return float(np.log(2)) if loss == "bpr" else float("nan")


def _beats_popularity(report: dict[str, Any]) -> bool:
    against = (report["verdict"] or {}).get("against", {})
    return bool(against.get("popularity") == "win")


def _slices(
    ranking: dict[str, Any],
    lists: dict[str, np.ndarray],
    held: ev.HeldOut,
    dataset: Dataset,
    seen: Histories,
    config: Config,
) -> list[dict[str, Any]]:
    """The slices of warm users and those of cold ones, each beside their best baseline."""
    k, found = config.evaluation.k[0], []
    for group, summary in ranking.items():
        of_group = verdict({group: summary}, k)
        if of_group is None:
            continue
        users = np.flatnonzero(held.is_warm == (group == "warm"))
        against = of_group["best_baseline"]
        parts = by_slices(
            lists["towers"][users],
            lists[against][users],
            held.only(users),
            dataset,
            seen,
            k=k,
            seed=config.training.seed,
            num_resamples=config.evaluation.bootstrap,
        )
        found += [{**part, "group": group, "against": against} for part in parts]
    return found


def _learns_a_temperature(config: Config) -> bool:
    """Whether training moved it: softmax does not, nor has it one between free lengths."""
    return config.model.normalize and config.training.loss != "softmax"


def _scores(ranker: Ranker, held: ev.HeldOut, part: slice) -> Tensor:
    return ranker.scores(held.user_rows[part])


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
    recommender: Recommender, dataset: Dataset, known: Interactions, rows: np.ndarray
) -> Tensor:
    """User vectors in the rows of a data set, whose users are the recommender's ``rows``."""
    vectors = recommender.user_vectors[torch.from_numpy(rows)]
    new = np.flatnonzero(rows[1:] == 0)
    if len(new):
        values = {name: each[new] for name, each in dataset.users.values.items()}
        table = recommender.user_encoders.encode(values, np.zeros(len(new), np.int64))
        packed = _histories_of(recommender, dataset, known, new + 1)
        vectors[torch.from_numpy(new + 1)] = recommender.encode_users(table, packed)
    return vectors


def _histories_of(
    recommender: Recommender, dataset: Dataset, known: Interactions, users: np.ndarray
) -> Histories:
    """Histories of some users of a data set in the recommender's items; n has row n + 1."""
    item_rows = recommender.items.rows(dataset.items.ids)
    liked = histories(known.positives(), num_users=len(dataset.users))
    places, owners = liked.pack(users)
    items = item_rows[places - 1]
    counts = np.bincount(owners[items > 0], minlength=len(users))
    return Histories(
        np.concatenate([[0], offsets_of(counts)]), items[items > 0].astype(np.int32)
    )


def _beside_of(
    recommender: Recommender,
    blend: Blend,
    dataset: Dataset,
    known: Interactions,
    rows: np.ndarray,
) -> Beside:
    """Some users of a data set -> what histories add to all its items, row 0 included.

    Args:
        rows: of its users the recommender's; who is new there has what the data says is liked.
    """
    columns = np.concatenate([[0], recommender.items.rows(dataset.items.ids)])
    every = np.arange(len(rows))
    new = _histories_of(recommender, dataset, known, every)
    new = new.latest(recommender.config.model.history_length)

    def beside(users: np.ndarray) -> Tensor:
        theirs = rows[users]
        added = blend.scores(recommender.histories, theirs, len(recommender.items))
        if (theirs == 0).any():
            is_new = theirs == 0
            added[is_new] = blend.scores(new, users[is_new] + 1, len(recommender.items))
        whole = np.concatenate([np.zeros((len(added), 1), np.float32), added], 1)
        return torch.from_numpy(whole[:, columns])

    return beside


def _labels(
    recommender: Recommender,
    users: Tensor,
    items: Tensor,
    test: Interactions,
    beside: Beside | None,
) -> dict[str, Any]:
    user_rows, item_rows = test.user_rows.astype(np.int64), test.item_rows.astype(np.int64)
    scores = (
        (users[torch.from_numpy(user_rows)] * items[torch.from_numpy(item_rows)]).sum(1).numpy()
    )
    if beside is not None:
        for part in blocks(len(scores), 256):
            added = beside(user_rows[part])
            scores[part] += added[np.arange(len(added)), item_rows[part]].numpy()
    chance = recommender.affinity(scores)
    measured = ev.label_metrics(test.labels, chance)
    if not measured:
        return {}
    return {
        "test_loss": measured["log_loss"],
        "test_accuracy": measured["accuracy"],
        "test_auc": measured["auc"],
        "test_log_loss": measured["log_loss"],
        "test_calibration_error": measured["calibration_error"],
        "reliability": reliability(test.labels > 0.5, chance),
    }


def best_possible(dataset: Dataset) -> dict[str, float] | None:
    """The best scores that any model can have on test, where a made-up world says so."""
    oracle = Path(dataset.source) / "oracle.json"
    if not dataset.has_split or not oracle.is_file():
        return None
    scores = json.loads(oracle.read_text(encoding="utf-8"))["splits"]["test"]
    return {name: scores[name] for name in ("auc", "log_loss", "accuracy")}
