from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.model.history import PackedHistory, Parts, PooledHistory

NUM_ITEMS, WIDTH = 7, 4
lists_of_items = st.lists(
    st.lists(st.integers(0, NUM_ITEMS - 1), max_size=5), min_size=1, max_size=5
)


def packed(lists: list[list[int]], embeddings: torch.Tensor) -> PackedHistory:
    offsets = torch.tensor([sum(len(one) for one in lists[:b]) for b in range(len(lists) + 1)])
    items = torch.tensor([item for one in lists for item in one], dtype=torch.int64)
    return PackedHistory(items, offsets, embeddings, torch.arange(len(embeddings)))


def looped(
    lists: list[list[int]], embeddings: torch.Tensor, weights: list[list[torch.Tensor]]
) -> torch.Tensor:
    rows = []
    for items, each in zip(lists, weights, strict=True):
        total, squares = 0 * embeddings.sum(0), torch.tensor(0.0)
        for item, weight in zip(items, each, strict=True):
            total = total + weight * embeddings[item]
            squares = squares + weight**2
        rows.append(total / squares.sqrt() if items else total)
    return torch.stack(rows)


def pooled(kind: str) -> PooledHistory:
    """A history that has learned something."""
    torch.manual_seed(0)
    made = PooledHistory(kind, WIDTH)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def weight_of(
    history: PooledHistory, embeddings: torch.Tensor, item: int, from_end: int
) -> torch.Tensor:
    """How much an item counts; ``from_end`` is 1 for the last."""
    if history.ages is not None:
        # 1, 2, 3 and 4, 5 to 8, 9 to 16, ...
        return history.ages[math.ceil(math.log2(from_end))].exp()
    if history.query is not None:
        return (embeddings[item] @ history.query).exp()
    return torch.tensor(1.0)


def weights_of(
    history: PooledHistory, embeddings: torch.Tensor, lists: list[list[int]]
) -> list[list[torch.Tensor]]:
    return [
        [
            weight_of(history, embeddings, item, len(items) - place)
            for place, item in enumerate(items)
        ]
        for items in lists
    ]


def embeddings(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_ITEMS, WIDTH, generator=generator).requires_grad_()


def gradients(made: torch.Tensor, *of: torch.Tensor) -> tuple[torch.Tensor, ...]:
    weights = torch.arange(made.numel(), dtype=torch.float32).view(made.shape)
    return torch.autograd.grad((made * weights).sum(), of)


kinds = pytest.mark.parametrize("kind", ["mean", "weighted", "attention"])


@kinds
@settings(max_examples=60, deadline=None)
@given(lists_of_items.filter(any), st.integers(0, 99))
def test_pooling_is_a_loop_over_users_and_their_items_and_so_are_its_gradients(
    kind: str, lists: list[list[int]], seed: int
) -> None:
    of_items, history = embeddings(seed), pooled(kind)
    made = history(packed(lists, of_items))
    expected = looped(lists, of_items, weights_of(history, of_items, lists))
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    learned = (of_items, *history.parameters())
    got, wanted = gradients(made, *learned), gradients(expected, *learned)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


@kinds
def test_every_kind_begins_as_the_mean(kind: str) -> None:
    history = packed([[0, 1, 2], [3]], embeddings(0))
    made = PooledHistory(kind, WIDTH)(history)
    torch.testing.assert_close(made, PooledHistory("mean", WIDTH)(history))


def layered() -> PooledHistory:
    torch.manual_seed(0)
    made = PooledHistory("mean", WIDTH, hidden_dims=(5, 4), dropout=0.5).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def test_layers_begin_as_nothing_and_then_add_what_they_see_in_the_sum() -> None:
    of_items = embeddings(0)
    history = packed([[0, 1, 2], [3], []], of_items)
    pooled = PooledHistory("mean", WIDTH)(history)
    begun = PooledHistory("mean", WIDTH, hidden_dims=(5, 4))
    torch.testing.assert_close(begun(history), pooled)
    learned = layered()
    assert learned.layers is not None
    # Less in what is shorter than 1, nothing in nothing.
    sizes = pooled.norm(dim=1, keepdim=True).clamp(max=1)
    seen = learned.layers(pooled) * sizes
    torch.testing.assert_close(learned(history), pooled + seen, atol=1e-5, rtol=1e-5)
    assert seen[:2].abs().min() > 0
    assert not learned(history)[2].any()


def test_a_history_without_a_part_is_read_as_one_that_never_had_it() -> None:
    lists, of_items, learned = [[0, 1, 2], [3], [2, 0]], embeddings(0), layered()
    history = packed(lists, of_items)
    is_shown = torch.ones(len(history.items), dtype=torch.bool)
    made = learned.from_rest(history, Parts.each_alone(history), is_shown)
    rests = [[item for item in items if item != own] for items in lists for own in items]
    torch.testing.assert_close(made, learned(packed(rests, of_items)))


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


@kinds
@settings(max_examples=60, deadline=None)
@given(lists_of_items.filter(any), st.integers(0, 99), st.data())
def test_a_history_without_each_part_is_a_loop_over_the_others_that_are_shown(
    kind: str, lists: list[list[int]], seed: int, data: st.DataObject
) -> None:
    # A difference of sums is as exact as the sums; one may be a thousand times another.
    of_items = embeddings(seed).detach().double().requires_grad_()
    shown, history = drawn_mask(lists, data), pooled(kind).double()
    given_ones = packed(lists, of_items)
    parts = data.draw(
        st.sampled_from(
            [Parts.each_alone(given_ones), *(Parts.dealt(given_ones, s) for s in (0.2, 0.5))]
        )
    )
    made = history.from_rest(given_ones, parts, torch.tensor(shown, dtype=torch.bool))
    rest, weights, place = [], [], 0
    for items, each in zip(lists, weights_of(history, of_items, lists), strict=True):
        of_user = slice(place, place + len(items))
        place += len(items)
        is_in, part = shown[of_user], parts.part[of_user].tolist()
        for own in sorted(set(part)):
            others = [n for n in range(len(items)) if is_in[n] and part[n] != own]
            rest.append([items[n] for n in others])
            weights.append([each[n] for n in others])
    expected = looped(rest, of_items, weights)
    torch.testing.assert_close(made, expected, rtol=1e-6, atol=1e-6)
    got = torch.autograd.grad(made.square().sum(), of_items)[0]
    wanted = torch.autograd.grad(expected.square().sum(), of_items)[0]
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@given(lists_of_items, st.sampled_from([0.01, 0.25, 0.4, 0.5, 0.9]))
def test_items_are_dealt_into_parts_of_one_user_as_even_as_can_be(
    lists: list[list[int]], share: float
) -> None:
    most = max(round(1 / share), 2)
    history = packed(lists, embeddings(0))
    parts = Parts.dealt(history, share)
    assert parts.owners.tolist() == [
        user for user, items in enumerate(lists) for _ in range(min(len(items), most))
    ]
    assert torch.equal(parts.owners[parts.part], history.owners())
    sizes = torch.bincount(parts.part, minlength=len(parts.owners))
    for user in range(len(lists)):
        of_user = sizes[parts.owners == user].tolist()
        assert not of_user or (max(of_user) - min(of_user) <= 1 and min(of_user) >= 1)


def test_who_is_in_a_part_with_whom_is_left_to_chance() -> None:
    history = packed([[0, 1, 2, 3]], embeddings(0))
    torch.manual_seed(0)
    dealt = [Parts.dealt(history, 0.5).part for _ in range(600)]
    together = [(parts == parts[0]).nonzero().squeeze(1)[1].item() for parts in dealt]
    assert [together.count(n) / 600 for n in (1, 2, 3)] == pytest.approx([1 / 3] * 3, abs=0.06)
