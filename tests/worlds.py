"""Small worlds with a known answer, and recommenders trained on them; each is made once."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from twotower import pipeline
from twotower.config import Config, parse_config
from twotower.retrieval.recommender import Recommender

GENRES = ("jazz", "punk", "folk", "funk")
NUM_USERS, NUM_ITEMS = 120, 48
SMALL: dict[str, dict[str, Any]] = {
    "model": {
        "embedding_dim": 16,
        "user_hidden_dims": [16],
        "item_hidden_dims": [16],
        "id_dropout": 0.3,
    },
    "training": {
        "learning_rate": 0.01,
        "batch_size": 32,
        "epochs": 60,
        "early_stopping_patience": 20,
    },
    "data": {"split": "random_per_user"},
    "evaluation": {"baselines": ["popularity"], "bootstrap": 20, "k": [10, 20]},
}


def checkerboard(
    *, liked: int = 8, disliked: int = 0, text_ids: bool = False, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Users and items of four genres; a user likes what is of the own one and nothing else.

    User n has id 100 + n and genre n % 4; item n has id 500 + n and genre n % 4. Each user met
    ``liked`` of the twelve items that there are to like, and ``disliked`` others.
    """
    rng = np.random.default_rng(seed)
    users, items, labels = [], [], []
    every = np.arange(NUM_ITEMS)
    for user in range(NUM_USERS):
        own = every[every % 4 == user % 4]
        other = every[every % 4 != user % 4]
        met = [*rng.choice(own, liked, replace=False)]
        met += [*rng.choice(other, disliked, replace=False)]
        users += [user] * len(met)
        items += met
        labels += [1] * liked + [0] * disliked
    name = (lambda what, n: f"{what}{n}") if text_ids else (lambda _, n: int(n))
    interactions: dict[str, Any] = {
        "user_id": [name("u", 100 + user) for user in users],
        "item_id": [name("i", 500 + item) for item in items],
    }
    if disliked:
        interactions["label"] = labels
    return {
        "users": {
            "user_id": [name("u", 100 + n) for n in range(NUM_USERS)],
            "taste": [GENRES[n % 4] for n in range(NUM_USERS)],
            "age": [20 + n % 50 for n in range(NUM_USERS)],
        },
        "items": {
            "item_id": [name("i", 500 + n) for n in range(NUM_ITEMS)],
            "genre": [GENRES[n % 4] for n in range(NUM_ITEMS)],
            "year": [1950 + n for n in range(NUM_ITEMS)],
        },
        "interactions": interactions,
    }


def settings(**sections: dict[str, Any]) -> Config:
    """The small settings, changed where asked."""
    return parse_config({name: {**SMALL[name], **sections.get(name, {})} for name in SMALL})


@cache
def trained(loss: str = "softmax", *, text_ids: bool = False) -> Recommender:
    """A recommender of the checkerboard, with history where the loss has one."""
    from_labels = loss in {"bce", "triplet"}
    world = checkerboard(disliked=8 if from_labels else 0, text_ids=text_ids)
    return pipeline.fit(world, settings(training={"loss": loss}))


def genre_of(item_id: Any) -> int:
    """The genre's number, from the id."""
    return (int(str(item_id).removeprefix("i")) - 500) % 4
