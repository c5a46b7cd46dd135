"""Item vectors in 8 bits: a first look at all items, for a quarter of the reading.

Where few ask, a product of all items takes as long as their vectors take to be read. How far a
product here can be from the true one is known, so that exact scores of the few items that may
be among the best give exact lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int8, Int64
from torch import Tensor

from twotower.model.precision import is_faster

_BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Coarse:
    """I item vectors; all numbers but the last, which may be a large bias, in whole steps.

    Attributes:
        codes: steps, from -127 to 127.
        steps: how long a step of each item is.
        last: the last number of each.
        length: of the longest vector, without its last number.
        rounding: the length of the largest difference to a true vector.
    """

    codes: Int8[Tensor, "I D1"]
    steps: Float32[Tensor, " I"]
    last: Float32[Tensor, " I"]
    length: float
    rounding: float

    @classmethod
    def of(cls, vectors: Float32[Tensor, "I D"]) -> Coarse:
        """Vectors, rounded."""
        size, dim = len(vectors), vectors.shape[1] - 1
        codes, steps = np.empty((size, dim), np.int8), np.empty(size, np.float32)
        length = rounding = 0.0
        for start in range(0, size, _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            codes[part], steps[part], lengths, differences = _rounded(vectors[part].numpy())
            length, rounding = max(length, lengths.max()), max(rounding, differences.max())
        last = vectors[:, -1].contiguous()
        return cls(torch.from_numpy(codes), torch.from_numpy(steps), last, length, rounding)

    def with_changed(
        self, positions: Int64[Tensor, " N"], vectors: Float32[Tensor, "N D"]
    ) -> Coarse:
        """With some items anew; positions from the number of items on are of new ones."""
        new, old = Coarse.of(vectors), positions < len(self.codes)

        def changed(mine: Tensor, others: Tensor) -> Tensor:
            whole = torch.cat([mine, others[~old]])
            whole[positions[old]] = others[old]
            return whole

        return Coarse(
            changed(self.codes, new.codes),
            changed(self.steps, new.steps),
            changed(self.last, new.last),
            max(self.length, new.length),
            max(self.rounding, new.rounding),
        )

    def asked(self, queries: Float32[Tensor, "B D"]) -> Asked:
        """Queries, ready to be multiplied with the items."""
        codes, steps, lengths, differences = _rounded(queries.numpy())
        last = queries[:, -1:].contiguous()
        # By Cauchy and Schwarz; then the rounding of the sums, there and here.
        error = differences * self.length + (lengths + differences) * self.rounding
        largest = (lengths + differences) * (self.length + self.rounding)
        largest += np.abs(last.numpy()[:, 0]) * self.largest_last
        error += 4 * queries.shape[1] * 2.0**-24 * largest + 2.0**-100
        return Asked(
            self, torch.from_numpy(codes), torch.from_numpy(steps[:, None]), last, error
        )

    @cached_property
    def largest_last(self) -> float:
        """Of all items, whatever its sign."""
        return float(self.last.abs().max()) if len(self.last) else 0.0


@dataclass(frozen=True)
class Asked:
    """B queries, rounded as the items are.

    Attributes:
        error: how far from a true product one here may be.
    """

    items: Coarse
    codes: Int8[Tensor, "B D1"]
    steps: Float32[Tensor, "B 1"]
    last: Float32[Tensor, "B 1"]
    error: Float64[np.ndarray, " B"]

    def products(self, part: slice) -> Float32[Tensor, "b I"]:
        """Nearly the inner products of some of them with all items."""
        whole = torch._int_mm(self.codes[part], self.items.codes.T)
        scores = torch.mul(whole, self.items.steps).mul_(self.steps[part])
        if self.items.largest_last:
            scores.addmm_(self.last[part], self.items.last[None])
        return scores


def _rounded(
    vectors: Float32[np.ndarray, "N D"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Codes, steps, lengths and lengths of the differences, all without the last number."""
    body = vectors[:, :-1]
    steps = np.maximum(np.abs(body).max(1, initial=0) / np.float32(127), np.float32(1e-30))
    codes = np.rint(body / steps[:, None])
    exact = body.astype(np.float64)
    differences = exact - codes * steps[:, None].astype(np.float64)
    lengths, far = (np.sqrt(np.einsum("nd,nd->n", each, each)) for each in (exact, differences))
    return codes.astype(np.int8), steps, lengths, far


@cache
def eight_bits_pay() -> bool:
    """Whether this processor multiplies whole numbers of 8 bits clearly faster than floats."""
    if not hasattr(torch, "_int_mm"):
        return False
    wide = torch.ones(8192, 128)
    narrow = wide.to(torch.int8)
    return is_faster(
        lambda: torch._int_mm(narrow[:1], narrow.T),
        lambda: wide.numpy() @ wide[0].numpy(),
        share=0.7,
    )
