"""A causal transformer over histories: where a user is now, and where they were before.

As SASRec (Kang and McAuley, ICDM 2018), with rotary positions (Su et al., 2021), which are
differences, so that a piece from the middle of a long history reads like any other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from twotower.model.dropout import Dropout
from twotower.model.history import PackedHistory, owners_of

_HEAD_DIM = 32
_SHORTEST = 8
# Items that are read at once where the last states alone are wanted: more take longer.
_READ = 2**14


class TransformerHistory(nn.Module):
    """The last state of a causal transformer that reads a user's items, oldest first.

    An item is read as its embedding, so that one added yesterday is understood, and what
    its id adds to that in a table of its own, which begins at zero. Before the first item
    stands a learned beginning: the state of who has done nothing yet.

    Args:
        dim: length of an embedding, D.
        num_ids: items that may have an id of their own; None for no table of them.
        layers: blocks of attention and feed-forward layer.
        dropout: share of units dropped in training.
        sparse: whether the table's gradients hold only the rows of the batch.
    """

    def __init__(
        self, dim: int, num_ids: int | None, *, layers: int, dropout: float, sparse: bool
    ) -> None:
        super().__init__()
        self.id_table = None
        if num_ids is not None:
            self.id_table = nn.Embedding(num_ids + 1, dim, sparse=sparse)
            nn.init.zeros_(self.id_table.weight)
        self.beginning = nn.Parameter(torch.zeros(dim))
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(dim, self.dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, history: PackedHistory) -> Float[Tensor, "B D"]:
        """The state after each user's last item."""
        parts = [self._states(part, of_last=True) for part in history.blocks(_READ)]
        return torch.cat([history.embeddings[:0], *parts])

    def before_each(
        self, history: PackedHistory, is_shown: Bool[Tensor, " P"]
    ) -> Float[Tensor, "P D"]:
        """Of each item the state of its user before it, after those earlier ones shown."""
        states = self._states(history.only(is_shown))
        shown_before = torch.cumsum(is_shown, 0) - is_shown.long()
        # Each user up to and with the item's own has a beginning.
        return states.index_select(0, history.owners() + shown_before)

    def _states(self, history: PackedHistory, *, of_last: bool = False) -> Float[Tensor, "T D"]:
        """The state at each user's beginning and after each of their items, end to end.

        Args:
            of_last: whether only the last of each user is wanted.
        """
        owners, device = history.owners(), history.items.device
        users = len(history.offsets) - 1
        items = history.embeddings.index_select(0, history.items)
        if self.id_table is not None:
            items = items + self.id_table(history.ids.index_select(0, history.items))
        offsets = history.offsets + torch.arange(users + 1, device=device)
        source = torch.full((len(items) + users,), len(items), device=device)
        source[torch.arange(len(items), device=device) + owners + 1] = torch.arange(
            len(items), device=device
        )
        tokens = torch.cat([items, self.beginning[None]]).index_select(0, source)
        sequences = Sequences.of(offsets)
        states = self.dropout(tokens)
        *blocks, final = self.blocks
        for block in blocks:
            states = block(states, sequences)
        assert isinstance(final, _Block)
        states = (final.of_last if of_last else final)(states, sequences)
        normed: Tensor = self.norm(states)
        return normed


@dataclass(frozen=True)
class Sequences:
    """T tokens of B users end to end, and the same as rectangles of about one length.

    Linear layers work on the tokens as they are, without padding; attention wants rectangles,
    and rows of like length in each waste little.

    Attributes:
        places: where each token stands in its sequence.
        rectangles: tokens in rows of one user each; a short row repeats its last token, which
            nothing before it sees.
        back: of each token its place in the rectangles laid flat, end to end.
    """

    places: Int64[Tensor, " T"]
    rectangles: list[Int64[Tensor, "_ _"]]
    back: Int64[Tensor, " T"]

    @classmethod
    def of(cls, offsets: Int64[Tensor, " B1"]) -> Sequences:
        """The sequences that lie between offsets."""
        lengths, device = offsets[1:] - offsets[:-1], offsets.device
        places = torch.arange(int(offsets[-1]), device=device) - offsets[owners_of(offsets)]
        back = torch.empty_like(places)
        sizes = lengths.clamp(min=_SHORTEST).double().log2().ceil()
        rectangles, laid = [], 0
        for size in torch.unique(sizes):
            rows = (sizes == size).nonzero().squeeze(1)
            width = int(lengths[rows].max())
            columns = torch.arange(width, device=device)
            within = torch.minimum(columns, lengths[rows, None] - 1)
            tokens = offsets[rows, None] + within
            flat = laid + torch.arange(tokens.numel(), device=device)
            is_own = within == columns
            back[tokens[is_own]] = flat.view_as(tokens)[is_own]
            rectangles.append(tokens)
            laid += tokens.numel()
        return cls(places, rectangles, back)


class _Block(nn.Module):
    """Causal attention, then a feed-forward layer, each added to what came in."""

    def __init__(self, dim: int, dropout: Dropout) -> None:
        super().__init__()
        self.heads = dim // _HEAD_DIM if dim % _HEAD_DIM == 0 else 1
        self.dropout = dropout
        self.attention_norm, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention_in = nn.Linear(dim, 3 * dim)
        self.attention_out = nn.Linear(dim, dim)
        self.widen, self.narrow = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(
        self, states: Float[Tensor, "T D"], sequences: Sequences
    ) -> Float[Tensor, "T D"]:
        """Each token's state after what it and those before it in its sequence say."""
        read = self.attention_in(self.attention_norm(states))
        read = read.view(-1, 3, self.heads, states.shape[1] // self.heads)
        turned = torch.cat([_turned(read[:, :2], sequences.places), read[:, 2:]], 1)
        mixed = []
        for rows in sequences.rectangles:
            query, key, value = _laid_out(turned, rows)
            seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            mixed.append(seen.transpose(1, 2).reshape(rows.numel(), -1))
        return self._taken_in(states, torch.cat(mixed).index_select(0, sequences.back))

    def of_last(
        self, states: Float[Tensor, "T D"], sequences: Sequences
    ) -> Float[Tensor, "B D"]:
        """What ``forward`` makes of the last token of each sequence, without the others."""
        dim, normed = states.shape[1], self.attention_norm(states)
        last = torch.cat([rows[:, -1] for rows in sequences.rectangles])
        weight, bias = self.attention_in.weight, self.attention_in.bias
        asking = functional.linear(normed.index_select(0, last), weight[:dim], bias[:dim])
        asking = asking.view(-1, 1, self.heads, dim // self.heads)
        asking = _turned(asking, sequences.places[last])
        read = functional.linear(normed, weight[dim:], bias[dim:])
        read = read.view(-1, 2, self.heads, dim // self.heads)
        turned = torch.cat([_turned(read[:, :1], sequences.places), read[:, 1:]], 1)
        mixed, sizes = [], [len(rows) for rows in sequences.rectangles]
        for rows, query in zip(sequences.rectangles, torch.split(asking, sizes), strict=True):
            key, value = _laid_out(turned, rows)
            is_own = functional.pad(rows[:, 1:] > rows[:, :-1], (1, 0), value=True)
            seen = functional.scaled_dot_product_attention(
                query.transpose(1, 2), key, value, attn_mask=is_own[:, None, None]
            )
            mixed.append(seen.reshape(len(rows), dim))
        after = self._taken_in(states.index_select(0, last), torch.cat(mixed))
        return after.index_select(0, last.argsort())

    def _taken_in(
        self, states: Float[Tensor, "T D"], attended: Float[Tensor, "T D"]
    ) -> Float[Tensor, "T D"]:
        """Tokens after what they attended to, and after the feed-forward layer."""
        states = states + self.dropout(self.attention_out(attended))
        wide = functional.gelu(self.widen(self.norm(states)))
        after: Tensor = states + self.dropout(self.narrow(wide))
        return after


def _laid_out(
    parts: Float[Tensor, "T n H d"], rows: Int64[Tensor, "R W"]
) -> tuple[Float[Tensor, "R H W d"], ...]:
    """The n parts of tokens in rows of one user each, as attention wants them."""
    found = parts.index_select(0, rows.flatten()).view(*rows.shape, *parts.shape[1:])
    return found.permute(2, 0, 3, 1, 4).unbind(0)


def _turned(
    both: Float[Tensor, "T n H d"], places: Int64[Tensor, " T"]
) -> Float[Tensor, "T n H d"]:
    """Queries and keys turned by angles that grow with the place, each pair of numbers slower.

    The product of a query and a key then knows how far apart they stand, and nothing else of
    where.
    """
    half = both.shape[-1] // 2
    steps = torch.arange(half, device=both.device) / max(half, 1)
    angles = (places[:, None] * 10_000.0**-steps)[:, None, None, :]
    cos, sin = angles.cos(), angles.sin()
    one, other, rest = torch.split(both, [half, half, both.shape[-1] - 2 * half], -1)
    return torch.cat([one * cos - other * sin, one * sin + other * cos, rest], -1)
