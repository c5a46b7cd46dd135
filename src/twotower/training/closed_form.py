"""A start in closed form: what the interactions' largest singular values say of the items.

With X the interactions, each divided by the roots of its user's and its item's count, and V its
first right singular vectors, items whose vectors are V, multiplied by the roots of their counts
again, and users who are sums of the items they met are a fair recommender: training starts
there, in seconds, instead of at noise (``benchmarks/LOG.md``).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64

from twotower.data.arrays import distinct
from twotower.data.interactions import Interactions
from twotower.model.singular import right_singular_vectors
from twotower.model.two_tower import TwoTower

# Small beside what training adds, as a fresh table's would be.
_SIZE = 0.1
# The vectors say much of an item's popularity too (``benchmarks/LOG.md``).
BIAS = 0.4


def item_table(
    positives: Interactions, *, num_users: int, num_items: int, dim: int
) -> Float[torch.Tensor, "I D"]:
    """Item vectors with a mean square of ``0.1 ** 2``, row 0 included; zeros for items not met.

    A pair met several times counts once. Columns beyond the number of singular values are zero.
    """
    users, items, scaled = scaled_pairs(positives, num_users=num_users, num_items=num_items)
    item_scale = _root_of_counts(items, num_items + 1)
    matrix = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([users, items])),
        torch.from_numpy(scaled),
        (num_users + 1, num_items + 1),
        check_invariants=False,
        is_coalesced=True,
    )
    vectors = right_singular_vectors(matrix, dim, rank=min(num_users, num_items))
    table = torch.zeros(num_items + 1, dim)
    kept = vectors * torch.from_numpy(item_scale)[:, None]
    table[:, : kept.shape[1]] = kept * (_SIZE / kept.square().mean().sqrt().clamp(min=1e-12))
    return table


def scaled_pairs(
    positives: Interactions, *, num_users: int, num_items: int
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"], Float32[np.ndarray, " P"]]:
    """Users, items and values of X: each pair once, by user and item, 1 over both roots."""
    keys = positives.user_rows.astype(np.int64) * (num_items + 1) + positives.item_rows
    users, items = np.divmod(distinct(keys), num_items + 1)
    user_scale = _root_of_counts(users, num_users + 1)
    item_scale = _root_of_counts(items, num_items + 1)
    return users, items, 1 / (user_scale[users] * item_scale[items])


def log_popularity(positives: Interactions, *, num_items: int) -> Float[torch.Tensor, " I"]:
    """The log of each item's count less the mean; 0, as of the average, for items not met."""
    counts = np.bincount(positives.item_rows, minlength=num_items + 1)
    logs = np.log(np.maximum(counts, 1))
    is_met = counts > 0
    average = logs.sum() / max(np.count_nonzero(is_met), 1)
    return torch.from_numpy(np.where(is_met, logs - average, 0.0)).float()


def add_popularity(
    model: TwoTower, positives: Interactions, *, num_items: int, weight: float
) -> None:
    """Add ``weight`` times the log of popularity to the item biases, in place."""
    if model.item_bias is not None and weight:
        added = weight * log_popularity(positives, num_items=num_items)
        model.item_bias.weight.data += added[:, None].to(model.item_bias.weight.device)


def _root_of_counts(rows: np.ndarray, size: int) -> np.ndarray:
    counts = np.maximum(np.bincount(rows, minlength=size), 1)
    roots: np.ndarray = np.sqrt(counts).astype(np.float32)
    return roots
