from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.model.history import MeanHistory, PackedHistory

NUM_ITEMS, WIDTH = 7, 4
lists_of_items = st.lists(
    st.lists(st.integers(0, NUM_ITEMS - 1), max_size=5), min_size=1, max_size=5
)


def packed(lists: list[list[int]], embeddings: torch.Tensor) -> PackedHistory:
    offsets = torch.tensor([sum(len(one) for one in lists[:b]) for b in range(len(lists) + 1)])
    items = torch.tensor([item for one in lists for item in one], dtype=torch.int64)
    return PackedHistory(items, offsets, embeddings)


def looped(lists: list[list[int]], embeddings: torch.Tensor) -> torch.Tensor:
    rows = []
    for items in lists:
        total = 0 * embeddings.sum(0)
        for item in items:
            total = total + embeddings[item] / math.sqrt(len(items))
        rows.append(total)
    return torch.stack(rows)


def embeddings(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_ITEMS, WIDTH, generator=generator).requires_grad_()


@settings(max_examples=60, deadline=None)
@given(lists_of_items, st.integers(0, 99))
def test_pooling_is_a_loop_over_users_and_their_items_and_so_are_its_gradients(
    lists: list[list[int]], seed: int
) -> None:
    of_items = embeddings(seed)
    # With dropout in evaluation, which is none.
    made = MeanHistory(WIDTH, 0.5).eval()(packed(lists, of_items))
    expected = looped(lists, of_items)
    torch.testing.assert_close(made, expected)
    weights = torch.arange(made.numel(), dtype=torch.float32).view(made.shape)
    got, wanted = (
        torch.autograd.grad((one * weights).sum(), of_items)[0] for one in (made, expected)
    )
    torch.testing.assert_close(got, wanted)


@given(lists_of_items, st.data())
def test_histories_that_are_hidden_are_empty_and_the_others_as_they_were(
    lists: list[list[int]], data: st.DataObject
) -> None:
    shown = data.draw(st.lists(st.booleans(), min_size=len(lists), max_size=len(lists)))
    of_items = embeddings(0)
    made = packed(lists, of_items).only(torch.tensor(shown))
    expected = [items if keep else [] for items, keep in zip(lists, shown, strict=True)]
    there = [
        made.items[start:end].tolist()
        for start, end in zip(made.offsets[:-1], made.offsets[1:], strict=True)
    ]
    assert there == expected
    assert len(made.items) == made.offsets[-1]


def test_numbers_of_a_pooled_history_are_dropped_in_training_only() -> None:
    layer = MeanHistory(WIDTH, 0.5)
    history = packed([[0, 1, 2]] * 500, embeddings(0).detach().abs() + 1)
    torch.manual_seed(0)
    assert 0.4 < (layer(history) == 0).float().mean() < 0.6
    assert (layer.eval()(history) != 0).all()
