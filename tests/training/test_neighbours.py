"""Items that the same users like, against a loop, and what they lend each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twotower.config import ModelConfig
from twotower.data.features import FeatureShape
from twotower.data.interactions import Interactions
from twotower.errors import ConfigError
from twotower.evaluation.validation import validation
from twotower.model.features import FeatureLayer, Neighbours
from twotower.training import neighbours
from twotower.training.learn import learn, prepare
from twotower.training.neighbours import neighbours_of
from worlds import planned

USERS, ITEMS, COUNT = 40, 15, 4
# Liked by nobody, and liked alone by one user.
NEVER, ALONE = 15, 14


def positives(repeats: int = 1) -> Interactions:
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((USERS, ITEMS - 2)) < 0.25)
    users, items = np.append(users, USERS) + 1, np.append(items, ALONE - 1) + 1
    users, items = np.tile(users, repeats), np.tile(items, repeats)
    ones = np.ones(len(users), np.float32)
    return Interactions(users.astype(np.int32), items.astype(np.int32), ones)


def near(rows: Interactions, count: int = COUNT) -> Neighbours:
    return neighbours_of(rows, num_users=USERS + 1, num_items=ITEMS, count=count)


def cosines() -> np.ndarray:
    """Of who likes two items, each user by the inverse of how many they like."""
    rows = positives()
    liked = np.zeros((USERS + 2, ITEMS + 1))
    liked[rows.user_rows, rows.item_rows] = 1
    liked /= np.sqrt(np.maximum(liked.sum(1, keepdims=True), 1))
    liked /= np.sqrt(np.maximum((liked > 0).sum(0), 1))
    found: np.ndarray = liked.T @ liked
    np.fill_diagonal(found, 0)
    return found


@pytest.mark.parametrize("repeats", [1, 3])
def test_the_nearest_are_those_that_a_loop_finds_and_a_pair_counts_once(repeats: int) -> None:
    found, expected = near(positives(repeats)), cosines()
    for item in range(ITEMS + 1):
        best = np.sort(expected[item])[::-1][:COUNT]
        weights = best / max(best.sum(), 1e-12)
        np.testing.assert_allclose(found.weights[item], weights, atol=1e-6)
        shown = found.ids[item][found.weights[item] > 0]
        np.testing.assert_allclose(expected[item][shown], best[: len(shown)], atol=1e-6)
        assert item not in shown


def test_whoever_shares_no_user_has_none_and_there_may_be_fewer_than_asked_for() -> None:
    found = near(positives(), count=50)
    assert found.ids.shape == (ITEMS + 1, 50)
    for item in (0, ALONE, NEVER):
        assert not found.weights[item].any()
    sums = found.weights.sum(1)
    assert set(sums.round(decimals=5).tolist()) == {0.0, 1.0}


def test_of_very_many_rows_some_users_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = positives()
    monkeypatch.setattr(neighbours, "_MOST_ROWS", len(rows) // 2)
    thirds = rows.take(rows.user_rows % 3 == 0)
    found = near(rows)
    monkeypatch.undo()
    torch.testing.assert_close(found.weights, near(thirds).weights)


@pytest.mark.parametrize("sparse", [False, True])
def test_ids_lend_each_other_what_they_learn_until_they_are_settled(sparse: bool) -> None:
    shape = FeatureShape(ITEMS, 0, (), ())
    layer = FeatureLayer(shape, ModelConfig(embedding_dim=8), ids=True, sparse=sparse)
    assert layer.id_table is not None
    own = layer.id_table.weight.detach().clone()
    lent = near(positives())
    layer.neighbours = lent
    ids = torch.tensor([3, 0, NEVER, 3, 7])
    said = layer.of_ids(ids)
    mean = torch.einsum("nk,nkd->nd", lent.weights, own[lent.ids])
    torch.testing.assert_close(said, (own + mean)[ids])
    torch.testing.assert_close(said[1:3], own[ids[1:3]])
    said.sum().backward()  # type: ignore[no-untyped-call]
    gradient = layer.id_table.weight.grad
    assert gradient is not None
    if gradient.is_sparse:
        gradient = gradient.to_dense()
    taught = torch.zeros(ITEMS + 1)
    for item in ids.tolist():
        taught[item] += 1
        taught.index_add_(0, lent.ids[item], lent.weights[item])
    torch.testing.assert_close(gradient, taught[:, None].expand(-1, 8))
    every = layer.of_ids(torch.arange(ITEMS + 1)).detach()
    layer.settle()
    assert layer.neighbours is None
    torch.testing.assert_close(layer.id_table.weight.detach(), every)


def test_a_training_ends_with_a_table_that_says_what_validation_saw() -> None:
    plan = planned("softmax", epochs=2, model={"item_neighbours": 3})
    [config] = plan.contenders
    learned, _ = prepare(plan.dataset, plan.parts.train, config)
    assert learned.model.item_features.neighbours is not None
    measure = validation(plan.parts, config)
    learned = learn(plan.dataset, plan.parts.train, config, measure, metric="val_ndcg")
    assert learned.model.item_features.neighbours is None
    best = learned.progress.best_value("val_ndcg")
    assert measure(learned)["val_ndcg"] == pytest.approx(best)


def test_items_without_ids_have_nothing_to_lend() -> None:
    with pytest.raises(ConfigError, match="3 lend to items' ids, and there are none"):
        planned("softmax", model={"item_neighbours": 3, "item_ids": False})
