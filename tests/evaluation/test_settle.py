"""How much popularity counts is chosen on validation, and is then in the vectors."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from twotower import parse_config, pipeline
from twotower.data.interactions import Interactions
from twotower.data.splits import Split
from twotower.errors import ConfigError
from twotower.evaluation.settle import settle
from twotower.evaluation.validation import validation
from twotower.training.closed_form import log_popularity
from twotower.training.learn import Learned, learn
from twotower.watch import Watch
from worlds import checkerboard, settings

GIVEN = {"split": "auto"}


def changed_times() -> dict[str, dict[str, Any]]:
    """Users who like one genre in train, and later what is popular, whatever its genre.

    Items 500 to 507 are met by twelve people each who are in train alone.
    """
    train = checkerboard(liked=6)["interactions"]
    hits = list(range(500, 508))
    users = sorted(set(train["user_id"]))
    for fan in range(1000, 1012):
        train["user_id"] += [fan] * len(hits)
        train["item_id"] += hits
    met = set(zip(train["user_id"], train["item_id"], strict=True))
    later = [(user, item) for user in users for item in hits if (user, item) not in met]
    val, test = (
        {"user_id": [u for u, _ in part], "item_id": [i for _, i in part]}
        for part in (later[::2], later[1::2])
    )
    return {"train": train, "val": val, "test": test}


def learned_from(tables: dict[str, dict[str, Any]], **model: Any) -> tuple[Learned, Any, Any]:
    config = settings(data=GIVEN, model=model, training={"epochs": 3})
    plan = pipeline.plan(tables, config, Watch())
    config = plan.contenders[0]
    measure = validation(plan.parts, config)
    learned = learn(plan.dataset, plan.parts.train, config, measure, metric="val_ndcg")
    return learned, plan.parts, config


def test_where_times_have_changed_popularity_counts_and_the_epochs_say_how_much() -> None:
    learned, parts, config = learned_from(changed_times())
    measure = validation(parts, config)
    chosen, without = measure(learned), replace(measure, weights=(0.0,))(learned)
    assert chosen["val_popularity"] > 0
    assert chosen["val_ndcg"] > without["val_ndcg"] + 0.1
    tried = [replace(measure, weights=(w,))(learned)["val_ndcg"] for w in measure.weights]
    assert chosen["val_ndcg"] == max(tried)
    assert measure.weights[int(np.argmax(tried))] == chosen["val_popularity"]
    history = learned.progress.history
    assert history is not None
    assert len(history["val_popularity"]) == 3


def test_what_was_chosen_is_added_to_the_biases_and_stands_in_the_settings() -> None:
    learned, parts, config = learned_from(changed_times())
    assert learned.model.item_bias is not None
    before = learned.model.item_bias.weight.detach().clone()
    settled, beside = settle(learned, parts.train, validation(parts, config), config, Watch())
    assert beside is None
    weight = learned.progress.best_value("val_popularity")
    assert settled.model.popularity == weight
    assert weight
    added = (learned.model.item_bias.weight - before).detach().squeeze(1)
    logs = log_popularity(parts.train.positives(), num_items=len(learned.items) - 1)
    np.testing.assert_allclose(added, weight * logs, atol=1e-5)


def test_a_weight_that_was_asked_for_is_the_one_that_is_measured_and_added() -> None:
    learned, parts, config = learned_from(changed_times(), popularity=1.5)
    assert validation(parts, config)(learned)["val_popularity"] == 1.5
    measure = validation(parts, config)
    assert settle(learned, parts.train, measure, config, Watch())[0].model.popularity == 1.5


def test_with_very_much_of_it_lists_go_by_popularity_in_all_but_the_test_part() -> None:
    tables = changed_times()
    config = settings(data=GIVEN, model={"popularity": 100}, training={"epochs": 1})
    recommender = pipeline.fit(tables, config)
    counts = Counter(tables["train"]["item_id"] + tables["val"]["item_id"])
    only_train = Counter(tables["train"]["item_id"])
    found = recommender.recommend([100, 101, 102], 10)
    lists = np.array([counts[item] for item in found.item_ids.ravel()]).reshape(3, 10)
    assert (np.diff(lists) <= 0).all()
    alone = np.array([only_train[item] for item in found.item_ids.ravel()]).reshape(3, 10)
    assert (np.diff(alone) > 0).any()


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"item_bias": False}},
        {"training": {"loss": "bce", "negatives_from": "one", "early_stopping_metric": "loss"}},
    ],
)
def test_none_is_added_without_biases_or_where_an_affinity_is_learned(changes: Any) -> None:
    plan = pipeline.plan(changed_times(), settings(data=GIVEN, **changes), Watch())
    assert plan.contenders[0].model.popularity == 0


def test_what_has_no_bias_can_not_be_given_popularity() -> None:
    config = settings(data=GIVEN, model={"item_bias": False, "popularity": 2})
    with pytest.raises(ConfigError, match=r"popularity 2\.0 is added to the biases"):
        pipeline.plan(changed_times(), config, Watch())


@pytest.mark.parametrize(("num_items", "asked"), [(200_000, 2_500), (1_000_000, 2_000)])
def test_a_large_catalogue_is_ranked_by_fewer_users(num_items: int, asked: int) -> None:
    users = np.arange(1, 2_501, dtype=np.int32)
    ones = np.ones(len(users), np.float32)
    val = Interactions(users, np.full(len(users), num_items, np.int32), ones)
    train = Interactions(users, np.ones(len(users), np.int32), ones)
    held = validation(Split(train, val, None, "time"), parse_config({})).held
    assert len(held) == asked
