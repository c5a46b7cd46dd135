"""What one batch asks of the towers, beside plain loops over its rows."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from towers import learned

from twotower.config import Loss, ModelConfig, TrainingConfig
from twotower.data.features import FeatureTable
from twotower.data.interactions import Interactions
from twotower.errors import ConfigError, DataError
from twotower.model.history import PackedHistory
from twotower.model.two_tower import TwoTower
from twotower.training.batches import PairBatch, UserBatch
from twotower.training.choices import settled
from twotower.training.objective import Batch, Objective, make_objective

LOSSES: tuple[Loss, ...] = get_args(Loss)
PAIRED = tuple(loss for loss in LOSSES if loss != "softmax")
# Those whose others are shared by a batch have their twins in test_comparison.py.
LOOPED = tuple(loss for loss in LOSSES if loss not in {"ccl", "warp"})
USERS, ITEMS, LONGEST = 4, 7, 3
many_times = settings(max_examples=25, deadline=None)


@st.composite
def logs(draw: st.DrawFn) -> dict[str, Any]:
    """Columns of up to 20 rows; the same user and item may come again."""
    size = draw(st.integers(1, 20))

    def column(values: st.SearchStrategy[Any]) -> Any:
        return draw(st.lists(values, min_size=size, max_size=size))

    return {
        "users": column(st.integers(1, USERS)),
        "items": column(st.integers(1, ITEMS)),
        "labels": column(st.sampled_from([0.0, 0.25, 0.75, 1.0])),
        "times": column(st.integers(0, 5)) if draw(st.booleans()) else None,
        "weights": column(st.sampled_from([0.5, 1.0, 3.0])) if draw(st.booleans()) else None,
    }


def log_of(columns: dict[str, Any]) -> Interactions:
    def array(name: str, kind: Any) -> Any:
        values = columns.get(name)
        return None if values is None else np.array(values, kind)

    return Interactions(
        array("users", np.int32),
        array("items", np.int32),
        array("labels", np.float32),
        array("times", np.int64),
        array("weights", np.float32),
    )


def table(rows: int, seed: int) -> FeatureTable:
    dense = torch.randn(rows + 1, 2, generator=torch.Generator().manual_seed(seed))
    none = torch.empty(rows + 1, 0, dtype=torch.int64)
    return FeatureTable(torch.arange(rows + 1), dense, none, ())


def objective_of(columns: dict[str, Any], loss: Loss, negatives: int = 0) -> Objective:
    """What is to be learned from the rows, if the loss can learn from them."""
    train = log_of(columns)
    tables = table(USERS, 1), table(ITEMS, 2)
    given = TrainingConfig(
        negatives=negatives if loss == "softmax" else "auto",
        negatives_from="uniform" if negatives and loss == "softmax" else "auto",
    )
    config = settled(given, loss, ITEMS)
    return make_objective(loss, config, *tables, train, history_length=LONGEST)


def learnable(columns: dict[str, Any], loss: Loss, negatives: int = 0) -> Objective:
    try:
        return objective_of(columns, loss, negatives)
    except DataError:
        assume(False)
        raise


def towers(**changed: Any) -> TwoTower:
    """Towers that drop nothing, so that a loop can follow; no weight is zero."""
    still = {"dropout": 0, "id_dropout": 0, "history_dropout": 0}
    settled = {"history": "mean", "temperature": 0.2}
    small = {"embedding_dim": 5, "user_hidden_dims": [4], "item_hidden_dims": [4]}
    config = ModelConfig.model_validate({**still, **settled, **small, **changed})
    return learned(config, users=USERS, items=ITEMS)


def liked_before(columns: dict[str, Any], user: int, item: int, time: int | None) -> list[int]:
    """The last items that the user liked before, without the one in question."""
    rows = [n for n in range(len(columns["users"])) if columns["users"][n] == user]
    rows = [n for n in rows if columns["labels"][n] > 0.5 and columns["items"][n] != item]
    if time is not None:
        rows = [n for n in rows if columns["times"][n] < time]
        rows.sort(key=lambda n: columns["times"][n])
    return [columns["items"][n] for n in rows][-LONGEST:]


class Loops:
    """The same losses a row at a time, from the words of their docstrings."""

    def __init__(self, columns: dict[str, Any], objective: Objective, model: TwoTower) -> None:
        self.columns, self.objective, self.model = columns, objective, model
        self.items = model.encode_items(objective.items)
        self.vectors = model.item_vectors(self.items, objective.items)

    def user(self, row: int, history: list[int]) -> Tensor:
        packed = PackedHistory(
            torch.tensor(history, dtype=torch.int64),
            torch.tensor([0, len(history)]),
            self.items,
            self.objective.items.ids,
        )
        own = self.objective.users.take(torch.tensor([row]))
        return self.model.encode_users(own, packed)[0]

    def score(self, user: Tensor, item: int) -> Tensor:
        # Double, since a loop takes exponentials as they come.
        return (self.model.user_vectors(user[None])[0] @ self.vectors[item]).double()

    def of(self, batch: Batch) -> Tensor:
        if isinstance(batch, UserBatch):
            return self.of_users(batch)
        losses, weights = [], []
        for b in range(len(batch)):
            row, item = int(batch.user_rows[b]), int(batch.item_rows[b])
            time = None if batch.times is None else int(batch.times[b])
            user = self.user(row, liked_before(self.columns, row, item, time))
            losses.append(self.of_row(user, b, batch))
            is_weighted = self.objective.loss in {"bce", "in_batch_softmax"}
            weighted = is_weighted and batch.weights is not None
            weights.append(float(batch.weights[b]) if weighted else 1.0)  # type: ignore[index]
        pairs = zip(weights, losses, strict=True)
        return torch.stack([weight * loss for weight, loss in pairs]).sum() / sum(weights)

    def of_row(self, user: Tensor, b: int, batch: Any) -> Tensor:
        item = int(batch.item_rows[b])
        own = self.score(user, item)
        if self.objective.loss == "bce":
            label, logit = float(batch.labels[b]), self.model.slope * own + self.model.offset
            liked, disliked = (1 / (1 + torch.exp(sign * logit)) for sign in (-1, 1))
            return -label * liked.log() - (1 - label) * disliked.log()
        if self.objective.loss == "bpr":
            other = self.score(user, int(batch.other_rows[b]))
            return (1 + torch.exp(other - own)).log()
        if self.objective.loss == "triplet":
            near = (user - self.items[item]).square().sum()
            far = (user - self.items[int(batch.other_rows[b])]).square().sum()
            return torch.relu(near - far + self.objective.config.margin)
        liked = [n for n, label in enumerate(self.columns["labels"]) if label > 0.5]
        met = [self.columns["items"][n] for n in liked]
        pairs = [(self.columns["users"][n], self.columns["items"][n]) for n in liked]
        total = own.exp()
        for c, other in enumerate(batch.item_rows.tolist()):
            if c != b and (int(batch.user_rows[b]), other) not in pairs:
                share = met.count(other) / len(met)
                total = total + self.score(user, other).exp() / ((len(batch) - 1) * share)
        return total.log() - own

    def of_users(self, batch: UserBatch) -> Tensor:
        losses = []
        met = {
            item
            for item, label in zip(self.columns["items"], self.columns["labels"], strict=True)
            if label > 0.5
        }
        for row, items in lists_of(batch).items():
            for item in items:
                user = self.user(row, [other for other in items if other != item])
                own = self.score(user, item)
                if batch.negatives is None:
                    left = [other for other in met if other == item or other not in items]
                    total = torch.stack([self.score(user, each) for each in left]).logsumexp(0)
                else:
                    total = own.exp()
                    weight = len(met) / len(batch.negatives)
                    for other in batch.negatives.tolist():
                        if other not in items:
                            total = total + weight * self.score(user, other).exp()
                    total = total.log()
                losses.append(total - own)
        return torch.stack(losses).mean()


def lists_of(batch: UserBatch) -> dict[int, list[int]]:
    """Each user's items."""
    parts = np.split(batch.items, batch.offsets[1:-1])
    return {int(user): part.tolist() for user, part in zip(batch.user_rows, parts, strict=True)}


@pytest.mark.parametrize("loss", LOOPED)
@many_times
@given(logs(), st.booleans(), st.integers(0, 5), st.integers(0, 99))
def test_a_batchs_loss_and_gradients_are_those_of_a_loop_over_its_rows(
    loss: Loss, columns: dict[str, Any], normalize: bool, negatives: int, seed: int
) -> None:
    objective = learnable(columns, loss, negatives)
    model = towers(normalize=normalize)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for batch in objective.batches(6, np.random.default_rng(seed)):
        made, expected = (
            objective.loss_of(model, batch),
            Loops(columns, objective, model).of(batch),
        )
        torch.testing.assert_close(made.double(), expected.double(), rtol=1e-4, atol=1e-5)
        ask = {"allow_unused": True, "materialize_grads": True}
        got, wanted = (torch.autograd.grad(one, weights, **ask) for one in (made, expected))
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def pooled(model: TwoTower, objective: Objective, batch: Batch) -> list[set[int]]:
    """The items that each row's history was really pooled from.

    Item n is the n-th unit vector and no layer says anything yet, so they can be read off.
    """
    assert model.history is not None
    assert model.item_features.id_table is not None
    nn.init.eye_(model.item_features.id_table.weight)
    nn.init.zeros_(model.item_tower.output.weight)
    nn.init.zeros_(model.item_tower.output.bias)
    found: list[Tensor] = []
    hook = model.history.register_forward_hook(lambda *given: found.append(given[2]))
    objective.loss_of(model, batch)
    hook.remove()
    [histories] = found
    return [set(row.nonzero().flatten().tolist()) for row in histories]


@pytest.mark.parametrize("loss", PAIRED)
@many_times
@given(logs())
def test_a_rows_history_never_holds_the_rows_own_item_nor_anything_from_then_on(
    loss: Loss, columns: dict[str, Any]
) -> None:
    objective, model = learnable(columns, loss), towers(embedding_dim=ITEMS + 1)
    for batch in objective.batches(6, np.random.default_rng(0)):
        assert not isinstance(batch, UserBatch)
        for b, history in enumerate(pooled(model, objective, batch)):
            assert int(batch.item_rows[b]) not in history
            assert len(history) <= LONGEST
            if batch.times is None:
                continue
            for item in history:
                met = zip(columns["users"], columns["items"], strict=True)
                rows = [n for n, pair in enumerate(met) if pair == (batch.user_rows[b], item)]
                liked = [columns["times"][n] for n in rows if columns["labels"][n] > 0.5]
                assert min(liked) < batch.times[b]


@many_times
@given(logs(), st.integers(0, 99))
def test_a_whole_users_items_are_each_once_and_no_more_than_a_history_holds(
    columns: dict[str, Any], seed: int
) -> None:
    objective = learnable(columns, "softmax")
    for batch in objective.batches(3, np.random.default_rng(seed)):
        assert isinstance(batch, UserBatch)
        for user, items in lists_of(batch).items():
            rows = zip(columns["users"], columns["items"], columns["labels"], strict=True)
            liked = {item for who, item, label in rows if who == user and label > 0.5}
            assert len(items) == len(set(items)) == min(len(liked), LONGEST)
            assert set(items) <= liked


def test_a_negative_is_an_item_that_somebody_liked() -> None:
    rows = {"users": [1, 1, 2, 2], "items": [1, 2, 1, 4], "labels": [1, 1, 1, 0]}
    [batch] = objective_of(rows, "softmax", 50).batches(9, np.random.default_rng(0))
    assert isinstance(batch, UserBatch)
    assert batch.negatives is not None
    assert set(batch.negatives.tolist()) == {1, 2}
    assert len(batch.negatives) == 50


def test_so_is_the_one_other_of_a_row() -> None:
    rows = {"users": [1, 1, 2, 2], "items": [1, 2, 1, 4], "labels": [1, 1, 1, 1]}
    objective = objective_of(rows, "bpr")
    drawn = set()
    for seed in range(20):
        for batch in objective.batches(9, np.random.default_rng(seed)):
            assert isinstance(batch, PairBatch)
            assert batch.other_rows is not None
            drawn |= set(zip(batch.user_rows.tolist(), batch.other_rows.tolist(), strict=True))
    assert {item for _, item in drawn} == {1, 2, 4}
    assert {(1, 4), (2, 2)} <= drawn


def test_the_expected_gradient_with_some_negatives_is_that_with_all() -> None:
    model = towers()
    gradients = []
    for negatives in (0, 4000):
        objective = objective_of(EVERYBODY, "softmax", negatives)
        [batch] = objective.batches(40, np.random.default_rng(0))
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        loss = objective.loss_of(model.eval(), batch)
        made = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        gradients.append(torch.cat([each.flatten() for each in made]))
    full, sampled = gradients
    assert (full - sampled).norm() < 0.05 * full.norm()


@pytest.mark.parametrize("loss", LOSSES)
@many_times
@given(logs(), st.integers(1, 9))
def test_an_epoch_has_as_many_rows_as_it_says(
    loss: Loss, columns: dict[str, Any], size: int
) -> None:
    objective = learnable(columns, loss)
    batches = objective.batches(size, np.random.default_rng(0))
    assert sum(len(batch) for batch in batches) == objective.num_rows() > 0


EVERYBODY = {
    "users": [1 + n % USERS for n in range(40)],
    "items": [1 + n % ITEMS for n in range(40)],
    "labels": [n // 4 % 2 for n in range(40)],
}


def test_in_a_triplet_what_is_not_liked_is_disliked() -> None:
    rows = {"users": [1, 1, 1], "items": [1, 2, 3], "labels": [1, 0.5, 0.75]}
    [batch] = objective_of(rows, "triplet").batches(9, np.random.default_rng(0))
    assert not isinstance(batch, UserBatch)
    assert batch.other_rows is not None
    assert sorted(batch.item_rows.tolist()) == [1, 3]
    assert set(batch.other_rows.tolist()) == {2}


@pytest.mark.parametrize("loss", PAIRED)
def test_in_training_histories_are_hidden_and_in_evaluation_not(loss: Loss) -> None:
    objective = objective_of(EVERYBODY, loss)
    model = towers(id_dropout=1.0, embedding_dim=ITEMS + 1)
    [batch] = objective.batches(40, np.random.default_rng(0))
    assert not any(pooled(model, objective, batch))
    assert all(pooled(model.eval(), objective, batch))


@pytest.mark.parametrize("loss", LOSSES)
def test_in_training_ids_are_hidden_and_in_evaluation_not(loss: Loss) -> None:
    objective, model = objective_of(EVERYBODY, loss), towers(id_dropout=1.0)
    [batch] = objective.batches(40, np.random.default_rng(0))
    weights = [layer.id_table.weight for layer in (model.user_features, model.item_features)]
    for is_training, there in ((True, {0}), (False, set(range(1, USERS + 1)))):
        model.train(is_training)
        of_users, of_items = torch.autograd.grad(objective.loss_of(model, batch), weights)
        found = set(of_users.any(1).nonzero().flatten().tolist())
        # Who likes all that was drawn has no others, and warp says nothing of what is liked.
        assert found == there or (loss == "warp" and found and found < there)
        assert (0 in of_items.any(1).nonzero()) == is_training


@pytest.mark.parametrize(
    ("loss", "columns", "message"),
    [
        ("softmax", {"labels": [0, 0.5, 0]}, "labels in train are all 0"),
        ("bce", {"labels": [1, 0.75, 1]}, "labels in train are all 1.*'bce' needs dislikes"),
        ("triplet", {"labels": [1, 1, 1]}, "all 1.*'triplet' needs dislikes"),
        ("softmax", {"users": [1, 2, 3]}, "needs a user with two liked items; found none"),
        ("triplet", {"users": [1, 1, 2], "labels": [1, 1, 0]}, "needs a user with both"),
        ("bce", {"labels": [1, 1, 0], "weights": [0, 0, 0]}, "weights in train are all 0"),
    ],
)
def test_rows_that_teach_a_loss_nothing_are_refused(
    loss: Loss, columns: dict[str, Any], message: str
) -> None:
    rows = {"users": [1, 1, 1], "items": [1, 2, 3], "labels": [1, 1, 1], **columns}
    with pytest.raises(DataError, match=message):
        objective_of(rows, loss)


def test_one_item_alone_is_refused() -> None:
    train = log_of({"users": [1, 2], "items": [1, 1], "labels": [1, 1]})
    config = settled(TrainingConfig(), "bpr", 1)
    with pytest.raises(DataError, match="only one"):
        make_objective("bpr", config, table(2, 1), table(1, 2), train, history_length=3)


def test_a_history_of_one_item_leaves_nothing_to_find_it_from() -> None:
    train = log_of({"users": [1, 1], "items": [1, 2], "labels": [1, 1]})
    config = settled(TrainingConfig(), "softmax", 2)
    with pytest.raises(ConfigError, match=r"model\.history_length 1 leaves nothing.*2 or more"):
        make_objective("softmax", config, table(2, 1), table(2, 2), train, history_length=1)


@pytest.mark.parametrize("loss", ["bce", "in_batch_softmax"])
def test_a_batch_of_rows_that_do_not_count_teaches_nothing_and_breaks_nothing(
    loss: Loss,
) -> None:
    rows = {
        "users": [1, 1, 2, 2],
        "items": [1, 2, 3, 4],
        "labels": [1, 1, 1, 0],
        "weights": [0, 0, 0, 1],
    }
    if loss == "in_batch_softmax":
        rows["labels"] = [1, 1, 1, 1]
    objective, model = objective_of(rows, loss), towers()
    for batch in objective.batches(1, np.random.default_rng(0)):
        value = objective.loss_of(model, batch)
        value.backward()
        assert math.isfinite(value.item())
    for weight in model.parameters():
        assert weight.grad is None or weight.grad.isfinite().all()
