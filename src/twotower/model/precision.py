"""In which precision matrices are multiplied; weights and what is added up stay as they are."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float
from threadpoolctl import threadpool_limits
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
    wide = torch.ones(256, 128), torch.ones(4096, 128).T
    narrow = [each.to(torch.bfloat16) for each in wide]
    return is_faster(lambda: torch.mm(*narrow), lambda: torch.mm(*wide), share=0.8)


_MEASURING = Lock()


def is_faster(one: Callable[[], Any], other: Callable[[], Any], *, share: float) -> bool:
    """Whether one job takes less than a share of the time of another, the best of ten tries.

    By turns, a thread each: beside others at work, several would wait for one another.
    """

    def seconds(job: Callable[[], Any]) -> float:
        start = time.perf_counter()
        job()
        return time.perf_counter() - start

    # The limit is the process's, so one call at a time may set it and take it back.
    with _MEASURING, threadpool_limits(1):
        tries = [(seconds(one), seconds(other)) for _ in range(10)]
    return min(took for took, _ in tries) < share * min(took for _, took in tries)
