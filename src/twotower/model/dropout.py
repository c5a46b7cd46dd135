"""Dropout whose mask costs a byte of randomness a unit."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

# A byte decides: a share is a multiple of 1/256.
_CHOICES = 256


class Dropout(nn.Module):
    """As ``torch.nn.Dropout``, on the CPU several times faster.

    Args:
        share: of the units to drop; the nearest multiple of 1/256 below 1 is used, and what
            is kept is scaled by that.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        # A share below 1 leaves something, be it a unit in 256.
        self.threshold = min(round(_CHOICES * share), _CHOICES - 1)

    @property
    def scale(self) -> float:
        """What makes up for the dropped units in the mean, in training."""
        return _CHOICES / (_CHOICES - self.threshold) if self.is_on else 1.0

    @property
    def is_on(self) -> bool:
        """Whether anything is dropped now."""
        return self.training and self.threshold > 0

    def forward(self, values: Tensor) -> Tensor:
        """Drop units in training; nothing else changes them."""
        return values * self.mask(values).mul_(self.scale) if self.is_on else values

    def mask(self, values: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """1 for each unit that is kept, 0 for each that is dropped; drawn anew.

        On the CPU, drawing one Bernoulli number a unit took more time than all matrix products
        of a small tower together: there one 64-bit draw decides eight units. The comparison is
        NumPy's, whose loop over bytes is vectorised where torch's is not.
        """
        if values.device.type != "cpu":
            drawn = torch.rand_like(values)
            return (drawn >= self.threshold / _CHOICES).to(values.dtype)
        count = values.numel()
        words = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        kept = words.numpy().view(np.uint8)[:count] >= self.threshold
        return torch.from_numpy(kept.astype(np.float32)).view(values.shape).to(values.dtype)
