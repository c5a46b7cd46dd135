"""What a matrix's largest singular values say of its columns."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_ITERATIONS = 5
# Singular vectors beyond those asked for, which make those exact (Halko et al., 2011).
_SPARE = 30


def right_singular_vectors(matrix: Tensor, dim: int, *, rank: int) -> Float[Tensor, "C K"]:
    """The first ``dim`` of them, the largest first, or as many as there are; always the same.

    Args:
        matrix: (R, C), sparse.
        rank: the most that there can be.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _, _, vectors = torch.svd_lowrank(matrix, q=min(dim + _SPARE, rank), niter=_ITERATIONS)
    first: Tensor = vectors[:, :dim]
    return first
