"""Whether item-item scores beside the towers' pay, and how loud they should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twotower.config import Config
from twotower.data.interactions import Interactions
from twotower.evaluation.evaluate import HeldOut
from twotower.evaluation.rankers import IN_WORDS, ItemToItem, Ranker, Settings
from twotower.evaluation.room import BESIDE, Size, left_out, what_fits
from twotower.evaluation.tuning import searches, settings_of, tune
from twotower.evaluation.validation import Scores, Validation
from twotower.retrieval.blend import Blend
from twotower.training.learn import Learned
from twotower.watch import Watch

# Scores of all items are made of each user who asks.
_MOST_ITEMS = 50_000
# How loud: as a multiple of what makes both vary alike over a user's items.
_LOUDNESS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


@dataclass(frozen=True)
class Chosen:
    """What stands beside the towers.

    Attributes:
        kind: of baseline, and the ``settings`` it is fitted with.
        weight: what its scores are multiplied by.
        blend: of what was learned from until now.
        gain: of NDCG@10 on validation, where it was chosen.
    """

    kind: str
    settings: Settings
    weight: float
    blend: Blend
    gain: float

    def fitted(
        self, known: Interactions, config: Config, num_users: int, num_items: int
    ) -> Blend:
        """The same, of more interactions."""
        search = searches(known, seed=config.training.seed)[self.kind]
        sizes = {"num_users": num_users + 1, "num_items": num_items + 1}
        ranker = search.fit(known.positives(), **sizes, **self.settings)
        return _weights_of(ranker).times(self.weight)


def _weights_of(ranker: Ranker) -> Blend:
    assert isinstance(ranker, ItemToItem)
    return Blend.of_weights(ranker.weights)


def described(chosen: Chosen | None, config: Config) -> dict[str, Any]:
    """What was asked for, and what came of it, for a report."""
    asked = {"asked": config.model.blend, "kind": None}
    if chosen is None:
        return asked
    found = {"settings": dict(chosen.settings), "weight": chosen.weight}
    return {**asked, **found, "kind": chosen.kind, "val_ndcg_gain": chosen.gain}


def choose_blend(
    learned: Learned, train: Interactions, measure: Validation, config: Config, watch: Watch
) -> Chosen | None:
    """What validation says should stand beside the towers; None where nothing helps clearly.

    Clearly: by more than the standard error of the gain over users.
    """
    kinds, num_items = BESIDE[config.model.blend], len(learned.items) - 1
    if not kinds or not len(measure.held):
        return None
    if num_items > _MOST_ITEMS:
        watch.note(
            f"model.blend: up to {_MOST_ITEMS:,} items are blended, and here are "
            f"{num_items:,}; the towers stand alone"
        )
        return None
    towers = measure.scores_of(learned)
    alone = measure.each_ndcg(learned, towers)
    found = []
    size = Size(len(learned.users) - 1, num_items, len(train))
    too_large = left_out(kinds, size, config)
    for kind in kinds:
        if kind in too_large:
            watch.note(f"model.blend: {IN_WORDS[kind]} is left out: {too_large[kind]}")
            continue
        watch.stage(f"{IN_WORDS[kind]} beside the towers")
        found.append(_loudest(learned, train, measure, config, kind, towers, alone))
    helpful = [each for each in found if each is not None]
    return max(helpful, key=lambda each: each.gain, default=None)


def _loudest(
    learned: Learned,
    train: Interactions,
    measure: Validation,
    config: Config,
    kind: str,
    towers: Scores,
    alone: np.ndarray,
) -> Chosen | None:
    """The best that one kind can do, if that is clearly better than nothing."""
    num_users, num_items = len(learned.users), len(learned.items)
    search = searches(train, seed=config.training.seed)[kind]
    # Of the best until now, which need not be fitted once more.
    best, blend = -1.0, None

    def score(ranker: Ranker) -> float:
        nonlocal best, blend
        each = measure.each_ndcg(learned, lambda part: ranker.scores(held.user_rows[part]))
        if each.mean() > best:
            best, blend = float(each.mean()), _weights_of(ranker)
        return float(each.mean())

    held: HeldOut = measure.held
    sizes = {"num_users": num_users, "num_items": num_items}
    budget = config.evaluation.baseline_seconds
    trials = tune(
        search,
        train.positives(),
        score,
        num_users=num_users,
        num_items=num_items,
        budget_seconds=budget,
        fits=what_fits(kind, Size(num_users - 1, num_items - 1, len(train)), config),
    )
    settings = settings_of(search, trials)
    if blend is None:
        blend = _weights_of(search.fit(train.positives(), **sizes, **settings))
    liked = measure.histories(learned)
    some = slice(0, min(len(held), 256))
    beside = blend.scores(liked, held.user_rows[some], num_items - 1)
    spread = float(towers(some).std(1).mean()) / max(float(beside.std(1).mean()), 1e-12)
    tried = []
    for loud in _LOUDNESS:

        def both(part: slice, weight: float = loud * spread) -> Tensor:
            added = blend.scores(liked, held.user_rows[part], num_items - 1)
            return towers(part).add_(torch.from_numpy(added), alpha=weight)

        gains = measure.each_ndcg(learned, both) - alone
        tried.append((float(gains.mean()), loud * spread, gains))
    gain, weight, gains = max(tried, key=lambda each: each[0])
    if gain <= gains.std() / len(gains) ** 0.5:
        return None
    return Chosen(kind, settings, weight, blend.times(weight), gain)
