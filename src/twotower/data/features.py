"""All columns of the users or items table as tensors: the rows that a tower reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from twotower.config import ModelConfig
from twotower.data.encoders import (
    Bagged,
    Coded,
    Dense,
    Encoder,
    Text,
    fit_encoder,
    from_json,
    to_json,
)
from twotower.data.entities import Entities
from twotower.data.plain import all_missing, plain_json
from twotower.data.schema import Column
from twotower.errors import DataError


@dataclass(frozen=True)
class Bag:
    """A list of codes for each of R rows, end to end."""

    codes: Int64[Tensor, " P"]
    offsets: Int64[Tensor, " R1"]

    def take(self, rows: Int64[Tensor, " B"]) -> Bag:
        """The lists of some rows."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        offsets = torch.zeros(len(rows) + 1, dtype=torch.int64, device=rows.device)
        torch.cumsum(lengths, 0, out=offsets[1:])
        within = torch.arange(int(offsets[-1]), device=rows.device)
        shift = torch.repeat_interleave(starts - offsets[:-1], lengths)
        return Bag(self.codes[within + shift], offsets)

    def to(self, device: torch.device) -> Bag:
        """The same on another device."""
        return Bag(self.codes.to(device), self.offsets.to(device))


@dataclass(frozen=True)
class FeatureTable:
    """R rows of features; a batch of rows is a smaller table of the same kind.

    Attributes:
        ids: the code of each row's own id; 0 where training has not met it.
        dense: F numbers a row.
        codes: C categories a row, each column's codes shifted into one table of embeddings.
        bags: lists of categories and texts.
    """

    ids: Int64[Tensor, " R"]
    dense: Float32[Tensor, "R F"]
    codes: Int64[Tensor, "R C"]
    bags: tuple[Bag, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Int64[Tensor, " B"]) -> FeatureTable:
        """Some rows, in the order asked for."""
        bags = tuple(bag.take(rows) for bag in self.bags)
        # index_select does at once what indexing looks into first.
        return FeatureTable(
            self.ids.index_select(0, rows),
            self.dense.index_select(0, rows),
            self.codes.index_select(0, rows),
            bags,
        )

    def to(self, device: torch.device) -> FeatureTable:
        """The same on another device."""
        bags = tuple(bag.to(device) for bag in self.bags)
        return FeatureTable(
            self.ids.to(device), self.dense.to(device), self.codes.to(device), bags
        )


@dataclass(frozen=True)
class FeatureShape:
    """How wide a table's parts are: what a network must know to read it.

    Attributes:
        num_ids: largest id code; code 0 comes on top.
        dense: numbers a row, F.
        categories: sizes of the C category columns.
        bags: size of each bag column, and whether it is text.
    """

    num_ids: int
    dense: int
    categories: tuple[int, ...]
    bags: tuple[tuple[int, bool], ...]


@dataclass(frozen=True)
class Encoders:
    """The fitted encoders of the users or the items, by column, in the table's order."""

    by_column: Mapping[str, tuple[Column, Encoder]]

    def shape(self, num_ids: int) -> FeatureShape:
        """The shape of the tables that ``encode`` makes."""
        every = [encoder for _, encoder in self.by_column.values()]
        return FeatureShape(
            num_ids,
            sum(encoder.width for encoder in every if isinstance(encoder, Dense)),
            tuple(encoder.size for encoder in every if isinstance(encoder, Coded)),
            tuple((e.size, isinstance(e, Text)) for e in every if isinstance(e, Bagged)),
        )

    def encode(self, values: Mapping[str, np.ndarray], ids: np.ndarray) -> FeatureTable:
        """Plain values by column (see ``Entities``) and id codes (R,) -> R rows.

        A column that is not given is missing in every row.
        """
        num_rows = len(ids)
        dense: list[np.ndarray] = [np.empty((num_rows, 0), np.float32)]
        codes: list[np.ndarray] = []
        bags: list[Bag] = []
        shift = 0
        for name, (column, encoder) in self.by_column.items():
            given = values[name] if name in values else all_missing(column, num_rows)
            if isinstance(encoder, Coded):
                codes.append(encoder.encode(given).astype(np.int64) + shift)
                shift += encoder.size
            elif isinstance(encoder, Bagged):
                bags.append(_bag(encoder.encode(given)))
            else:
                dense.append(_numbers(name, encoder, given))
        stacked = np.stack(codes, 1) if codes else np.empty((num_rows, 0), np.int64)
        return FeatureTable(
            torch.from_numpy(np.asarray(ids, np.int64)),
            torch.from_numpy(np.concatenate(dense, 1)),
            torch.from_numpy(stacked),
            tuple(bags),
        )

    def encode_request(self, features: Mapping[str, Any]) -> FeatureTable:
        """One row from a JSON object, exactly as from a table with that one row.

        Raises:
            DataError: a name that is no feature, or a value that its kind can not be.
        """
        values = {}
        for name, value in features.items():
            if name not in self.by_column:
                known = ", ".join(self.by_column) or "none"
                raise DataError(f"unknown feature {name!r}; the features are: {known}")
            values[name] = plain_json(self.by_column[name][0], value)
        return self.encode(values, np.zeros(1, np.int64))

    def to_json(self) -> list[dict[str, Any]]:
        """What ``encoders_from_json`` reads."""
        return to_json(self.by_column)


def encoders_from_json(entries: Sequence[Mapping[str, Any]]) -> Encoders:
    """The encoders that ``Encoders.to_json`` wrote."""
    return Encoders(from_json(entries))


def fit_encoders(entities: Entities, train_rows: np.ndarray, config: ModelConfig) -> Encoders:
    """Fit each column on the users or items that occur in train.

    Args:
        train_rows: their rows, counted from 1.
    """
    fitted = {}
    for name, values in entities.values.items():
        column = entities.columns[name]
        encoder = fit_encoder(column, values[train_rows - 1], config)
        if encoder is not None:
            fitted[name] = (column, encoder)
    return Encoders(fitted)


def encode_entities(encoders: Encoders, entities: Entities, known: np.ndarray) -> FeatureTable:
    """Every row's features, row 0 (nobody: all is missing) included.

    Args:
        known: (N + 1,) whether training has met the row, so that its id means something.
    """
    values = {}
    for name, column_values in entities.values.items():
        if name in encoders.by_column:
            column = encoders.by_column[name][0]
            dimension = column_values.shape[1] if column.kind == "vector" else 0
            nobody = all_missing(column, 1, dimension=dimension)
            values[name] = np.concatenate([nobody, column_values])
    rows = np.arange(len(entities) + 1)
    return encoders.encode(values, np.where(known, rows, 0))


def _numbers(name: str, encoder: Dense, values: np.ndarray) -> np.ndarray:
    try:
        return encoder.encode(values)
    except DataError as error:
        raise DataError(f"column {name!r}: {error}") from None


def _bag(lists: list[list[int]]) -> Bag:
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(codes) for codes in lists], out=offsets[1:])
    flat = np.fromiter((code for codes in lists for code in codes), np.int64, offsets[-1])
    return Bag(torch.from_numpy(flat), torch.from_numpy(offsets))
