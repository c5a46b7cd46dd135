"""Item descriptions that several steps share."""

from __future__ import annotations

import numpy as np
import torch

from twotower.config import ModelConfig
from twotower.data.features import FeatureShape, FeatureTable
from twotower.model.two_tower import TwoTower
from twotower.training.described import Described, steps_beside_all, steps_beside_some

MANY = 2000


def items() -> FeatureTable:
    dense = torch.randn(MANY + 1, 3, generator=torch.Generator().manual_seed(0))
    none = torch.empty(MANY + 1, 0, dtype=torch.int64)
    return FeatureTable(torch.arange(MANY + 1), dense, none, ())


def towers() -> TwoTower:
    torch.manual_seed(1)
    shape = FeatureShape(MANY, 3, (), ())
    config = ModelConfig(
        embedding_dim=4, item_hidden_dims=(5,), dropout=0, history_dropout=0.0, temperature=1.0
    ).model_copy(update={"history": "mean"})
    model = TwoTower(shape, shape, config, user_ids=False, item_ids=True)
    assert model.item_tower is not None
    torch.nn.init.normal_(model.item_tower.output.weight)
    return model


def test_beside_all_small_catalogues_are_described_in_each_step_and_large_ones_in_eight() -> (
    None
):
    for rows, steps in ((4, 1), (1023, 1), (1024, 2), (MANY, 3), (9 * MANY, 8)):
        assert steps_beside_all(rows) == steps


def test_beside_some_all_are_described_where_a_few_steps_read_each_twice() -> None:
    found = [steps_beside_some(items, 256, num_rows=10**6) for items in (500, 2048, 2049)]
    assert found == [16, 16, 1]


def test_the_layers_learn_twice_an_epoch_however_short_it_is() -> None:
    found = [steps_beside_some(256, 256, num_rows=256 * each) for each in (40, 28, 9, 3)]
    assert found == [16, 14, 4, 1]


def test_the_layers_learn_what_they_would_learn_in_each_step_all_at_once() -> None:
    model, rows = towers(), np.arange(1, MANY + 1)
    described = Described(items(), rows, steps=3)
    wanted = torch.randn(described.steps, MANY, 4)
    assert model.item_tower is not None
    weights = list(model.item_tower.parameters())
    for n, each in enumerate(wanted):
        assert not described.is_used_up
        (model.encode_items(described.table, described.by(model)) * each).sum().backward()
        assert all(weight.grad is None for weight in weights)
        assert described.is_used_up == (n == len(wanted) - 1)
    described.learn()
    found = [weight.grad for weight in weights]
    expected = torch.autograd.grad(
        sum((model.encode_items(described.table) * each).sum() for each in wanted), weights
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert not described.is_used_up


def test_what_a_description_says_is_what_the_towers_say_now() -> None:
    model, rows = towers(), np.array([3, 5, 8])
    described = Described(items(), rows, steps=2)
    table = items().take(torch.from_numpy(rows))
    torch.testing.assert_close(
        model.encode_items(described.table, described.by(model)), model.encode_items(table)
    )


def test_without_ids_whole_embeddings_are_shared() -> None:
    shape = FeatureShape(MANY, 3, (), ())
    config = ModelConfig(embedding_dim=4, item_hidden_dims=(5,), temperature=1.0)
    config = config.model_copy(update={"history": "none", "history_dropout": 0.0})
    model = TwoTower(shape, shape, config, user_ids=False, item_ids=False).eval()
    described = Described(items(), np.arange(MANY + 1), steps=2)
    torch.testing.assert_close(
        model.encode_items(described.table, described.by(model)),
        model.encode_items(items()),
    )
