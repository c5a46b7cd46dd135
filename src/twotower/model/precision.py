"""In which precision matrices are multiplied; weights and what is added up stay as they are."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def product_dtype(values: Tensor) -> torch.dtype:
    """What autocast asks for on the values' device; their own kind where it does not."""
    device = values.device.type
    if torch.is_autocast_enabled(device) and values.dtype == torch.float32:
        return torch.get_autocast_dtype(device)
    return values.dtype


def dots(left: Float[Tensor, "*R D"], right: Float[Tensor, "*R D"]) -> Float[Tensor, "*R"]:
    """Inner products of pairs of vectors: as quick as ``vecdot``, and let alone by autocast."""
    return (left * right).sum(dim=-1)
