"""A feature table's columns side by side; ``tests/data/test_features.py`` makes the table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from twotower.config import ModelConfig
from twotower.data.features import Bag, FeatureShape, FeatureTable
from twotower.model import features
from twotower.model.features import FeatureLayer

CONFIG = ModelConfig(embedding_dim=4, category_dim=3, text_dim=2)
ROWS = 6
shapes = st.fixed_dictionaries(
    {
        "num_ids": st.integers(1, 5),
        "dense": st.integers(0, 3),
        "categories": st.lists(st.integers(2, 5), max_size=2).map(tuple),
        "bags": st.lists(st.tuples(st.integers(2, 6), st.booleans()), max_size=2).map(tuple),
    }
)


def table(shape: FeatureShape, seed: int) -> FeatureTable:
    """Rows of any values that the shape allows; about a third of the lists are empty."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *shape.categories])[:-1]
    codes = np.empty((ROWS, 0), np.int64)
    if shape.categories:
        drawn = [rng.integers(0, size, ROWS) for size in shape.categories]
        codes = np.stack(drawn, 1) + starts
    bags = []
    for size, _ in shape.bags:
        offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 3, ROWS))])
        bags.append(
            Bag(torch.from_numpy(rng.integers(0, size, offsets[-1])), torch.from_numpy(offsets))
        )
    return FeatureTable(
        torch.from_numpy(rng.integers(0, shape.num_ids + 1, ROWS)),
        torch.from_numpy(rng.normal(size=(ROWS, shape.dense)).astype(np.float32)),
        torch.from_numpy(codes),
        tuple(bags),
    )


def layer(shape: FeatureShape, *, ids: bool, sparse: bool = False) -> FeatureLayer:
    torch.manual_seed(5)
    made = FeatureLayer(shape, CONFIG, ids=ids, sparse=sparse)
    for weight in made.parameters():
        # No row is zero, so that none can be forgotten unseen.
        nn.init.normal_(weight)
    return made


def looped(made: FeatureLayer, given: FeatureTable) -> list[torch.Tensor]:
    """Row by row: numbers, categories one after the other, the mean of each list."""
    rows = []
    for row in range(ROWS):
        parts = [given.dense[row]]
        for code in given.codes[row]:
            assert made.code_table is not None
            parts.append(made.code_table.weight[code])
        for embeddings, bag in zip(made.bag_tables, given.bags, strict=True):
            total = torch.zeros(embeddings.weight.shape[1])
            codes = bag.codes[bag.offsets[row] : bag.offsets[row + 1]]
            for code in codes:
                total = total + embeddings.weight[code] / len(codes)
            parts.append(total)
        rows.append(torch.cat(parts))
    return rows


@settings(deadline=None)
@given(shapes, st.booleans(), st.integers(0, 99))
def test_a_rows_vector_is_its_columns_side_by_side_whatever_columns_there_are(
    drawn: dict[str, Any], ids: bool, seed: int
) -> None:
    shape = FeatureShape(**drawn)
    made, given = layer(shape, ids=ids), table(shape, seed)
    vectors = made(given)
    torch.testing.assert_close(vectors, torch.stack(looped(made, given)))
    assert vectors.shape[1] == made.width


@settings(deadline=None)
@given(shapes, st.integers(0, 99))
def test_sparse_gradients_are_the_dense_ones_of_the_batchs_rows_alone(
    drawn: dict[str, Any], seed: int
) -> None:
    shape = FeatureShape(**drawn)
    given = table(shape, seed)
    gradients = []
    for sparse in (False, True):
        # Tables of features are sparse from some size on; here from none.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(features, "_SMALL", 0)
            made = layer(shape, ids=True, sparse=sparse)
        assert made.id_table is not None
        ((made(given) ** 2).sum() + (made.id_table(given.ids) ** 2).sum()).backward()
        gradients.append([weight.grad for weight in made.parameters()])
    assert made.id_table is not None
    assert made.id_table.weight.grad is not None
    touched = made.id_table.weight.grad.coalesce().indices()[0]
    assert set(touched.tolist()) == set(given.ids.tolist())
    for dense, sparse_one in zip(*gradients, strict=True):
        assert sparse_one.is_sparse
        torch.testing.assert_close(sparse_one.to_dense(), dense)


def test_before_training_what_is_unknown_or_missing_says_nothing() -> None:
    shape = FeatureShape(num_ids=3, dense=0, categories=(), bags=((5, False), (6, True)))
    made = FeatureLayer(shape, CONFIG, ids=True, sparse=False)
    # Nobody's id; a list of an unknown value; and no text at all.
    lists = (
        Bag(torch.tensor([1]), torch.tensor([0, 1])),
        Bag(torch.tensor([], dtype=torch.int64), torch.tensor([0, 0])),
    )
    no_numbers = torch.empty((1, 0))
    codes = torch.empty((1, 0), dtype=torch.int64)
    nobody = FeatureTable(torch.tensor([0]), no_numbers, codes, lists)
    assert made.id_table is not None
    assert torch.equal(made(nobody), torch.zeros(1, made.width))
    assert not made.id_table.weight[0].any()
    assert made.id_table.weight[2].any()


def test_the_tables_of_features_are_all_but_that_of_ids() -> None:
    shape = FeatureShape(num_ids=3, dense=1, categories=(4,), bags=((5, False), (6, True)))
    made = layer(shape, ids=True)
    assert sorted(len(weight) for weight in made.feature_tables()) == [4, 5, 6]
