"""The start against a full decomposition by NumPy."""

from __future__ import annotations

import numpy as np
import torch

from twotower.data.interactions import Interactions
from twotower.training.closed_form import item_table, log_popularity

USERS, ITEMS = 60, 20


def interactions(repeats: int = 1) -> Interactions:
    """Users like items near their own number; some items are popular."""
    rng = np.random.default_rng(0)
    users, items = np.indices((USERS, ITEMS)).reshape(2, -1) + 1
    near = np.abs(users % ITEMS - items) < 4
    is_met = (near & (rng.random(len(users)) < 0.7)) | (
        rng.random(len(users)) < 4 / (items + 30)
    )
    users, items = np.tile(users[is_met], repeats), np.tile(items[is_met], repeats)
    ones = np.ones(len(users), np.float32)
    return Interactions(users.astype(np.int32), items.astype(np.int32), ones)


def table(positives: Interactions, dim: int = 8) -> torch.Tensor:
    return item_table(positives, num_users=USERS, num_items=ITEMS, dim=dim)


def test_items_lie_as_a_full_decomposition_of_the_scaled_matrix_says() -> None:
    positives, dim = interactions(), 6
    met = np.zeros((USERS + 1, ITEMS + 1))
    met[positives.user_rows, positives.item_rows] = 1
    roots = [np.sqrt(met.sum(axis).clip(min=1)) for axis in (1, 0)]
    _, _, right = np.linalg.svd(met / roots[0][:, None] / roots[1])
    expected = right[:dim].T * roots[1][:, None]
    made = table(positives, dim).double().numpy()
    # Singular vectors may be turned around; their inner products may not.
    products = made @ made.T
    wanted = expected @ expected.T
    scale = (products * wanted).sum() / (wanted * wanted).sum()
    np.testing.assert_allclose(products, scale * wanted, atol=1e-4)
    assert np.isclose(np.sqrt((made**2).mean()), 0.1, rtol=1e-3)


def test_a_pair_that_is_met_again_counts_once() -> None:
    torch.testing.assert_close(table(interactions()), table(interactions(repeats=3)))


def test_the_unknown_item_and_one_never_met_have_vectors_of_zeros() -> None:
    positives = interactions()
    positives = positives.take(positives.item_rows != 5)
    assert table(positives)[[0, 5]].abs().max() < 1e-5


def test_numbers_beyond_the_data_are_zero() -> None:
    made = table(interactions(), 500)
    assert made.shape == (ITEMS + 1, 500)
    assert not made[:, ITEMS:].any()
    assert made[1:, :ITEMS].any()


def test_the_same_data_gives_the_same_table_and_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(4)
    wanted = torch.rand(3)
    torch.manual_seed(4)
    one, other = table(interactions()), table(interactions())
    assert torch.equal(torch.rand(3), wanted)
    assert torch.equal(one, other)


def test_what_was_not_met_is_as_popular_as_the_average() -> None:
    positives = interactions()
    positives = positives.take(positives.item_rows != 5)
    logs = log_popularity(positives, num_items=ITEMS).numpy()
    counts = np.bincount(positives.item_rows, minlength=ITEMS + 1)
    met = counts > 0
    assert abs(logs[met].mean()) < 1e-6
    assert logs[0] == logs[5] == 0
    np.testing.assert_allclose(np.diff(logs[met]), np.diff(np.log(counts[met])), atol=1e-6)
