"""How popular items are, in the unit of scores."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

_BLOCK_ROWS = 2**14


def moments_of(vectors: Float32[Tensor, "I D"]) -> Float64[Tensor, "D1 D1"]:
    """Sums over vectors of the products of their numbers; the last number of each is a 1.

    They add up: those of a few vectors bring those of many up to date.
    """
    width = vectors.shape[1] + 1
    total = torch.zeros((width, width), dtype=torch.float64)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS]
        whole = torch.nn.functional.pad(block, (0, 1), value=1.0)
        total += (whole.T @ whole).double()
    return total


def popularity_of(
    times_liked: Int64[np.ndarray, " I"],
    users: Float32[Tensor, "U D"],
    moments: Float64[Tensor, "D1 D1"],
) -> Float32[Tensor, " I"]:
    """The logarithm of how often each was liked, less its mean; as spread out as scores are.

    Args:
        users: some of them.
        moments: of the items.
    """
    known = torch.from_numpy(np.log1p(times_liked.astype(np.float32)))
    deviation = known.std(correction=0).clamp_min(1e-6)
    spread = torch.tensor(1.0)
    if len(users):
        means = moments[:-1] / moments[-1, -1]
        covariance = means[:, :-1] - torch.outer(means[:, -1], means[:, -1])
        # Of each user's scores the variance, without making the scores.
        variances = ((users.double() @ covariance) * users).sum(1)
        spread = variances.clamp_min(0).sqrt().mean().float()
    return (known - known.mean()) / deviation * spread
