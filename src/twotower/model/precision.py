"""In which precision matrices are multiplied; weights and what is added up stay as they are."""

from __future__ import annotations

import time
from functools import cache

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


@cache
def bfloat16_pays() -> bool:
    """Whether this processor multiplies in bfloat16 clearly faster than in float32."""
    seconds = {}
    for dtype in (torch.bfloat16, torch.float32):
        left, right = torch.ones(256, 128, dtype=dtype), torch.ones(4096, 128, dtype=dtype)
        tries = []
        for _ in range(4):
            start = time.perf_counter()
            torch.mm(left, right.T)
            tries.append(time.perf_counter() - start)
        seconds[dtype] = min(tries)
    return seconds[torch.bfloat16] < 0.8 * seconds[torch.float32]
