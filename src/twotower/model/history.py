"""A list of items -> one vector: what a user did, as a feature of the user.

Every kind of history reads the embeddings of the items of B users, given end to end. Since
they are the item tower's own, an item added yesterday counts as any other.

A kind answers two questions: what all of a user's items say (``forward``), and, in training,
what the rest says from which each part of them is to be found (``from_rest``; in order,
``before_each``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.arrays import blocks_of_groups
from twotower.data.interactions import Histories, offsets_of
from twotower.model.tower import Tower

# Weights of places from the end: the last, the one before, the next two, four, eight, ...
_AGES = 24


@dataclass(frozen=True)
class PackedHistory:
    """The items of B users: those of user b are ``items[offsets[b] : offsets[b + 1]]``.

    Attributes:
        items: rows of ``embeddings``, of each user oldest first.
        offsets: where each user's begin, and the end of the last.
        embeddings: of M items, among them those that occur.
        ids: of the M items those with an embedding of their own; 0 where there is none.
    """

    items: Int64[Tensor, " P"]
    offsets: Int64[Tensor, " B1"]
    embeddings: Float[Tensor, "M D"]
    ids: Int64[Tensor, " M"]

    @classmethod
    def of(
        cls,
        liked: Histories,
        rows: np.ndarray,
        embeddings: Float[Tensor, "M D"],
        ids: Int64[Tensor, " M"],
    ) -> PackedHistory:
        """The histories of some users, on the device of the embeddings."""
        items, _ = liked.pack(rows)
        offsets = offsets_of(liked.lengths()[rows])
        device = embeddings.device
        return cls(
            torch.from_numpy(items.astype(np.int64)).to(device),
            torch.from_numpy(offsets).to(device),
            embeddings,
            ids,
        )

    def blocks(self, most: int) -> Iterator[PackedHistory]:
        """The same users, some at a time who have no more items, or one who has."""
        for first, end in blocks_of_groups(self.offsets.cpu().numpy(), most):
            offsets = self.offsets[first : end + 1]
            items = self.items[offsets[0] : offsets[-1]]
            yield PackedHistory(items, offsets - offsets[0], self.embeddings, self.ids)

    def owners(self) -> Int64[Tensor, " P"]:
        """Whose each item is."""
        return owners_of(self.offsets)

    def only(self, is_kept: Bool[Tensor, " P"]) -> PackedHistory:
        """Without some of the items."""
        before = functional.pad(torch.cumsum(is_kept, 0), (1, 0))
        return PackedHistory(
            self.items[is_kept], before[self.offsets], self.embeddings, self.ids
        )


def owners_of(offsets: Int64[Tensor, " B1"]) -> Int64[Tensor, " P"]:
    """Of groups end to end, the group that each row belongs to."""
    counts = offsets[1:] - offsets[:-1]
    return torch.repeat_interleave(torch.arange(len(counts), device=offsets.device), counts)


@dataclass(frozen=True)
class Parts:
    """The items of histories, dealt into Q parts, each to be found from the rest.

    Attributes:
        part: of each item the part that it is in.
        owners: of each part the user, ascending.
    """

    part: Int64[Tensor, " P"]
    owners: Int64[Tensor, " Q"]

    @classmethod
    def each_alone(cls, history: PackedHistory) -> Parts:
        """Every item is a part."""
        owners = history.owners()
        return cls(torch.arange(len(owners), device=owners.device), owners)

    @classmethod
    def dealt(cls, history: PackedHistory, share: float) -> Parts:
        """Each user's items dealt at random, as evenly as can be; of few items each alone.

        Args:
            share: of a history in a part, above 0; 0.5 makes two halves.
        """
        owners = history.owners()
        device = owners.device
        counts = history.offsets[1:] - history.offsets[:-1]
        parts = counts.clamp(max=max(round(1 / share), 2))
        first = parts.cumsum(0) - parts
        order = torch.argsort(owners + torch.rand(len(owners), device=device).double())
        places = torch.arange(len(owners), device=device) - history.offsets[owners]
        part = torch.empty_like(owners)
        part[order] = first[owners] + places % parts[owners]
        return cls(part, owners_of(functional.pad(parts.cumsum(0), (1, 0))))


class PooledHistory(nn.Module):
    """The weighted sum of a user's item embeddings over the length of the weights.

    The length, for equal weights the root of their number, and not their sum: the mean of
    many items is short, and would weigh less the more is known about a user. All kinds begin
    as ``mean``. Hidden layers may read that sum and add what they see in it, which is nothing
    at first: what some items say together may be more than what each says.

    Args:
        kind: mean, all items alike; weighted, by a learned weight of each place from the end;
            attention, by ``exp(<embedding, query>)`` with a learned query.
        dim: length of an embedding, D.
        hidden_dims: widths of the hidden layers; none leaves the sum as it is.
        dropout: share of hidden units dropped in training.
    """

    def __init__(
        self, kind: str, dim: int, *, hidden_dims: Sequence[int] = (), dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.ages = nn.Parameter(torch.zeros(_AGES)) if kind == "weighted" else None
        self.query = nn.Parameter(torch.zeros(dim)) if kind == "attention" else None
        self.layers: Tower | None = None
        if hidden_dims:
            self.layers = Tower(dim, hidden_dims, dim, dropout=dropout, normalize=False)
            nn.init.zeros_(self.layers.output.weight)

    def forward(self, history: PackedHistory) -> Float[Tensor, "B D"]:
        """Pool each user's items; zeros for none."""
        weights = self.weights(history)
        total = functional.embedding_bag(
            history.items,
            history.embeddings,
            history.offsets[:-1],
            mode="sum",
            per_sample_weights=weights,
        )
        return self._read(total / self._length(weights, history)[:, None])

    def _read(self, pooled: Float[Tensor, "R D"]) -> Float[Tensor, "R D"]:
        if self.layers is None:
            return pooled
        seen: Tensor = self.layers(pooled)
        return pooled + seen * certainty(pooled)

    def shares(self, history: PackedHistory) -> Float[Tensor, "P D"]:
        """What each item puts into its user's pooled history; without layers they add up to
        it.
        """
        weights = self.weights(history)
        lengths = self._length(weights, history).index_select(0, history.owners())
        return history.embeddings.index_select(0, history.items) * (weights / lengths)[:, None]

    def _length(
        self, weights: Float[Tensor, " P"], history: PackedHistory
    ) -> Float[Tensor, " B"]:
        return _summed(weights.square(), history).clamp_min(1e-12).sqrt()

    def from_rest(
        self, history: PackedHistory, parts: Parts, is_shown: Bool[Tensor, " P"]
    ) -> Float[Tensor, "Q D"]:
        """Of each part the pooled history of its user without it, and without what is hidden.

        One sum a user serves all of the user's parts: each takes itself out again.
        """
        weights = self.weights(history) * is_shown
        items = history.embeddings.index_select(0, history.items) * weights[:, None]
        squares = weights.square()[:, None]
        rest = _without_itself(items, parts)
        size = _without_itself(squares, parts)
        return self._read(rest * torch.where(size > 0, size, torch.ones_like(size)).rsqrt())

    def weights(self, history: PackedHistory) -> Float[Tensor, " P"]:
        """How much each item counts, above 0."""
        if self.ages is not None:
            owners = history.owners()
            places = torch.arange(len(owners), device=owners.device)
            from_end = history.offsets[1:].index_select(0, owners) - places
            age = (2 * from_end - 1).double().log2().floor().long().clamp(max=_AGES - 1)
            return self.ages.exp().index_select(0, age)
        if self.query is not None:
            return (history.embeddings @ self.query).exp().index_select(0, history.items)
        return torch.ones_like(history.items, dtype=history.embeddings.dtype)


def certainty(pooled: Float[Tensor, "R D"]) -> Float[Tensor, "R 1"]:
    """How much layers may see in a pooled history: all, but less in one shorter than 1, as of
    items that nobody met, and nothing in none.
    """
    length: Tensor = torch.linalg.vector_norm(pooled, dim=1, keepdim=True)
    return length.clamp(max=1.0)


def _without_itself(values: Float[Tensor, "P W"], parts: Parts) -> Float[Tensor, "Q W"]:
    """Of each part the sum over its user's other parts."""
    own = values.new_zeros(len(parts.owners), values.shape[1]).index_add(0, parts.part, values)
    users = int(parts.owners[-1]) + 1 if len(parts.owners) else 0
    total = own.new_zeros(users, own.shape[1]).index_add(0, parts.owners, own)
    return total.index_select(0, parts.owners) - own


def _summed(values: Float[Tensor, " P"], history: PackedHistory) -> Float[Tensor, " B"]:
    """The sum over each user's items."""
    return values.new_zeros(len(history.offsets) - 1).index_add(0, history.owners(), values)
