"""Vectors in blocks are the vectors of one block, and those of each row alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from twotower.data.features import FeatureTable
from twotower.data.interactions import Histories
from twotower.errors import TwoTowerError
from twotower.model.history import PackedHistory
from twotower.retrieval import encode
from twotower.retrieval.encode import (
    item_vectors,
    require_finite,
    user_vectors,
)
from worlds import shopkeeper


def goods() -> FeatureTable:
    keeper = shopkeeper()
    return keeper.item_encoders.encode(keeper.item_values, np.arange(1, 41))


def people() -> tuple[FeatureTable, Histories, Tensor]:
    keeper = shopkeeper()
    table = keeper.user_encoders.encode(keeper.user_values, np.zeros(60, np.int64))
    shifted = Histories(keeper.liked.offsets[1:], keeper.liked.items)
    return table, shifted, keeper.item_vectors


def ids_of(of_items: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(of_items))


def test_they_are_the_vectors_that_the_recommender_keeps() -> None:
    keeper = shopkeeper()
    torch.testing.assert_close(item_vectors(keeper.model, goods()), keeper.item_vectors[1:])
    table, liked, of_items = people()
    found = user_vectors(keeper.model, table, np.arange(60), liked, of_items, ids_of(of_items))
    torch.testing.assert_close(found, keeper.user_vectors[1:])


def test_a_users_vector_comes_of_features_and_of_the_vectors_of_what_was_liked() -> None:
    keeper, (table, liked, of_items) = shopkeeper(), people()
    liked_ones = of_items[1:, :-1]
    found = user_vectors(keeper.model, table, np.arange(60), liked, of_items, ids_of(of_items))
    for row in (0, 33):
        own = torch.from_numpy(liked.of(row).astype(np.int64)) - 1
        history = PackedHistory(own, torch.tensor([0, len(own)]), liked_ones, torch.arange(40))
        user = keeper.model.encode_users(table.take(torch.tensor([row])), history)
        torch.testing.assert_close(found[row : row + 1], keeper.model.user_vectors(user).data)


@pytest.mark.parametrize("size", [1, 7, 40, 60])
def test_blocks_of_any_size_give_the_same(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, (table, liked, of_items) = shopkeeper(), people()
    whole = (
        item_vectors(keeper.model, goods()),
        user_vectors(keeper.model, table, np.arange(60), liked, of_items, ids_of(of_items)),
    )
    monkeypatch.setattr(encode, "_BLOCK_ROWS", size)
    monkeypatch.setattr(encode, "_BLOCK_ITEMS", 3 * size)
    parted = (
        item_vectors(keeper.model, goods()),
        user_vectors(keeper.model, table, np.arange(60), liked, of_items, ids_of(of_items)),
    )
    torch.testing.assert_close(parted, whole)


def test_some_users_in_any_order_have_the_vectors_they_have_among_all() -> None:
    keeper, (table, liked, of_items) = shopkeeper(), people()
    every = user_vectors(keeper.model, table, np.arange(60), liked, of_items, ids_of(of_items))
    rows = np.array([31, 4, 4, 59, 0])
    found = user_vectors(keeper.model, table, rows, liked, of_items, ids_of(of_items))
    torch.testing.assert_close(found, every[torch.from_numpy(rows)])


def test_nobody_has_no_vectors_of_the_same_width() -> None:
    keeper, (table, liked, of_items) = shopkeeper(), people()
    found = user_vectors(
        keeper.model, table, np.empty(0, np.int64), liked, of_items, ids_of(of_items)
    )
    assert found.shape == (0, of_items.shape[1])


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_no_numbers_are_refused_with_what_to_do(number: float) -> None:
    fine = torch.zeros((3, 2))
    require_finite(fine, fine)
    wrong = fine.clone()
    wrong[2, 1] = number
    with pytest.raises(
        TwoTowerError, match=r"no finite numbers .*; lower training\.learning_r"
    ):
        require_finite(fine, wrong)
