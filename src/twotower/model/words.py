"""Words as the ids of what has none: embeddings that go around the layers.

Whom training never met shares words with whom it met. So where neither id nor history tells,
each word of a text and each value of a long list has an embedding of the length of the towers'
own, and a row is their sum: two rows are alike at once when they share rare words, which is the
cosine of TF-IDF up to chance, and training goes on from there. Texts of users and of items read
one table, so that a query finds the titles that have its words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twotower.data.encoders import FIRST
from twotower.data.features import Bag, FeatureShape, FeatureTable
from twotower.model.history import owners_of

Side = Literal["user", "item"]
# A list of fewer different values is a few categories, which the layers combine.
_MANY = 1000
_TEXTS = "text"


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
    def weigh(self, met: Mapping[Side, FeatureTable]) -> None:
        """Make each word as long as it is rare, in place: by the log of rows a row with it.

        Args:
            met: the rows of each side that training shows.
        """
        for name, table in self.tables.items():
            bags = [
                met[side].bags[number]
                for side, columns in self.columns.items()
                for number, read in columns.items()
                if read == name
            ]
            assert isinstance(table, nn.EmbeddingBag)
            rows = sum(len(bag.offsets) - 1 for bag in bags)
            with_it = sum(_rows_with_each(bag, len(table.weight)) for bag in bags)
            rarity = torch.log((rows + 1) / (with_it + torch.ones(len(table.weight))))
            rarity[:FIRST] = 0.0
            table.weight.mul_((rarity / rarity[FIRST:].mean()).to(table.weight)[:, None])


def _table(size: int, dim: int) -> nn.EmbeddingBag:
    table = nn.EmbeddingBag(size, dim, mode="sum")
    nn.init.normal_(table.weight, std=dim**-0.5)
    return table


def _rows_with_each(bag: Bag, size: int) -> Float[Tensor, " C"]:
    """In how many rows each code occurs."""
    pairs = torch.unique(owners_of(bag.offsets.cpu()) * size + bag.codes.cpu())
    return torch.bincount(pairs % size, minlength=size).float()
