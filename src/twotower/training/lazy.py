"""Adam for tables, of which a step changes the rows of the batch and reads no others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_BETAS = 0.9, 0.999
_NEARLY_ZERO = 1e-8


class LazyAdam(torch.optim.Optimizer):
    """A row that is not in the batch keeps its moments and its place.

    Its steps are those of ``torch.optim.SparseAdam``, some times as fast: what a row's
    gradients add up to, both moments and the row are each read and written once.

    Args:
        groups: tables whose gradients are sparse, and their rate ``lr``.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move each table's rows along their gradients."""
        assert closure is None
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._move(table, group["lr"])

    def _move(self, table: Tensor, rate: float) -> None:
        state = self.state[table]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(table)
            state["exp_avg_sq"] = torch.zeros_like(table)
        state["step"] += 1
        rows, gradient = _summed(table.grad)  # type: ignore[arg-type]
        moments = state["exp_avg"], state["exp_avg_sq"]
        first, second = (moment.index_select(0, rows) for moment in moments)
        first.lerp_(gradient, 1 - _BETAS[0])
        second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        _write(moments[0], rows, first)
        _write(moments[1], rows, second)
        by_first, by_second = (1 - beta ** state["step"] for beta in _BETAS)
        size = rate * by_second**0.5 / by_first
        way = first.div_(second.sqrt_().add_(_NEARLY_ZERO))
        _add(table, rows, way.mul_(-size))


def _summed(gradient: Tensor) -> tuple[Int64[Tensor, " R"], Float[Tensor, "R W"]]:
    """The rows of a sparse gradient, each once and ascending, and what belongs to each."""
    rows, values = gradient._indices()[0], gradient._values()
    if len(rows) < 2 or bool((rows[1:] > rows[:-1]).all()):
        return rows, values
    if len(gradient) <= len(rows):
        # Of a small table most rows are there: to count is quicker than to sort.
        total = _add(values.new_zeros(gradient.shape), rows, values)
        is_there = torch.zeros(len(gradient), dtype=torch.bool, device=rows.device)
        is_there[rows] = True
        there = is_there.nonzero().squeeze(1)
        return there, total.index_select(0, there)
    there, places = torch.unique(rows, return_inverse=True)
    total = values.new_zeros(len(there), values.shape[1])
    return there, _add(total, places, values)


def _add(table: Tensor, rows: Int64[Tensor, " R"], values: Float[Tensor, "R W"]) -> Tensor:
    """Add to rows in place; a row that is there several times gets it all."""
    # Of rows spread over their columns it is some times as quick as index_add_.
    return table.scatter_add_(0, rows[:, None].expand_as(values), values)


def _write(table: Tensor, rows: Int64[Tensor, " R"], values: Float[Tensor, "R W"]) -> None:
    """Write rows, each there once, in place."""
    if table.device.type == "cpu":
        # NumPy writes rows, torch numbers.
        table.numpy()[rows.numpy()] = values.numpy()
    else:
        table.index_copy_(0, rows, values)
