"""A ``FeatureTable``'s columns -> one vector a row, and the embedding of its id."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from twotower.config import ModelConfig
from twotower.data.encoders import FIRST
from twotower.data.features import FeatureShape, FeatureTable

# A table of features of so few numbers moves as a whole sooner than its rows are sorted.
_SMALL = 2**16


@dataclass(frozen=True)
class Neighbours:
    """Of each of N ids K others, and what each counts beside it."""

    ids: Int64[Tensor, "N K"]
    weights: Float[Tensor, "N K"]

    def to(self, device: torch.device) -> Neighbours:
        """The same on another device."""
        return Neighbours(self.ids.to(device), self.weights.to(device))


class FeatureLayer(nn.Module):
    """Numbers as they are, embeddings of categories, means of bags; and embeddings of ids.

    Attributes:
        dim: length of an id's embedding, D.
        width: how many numbers the features of a row become, W.
        bag_numbers: which of the bag columns it reads.
        neighbours: of ids that learn together; None for each alone.

    Args:
        shape: of the tables it will read.
        ids: whether a row's own id has an embedding.
        sparse: whether large tables' gradients hold only the rows of the batch.
        without: numbers of bag columns that are read elsewhere (see ``Words``).
    """

    def __init__(
        self,
        shape: FeatureShape,
        config: ModelConfig,
        *,
        ids: bool,
        sparse: bool,
        without: Collection[int] = (),
    ) -> None:
        super().__init__()
        self.dim = config.dim
        self.neighbours: Neighbours | None = None
        self.bag_numbers = [n for n in range(len(shape.bags)) if n not in without]
        self.id_table = None
        if ids:
            self.id_table = _table(shape.num_ids + 1, config.dim, sparse, untrained=1)
        num_codes = sum(shape.categories)
        self.code_table = None
        if num_codes:
            is_sparse = sparse and num_codes * config.category_dim > _SMALL
            self.code_table = _table(num_codes, config.category_dim, is_sparse)
        self.bag_tables = nn.ModuleList()
        for size, is_text in (shape.bags[number] for number in self.bag_numbers):
            width = config.text_dim if is_text else config.category_dim
            self.bag_tables.append(_bag_table(size, width, sparse and size * width > _SMALL))
        self.width = (
            shape.dense
            + len(shape.categories) * config.category_dim
            + sum(table.embedding_dim for table in self.bag_tables)  # type: ignore[misc]
        )

    def feature_tables(self) -> list[nn.Parameter]:
        """The tables of categories, lists and texts: all but that of ids."""
        named = self.named_parameters()
        return [weight for name, weight in named if not name.startswith("id_table.")]

    def forward(self, table: FeatureTable) -> Float[Tensor, "R W"]:
        """Rows -> vectors of their features."""
        parts = [table.dense]
        if self.code_table is not None:
            parts.append(self.code_table(table.codes).flatten(1))
        for layer, number in zip(self.bag_tables, self.bag_numbers, strict=True):
            bag = table.bags[number]
            parts.append(layer(bag.codes, bag.offsets[:-1]))
        filled = [part for part in parts if part.shape[1]]
        return torch.cat(filled, 1) if len(filled) > 1 else (filled or parts)[0]

    def of_ids(self, ids: Int64[Tensor, " R"]) -> Float[Tensor, "R D"]:
        """What the table has of some ids, and of their neighbours."""
        assert self.id_table is not None
        if self.neighbours is None:
            own: Tensor = self.id_table(ids)
            return own
        near = self.neighbours.ids.index_select(0, ids)
        weights = self.neighbours.weights.index_select(0, ids)
        return functional.embedding_bag(
            torch.cat([ids[:, None], near], 1),
            self.id_table.weight,
            mode="sum",
            per_sample_weights=torch.cat([torch.ones_like(weights[:, :1]), weights], 1),
            sparse=self.id_table.sparse,
        )

    @torch.no_grad()
    def settle(self) -> None:
        """Let the table alone say what it says with the neighbours, who are forgotten."""
        if self.id_table is not None and self.neighbours is not None:
            every = torch.arange(len(self.id_table.weight), device=self.id_table.weight.device)
            self.id_table.weight.copy_(self.of_ids(every))
            self.neighbours = None


def _table(num_rows: int, width: int, sparse: bool, untrained: int = 0) -> nn.Embedding:
    table = nn.Embedding(num_rows, width, sparse=sparse)
    nn.init.normal_(table.weight, std=width**-0.5)
    with torch.no_grad():
        # The unknown says nothing until training teaches it something.
        table.weight[:untrained] = 0.0
    return table


def _bag_table(num_rows: int, width: int, sparse: bool) -> nn.EmbeddingBag:
    table = nn.EmbeddingBag(num_rows, width, mode="mean", sparse=sparse)
    nn.init.normal_(table.weight, std=width**-0.5)
    with torch.no_grad():
        table.weight[:FIRST] = 0.0
    return table
