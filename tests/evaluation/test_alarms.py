"""Each sign alone, and none where all is well."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from twotower import pipeline, read
from twotower.data.interactions import Interactions
from twotower.data.splits import Split
from twotower.evaluation.alarms import alarms
from worlds import checkerboard, settings, trained

USERS, ITEMS, K = 150, 300, 10


def log(
    first: int = 0, *, day: int = 0, users: int = USERS, items: int = ITEMS
) -> Interactions:
    """Every user meets eight items, at a time of their own; others for each ``first`` to 2."""
    rows = np.repeat(np.arange(1, users + 1), 8)
    met = 1 + ((np.arange(len(rows)) * 7 % items) ** 2 // items + 105 * first) % items
    return Interactions(
        rows.astype(np.int32),
        met.astype(np.int32),
        np.ones(len(rows), np.float32),
        np.arange(len(rows), dtype=np.int64) + day * 10_000,
    )


def tuning(trials: int, *, is_over: bool = False) -> dict[str, Any]:
    return {"trials": trials, "budget_seconds": 2.5, "tried_all": is_over}


def healthy() -> dict[str, Any]:
    """What a good training on a plain world gives."""
    rng = np.random.default_rng(0)
    train, val, test = log(0), log(1, day=1), log(2, day=2)
    tables = {
        "users": {"user_id": np.arange(1, USERS + 1), "age": rng.random(USERS)},
        "items": {"item_id": np.arange(1, ITEMS + 1), "price": rng.random(ITEMS)},
        "interactions": {"user_id": train.user_rows, "item_id": train.item_rows},
    }
    return {
        "losses": [5.0, 4.0],
        "guessing": 5.7,
        "ranked": [0.2, 0.3],
        "in_closed_form": False,
        "beats_popularity": False,
        "items": torch.randn(ITEMS, 8, generator=torch.Generator().manual_seed(0)),
        "lists": rng.integers(1, ITEMS + 1, (USERS, K)),
        "ndcg": 0.3,
        "best_baseline": 0.29,
        "is_at_bound": False,
        "baselines": {"popularity": {}, "ease": tuning(4), "item_knn": tuning(3, is_over=True)},
        "dataset": read(tables),
        "parts": Split(train, val, test, "given"),
    }


def with_suspect(repeats: int = 0) -> Any:
    data = healthy()["dataset"]
    train, val, test = (log(first) for first in range(3))
    again = train.take(np.random.default_rng(1).integers(0, 100, repeats))
    every = train.followed_by(val).followed_by(test).followed_by(again)
    counts = np.bincount(every.item_rows, minlength=ITEMS + 1)[1:] + 0.5
    tables = {
        "items": {"item_id": np.arange(1, ITEMS + 1), "sold": counts},
        "interactions": {"user_id": train.user_rows, "item_id": train.item_rows},
    }
    assert len(data.items) == ITEMS
    return replace(read(tables), repeats={"all": again})


def part(name: str, **changed: Interactions) -> Split:
    parts = {"train": log(0), "val": log(1, day=1), "test": log(2, day=2), **changed}
    return Split(parts["train"], parts["val"], parts["test"], name)  # type: ignore[arg-type]


# What a loss is that only chance moves.
STILL = [5.0, 4.96, 5.02, 4.99, 4.97, 5.01]
IN_CLOSED_FORM = {"in_closed_form": True, "beats_popularity": True}


def again(first: int) -> Interactions:
    """A part of which a quarter is in train."""
    is_new = np.arange(8 * USERS) % 4 > 0
    items = np.where(is_new, log(first).item_rows, log(0).item_rows)
    return replace(log(first, day=first), item_rows=items)


def few_known() -> dict[str, Interactions]:
    return {"train": log(0, users=60), "val": log(1, day=1, users=60)}


def test_a_healthy_training_raises_none() -> None:
    assert alarms(**healthy()) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"losses": [5.9, 5.65]}, "never came below 5.650, and guessing has 5.700"),
        (
            {"losses": STILL, "guessing": float("nan")},
            "stayed at the first epoch's 5.000, never below 4.960 in 6 epochs: nothing was",
        ),
        (
            {"losses": STILL, "ranked": [0.3, 0.301], **IN_CLOSED_FORM},
            "beyond the start in closed form nothing was learned",
        ),
        (
            {"baselines": {"ease": tuning(5), "item_knn": tuning(2), "ials": tuning(1)}},
            r"2.5 s were enough for few settings \(item-kNN 2, iALS 1\).*flatter the towers",
        ),
        ({"is_at_bound": True}, "temperature ended at 0.01, the lowest there is"),
        ({"items": torch.ones(ITEMS, 8) + torch.rand(ITEMS, 8) / 9}, "all alike.*collapsed"),
        (
            {"lists": np.tile(np.arange(1, K + 1), (USERS, 1))},
            "10 of 300 items fill the first 10",
        ),
        ({"ndcg": 0.97}, "NDCG is 0.970, which is too good to be true"),
        ({"parts": part("given", **few_known())}, "60% of test .* with users"),
        (
            {"parts": part("given", test=again(2))},
            "25% of the test .* in train or validation too",
        ),
        ({"parts": part("given", val=again(1))}, "25% of the validation .* are in train too"),
        ({"parts": part("given", train=log(0, day=5))}, "100% of the train .* are later"),
        ({"dataset": with_suspect()}, "items: sold follows the number of interactions"),
        ({"dataset": with_suspect(2000)}, "items: sold follows the number of interactions"),
    ],
)
def test_each_sign_raises_its_own(changed: dict[str, Any], message: str) -> None:
    [alarm] = alarms(**{**healthy(), **changed})
    assert re.search(message, alarm)


@pytest.mark.parametrize(
    "changed",
    [
        {"losses": []},
        {"losses": [9.0], "guessing": float("nan")},
        # Too few epochs to tell; better lists than popular ones; half of what guessing has.
        {"losses": STILL[:4], "guessing": float("nan")},
        {"losses": STILL, "guessing": float("nan"), "beats_popularity": True},
        {"losses": STILL, "guessing": 10.0},
        {"losses": [5.0, 4.97, 4.95, 4.93, 4.92], "ranked": [0.3], **IN_CLOSED_FORM},
        {"losses": STILL, "ranked": [0.3, 0.31], **IN_CLOSED_FORM},
        # All that there is to learn was learned in the first epoch.
        {"losses": [0.0] * 9, "guessing": float("nan")},
        {"ndcg": 0.97, "best_baseline": 0.9},
        {"parts": part("cold_users", **few_known())},
        {"parts": part("random", test=again(2))},
        {"parts": part("random_per_user", train=log(0, day=5))},
    ],
)
def test_what_has_another_reason_raises_none(changed: dict[str, Any]) -> None:
    assert alarms(**{**healthy(), **changed}) == []


def test_alarms_are_among_a_reports_warnings() -> None:
    # A world of chance, learned with steps that undo each other.
    rng = np.random.default_rng(0)
    world = {
        "interactions": {
            "user_id": np.repeat(np.arange(200), 6),
            "item_id": rng.integers(0, 300, 1200),
        }
    }
    slow = {"epochs": 1, "learning_rate": 1e-9, "embedding_learning_rate": 1e-9, "loss": "bpr"}
    warnings = pipeline.fit(world, settings(training=slow)).metrics["warnings"]
    assert any("nothing was learned" in warning for warning in warnings)
    assert not any("nothing was learned" in text for text in trained().metrics["warnings"])


@pytest.mark.parametrize("loss", ["in_batch_softmax", "softmax"])
def test_a_temperature_at_its_bound_is_told_where_it_was_learned(loss: str) -> None:
    # Where it begins at its bound and hardly moves; under softmax it is a choice.
    still = {"epochs": 1, "learning_rate": 1e-9, "loss": loss}
    found = pipeline.fit(
        checkerboard(), settings(training=still, model={"temperature": 0.01})
    ).metrics["warnings"]
    assert any("temperature ended" in text for text in found) == (loss != "softmax")
    assert not any("temperature" in text for text in trained("bce").metrics["warnings"])
