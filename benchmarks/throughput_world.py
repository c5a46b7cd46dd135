"""The world of the speed of training: users, items, features and who met what, in arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twotower.config import Config, parse_config
from twotower.data.entities import Entities
from twotower.data.interactions import Interactions
from twotower.data.schema import Column
from twotower.data.splits import Split
from twotower.data.tables import Dataset
from twotower.training.resolve import resolve

DIM, HIDDEN, CATEGORY_DIM = 128, (256, 128), 16
# Distinct values of each side feature.
USER_FEATURES, ITEM_FEATURES = (7, 21, 50, 1000), (18, 100, 2000)
TEMPERATURE = 0.05


@dataclass(frozen=True)
class World:
    """Codes of features, row 0 (nobody) included, and pairs of rows.

    Attributes:
        user_codes, item_codes: of each row a code a feature, from 0.
    """

    user_codes: np.ndarray
    item_codes: np.ndarray
    user_rows: np.ndarray
    item_rows: np.ndarray


def make(
    num_users: int,
    num_items: int,
    num_pairs: int,
    *,
    user_features: tuple[int, ...] = USER_FEATURES,
    item_features: tuple[int, ...] = ITEM_FEATURES,
    even: bool = False,
    seed: int = 0,
) -> World:
    """Users differ in how much they do, and items in how often they are met, as a rule does.

    An item's chance falls with the 0.8th power of its rank; a user's follows a log-normal law.

    Args:
        user_features, item_features: distinct values of each.
        even: everybody does as much, and all items are met alike.
    """
    rng = np.random.default_rng(seed)
    activity = np.exp(rng.normal(0.0, 0.0 if even else 1.0, num_users))
    popularity = (np.arange(num_items) + 10.0) ** (0.0 if even else -0.8)
    return World(
        _codes(num_users, user_features, rng),
        _codes(num_items, item_features, rng),
        _drawn(activity, num_pairs, rng),
        rng.permutation(num_items)[_drawn(popularity, num_pairs, rng) - 1].astype(np.int32) + 1,
    )


def _codes(count: int, sizes: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return np.stack([rng.integers(0, size, count + 1) for size in sizes], 1).astype(np.int32)


def _drawn(chance: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` rows, counted from 1."""
    ends = np.cumsum(chance)
    rows: np.ndarray = np.searchsorted(ends, rng.random(count) * ends[-1]).astype(np.int32)
    return rows + 1


def dataset_of(world: World) -> tuple[Dataset, Interactions]:
    """The same as tables that were checked, and what is learned from."""
    count = len(world.user_rows)
    train = Interactions(world.user_rows, world.item_rows, np.ones(count, np.float32))
    users, items = _entities(world.user_codes), _entities(world.item_codes)
    return Dataset("", "user", "item", users, items, {"all": train}, {}), train


def _entities(codes: np.ndarray) -> Entities:
    values, columns = {}, {}
    for place in range(codes.shape[1]):
        name = f"feature_{place}"
        names = np.array([f"v{code}" for code in range(codes[:, place].max() + 1)], object)
        values[name] = names[codes[1:, place]]
        columns[name] = Column(name, "VARCHAR", "categorical", "")
    return Entities("", np.arange(1, len(codes)), columns, values)


def config_of(
    loss: str,
    batch_size: int,
    dataset: Dataset,
    train: Interactions,
    *,
    dim: int = DIM,
    **training: object,
) -> Config:
    """The settings of a contestant, with nothing left on "auto"."""
    source = "in_batch" if loss == "in_batch_softmax" else "one"
    settings = {
        "model": {
            "embedding_dim": dim,
            "user_hidden_dims": list(HIDDEN),
            "item_hidden_dims": list(HIDDEN),
            "category_dim": CATEGORY_DIM,
            "history": "none",
            "user_ids": True,
            "item_ids": True,
            "temperature": TEMPERATURE,
            "dropout": 0.0,
        },
        "training": {
            "loss": loss,
            "negatives_from": source,
            "batch_size": batch_size,
            "device": "cpu",
            **training,
        },
    }
    return resolve(parse_config(settings), dataset, Split(train, train, None, "time"))
