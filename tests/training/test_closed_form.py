from __future__ import annotations

import numpy as np
import pytest
import torch

from twotower.data.interactions import Interactions
from twotower.training import closed_form

USERS, ITEMS = 40, 12


def interactions(seed: int = 0, *, repeats: int = 1) -> Interactions:
    """Pairs at random, more of some users and items; each several times."""
    rng = np.random.default_rng(seed)
    eager, liked = rng.random(USERS), rng.random(ITEMS)
    met = rng.random((USERS, ITEMS)) < eager[:, None] * liked
    met[:, 0] |= ~met.any(1)
    users, items = (np.tile(rows + 1, repeats) for rows in met.nonzero())
    labels = np.ones(len(users), np.float32)
    return Interactions(users.astype(np.int32), items.astype(np.int32), labels)


def matrix(positives: Interactions) -> np.ndarray:
    made = np.zeros((USERS + 1, ITEMS + 1))
    made[positives.user_rows, positives.item_rows] = 1
    return made


def ease(interactions: np.ndarray, ridge: float) -> np.ndarray:
    """EASE as its paper has it."""
    inverse = np.linalg.inv(interactions.T @ interactions + ridge * np.eye(ITEMS))
    weights: np.ndarray = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def decomposed(
    positives: Interactions, rank: int = ITEMS, powers: tuple[float, float] = (0.0, 0.0)
) -> closed_form.Spectrum:
    return closed_form.spectrum(
        positives,
        num_users=USERS,
        num_items=ITEMS,
        rank=rank,
        user_power=powers[0],
        item_power=powers[1],
    )


@pytest.mark.parametrize("powers", [(0.0, 0.0), (0.25, 0.25), (0.5, 0.0), (0.0, 0.5)])
@pytest.mark.parametrize("ridge", [0.1, 1.0, 10.0])
def test_with_all_singular_values_two_tables_are_ease(
    powers: tuple[float, float], ridge: float
) -> None:
    positives = interactions()
    found = decomposed(positives, powers=powers)
    in_history, items = found.tables(ridge=ridge, rank=ITEMS)
    ours = (in_history @ items.T)[1:, 1:].numpy()
    met = matrix(positives)[1:, 1:]
    users, columns = met.sum(1) ** -powers[0], np.maximum(met.sum(0), 1) ** -powers[1]
    scaled = met * users[:, None] * columns
    theirs = ease(scaled, ridge * float(found.squares.mean()))
    theirs = columns[:, None] * theirs / columns
    off = ~np.eye(ITEMS, dtype=bool)
    factor = (ours[off] * theirs[off]).sum() / (theirs[off] ** 2).sum()
    np.testing.assert_allclose(ours[off], factor * theirs[off], atol=2e-3 * factor)
    assert factor > 0


def test_a_pair_met_again_counts_once() -> None:
    once, thrice = decomposed(interactions()), decomposed(interactions(repeats=3))
    torch.testing.assert_close(once.squares, thrice.squares)


def test_the_unknown_item_and_one_never_met_have_vectors_of_zeros() -> None:
    positives = interactions()
    positives = positives.take(positives.item_rows != 5)
    for table in decomposed(positives).tables(ridge=1.0, rank=4):
        assert table.shape == (ITEMS + 1, 4)
        torch.testing.assert_close(table[[0, 5]], torch.zeros(2, 4), atol=1e-5, rtol=0)
        assert table.square().mean().item() == pytest.approx(1.0)


def test_a_rank_beyond_the_data_is_as_much_as_there_is() -> None:
    assert len(decomposed(interactions(), rank=500).squares) == ITEMS


def test_the_same_data_gives_the_same_tables_and_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(4)
    wanted = torch.rand(3)
    torch.manual_seed(4)
    one, other = decomposed(interactions(), rank=3), decomposed(interactions(), rank=3)
    assert torch.equal(torch.rand(3), wanted)
    assert torch.equal(one.vectors, other.vectors)


def test_the_start_that_scores_highest_is_chosen() -> None:
    positives, seen = interactions(), []

    def score(tables: tuple[torch.Tensor, torch.Tensor]) -> float:
        seen.append(tables)
        return float(len(seen) == 7)

    sizes = {"num_users": USERS, "num_items": ITEMS, "rank": 8}
    chosen, _ = closed_form.choose(positives, score, **sizes)
    found = decomposed(positives, 8, (chosen.user_power, chosen.item_power))
    made = found.tables(ridge=chosen.ridge, rank=chosen.rank)
    assert torch.equal(made[0], seen[6][0])
    assert torch.equal(made[1], seen[6][1])
    # Once it has the powers and the ridge, it tries other ranks.
    assert len(seen) == closed_form.TRIALS
