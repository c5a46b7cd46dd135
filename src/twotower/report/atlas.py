"""The map of the items: where each lies, what it is, and by what it can be coloured."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from twotower.data.arrays import counts_of
from twotower.report.colours import colourings, rounded
from twotower.report.layout import lay_out, neighbours_kept
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.words import items_in_words, timestamps

# More points than this hide one another, and take long to place and to load.
MOST_POINTS = 20_000


def atlas(recommender: Recommender, *, most: int = MOST_POINTS) -> dict[str, Any] | None:
    """All that the page's map needs, in JSON's types; None where there is no item.

    Returns:
        An entry an item: ``x``, ``y``, ``ids``, ``about`` (in words), ``met`` (how often).
        Beside these ``colourings``, the first to be shown first; ``num_items`` that there are;
        and ``kept``, the share of nearest neighbours that are neighbours on the map.
    """
    rows = 1 + np.flatnonzero(recommender.is_candidate.numpy())
    if not len(rows):
        return None
    seed = recommender.config.training.seed
    shown = rows
    if len(rows) > most:
        shown = np.random.default_rng([seed, 9]).permutation(rows)[:most]
    vectors = recommender.item_vectors[torch.from_numpy(shown), :-1].clone()
    places = lay_out(vectors, seed=seed)
    met = counts_of(recommender.seen.items, len(recommender.items) + 1)[shown]
    values = {name: column[shown - 1] for name, column in recommender.item_values.items()}
    times = timestamps(recommender.item_encoders)
    return {
        "x": rounded(places[:, 0].tolist()),
        "y": rounded(places[:, 1].tolist()),
        "ids": [str(each) for each in recommender.items.of(shown).tolist()],
        "about": items_in_words(recommender, shown),
        "met": met.tolist(),
        "colourings": list(colourings(values, times, met)),
        "num_items": len(rows),
        "kept": neighbours_kept(vectors, places),
    }
