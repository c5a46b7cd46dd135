"""Lazy steps beside those of PyTorch, and beside dense ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from twotower.training.lazy import LazyAdam

ROWS, WIDTH = 9, 3
batches = st.lists(
    st.lists(st.integers(0, ROWS - 1), max_size=2 * ROWS), min_size=1, max_size=6
)


def trained(kind: type[torch.optim.Optimizer], rows_of_steps: list[list[int]]) -> Tensor:
    """The table after steps whose gradients depend on where it is."""
    torch.manual_seed(0)
    table = nn.Embedding(ROWS, WIDTH, sparse=True)
    optimizer = kind([{"params": [table.weight], "lr": 0.1}])
    for rows in rows_of_steps:
        weights = torch.arange(1.0, len(rows) + 1)[:, None]
        optimizer.zero_grad()
        ((table(torch.tensor(rows, dtype=torch.int64)) - 1).square() * weights).sum().backward()
        optimizer.step()
    return table.weight.detach()


@settings(deadline=None)
@given(batches)
def test_steps_are_those_of_pytorchs_sparse_adam(steps: list[list[int]]) -> None:
    expected = trained(torch.optim.SparseAdam, steps)
    torch.testing.assert_close(trained(LazyAdam, steps), expected, rtol=1e-5, atol=1e-6)


def test_where_every_step_has_every_row_they_are_those_of_dense_adam() -> None:
    every = [[*range(ROWS), 3, 3], list(range(ROWS)), [*reversed(range(ROWS)), 0]]
    torch.manual_seed(0)
    table = nn.Embedding(ROWS, WIDTH)
    dense = torch.optim.Adam(table.parameters(), lr=0.1)
    for rows in every:
        weights = torch.arange(1.0, len(rows) + 1)[:, None]
        dense.zero_grad()
        ((table(torch.tensor(rows)) - 1).square() * weights).sum().backward()
        dense.step()
    expected = table.weight.detach()
    torch.testing.assert_close(trained(LazyAdam, every), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [ROWS, 100 * ROWS])
def test_a_table_of_any_size_moves_the_same_rows_in_the_same_way(size: int) -> None:
    table = nn.Embedding(size, WIDTH, sparse=True)
    nn.init.zeros_(table.weight)
    optimizer = LazyAdam([{"params": [table.weight], "lr": 0.1}])
    for rows in ([4, 2, 4, 7, 2, 2, 2, 2, 2, 2], [7, 1]):
        optimizer.zero_grad()
        (table(torch.tensor(rows)) - 1).square().sum().backward()
        optimizer.step()
    moved = table.weight.detach()
    assert moved.any(1).nonzero().flatten().tolist() == [1, 2, 4, 7]
    torch.testing.assert_close(moved[2], torch.full((WIDTH,), 0.1))
