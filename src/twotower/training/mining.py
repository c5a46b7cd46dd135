"""Hard negatives: what the towers as they are now would recommend, and nobody liked.

They are looked up once at the beginning of an epoch, by the weights that the epoch before left
behind, so a training that goes on from a checkpoint finds the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int32, Int64

from twotower.data.features import FeatureTable
from twotower.data.interactions import Histories
from twotower.model.two_tower import TwoTower
from twotower.retrieval.encode import item_vectors, user_vectors
from twotower.retrieval.index import ExactIndex


def mine(
    model: TwoTower,
    users: FeatureTable,
    items: FeatureTable,
    liked: Histories,
    met: np.ndarray,
    ranks: tuple[int, int],
    *,
    history_length: int,
) -> Int32[np.ndarray, "U1 W"]:
    """Of each user the items at ranks ``ranks[0]`` to ``ranks[1]`` of those not liked.

    The first rank is 1, and the last is among them. The very first are too often liked in
    truth, by somebody who never met them (Huang et al., KDD 2020, mine from rank 101 on).

    Returns:
        Item rows, best first, 0 behind them where fewer are left; zeros for who liked nothing.
    """
    model.eval()
    first, last = ranks
    rows = np.flatnonzero(liked.lengths())
    vectors = item_vectors(model, items)
    queries = user_vectors(model, users, rows, liked.latest(history_length), vectors, items.ids)
    index = ExactIndex(vectors.cpu()[torch.from_numpy(met)])
    seen, owners = liked.pack(rows)
    found, _ = index.search(
        queries.cpu(),
        last,
        excluded_items=torch.from_numpy(np.searchsorted(met, seen)),
        excluded_owners=torch.from_numpy(owners),
    )
    # Place -1, where nothing is left, is row 0 behind all others.
    row_of = np.append(met, 0).astype(np.int32)
    windows = np.zeros((liked.num_users + 1, last - first + 1), np.int32)
    window = row_of[found[:, first - 1 :].numpy()]
    windows[rows, : window.shape[1]] = window
    return windows


@dataclass(frozen=True)
class Hard:
    """Hard negatives of R rows.

    Attributes:
        items: H of each row, drawn from its window with repeats; 0 where there is none.
        windows: of each row all that could be drawn; zeros behind.
    """

    items: Int64[np.ndarray, "R H"]
    windows: Int32[np.ndarray, "R W"]


def draw(windows: Int32[np.ndarray, "R W"], count: int, rng: np.random.Generator) -> Hard:
    """``count`` of each row's window."""
    lengths = (windows > 0).sum(axis=1)
    places = (rng.random((len(windows), count)) * lengths[:, None]).astype(np.int64)
    return Hard(np.take_along_axis(windows, places, axis=1).astype(np.int64), windows)
