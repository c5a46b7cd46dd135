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
    made = MeanHistory()(packed(lists, of_items))
    expected = looped(lists, of_items)
    torch.testing.assert_close(made, expected)
    weights = torch.arange(made.numel(), dtype=torch.float32).view(made.shape)
    got, wanted = (
        torch.autograd.grad((one * weights).sum(), of_items)[0] for one in (made, expected)
    )
    torch.testing.assert_close(got, wanted)


def drawn_mask(lists: list[list[int]], data: st.DataObject) -> list[bool]:
    size = sum(map(len, lists))
    return data.draw(st.lists(st.booleans(), min_size=size, max_size=size))


@given(lists_of_items, st.data())
def test_items_that_are_hidden_are_gone_and_the_others_as_they_were(
    lists: list[list[int]], data: st.DataObject
) -> None:
    shown = drawn_mask(lists, data)
    made = packed(lists, embeddings(0)).only(torch.tensor(shown, dtype=torch.bool))
    left = iter(shown)
    expected = [[item for item in items if next(left)] for items in lists]
    there = [
        made.items[start:end].tolist()
        for start, end in zip(made.offsets[:-1], made.offsets[1:], strict=True)
    ]
    assert there == expected
    assert len(made.items) == made.offsets[-1]
    owners = [user for user, items in enumerate(expected) for _ in items]
    assert made.owners().tolist() == owners


@settings(max_examples=60, deadline=None)
@given(lists_of_items.filter(any), st.integers(0, 99), st.data())
def test_a_history_without_each_is_a_loop_over_the_others_that_are_shown(
    lists: list[list[int]], seed: int, data: st.DataObject
) -> None:
    of_items, shown = embeddings(seed), drawn_mask(lists, data)
    made = MeanHistory().without_each(
        packed(lists, of_items), torch.tensor(shown, dtype=torch.bool)
    )
    rest, place = [], 0
    for items in lists:
        pairs = list(zip(items, shown[place:], strict=False))
        place += len(items)
        for own in range(len(items)):
            rest.append([item for n, (item, is_in) in enumerate(pairs) if is_in and n != own])
    expected = looped(rest, of_items)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    weights = torch.arange(made.numel(), dtype=torch.float32).view(made.shape)
    got, wanted = (
        torch.autograd.grad((one * weights).sum(), of_items)[0] for one in (made, expected)
    )
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-2)
