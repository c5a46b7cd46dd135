"""Steps beside those of PyTorch, lazy ones beside dense ones."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from twotower.training.adam import Adam, LazyAdam

ROWS, WIDTH = 9, 3
batches = st.lists(
    st.lists(st.integers(0, ROWS - 1), max_size=2 * ROWS), min_size=1, max_size=6
)


def trained(
    kind: type[torch.optim.Optimizer] | type[Adam], rows_of_steps: list[list[int]]
) -> Tensor:
    """The table after steps whose gradients depend on where it is."""
    torch.manual_seed(0)
    table = nn.Embedding(ROWS, WIDTH, sparse=True)
    optimizer = kind([table.weight], 0.1)
    for rows in rows_of_steps:
        weights = torch.arange(1.0, len(rows) + 1)[:, None]
        table.weight.grad = None
        ((table(torch.tensor(rows, dtype=torch.int64)) - 1).square() * weights).sum().backward()
        optimizer.step()
    return table.weight.detach()


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("is_decoupled", [False, True])
def test_steps_are_those_of_pytorchs_adam(decay: float, is_decoupled: bool) -> None:
    """Of weights that do not all have a gradient in each step, at rates that change."""
    chance = torch.Generator().manual_seed(0)
    start = [torch.randn(4, 3, generator=chance), torch.randn((), generator=chance)]
    ours, theirs = ([weight.clone().requires_grad_() for weight in start] for _ in range(2))
    adam = Adam(ours, 0.1, decay=decay, is_decoupled=is_decoupled)
    kind = torch.optim.AdamW if is_decoupled else torch.optim.Adam
    expected = kind(theirs, lr=0.1, weight_decay=decay)
    for step, rate in enumerate([0.1, 0.2, 0.1, 0.05]):
        adam.rate = expected.param_groups[0]["lr"] = rate
        for number, both in enumerate(zip(ours, theirs, strict=True)):
            gradient = torch.randn(start[number].shape, generator=chance)
            for weight in both:
                weight.grad = gradient.clone() if number != step % 2 else None
        adam.step()
        expected.step()
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other)


def test_the_compiler_is_not_imported() -> None:
    """It takes longer than a small training."""
    code = (
        "import sys, torch; from twotower.training.adam import Adam; w = torch.zeros(1)\n"
        "w.grad = torch.ones(1); Adam([w], 0.1).step()\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
    optimizer = LazyAdam([table.weight], 0.1)
    for rows in ([4, 2, 4, 7, 2, 2, 2, 2, 2, 2], [7, 1]):
        table.weight.grad = None
        (table(torch.tensor(rows)) - 1).square().sum().backward()
        optimizer.step()
    moved = table.weight.detach()
    assert moved.any(1).nonzero().flatten().tolist() == [1, 2, 4, 7]
    torch.testing.assert_close(moved[2], torch.full((WIDTH,), 0.1))


def test_a_gradient_may_lie_in_memory_column_by_column() -> None:
    moved = []
    for order in (torch.contiguous_format, None):
        table = nn.Embedding(ROWS, WIDTH, sparse=True)
        nn.init.ones_(table.weight)
        rows, values = (
            torch.tensor([[1, 4]]),
            torch.tensor([[1.0, -1, 1], [1, 1, -1]]).T.contiguous().T,
        )
        values = values.contiguous() if order else values
        table.weight.grad = torch.sparse_coo_tensor(rows, values, (ROWS, WIDTH))
        LazyAdam([table.weight], 0.1).step()
        moved.append(table.weight.detach())
    torch.testing.assert_close(*moved)
