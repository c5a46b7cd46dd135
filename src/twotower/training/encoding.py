"""A batch of row numbers -> embeddings of its users and of all items it needs, each once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from twotower.data.features import FeatureTable
from twotower.data.interactions import Histories, offsets_of
from twotower.model.history import PackedHistory
from twotower.model.two_tower import TwoTower
from twotower.training.batches import PairBatch, UserBatch
from twotower.training.described import Described
from twotower.training.stages import stage


@dataclass(frozen=True)
class Encoded:
    """R liked items, the users who ask for them, and whatever else is compared with them.

    Attributes:
        users: embeddings or, where it says so, vectors, of Q askers.
        askers: of each row the user who asks for it.
        items: like users, of M items.
        numbers: rows of the M items, ascending.
        table: their features.
        liked: of each row's item the place among the M.
    """

    users: Float[Tensor, "Q D"]
    askers: Int64[Tensor, " R"]
    items: Float[Tensor, "M D"]
    numbers: Int64[np.ndarray, " M"]
    table: FeatureTable
    liked: Int64[Tensor, " R"]

    def users_of_rows(self) -> Float[Tensor, "R D"]:
        """Of each row the user who asks for it."""
        # index_select adds its gradients up several times faster than indexing does.
        return self.users.index_select(0, self.askers)

    def places(self, item_rows: np.ndarray) -> Tensor:
        """Where some items stand among the M."""
        found = np.searchsorted(self.numbers, item_rows)
        return torch.from_numpy(found).to(self.items.device)


def whole_users(
    model: TwoTower,
    users: FeatureTable,
    items: FeatureTable,
    batch: UserBatch,
    numbers: Int64[np.ndarray, " M"],
    described: Described | None = None,
) -> Encoded:
    """Vectors: a user for each part of the user's items, from the rest of them.

    Args:
        numbers: rows of all items that are needed, ascending, the batch's own among them.
        described: what features say of exactly those, where that is known.
    """
    device = users.ids.device
    with stage("gather"):
        table = described.table if described else _taken(items, numbers)
        table = model.hide_item_ids(table)
        people = model.hide_user_ids(_taken(users, batch.user_rows))
        liked = torch.from_numpy(np.searchsorted(numbers, batch.items)).to(device)
        offsets = torch.from_numpy(batch.offsets).to(device)
    with stage("towers"):
        embeddings = model.encode_items(table, described.by(model) if described else None)
        vectors = model.item_vectors(embeddings, table)
        history = PackedHistory(liked, offsets, embeddings, table.ids)
        found, parts = model.encode_users_for_parts(people, history)
        asking = model.user_vectors(found)
    return Encoded(asking, parts.part, vectors, numbers, table, liked)


def pairs(
    model: TwoTower,
    users: FeatureTable,
    items: FeatureTable,
    batch: PairBatch,
    others: Int64[np.ndarray, " N"],
    liked: Histories,
    history_length: int,
    described: Described | None = None,
) -> Encoded:
    """Embeddings: a user for each row, from what was liked before and is not the row's item;
    without histories, each user once.

    Args:
        others: rows of what is needed beside the batch's own items.
        described: what features say of all items, where that is known.
    """
    device = users.ids.device
    with stage("gather"):
        past, counts = np.empty(0, np.int64), np.zeros(len(batch), np.int64)
        if model.history is not None:
            past, counts = past_of(liked, batch, history_length)
        needed = np.concatenate([batch.item_rows, others, past])
        of_features = described.by(model) if described else None
        if described and not model.has_item_ids:
            numbers, inverse, table = described.rows, needed, described.table
        else:
            # Each item of the batch goes through the tower once, however often it occurs.
            numbers, inverse = np.unique(needed, return_inverse=True)
            table = model.hide_item_ids(_taken(items, numbers))
            if of_features is not None:
                of_features = of_features.index_select(0, torch.from_numpy(numbers).to(device))
        place = torch.from_numpy(inverse.astype(np.int64)).to(device)
        asking, askers = batch.user_rows, np.arange(len(batch))
        if model.history is None:
            asking, askers = _each_once(asking)
        people = _taken(users, asking)
    with stage("towers"):
        embeddings = model.encode_items(table, of_features)
        shown = None
        if model.history is not None:
            offsets = torch.from_numpy(offsets_of(counts)).to(device)
            read = place[len(place) - len(past) :]
            packed = PackedHistory(read, offsets, embeddings, table.ids)
            shown = packed.only(model.is_shown(packed))
        found = model.encode_users(model.hide_user_ids(people), shown)
    of_rows = torch.from_numpy(askers).to(device)
    return Encoded(found, of_rows, embeddings, numbers, table, place[: len(batch)])


def _each_once(
    rows: Int64[np.ndarray, " N"],
) -> tuple[Int64[np.ndarray, " M"], Int64[np.ndarray, " N"]]:
    """Some rows, each once, and where each of the given stands among them.

    One that occurs again behind others may be there twice: that is less work than to sort.
    """
    begins = np.empty(len(rows), bool)
    begins[:1] = True
    np.not_equal(rows[1:], rows[:-1], out=begins[1:])
    if 2 * np.count_nonzero(begins) > len(rows):
        return np.unique(rows, return_inverse=True)
    return rows[begins], np.cumsum(begins) - 1


def _taken(table: FeatureTable, rows: Int64[np.ndarray, " N"]) -> FeatureTable:
    return table.take(torch.from_numpy(rows).to(table.ids.device))


def past_of(
    liked: Histories, batch: PairBatch, history_length: int
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " B"]]:
    """Each row's history: the last items that the user liked, never the row's own."""
    places, owners = liked.places(batch.user_rows)
    items = liked.items[places].astype(np.int64)
    kept = items != batch.item_rows[owners]
    if liked.times is not None and batch.times is not None:
        # Nothing later leaks into what was known then.
        kept &= liked.times[places] < batch.times[owners]
    items, owners = items[kept], owners[kept]
    counts = np.bincount(owners, minlength=len(batch))
    from_last = np.repeat(np.cumsum(counts), counts) - np.arange(len(items))
    recent = from_last <= history_length
    return items[recent], np.minimum(counts, history_length)
