"""Steps and epochs; ``test_learn.py`` has whole trainings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from twotower.config import Loss, ModelConfig, TrainingConfig
from twotower.data.features import FeatureShape, FeatureTable
from twotower.errors import TwoTowerError
from twotower.model import features
from twotower.model.two_tower import TwoTower
from twotower.model.words import Side
from twotower.training.learn import Learned, prepare
from twotower.training.loop import Optimizers, Progress, epochs
from twotower.training.objective import Objective
from worlds import planned

ROWS = 12
# Each row has an id and a category of its own, so that tables are touched row by row.
SHAPE = FeatureShape(num_ids=ROWS - 1, dense=1, categories=(ROWS,), bags=())
TABLE = FeatureTable(
    torch.arange(ROWS), torch.ones(ROWS, 1), torch.arange(ROWS).unsqueeze(1), ()
)


RATES = {"learning_rate": 0.01, "embedding_learning_rate": 0.1}


class Training:
    """Small towers, and steps on rows of one's own choice."""

    def __init__(self, *, lazy: bool, **changed: Any) -> None:
        torch.manual_seed(2)
        config = ModelConfig(
            embedding_dim=3,
            user_hidden_dims=(16,),
            item_hidden_dims=(16,),
            dropout=0,
            temperature=0.1,
            history="none",
            history_dropout=0.0,
        )
        # A table of categories is lazy from some size on; here from none.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(features, "_SMALL", 0)
            sparse: list[Side] = ["user", "item"] if lazy else []
            self.model = TwoTower(
                SHAPE, SHAPE, config, user_ids=True, item_ids=True, sparse=sparse
            )
        for parameter in self.model.parameters():
            nn.init.normal_(parameter)
        settings = TrainingConfig.model_validate({**RATES, **changed})
        self.optimizers = Optimizers(self.model, settings)

    def step(self, *rows: int) -> dict[str, Tensor]:
        """The weights after one more step on these users and items."""
        table = TABLE.take(torch.tensor(rows))
        of_users = self.model.user_vectors(self.model.encode_users(table, None))
        of_items = self.model.item_vectors(self.model.encode_items(table), table)
        (of_users @ of_items.T - 1).square().sum().backward()
        self.optimizers.step()
        return self.weights()

    def weights(self) -> dict[str, Tensor]:
        return {name: weight.clone() for name, weight in self.model.state_dict().items()}


def tables(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those with a row for each id or category."""
    return {
        name: weight
        for name, weight in weights.items()
        if len(weight.shape) == 2 and len(weight) == ROWS
    }


class TestOptimizers:
    def test_a_lazy_step_leaves_rows_outside_the_batch_where_they_are(self) -> None:
        training = Training(lazy=True)
        start = tables(training.weights())
        first = tables(training.step(1, 2, 5))
        second = tables(training.step(3, 4))
        assert len(start) == 5
        for name, before in start.items():
            moved = {row for row in range(ROWS) if (first[name][row] != before[row]).any()}
            assert moved == {1, 2, 5}
            # Nor are those of the batch before carried on by their momentum.
            moved = {
                row for row in range(ROWS) if (second[name][row] != first[name][row]).any()
            }
            assert moved == {3, 4}

    def test_the_first_lazy_step_is_the_dense_one(self) -> None:
        lazy, dense = (Training(lazy=kind).step(1, 2, 2, 5) for kind in (True, False))
        assert lazy.keys() == dense.keys()
        for name, weight in lazy.items():
            torch.testing.assert_close(weight, dense[name], rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("lazy", [True, False])
    def test_ids_and_biases_have_a_rate_of_their_own(self, lazy: bool) -> None:
        training = Training(lazy=lazy, embedding_learning_rate=0.3)
        before = training.weights()
        after = training.step(*range(ROWS))
        # Adam's first step is as long as the rate, whatever the gradient.
        for name, weight in after.items():
            length = (weight - before[name]).abs()
            of_ids = "id_table" in name or "item_bias" in name
            rate = 0.3 if of_ids else 0.01
            # Units that say nothing, slope and offset stay.
            stays = length == 0
            torch.testing.assert_close(
                length[~stays], torch.full_like(length[~stays], rate), rtol=0.01, atol=0
            )
            assert not (of_ids and stays.any())

    @pytest.mark.parametrize("lazy", [True, False])
    def test_weight_decay_pulls_at_the_layers_and_not_at_the_tables(self, lazy: bool) -> None:
        free = Training(lazy=lazy, weight_decay=0).step(1, 2)
        pulled = Training(lazy=lazy, weight_decay=1).step(1, 2)
        for name in tables(free):
            assert torch.equal(free[name], pulled[name])
        layers = [name for name in free if "tower" in name and name.endswith("weight")]
        assert len(layers) == 4
        assert not any(torch.equal(free[name], pulled[name]) for name in layers)


def prepared(loss: Loss = "bpr", **training: Any) -> tuple[Learned, Objective]:
    plan = planned(loss, **training)
    return prepare(plan.dataset, plan.parts.train, plan.contenders[0])


def run(learned: Learned, objective: Objective, **changed: Any) -> list[Progress]:
    asked: dict[str, Any] = {
        "validate": lambda _: {},
        "batch_size": 64,
        "better": lambda _new, _old: True,
        "metric": "train_loss",
        "progress": Progress(),
        **changed,
    }
    optimizers = Optimizers(learned.model, objective.config)
    return list(epochs(learned.model, objective, optimizers, **asked))


def test_beside_all_items_a_step_moves_the_users_of_its_batch_alone_where_there_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("twotower.training.learn._MANY_USERS", 10)
    plan = planned("softmax", model={"user_ids": True, "history": "mean"})
    learned, objective = prepare(plan.dataset, plan.parts.train, plan.contenders[0])
    assert objective.config.negatives_from == "all"
    optimizers = Optimizers(learned.model, objective.config)
    tables = learned.model.user_features.id_table, learned.model.item_features.id_table
    for batch in list(objective.batches(64, np.random.default_rng(0)))[:2]:
        users, items = (table.weight.detach().clone() for table in tables if table)
        objective.loss_of(learned.model, batch).backward()  # type: ignore[no-untyped-call]
        optimizers.step()
        moved = [
            set(torch.nonzero((table.weight != before).any(1)).squeeze(1).tolist())
            for table, before in zip(tables, (users, items), strict=True)
            if table
        ]
        # A user's id may be hidden in a step, and row 0 stands for it.
        assert moved[0] <= {0, *batch.user_rows.tolist()}
        assert moved[1] - set(batch.items.tolist())


@pytest.mark.parametrize(
    ("drawn", "count", "in_part"), [(64, 3, False), (64, 0, True), (1, 1, True)]
)
def test_a_table_moves_as_a_whole_where_a_step_and_its_neighbours_read_most_of_it(
    drawn: int, count: int, in_part: bool
) -> None:
    plan = planned(
        "softmax",
        model={"history": "mean", "item_neighbours": count},
        batch_size=drawn,
        negatives=drawn,
    )
    learned, _ = prepare(plan.dataset, plan.parts.train, plan.contenders[0])
    table = learned.model.item_features.id_table
    assert table is not None
    assert table.sparse == in_part


class TestEpochs:
    def test_each_tells_its_beginning_and_every_row_it_learned_from(self) -> None:
        learned, objective = prepared(epochs=3)
        told: list[list[int]] = []
        done = run(
            learned,
            objective,
            on_epoch=lambda: told.append([]),
            on_step=lambda rows: told[-1].append(rows),
        )
        assert [progress.epoch for progress in done] == [1, 2, 3]
        assert [sum(steps) for steps in told] == [objective.num_rows()] * 3
        assert max(map(max, told)) == 64

    def test_towers_drop_and_hide_while_they_learn_and_not_while_they_are_measured(
        self,
    ) -> None:
        learned, objective = prepared(epochs=2)
        learning, measured = [], []

        def validate(model: TwoTower) -> dict[str, float]:
            measured.extend(part.training for part in model.modules())
            return {}

        def on_step(rows: int) -> None:
            learning.extend(part.training for part in learned.model.modules())

        run(learned, objective, validate=validate, on_step=on_step)
        assert all(learning)
        assert not any(measured)

    def test_the_loss_falls(self) -> None:
        history = run(*prepared(epochs=6))[-1].history
        assert history is not None
        assert history["train_loss"][-1] < 0.7 * history["train_loss"][0]

    def test_each_epoch_is_another_draw(self) -> None:
        # Where nothing is learned, a loss is another only by what was drawn.
        history = run(*prepared(epochs=4, learning_rate=1e-30))[-1].history
        assert history is not None
        assert np.diff(sorted(history["train_loss"])).min() > 1e-4

    @pytest.mark.parametrize("loss", ["softmax", "bce"])
    def test_a_loss_that_is_no_number_ends_it_with_what_to_do(self, loss: Loss) -> None:
        learned, objective = prepared(loss)
        extreme = torch.full_like(objective.users.dense, torch.inf)
        objective = replace(objective, users=replace(objective.users, dense=extreme))
        with pytest.raises(
            TwoTowerError, match=r"loss of epoch 1 is (nan|inf).*learning_rate.*features"
        ):
            run(learned, objective)

    @pytest.mark.parametrize("loss", ["softmax", "in_batch_softmax", "bce", "bpr", "ccl"])
    def test_in_bf16_it_learns_the_same_and_weights_stay_in_fp32(self, loss: Loss) -> None:
        falls = []
        for precision in ("fp32", "bf16"):
            learned, objective = prepared(loss, epochs=3, precision=precision)
            history = run(learned, objective)[-1].history
            assert history is not None
            falls.append(history["train_loss"])
            assert all(each.dtype == torch.float32 for each in learned.model.parameters())
        assert falls[0] != falls[1]
        assert falls[0] == pytest.approx(falls[1], rel=0.02)
