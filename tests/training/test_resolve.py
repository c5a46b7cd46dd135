"""The rules that the descriptions in ``config.py`` give for each ``auto``."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any, get_args

import numpy as np
import pytest

from twotower import read
from twotower.config import Config, Loss, parse_config
from twotower.data.splits import Split
from twotower.data.tables import Dataset
from twotower.errors import ConfigError
from twotower.training.resolve import resolve

LOSSES: tuple[Loss, ...] = get_args(Loss)
RING = 25


@cache
def ring(*, each: int, described: bool = True, mixed: bool = False) -> Dataset:
    """25 users and 25 items, each with as many interactions; features where ``described``."""
    pairs = [(user, (user + step) % RING) for user in range(RING) for step in range(each)]
    columns: dict[str, Any] = {
        "user_id": [user for user, _ in pairs],
        "item_id": [item for _, item in pairs],
        "label": [int(not mixed or item % 2) for _, item in pairs],
    }
    tables: dict[str, Any] = {"interactions": columns}
    if described:
        tables["users"] = {"user_id": list(range(RING)), "age": list(range(RING))}
        tables["items"] = {"item_id": list(range(RING)), "year": list(range(RING))}
    return read(tables)


def alike(*, each: int) -> Dataset:
    """The same, mixed, where features are the same for all."""
    dataset = ring(each=each, mixed=True)
    same = {"age": np.ones(RING), "year": np.ones(RING)}
    users, items = (
        replace(entities, values={name: same[name] for name in entities.values})
        for entities in (dataset.users, dataset.items)
    )
    return replace(dataset, users=users, items=items)


def resolved(dataset: Dataset, **sections: dict[str, Any]) -> Config:
    log = dataset.interactions["all"]
    return resolve(parse_config(sections), dataset, Split(log, log, None, "random"))


def autos(section: Any) -> list[str]:
    """The keys that are still to be chosen."""
    found = []
    for key, value in section.items():
        inner = [f"{key}.{name}" for name in autos(value)] if isinstance(value, dict) else []
        found += [key] if value == "auto" else inner
    return found


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("each", [19, 20])
@pytest.mark.parametrize("loss", ["auto", *LOSSES])
def test_every_auto_becomes_what_its_description_says(
    loss: Loss, each: int, described: bool, mixed: bool
) -> None:
    dataset = ring(each=each, described=described, mixed=mixed)
    made = resolved(dataset, training={"loss": loss})
    if loss == "auto":
        loss = "bce" if mixed else "softmax"
    from_labels = loss in {"bce", "triplet"}
    learns_by_heart = described and each < 20
    assert made.training.loss == loss
    assert made.training.batch_size == (256 if from_labels else 2048)
    is_drawn = loss in {"ccl", "warp"}
    assert made.training.negatives == (RING if is_drawn else 0)
    sources = {"bpr": "one", "in_batch_softmax": "in_batch", "softmax": "all"}
    source = "labels" if from_labels else "uniform" if is_drawn else sources[loss]
    assert made.training.negatives_from == source
    is_any_softmax = loss in {"softmax", "in_batch_softmax"}
    assert made.training.log_q == ("corrected" if is_any_softmax else "none")
    assert made.training.margin == (0.4 if loss == "ccl" else 1.0)
    assert made.training.early_stopping_metric == ("loss" if loss == "bce" else "ndcg")
    assert made.model.history == ("none" if from_labels else "mean")
    is_softmax = loss == "softmax"
    assert made.model.history_dropout == (0.25 if is_softmax else 0.5)
    assert made.model.history_hidden_dims == (
        (256,) if is_softmax and made.model.item_ids else ()
    )
    is_wide = is_softmax and not made.model.item_ids
    assert made.model.embedding_dim == (512 if is_wide else 128)
    assert made.training.learning_rate == (2e-4 if is_softmax and described else 1e-3)
    assert made.training.embedding_learning_rate == (3e-3 if is_softmax else 1e-2)
    # As dense as these rings are, the least logarithm counts, which is 2.
    at_first = 0.2 if loss == "bce" else 0.1
    assert made.model.temperature == pytest.approx(0.375 if is_softmax else at_first)
    assert made.model.user_ids == (from_labels and not learns_by_heart)
    assert made.model.item_ids == (not from_labels or not learns_by_heart)
    has_bias = loss not in {"triplet", "ccl"}
    assert made.model.item_bias == (made.model.item_ids and has_bias)
    assert made.data.split == "random"
    # Device and memory are the machine's and not the data's.
    is_ranked = made.model.item_bias and made.training.early_stopping_metric == "ndcg"
    popularity = ["model.popularity"] if is_ranked else []
    assert autos(made.model_dump()) == [*popularity, "training.device", "data.memory_gib"]


def test_the_sparser_the_data_the_lower_the_temperature() -> None:
    found = []
    for num_items in (50, 500, 5000):
        rng = np.random.default_rng(0)
        log = {"user_id": np.arange(3000) // 10, "item_id": rng.integers(0, num_items, 3000)}
        found.append(resolved(read({"interactions": log})).model.temperature)
    assert found == sorted(found, reverse=True)
    # 3,000 draws of 500 items leave next to none out.
    assert found[1] == pytest.approx(0.75 / math.log(50), rel=0.02)


@pytest.mark.parametrize(("num_items", "negatives"), [(20_000, 0), (20_001, 8192)])
def test_in_a_large_catalogue_some_items_stand_for_all(num_items: int, negatives: int) -> None:
    many = read({"interactions": {"user_id": [1] * num_items, "item_id": range(num_items)}})
    made = resolved(many)
    assert (made.training.loss, made.training.negatives) == ("softmax", negatives)
    # There each is met rarely, and learns from those beside it.
    assert made.model.item_neighbours == (10 if negatives else 0)
    for history in ("none", "transformer"):
        assert resolved(many, model={"history": history}).model.item_neighbours == 0


def test_read_in_order_one_item_alone_is_to_be_found() -> None:
    made = resolved(
        ring(each=20), model={"history": "transformer"}, training={"loss": "softmax"}
    )
    assert made.model.temperature == pytest.approx(0.75 / math.log(RING))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("history", ["none", "mean"])
def test_what_the_config_says_stays(loss: Loss, history: str) -> None:
    model = {
        "history": history,
        "user_ids": True,
        "item_ids": False,
        "item_neighbours": 0,
        "normalize": loss == "ccl",
        "temperature": 0.5,
        "embedding_dim": 48,
        "history_dropout": 0.25,
        "history_hidden_dims": [7],
    }
    training = {
        "loss": loss,
        "batch_size": 7,
        "early_stopping_metric": "loss",
        "seed": 5,
        "learning_rate": 0.5,
        "embedding_learning_rate": 0.25,
        "negatives": 9,
        "negatives_from": "mixed",
        "log_q": "none",
        "margin": 0.5,
    }
    given = parse_config({"model": model, "training": training})
    made = resolved(ring(each=20), model=model, training=training)
    # A bias goes with ids, and popularity with a bias.
    without_ids = {"item_bias": False, "popularity": 0.0}
    assert made.model == given.model.model_copy(update=without_ids)
    assert made.training == given.training
    assert made.evaluation == given.evaluation


def test_a_history_that_was_asked_for_says_what_the_id_would() -> None:
    assert (
        resolved(ring(each=20, mixed=True), model={"history": "mean"}).model.user_ids is False
    )
    alone = resolved(ring(each=20), model={"history": "none"})
    assert (alone.model.user_ids, alone.training.loss) == (True, "in_batch_softmax")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"user_ids": False, "history": "none"}, "users have no features.*allow one of them"),
        ({"item_ids": False}, "items have no features.*set item_ids to true"),
    ],
)
@pytest.mark.parametrize("constant", [False, True])
def test_towers_that_could_not_tell_one_from_another_are_refused(
    model: dict[str, Any], message: str, constant: bool
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolved(alike(each=20) if constant else ring(each=20, described=False), model=model)
    resolved(ring(each=20), model=model)


def test_features_that_are_the_same_for_all_count_as_none() -> None:
    made = resolved(alike(each=5)).model
    assert made.user_ids is True
    assert made.item_ids is True


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("new", ["users", "items"])
def test_of_those_whom_validation_asks_for_only_what_can_be_known_is_read(
    new: str, described: bool
) -> None:
    """Ids and histories of others say nothing of who is new, where features do."""
    dataset = ring(each=RING, described=described)
    log = dataset.interactions["all"]
    rows = log.user_rows if new == "users" else log.item_rows
    parts = Split(log.take(rows <= 20), log.take(rows > 20), None, "given")
    made = resolve(parse_config({}), dataset, parts)
    by_users = described and new == "users"
    assert made.model.history == ("none" if by_users else "mean")
    assert made.training.loss == ("in_batch_softmax" if by_users else "softmax")
    assert made.model.user_ids is False
    assert made.model.item_ids is not (described and new == "items")
    assert made.training.embedding_learning_rate == (1e-2 if by_users else 3e-3)
    # Words want more room than ids, beside histories.
    assert made.model.embedding_dim == (128 if made.model.item_ids or by_users else 512)


def test_beside_users_told_by_features_a_rare_item_is_told_by_its_own() -> None:
    for each, ids in ((19, False), (20, True)):
        made = resolved(ring(each=each), model={"history": "none", "user_ids": False})
        assert (made.training.loss, made.model.item_ids) == ("in_batch_softmax", ids)
