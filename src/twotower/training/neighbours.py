"""Which items the same users like: what few interactions say of an item, others say too."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from twotower.config import Config
from twotower.data.interactions import Interactions
from twotower.model.features import Neighbours
from twotower.training.closed_form import scaled_pairs

# Of more rows every other user, or every third, says as much.
_MOST_ROWS = 2**24


def neighbours_of(
    positives: Interactions, *, num_users: int, num_items: int, count: int
) -> Neighbours:
    """Of each item the ``count`` nearest others, by the cosine of who likes them.

    A user counts the less the more they like. Weights add up to 1; of an item that nobody likes
    together with another they are 0.
    """
    from implicit.nearest_neighbours import all_pairs_knn

    if step := len(positives) // _MOST_ROWS:
        positives = positives.take(positives.user_rows % (step + 1) == 0)
    users, items, scaled = scaled_pairs(positives, num_users=num_users, num_items=num_items)
    shape = num_users + 1, num_items + 1
    liked = sparse.csr_matrix((scaled.astype(np.float64), (users, items)), shape)
    # An item is among its own nearest.
    threads = torch.get_num_threads()
    near = all_pairs_knn(liked, count + 1, show_progress=False, num_threads=threads)
    near = near.tocoo()
    kept = near.row != near.col
    rows, columns, values = near.row[kept], near.col[kept], near.data[kept]
    order = np.lexsort((columns, -values, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    places = np.arange(len(rows)) - np.searchsorted(rows, rows)
    first = places < count
    ids = np.zeros((num_items + 1, count), np.int64)
    weights = np.zeros((num_items + 1, count), np.float32)
    ids[rows[first], places[first]] = columns[first]
    weights[rows[first], places[first]] = values[first]
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-12)
    return Neighbours(torch.from_numpy(ids), torch.from_numpy(weights))


def step_reads_most(config: Config, num_items: int) -> bool:
    """Whether a step's items and their neighbours are as many as there are.

    Counted as often as they come: so it reads about half of all, or more.
    """
    training, count = config.training, config.model.item_neighbours
    assert count != "auto"
    assert training.batch_size != "auto"
    assert training.negatives != "auto"
    drawn = training.batch_size + training.negatives
    return count > 0 and drawn * (count + 1) >= num_items
