"""The users that are shown are chosen by how much is known of them, and nothing else."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from test_assess import measured

from twotower import pipeline
from twotower.data.interactions import Histories
from twotower.data.tables import Dataset, read
from twotower.evaluation.evaluate import HeldOut
from twotower.evaluation.examples import examples

USERS, ITEMS = 20, 12


def world() -> tuple[np.ndarray, HeldOut, Histories, Dataset]:
    """User u of 20 liked 1 + u // 2 items, has items 11 and 12 to find and gets 12, 1, 2."""
    lengths = [1 + user // 2 for user in range(USERS)]
    items = np.concatenate([np.arange(1, length + 1) for length in lengths]).astype(np.int32)
    liked = Histories(np.array([0, 0, *np.cumsum(lengths)]), items)
    rows = np.arange(1, USERS + 1)
    owners = np.repeat(np.arange(USERS), 2)
    held = HeldOut(rows, np.tile([11, 12], USERS), owners, np.ones(USERS, bool))
    pairs = [(f"u{u:02}", 100 + i) for u in rows for i in range(1, ITEMS + 1)]
    users, items_met = (list(each) for each in zip(*pairs, strict=True))
    dataset = read({"interactions": {"user_id": users, "item_id": items_met}})
    return np.tile([12, 1, 2, -1], (USERS, 1)), held, liked, dataset


def test_long_middle_and_short_histories_are_what_they_are_called() -> None:
    found = examples(*world(), seed=0)
    lengths: dict[str, list[int]] = defaultdict(list)
    for example in found:
        lengths[example["history"]].append(example["liked"])
    assert list(lengths) == ["long", "middle", "short"]
    assert {name: len(each) for name, each in lengths.items()} == dict.fromkeys(lengths, 2)
    assert min(lengths["long"]) >= 9
    assert {5, 6} >= set(lengths["middle"])
    assert max(lengths["short"]) <= 2


def test_an_example_has_what_was_liked_last_what_is_shown_and_what_of_it_was_right() -> None:
    for example in examples(*world(), seed=0):
        count = example["liked"]
        assert example["latest"] == [100 + n for n in range(count, 0, -1)][:10]
        assert example["recommended"] == [112, 101, 102]
        assert (example["hits"], example["missed"]) == ([112], [111])
        assert example["held_out"] == 2


def test_the_seed_chooses_them() -> None:
    def chosen(seed: int) -> list[Any]:
        return [example["user"] for example in examples(*world(), seed=seed)]

    assert chosen(1) == chosen(1)
    assert len({tuple(chosen(seed)) for seed in range(8)}) > 1


def test_of_a_few_users_each_is_shown_at_most_once() -> None:
    lists, held, liked, dataset = world()
    for count in (1, 2, 4):
        few = held.only(np.arange(count))
        found = examples(lists[:count], few, liked, dataset, seed=0)
        users = [example["user"] for example in found]
        assert 1 <= len(users) == len(set(users)) <= count


def test_a_report_shows_what_the_recommender_says() -> None:
    recommender = measured().recommender
    wanted = {**measured().held_out(warm=True), **measured().held_out(warm=False)}
    found = pipeline.evaluate(recommender, measured().tables)["examples"]
    assert found == recommender.metrics["examples"]
    for example in found:
        [pairs] = recommender.recommend(example["user"], 10)
        assert example["recommended"] == [item for item, _ in pairs]
        right = wanted[example["user"]]
        assert set(example["hits"]) == right & set(example["recommended"])
        assert set(example["missed"]) == right - set(example["recommended"])
