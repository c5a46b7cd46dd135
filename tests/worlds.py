"""Small worlds with a known answer, and recommenders trained on them; each is made once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twotower import pipeline
from twotower.config import Config, parse_config
from twotower.data.ids import Ids
from twotower.data.synthetic import generate
from twotower.retrieval.recommender import Recommender
from twotower.watch import Watch

GENRES = ("jazz", "punk", "folk", "funk")
NUM_USERS, NUM_ITEMS = 120, 48
SMALL: dict[str, dict[str, Any]] = {
    "model": {
        "embedding_dim": 16,
        "user_hidden_dims": [16],
        "item_hidden_dims": [16],
        "id_dropout": 0.3,
        "history_dropout": 0.5,
        "temperature": 0.15,
    },
    "training": {
        "learning_rate": 0.01,
        "batch_size": 64,
        "epochs": 60,
        "early_stopping_patience": 5,
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


def shop(num_customers: int = 60, num_goods: int = 40) -> dict[str, dict[str, Any]]:
    """Tables with every kind of column, values missing among them, under names of their own."""
    rng = np.random.default_rng(0)
    people, goods = range(num_customers), range(num_goods)
    pairs = rng.permutation(num_customers * num_goods)[: num_customers * 12]
    day = np.datetime64("2024-01-01T00:00:00")
    return {
        "users": {
            "customer": [f"c{n}" for n in people],
            "age": [None if n % 9 == 0 else 20.5 + n for n in people],
            "is_member": [n % 3 == 0 for n in people],
            "region": [None if n % 7 == 0 else ("north", "south")[n % 2] for n in people],
            "joined": day - np.arange(num_customers).astype("timedelta64[D]"),
        },
        "items": {
            "sku": [1000 + n for n in goods],
            "title": [f"the {GENRES[n % 4]} record number {n} of {50 + n}" for n in goods],
            "tags": [[] if n % 5 == 0 else [GENRES[n % 4], "vinyl"] for n in goods],
            "look": rng.normal(size=(num_goods, 3)).tolist(),
            "price": [None if n % 8 == 0 else 5 + n / 4 for n in goods],
            "released": [f"20{n % 24:02}-05-17" for n in goods],
        },
        "interactions": {
            "customer": [f"c{n}" for n in (pairs // num_goods).tolist()],
            "sku": 1000 + pairs % num_goods,
            "bought_at": day + np.arange(len(pairs)).astype("timedelta64[h]"),
        },
    }


def search_world(new: str) -> dict[str, dict[str, list[Any]]]:
    """Queries that find titles with both of their words; some queries, or titles, are new."""
    kinds, things = ("red", "old", "soft", "tiny", "blue"), ("lamp", "rug", "vase", "bowl")
    both = [(kind, thing) for kind in kinds for thing in things]
    queries = [f"{thing} {kind} q{n}" for n, (kind, thing) in enumerate(both * 4)]
    titles = [f"{kind} {thing} no{n}" for n, (kind, thing) in enumerate(both * 6)]
    parts: dict[str, dict[str, list[Any]]] = {
        name: {"user_id": [], "item_id": []} for name in ("train", "test")
    }
    for user, query in enumerate(queries):
        for item, title in enumerate(titles):
            if set(query.split()[:2]) == set(title.split()[:2]):
                # Of each pair of words some are met and some are not.
                is_new = (user if new == "users" else item) // len(both) == 0
                rows = parts["test" if is_new else "train"]
                rows["user_id"].append(user)
                rows["item_id"].append(item)
    return {
        "users": {"user_id": list(range(len(queries))), "query": queries},
        "items": {"item_id": list(range(len(titles))), "title": titles},
        **parts,
    }


def settings(**sections: dict[str, Any]) -> Config:
    """The small settings, changed where asked."""
    return parse_config({name: {**SMALL[name], **sections.get(name, {})} for name in SMALL})


def planned(
    loss: str, *, model: Mapping[str, Any] | None = None, **training: Any
) -> pipeline.Plan:
    """The checkerboard, cut, with the small settings; dislikes where the loss needs them."""
    world = checkerboard(disliked=8 if loss in {"bce", "triplet"} else 0)
    config = settings(model=dict(model or {}), training={"loss": loss, **training})
    return pipeline.plan(world, config, Watch())


@cache
def trained(loss: str = "softmax", *, text_ids: bool = False) -> Recommender:
    """A recommender of the checkerboard, with history where the loss has one."""
    from_labels = loss in {"bce", "triplet"}
    world = checkerboard(disliked=8 if from_labels else 0, text_ids=text_ids)
    return pipeline.fit(world, settings(training={"loss": loss}))


@cache
def shopkeeper() -> Recommender:
    """A recommender of the shop, hardly trained."""
    return pipeline.fit(shop(), settings(training={"epochs": 2}))


@cache
def crowded(num_items: int = 4800) -> Recommender:
    """The checkerboard's recommender with vectors that lie in clusters, of many items.

    Item n has id 500 + n, genre n % 4 and year n, and 48 items of neighbouring years a cluster.
    """
    rng = np.random.default_rng(0)
    small = trained()
    dim = small.item_vectors.shape[1] - 1
    centres = rng.normal(size=(num_items // 48, dim))
    items = np.repeat(centres, 48, axis=0) + 0.3 * rng.normal(size=(num_items, dim))
    # As long as those that the towers make of new items.
    items = 0.25 * np.column_stack([items, 0.3 * rng.normal(size=num_items)])
    near, far = (rng.integers(0, len(centres), NUM_USERS) for _ in range(2))
    users = np.column_stack([centres[near] + 0.5 * centres[far], np.ones(NUM_USERS)])

    def rows(vectors: np.ndarray) -> torch.Tensor:
        nobody = np.zeros((1, dim + 1))
        return torch.from_numpy(np.concatenate([nobody, vectors]).astype(np.float32))

    genres = np.empty(num_items, object)
    genres[:] = [GENRES[n % 4] for n in range(num_items)]
    return replace(
        small,
        items=Ids("item_id", 500 + np.arange(num_items)),
        item_vectors=rows(items),
        user_vectors=rows(users),
        has_own_id=np.append(False, np.ones(num_items, bool)),
        item_values={"genre": genres, "year": np.arange(num_items, dtype=np.float64)},
    )


def lab(place: Path) -> tuple[Recommender, Path]:
    """The teaching lab's world, small, in ``place / "lab"``, and a run trained on it."""
    generate(place / "lab", num_users=400, num_items=200, num_interactions=12_000, seed=1)
    config = settings(
        model={"user_ids": False, "item_ids": False, "embedding_dim": 32},
        training={"batch_size": 256, "epochs": 15, "early_stopping_patience": 4},
        data={"split": "auto", "data_path": str(place / "lab")},
    )
    now = datetime(2026, 1, 31, 12)
    return pipeline.train(place / "lab", config, into=place / "runs", name="lab", now=now)


def genre_of(item_id: Any) -> int:
    """The genre's number, from the id."""
    return (int(str(item_id).removeprefix("i")) - 500) % 4
