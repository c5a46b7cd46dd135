"""What features say of all items, taken anew once in a few steps and not in each."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from twotower.data.features import FeatureTable
from twotower.model.two_tower import TwoTower

# A catalogue of so many items is worth one step of waiting; of more, more, up to the most.
_ITEMS_A_STEP = 512
_MOST_STEPS = 8


class Described:
    """All items of an objective, as the layers describe them.

    Where every step compares with all items, most of its time would go into encoding features
    that hardly change: the layers learn slowly beside the ids. So a description is used for
    several steps, whose gradients add up, and the layers learn from all of them at once.

    Attributes:
        table: of all items that are compared with.
        steps: how many use one description.
    """

    def __init__(self, items: FeatureTable, rows: np.ndarray) -> None:
        self.table = items.take(torch.from_numpy(rows).to(items.ids.device))
        self.steps = min(max(len(rows) // _ITEMS_A_STEP, 1), _MOST_STEPS)
        self._used = 0
        self._made: Tensor | None = None
        self._leaf: Tensor | None = None

    def by(self, model: TwoTower) -> Float[Tensor, "I D"]:
        """What is said of the items, for one step more."""
        if self._leaf is None:
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
            torch.autograd.backward(self._made, self._leaf.grad)
        self._made = self._leaf = None
        self._used = 0
