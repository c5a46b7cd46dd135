"""Items that came after training: a recommender that knows them too, by their features."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from twotower.data.entities import read_plain
from twotower.data.ids import Ids
from twotower.errors import DataError
from twotower.retrieval.changes import ItemRecords, with_values
from twotower.retrieval.encode import item_vectors
from twotower.retrieval.popularity import moments_of

if TYPE_CHECKING:
    from twotower.retrieval.recommender import Recommender


def with_items(recommender: Recommender, table: Any) -> Recommender:
    """What ``Recommender.add_items`` gives."""
    if not recommender.item_encoders.by_column:
        raise DataError(
            "add_items: this model knows items by their ids alone, so it can not judge new "
            "ones; train with an items table that has features"
        )
    ids, values = _read(recommender, table)
    if not values.keys() & recommender.item_encoders.by_column.keys():
        known = ", ".join(recommender.item_encoders.by_column)
        nothing = "items: none of their columns is a feature with a value"
        raise DataError(f"{nothing}; the features are: {known}")
    rows = recommender.items.rows(ids)
    fresh = rows == 0
    codes = np.where(recommender.has_own_id[rows], rows, 0)
    encoded = recommender.item_encoders.encode(values, codes)
    vectors = item_vectors(recommender.model, encoded)
    old = torch.from_numpy(rows[~fresh])
    whole = torch.cat([recommender.item_vectors, vectors[torch.from_numpy(fresh)]])
    whole[old] = vectors[torch.from_numpy(~fresh)]
    put = np.append(rows[~fresh] - 1, len(recommender.items) + np.arange(fresh.sum()))
    changed = replace(
        recommender,
        items=Ids(
            recommender.items.column, np.concatenate([recommender.items.values, ids[fresh]])
        ),
        item_vectors=whole,
        has_own_id=np.concatenate([recommender.has_own_id, np.zeros(fresh.sum(), bool)]),
        item_values=with_values(recommender.item_values, values, rows, fresh),
        removed=recommender.removed - set(rows.tolist()),
        approximate=recommender.approximate
        and recommender.approximate.with_changed(put, whole[1:]),
    )
    # What all items or users were gone through for is not found out again.
    moments = (
        recommender._moments + moments_of(vectors) - moments_of(recommender.item_vectors[old])
    )
    vars(changed).update(_moments=moments, user_has_features=recommender.user_has_features)
    # Only who answers requests has it.
    if coarse := vars(recommender).get("coarse"):
        positions = torch.from_numpy(put)
        vars(changed)["coarse"] = coarse.with_changed(positions, whole[1:][positions])
    return changed


def _read(recommender: Recommender, source: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    features = {
        name: column for name, (column, _) in recommender.item_encoders.by_column.items()
    }
    shown = {name: each.column for name, each in recommender.catalogue.columns.items()}
    columns = {**shown, **features}
    if isinstance(source, ItemRecords):
        return source.read(recommender.items, columns)
    return read_plain(
        source, "items", recommender.items.column, columns, recommender.items.are_numbers
    )
