"""Popularity has the unit of scores, and keeps it while items come and go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from twotower.retrieval.recommender import Recommender
from worlds import NUM_ITEMS, trained


def plain(recommender: Recommender) -> np.ndarray:
    """As it is described, by making all scores."""
    items = recommender.item_vectors[1:].double()
    scores = recommender.user_vectors[1:].double() @ items.T
    spread = float(scores.std(1, correction=0).mean())
    counts = np.bincount(recommender.liked.items, minlength=len(items) + 1)[1:]
    known = np.log1p(counts)
    values: np.ndarray = (known - known.mean()) / known.std() * spread
    return values


def test_it_is_as_spread_out_as_the_scores_of_a_user() -> None:
    recommender = trained()
    np.testing.assert_allclose(recommender.popularity[1:], plain(recommender), rtol=1e-4)
    assert recommender.popularity[0] == 0


def test_after_many_changes_all_is_as_if_found_out_anew() -> None:
    changed = trained()
    for number in range(30):
        table = {
            "item_id": [900 + number % 20, 500 + number],
            "genre": ["folk", "jazz"],
            "year": [1960 + number, 1990],
        }
        changed = changed.add_items(_frame(table)).remove_items([530 + number % 10])
    anew = replace(changed)
    assert "popularity" not in vars(anew)
    assert len(changed.items) == NUM_ITEMS + 20
    np.testing.assert_allclose(changed.popularity[1:], plain(changed), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(changed.popularity, anew.popularity, rtol=1e-3, atol=1e-4)
    assert torch.equal(changed.item_ids, anew.item_ids)
    assert torch.equal(changed.is_candidate, anew.is_candidate)
    assert changed.num_candidates == NUM_ITEMS + 20 - len(changed.removed)
    np.testing.assert_array_equal(changed.user_has_features, anew.user_has_features)
    where = {"genre": "folk"}
    found = [each.catalogue.fulfilling(where) for each in (changed, anew)]
    np.testing.assert_array_equal(*found)


def _frame(table: dict[str, list[object]]) -> object:
    import polars

    return polars.DataFrame(table)
