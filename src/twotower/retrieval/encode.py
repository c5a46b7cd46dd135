"""Rows -> vectors, in blocks of bounded memory: the towers outside of training; their file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from safetensors.torch import save_file
from torch import Tensor

from twotower.data.features import FeatureTable
from twotower.data.interactions import Histories
from twotower.errors import TwoTowerError
from twotower.model.history import PackedHistory
from twotower.model.two_tower import TwoTower

_BLOCK_ROWS = 8192
# Items of the histories of a block.
_BLOCK_ITEMS = 2**18
_ALIGNMENT = 64


def item_vectors(model: TwoTower, items: FeatureTable) -> Float32[Tensor, "I D"]:
    """The vectors of all rows of a table, bias behind; on the model's device."""
    with torch.inference_mode():
        blocks = []
        for rows in _blocks(len(items)):
            part = items.take(rows.to(items.ids.device))
            blocks.append(model.item_vectors(model.encode_items(part), part))
        return torch.cat(blocks)


def user_vectors(
    model: TwoTower,
    users: FeatureTable,
    rows: np.ndarray,
    liked: Histories,
    items: Float32[Tensor, "I D1"],
    item_ids: Int64[Tensor, " I"],
) -> Float32[Tensor, "B D1"]:
    """The vectors of some users from their features and histories; on the model's device.

    Args:
        rows: of ``users`` and of ``liked`` alike.
        liked: histories, already cut to the length that the model reads.
        items: what ``item_vectors`` gave.
        item_ids: of each of those items the id that training gave it, or 0.
    """
    device = users.ids.device
    with torch.inference_mode():
        blocks = [torch.empty((0, items.shape[1]), device=device)]
        embeddings = items[:, :-1]
        for chosen in _bounded(rows, liked):
            packed = None
            if model.history is not None:
                packed = PackedHistory.of(liked, chosen, embeddings, item_ids)
            table = users.take(torch.from_numpy(np.asarray(chosen, np.int64)).to(device))
            blocks.append(model.user_vectors(model.encode_users(table, packed)))
        return torch.cat(blocks)


def _bounded(rows: np.ndarray, liked: Histories) -> Iterator[np.ndarray]:
    """Rows in blocks whose histories together are not long, but for one that is alone."""
    sizes = np.cumsum(liked.lengths()[rows] + _BLOCK_ITEMS // _BLOCK_ROWS)
    yield from np.split(rows, np.flatnonzero(np.diff(sizes // _BLOCK_ITEMS)) + 1)


def _blocks(count: int) -> Iterator[Tensor]:
    for start in range(0, count, _BLOCK_ROWS):
        yield torch.arange(start, min(start + _BLOCK_ROWS, count))


def require_finite(*vectors: Tensor) -> None:
    """Vectors are numbers; a training that ran away makes ones that are not.

    Raises:
        TwoTowerError: they are not finite.
    """
    if not all(bool(torch.isfinite(each).all()) for each in vectors):
        raise TwoTowerError(
            "training: the embeddings are no finite numbers any more; lower "
            "training.learning_rate or look for extreme numbers in the features"
        )


def save_aligned(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A file whose first tensor begins at a multiple of 64 bytes, as tensors made in memory do.

    On some processors the product with one query rounds by where a matrix begins, and what
    was saved, mapped from its file, would no longer score to the last bit as before.
    """
    save_file(dict(tensors), path, {"padding": ""})
    with path.open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    if header % _ALIGNMENT:
        save_file(dict(tensors), path, {"padding": " " * (-header % _ALIGNMENT)})
