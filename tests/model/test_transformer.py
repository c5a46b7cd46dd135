from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from twotower.model import transformer
from twotower.model.history import PackedHistory
from twotower.model.transformer import TransformerHistory

NUM_ITEMS = 7
lists_of_items = st.lists(
    st.lists(st.integers(0, NUM_ITEMS - 1), max_size=20), min_size=1, max_size=5
)


def learned(dim: int = 6, *, dropout: float = 0.0) -> TransformerHistory:
    """A transformer in evaluation, none of whose weights is what it began with."""
    torch.manual_seed(1)
    made = TransformerHistory(dim, NUM_ITEMS - 1, layers=2, dropout=dropout, sparse=False)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made.eval()


def packed(lists: list[list[int]], dim: int = 6) -> PackedHistory:
    offsets = torch.tensor([sum(len(one) for one in lists[:b]) for b in range(len(lists) + 1)])
    items = torch.tensor([item for one in lists for item in one], dtype=torch.int64)
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(NUM_ITEMS, dim, generator=generator)
    return PackedHistory(items, offsets, embeddings, torch.arange(NUM_ITEMS))


def close(made: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(lists_of_items, st.sampled_from([5, 6, 64]))
def test_many_users_are_read_as_one_by_one(lists: list[list[int]], dim: int) -> None:
    model = learned(dim)
    alone = torch.cat([model(packed([one], dim)) for one in lists])
    close(model(packed(lists, dim)), alone)
    with mock.patch.object(transformer, "_READ", 8):
        close(model(packed(lists, dim)), alone)


@settings(max_examples=40, deadline=None)
@given(lists_of_items.filter(any), st.data())
def test_each_item_is_found_from_those_before_it_that_are_shown(
    lists: list[list[int]], data: st.DataObject
) -> None:
    size = sum(map(len, lists))
    shown = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    model = learned()
    made = model.before_each(packed(lists), torch.tensor(shown, dtype=torch.bool))
    earlier, place = [], 0
    for items in lists:
        for own in range(len(items)):
            pairs = zip(items[:own], shown[place : place + own], strict=True)
            earlier.append([item for item, is_in in pairs if is_in])
        place += len(items)
    close(made, model(packed(earlier)))


def test_the_order_of_the_items_matters() -> None:
    model = learned()
    assert not torch.isclose(model(packed([[1, 2, 3]])), model(packed([[2, 1, 3]]))).all()


def test_an_item_without_an_id_is_read_by_its_embedding_alone() -> None:
    model, history = learned(), packed([[1, 2, 3]])
    assert model.id_table is not None
    nameless = PackedHistory(
        history.items, history.offsets, history.embeddings, torch.zeros_like(history.ids)
    )
    with torch.no_grad():
        model.id_table.weight[0] = 0.0
    before = model(nameless)
    assert not torch.isclose(before, model(history)).all()
    with torch.no_grad():
        model.id_table.weight[1:] = 9.0
    close(model(nameless), before)


def test_in_training_units_are_dropped_and_in_evaluation_none() -> None:
    model, history = learned(dropout=0.5), packed([[1, 2, 3]])
    assert torch.equal(model(history), model(history))
    model.train()
    assert not torch.equal(model(history), model(history))


@pytest.mark.parametrize("length", [1, 8, 9, 40])
def test_gradients_reach_every_item_that_came_before(length: int) -> None:
    model, history = learned(), packed([[n % NUM_ITEMS for n in range(length)]])
    embeddings = history.embeddings.requires_grad_()
    model(history).sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.any(1).tolist() == [n < length for n in range(NUM_ITEMS)]
