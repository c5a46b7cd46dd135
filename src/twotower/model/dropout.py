"""Dropout whose mask costs a byte of randomness a unit."""

from __future__ import annotations

from collections.abc import Sequence

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
        if not self.is_on:
            return values
        mask = self._mask(values.numel(), values).view(values.shape)
        return values * mask.mul_(self.scale)

    def masks(self, rows: Float[Tensor, "B F"], widths: Sequence[int]) -> Sequence[Tensor]:
        """For layers of so many units: 1 for each unit of each row that is kept, 0 for each
        that is dropped, (B, width); none where nothing is dropped. Drawn anew.
        """
        if not self.is_on:
            return ()
        counts = [len(rows) * width for width in widths]
        parts = torch.split(self._mask(sum(counts), rows), counts)
        return [part.view(-1, width) for part, width in zip(parts, widths, strict=True)]

    def _mask(self, count: int, like: Tensor) -> Float[Tensor, " N"]:
        """Ones and zeros; drawn anew.

        On the CPU, drawing one Bernoulli number a unit took more time than all matrix products
        of a small tower together: there one 64-bit draw decides eight units. The comparison is
        NumPy's, whose loop over bytes is vectorised where torch's is not.
        """
        if like.device.type != "cpu":
            drawn = torch.rand(count, device=like.device)
            return (drawn >= self.threshold / _CHOICES).to(like.dtype)
        words = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        kept = words.numpy().view(np.uint8)[:count] >= self.threshold
        return torch.from_numpy(kept.astype(np.float32)).to(like.dtype)
