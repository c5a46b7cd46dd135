"""A list of items -> one vector: what a user did, as a feature of the user.

Every kind of history pools the embeddings of the items of B users, given end to end. Since
they are the item tower's own, an item added yesterday counts as any other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.interactions import Histories, offsets_of


@dataclass(frozen=True)
class PackedHistory:
    """The items of B users: those of user b are ``items[offsets[b] : offsets[b + 1]]``.

    Attributes:
        items: rows of ``embeddings``.
        offsets: where each user's begin, and the end of the last.
        embeddings: of M items, among them those that occur.
    """

    items: Int64[Tensor, " P"]
    offsets: Int64[Tensor, " B1"]
    embeddings: Float[Tensor, "M D"]

    @classmethod
    def of(
        cls, liked: Histories, rows: np.ndarray, embeddings: Float[Tensor, "M D"]
    ) -> PackedHistory:
        """The histories of some users, on the device of the embeddings."""
        items, _ = liked.pack(rows)
        offsets = offsets_of(liked.lengths()[rows])
        device = embeddings.device
        return cls(
            torch.from_numpy(items.astype(np.int64)).to(device),
            torch.from_numpy(offsets).to(device),
            embeddings,
        )

    def owners(self) -> Int64[Tensor, " P"]:
        """Whose each item is."""
        counts = self.offsets[1:] - self.offsets[:-1]
        users = torch.arange(len(counts), device=self.items.device)
        return torch.repeat_interleave(users, counts)

    def only(self, is_kept: Bool[Tensor, " P"]) -> PackedHistory:
        """Without some of the items."""
        before = functional.pad(torch.cumsum(is_kept, 0), (1, 0))
        return PackedHistory(self.items[is_kept], before[self.offsets], self.embeddings)


class MeanHistory(nn.Module):
    """The sum of a user's item embeddings over the root of their number; zeros for none.

    The root and not the number: the mean of many items is short, and would weigh less the
    more is known about a user.
    """

    def forward(self, history: PackedHistory) -> Float[Tensor, "B D"]:
        """Pool each user's items."""
        counts = (history.offsets[1:] - history.offsets[:-1]).clamp(min=1)
        total = functional.embedding_bag(
            history.items, history.embeddings, history.offsets[:-1], mode="sum"
        )
        return total / counts.to(total.dtype).sqrt()[:, None]

    def without_each(
        self, history: PackedHistory, is_shown: Bool[Tensor, " P"]
    ) -> Float[Tensor, "P D"]:
        """Of each item the pooled history of its user without it, and without what is hidden.

        One sum a user serves all of the user's items: each takes itself out again.
        """
        owners, shown = history.owners(), is_shown.to(history.embeddings.dtype)
        own = history.embeddings.index_select(0, history.items) * shown[:, None]
        users = len(history.offsets) - 1
        total = own.new_zeros(users, own.shape[1]).index_add(0, owners, own)
        count = shown.new_zeros(users).index_add_(0, owners, shown)
        others = (count.index_select(0, owners) - shown).clamp_min(1)
        return (total.index_select(0, owners) - own) * others.rsqrt()[:, None]
