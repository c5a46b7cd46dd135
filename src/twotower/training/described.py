"""What features say of all items, taken anew once in a few steps and not in each."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from twotower.data.features import FeatureTable
from twotower.model.two_tower import TwoTower
from twotower.training.threads import in_threads

# A catalogue of so many items is worth one step of waiting; of more, more, up to the most.
_ITEMS_A_STEP = 512
_MOST_STEPS = 8
# Where a step reads some of the items, the layers learn so often in an epoch at least.
_MOST_STEPS_OF_SOME, _LEAST_OFTEN = 16, 2


class Described:
    """Items, as the layers describe them.

    Where a step reads most items there are, most of its time would go into encoding features
    that hardly change. So a description is used for several steps, whose gradients add up, and
    the layers learn from all of them at once. All items together are worth all threads that
    there were when this was made, whatever a step gets.

    Args:
        items: all of them, row 0 included.
        rows: of those that are described.
        steps: how many use one description.

    Attributes:
        table: of the described ones.
    """

    def __init__(self, items: FeatureTable, rows: np.ndarray, *, steps: int) -> None:
        self.table = items.take(torch.from_numpy(rows).to(items.ids.device))
        self.rows = rows
        self.steps = steps
        self._used = 0
        self._threads = torch.get_num_threads()
        self._made: Tensor | None = None
        self._leaf: Tensor | None = None

    def by(self, model: TwoTower) -> Float[Tensor, "I D"]:
        """What ``describe_items`` says of the items, for one step more."""
        if self._leaf is None:
            with in_threads(self._threads):
                self._made = model.describe_items(self.table)
            assert self._made is not None
            self._leaf = self._made.detach().requires_grad_()
        self._used += 1
        return self._leaf

    @property
    def is_used_up(self) -> bool:
        """Whether the layers should learn before the next step."""
        return self._used >= self.steps

    def learn(self) -> None:
        """Send the gradients of the steps so far into the layers, and begin anew."""
        if self._made is not None and self._leaf is not None:
            gradient = self._leaf.grad
            assert gradient is not None
            with in_threads(self._threads):
                # A gradient that is handed over makes PyTorch import its compiler's algebra.
                (self._made * gradient).sum().backward()  # type: ignore[no-untyped-call]
        self._made = self._leaf = None
        self._used = 0


def steps_beside_all(num_items: int) -> int:
    """How many steps use one description where each compares with all items."""
    return min(max(num_items // _ITEMS_A_STEP, 1), _MOST_STEPS)


def steps_beside_some(num_items: int, batch_size: int, num_rows: int) -> int:
    """How many use one where each reads the items of its rows alone; 1 where that is less work.

    Args:
        num_rows: of an epoch.
    """
    steps = min(_MOST_STEPS_OF_SOME, num_rows // (batch_size * _LEAST_OFTEN))
    return steps if 2 * num_items <= steps * batch_size else 1
