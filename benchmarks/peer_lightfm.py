"""LightFM with its WARP loss (Kula, 2015), as a contestant of ``benchmarks.published``.

Its embeddings have 64 dimensions and its other settings are its own; epochs are chosen on
validation, and then it learns all of train. One thread, so that a seed gives the same figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from scipy.sparse import coo_matrix

from twotower.data.interactions import Interactions
from twotower.evaluation.rankers import Factors, Ranker

DIM, PATIENCE = 64, 10
MOST_EPOCHS = 200


def warp(
    train: Interactions,
    known: Interactions,
    score: Callable[[Ranker], float],
    *,
    num_users: int,
    num_items: int,
    budget_seconds: float,
    seed: int,
) -> tuple[Factors, int]:
    """Fitted on all that is known for as many epochs as ``score`` liked best after train alone.

    Args:
        num_users, num_items: rows, row 0 included.

    Returns:
        It, its seconds those of both, and the epochs.
    """
    from lightfm import LightFM

    def matrix(met: Interactions) -> coo_matrix:
        shape = (num_users, num_items)
        return coo_matrix(
            (np.ones(len(met), np.float32), (met.user_rows, met.item_rows)), shape
        )

    def ranker_of(model: LightFM, seconds: float) -> Factors:
        # A user's bias moves all of the user's scores alike.
        users = np.column_stack([model.user_embeddings, np.ones(num_users)])
        items = np.column_stack([model.item_embeddings, model.item_biases])
        floats = (users.astype(np.float32), items.astype(np.float32))
        return Factors("lightfm_warp", *floats, {"dim": DIM}, seconds)

    started = time.perf_counter()
    model, rows = LightFM(no_components=DIM, loss="warp", random_state=seed), matrix(train)
    best, epochs = -1.0, 0
    for epoch in range(1, MOST_EPOCHS + 1):
        model.fit_partial(rows)
        value = score(ranker_of(model, 0.0))
        if value > best:
            best, epochs = value, epoch
        is_late = time.perf_counter() - started > budget_seconds
        if is_late or epoch - epochs >= PATIENCE:
            break
    model = LightFM(no_components=DIM, loss="warp", random_state=seed)
    model.fit(matrix(known), epochs=epochs)
    return ranker_of(model, time.perf_counter() - started), epochs
