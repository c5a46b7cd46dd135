"""Adam (Kingma and Ba, ICLR 2015): for weights, and for tables of which a step reads some rows.

PyTorch's function does the work. Its class is not used: one derived from
``torch.optim.Optimizer`` imports PyTorch's compiler when it is made, and that takes longer than
a small training.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.optim.adam import adam

_BETAS = 0.9, 0.999
_NEARLY_ZERO = 1e-8
_MOMENTS = "exp_avg", "exp_avg_sq"

Moments = dict[str, Tensor]


class Adam:
    """Steps are those of ``torch.optim.Adam``, or ``AdamW``.

    Args:
        weights: what it moves.
        rate: how far a step goes, about, in each direction.
        decay: how much of each weight is added to its gradient, or, where ``is_decoupled``,
            what share of it a step takes away, times the rate.

    Attributes:
        rate: may be changed between steps.
        moments: of each weight that ever had a gradient, by its number, ``step``, ``exp_avg``
            and ``exp_avg_sq``.
    """

    def __init__(
        self,
        weights: Iterable[Tensor],
        rate: float,
        *,
        decay: float = 0.0,
        is_decoupled: bool = False,
    ) -> None:
        self.weights = list(weights)
        self.rate = rate
        self.decay = decay
        self.is_decoupled = is_decoupled
        self.moments: dict[int, Moments] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Move the weights that have gradients."""
        numbers = [n for n, weight in enumerate(self.weights) if weight.grad is not None]
        if numbers:
            self._move(numbers)

    def _move(self, numbers: list[int]) -> None:
        weights = [self.weights[n] for n in numbers]
        if self.is_decoupled and self.decay:
            torch._foreach_mul_(weights, 1 - self.rate * self.decay)
        gradients = [weight.grad for weight in weights]
        self._step_of(weights, gradients, [self._moments_of(n) for n in numbers])  # type: ignore[arg-type]

    def _step_of(
        self, weights: list[Tensor], gradients: list[Tensor], moments: list[Moments]
    ) -> None:
        adam(
            weights,
            gradients,
            [each["exp_avg"] for each in moments],
            [each["exp_avg_sq"] for each in moments],
            [],
            [each["step"] for each in moments],
            fused=weights[0].device.type in {"cpu", "cuda"},
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=self.rate,
            weight_decay=0.0 if self.is_decoupled else self.decay,
            eps=_NEARLY_ZERO,
            maximize=False,
        )

    def _moments_of(self, number: int) -> Moments:
        if number not in self.moments:
            weight = self.weights[number]
            zeros = {name: torch.zeros_like(weight) for name in _MOMENTS}
            self.moments[number] = zeros | {"step": torch.zeros((), device=weight.device)}
        return self.moments[number]


class LazyAdam(Adam):
    """Of tables with sparse gradients: a row that is not in the batch keeps moments and place.

    A step is that of ``torch.optim.Adam`` for the rows of the batch, as if these were all.
    Tables whose gradients are dense move as in ``Adam``.
    """

    def _move(self, numbers: list[int]) -> None:
        dense = [n for n in numbers if not self._is_sparse(n)]
        if dense:
            super()._move(dense)
        for number in numbers:
            if self._is_sparse(number):
                self._move_rows(self.weights[number], self._moments_of(number))

    def _is_sparse(self, number: int) -> bool:
        gradient = self.weights[number].grad
        return gradient is not None and gradient.is_sparse

    def _move_rows(self, table: Tensor, moments: Moments) -> None:
        rows, gradient = _summed(table.grad)  # type: ignore[arg-type]
        whole = table.detach(), *(moments[name] for name in _MOMENTS)
        weight, first, second = (each.index_select(0, rows) for each in whole)
        moved = dict(zip(_MOMENTS, (first, second), strict=True), step=moments["step"])
        self._step_of([weight], [gradient], [moved])
        for each, values in zip(whole, (weight, first, second), strict=True):
            _write(each, rows, values)


def _summed(gradient: Tensor) -> tuple[Int64[Tensor, " R"], Float[Tensor, "R W"]]:
    """The rows of a sparse gradient, each once and ascending, and what belongs to each."""
    # PyTorch's fused Adam reads memory as it lies.
    rows, values = gradient._indices()[0], gradient._values().contiguous()
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
