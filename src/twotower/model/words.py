"""Words as the ids of what has none: embeddings that go around the layers.

Whom training never met shares words with whom it met. So where neither id nor history tells,
each word of a text and each value of a long list has an embedding of the length of the towers'
own, and a row is their sum: two rows are alike at once when they share rare words, which is the
cosine of TF-IDF up to chance, and training goes on from there. Texts of users and of items read
one table, so that a query finds the titles that have its words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twotower.data.encoders import FIRST
from twotower.data.features import Bag, FeatureShape, FeatureTable
from twotower.model.history import owners_of
from twotower.model.singular import right_singular_vectors

Side = Literal["user", "item"]
# A list of fewer different values is a few categories, which the layers combine.
_MANY = 1000
_TEXTS = "text"
# So many rows say which words stand together.
_MOST_ROWS = 100_000


def word_columns(shape: FeatureShape) -> tuple[int, ...]:
    """Which of the bag columns hold words: texts, and lists of very many values."""
    return tuple(
        number for number, (size, is_text) in enumerate(shape.bags) if is_text or size > _MANY
    )


class Words(nn.Module):
    """The sum, over columns, of a row's word embeddings over the root of their number.

    Attributes:
        columns: of each side the columns that are words, and the table that each reads.

    Args:
        shapes: of the tables of each side.
        columns: numbers of bag columns, of sides that have some.
        dim: length of an embedding, D.
    """

    def __init__(
        self,
        shapes: Mapping[Side, FeatureShape],
        columns: Mapping[Side, tuple[int, ...]],
        dim: int,
    ) -> None:
        super().__init__()
        self.columns: dict[Side, dict[int, str]] = {}
        self.tables = nn.ModuleDict()
        for side, numbers in columns.items():
            self.columns[side] = {}
            for number in numbers:
                size, is_text = shapes[side].bags[number]
                name = _TEXTS if is_text else f"{side}_{number}"
                self.columns[side][number] = name
                if name not in self.tables:
                    self.tables[name] = _table(size, dim)

    def forward(self, side: Side, table: FeatureTable) -> Float[Tensor, "R D"]:
        """Rows of one side -> what their words say; zeros for no words."""
        parts = []
        for number, name in self.columns[side].items():
            bag = table.bags[number]
            counts = (bag.offsets[1:] - bag.offsets[:-1]).clamp(min=1)
            total = self.tables[name](bag.codes, bag.offsets[:-1])
            parts.append(total * counts.to(total.dtype).rsqrt()[:, None])
        return torch.stack(parts).sum(0)

    @torch.no_grad()
    def begin(self, met: Mapping[Side, FeatureTable]) -> None:
        """Make each word as long as it is rare, in place: by the log of rows a row with it.

        Before that words of one side are made alike where they stand in the same rows. Where
        both sides read a table they stay random, which tells all words apart: a search finds
        what has its words, a history what is like its items.

        Args:
            met: the rows of each side that training shows.
        """
        for name, table in self.tables.items():
            assert isinstance(table, nn.EmbeddingBag)
            read = {
                side: [met[side].bags[number] for number in columns if columns[number] == name]
                for side, columns in self.columns.items()
            }
            bag = _joined([bag for bags in read.values() for bag in bags])
            size, rows = len(table.weight), len(bag.offsets) - 1
            rarity = torch.log((rows + 1) / (_rows_with_each(bag, size) + 1))
            rarity[:FIRST] = 0.0
            rarity = (rarity / rarity[FIRST:].mean()).to(table.weight)
            if sum(bool(bags) for bags in read.values()) == 1:
                table.weight.copy_(_found_together(bag, rarity, table.weight))
            table.weight.mul_(rarity[:, None])


def _table(size: int, dim: int) -> nn.EmbeddingBag:
    table = nn.EmbeddingBag(size, dim, mode="sum")
    nn.init.normal_(table.weight, std=dim**-0.5)
    return table


def _found_together(
    bag: Bag, rarity: Float[Tensor, " C"], like: Float[Tensor, "C D"]
) -> Float[Tensor, "C D"]:
    """Of each code the first right singular vectors of the rows' TF-IDF (LSA).

    Codes that stand in the same rows are alike; in the mean they are as long as those given.
    """
    rows, size = min(len(bag.offsets) - 1, _MOST_ROWS), len(like)
    bag = bag.take(torch.linspace(0, len(bag.offsets) - 2, rows).long())
    owners, codes = owners_of(bag.offsets), bag.codes
    places, tf_idf = torch.stack([owners, codes]), rarity.cpu()[codes]
    found = torch.sparse_coo_tensor(
        places, tf_idf, (rows, size), check_invariants=False
    ).coalesce()
    lengths = torch.zeros(rows).index_add_(0, found.indices()[0], found.values().square())
    found.values().div_(lengths.sqrt_().clamp_(min=1e-9)[found.indices()[0]])
    kept = right_singular_vectors(found, like.shape[1], rank=min(rows, size))
    table = torch.zeros_like(like)
    table[:, : kept.shape[1]] = kept.to(table)
    return table * (like.square().mean() / table.square().mean().clamp(min=1e-12)).sqrt()


def _joined(bags: Sequence[Bag]) -> Bag:
    """The rows of several bags one after the other, in memory."""
    lengths = torch.cat([bag.offsets[1:] - bag.offsets[:-1] for bag in bags]).cpu()
    offsets = torch.cat([lengths.new_zeros(1), torch.cumsum(lengths, 0)])
    return Bag(torch.cat([bag.codes for bag in bags]).cpu(), offsets)


def _rows_with_each(bag: Bag, size: int) -> Float[Tensor, " C"]:
    """In how many rows each code occurs."""
    pairs = torch.unique(owners_of(bag.offsets) * size + bag.codes)
    return torch.bincount(pairs % size, minlength=size).float()
