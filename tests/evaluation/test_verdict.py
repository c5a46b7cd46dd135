"""Who wins, and for whom; ``test_assess.py`` has the figures that it is made from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower import read
from twotower.data.interactions import Interactions, histories
from twotower.data.tables import Dataset
from twotower.evaluation import evaluate as ev
from twotower.evaluation.slices import FEWEST_USERS, Slice, columns_left_out, slices
from twotower.evaluation.verdict import beats_all, by_slices, outcome, verdict

USERS, ITEMS = 200, 20


def interval(low: float, high: float) -> dict[str, float]:
    return {"mean": (low + high) / 2, "low": low, "high": high}


def ranking(**others: tuple[float, dict[str, float]]) -> dict[str, Any]:
    """A report's ranking, of each baseline its NDCG@5 and how far the towers are above it."""
    summary: dict[str, Any] = {"towers": {"ndcg@5": interval(0.4, 0.4)}, "difference": {}}
    for name, (mean, difference) in others.items():
        summary[name] = {"ndcg@5": interval(mean, mean)}
        summary["difference"][name] = {"ndcg@5": difference}
    return summary


@given(st.floats(-1, 1), st.floats(0, 1))
def test_an_interval_that_holds_zero_is_a_tie(low: float, width: float) -> None:
    found = outcome(interval(low, low + width))
    assert found == ("win" if low > 0 else "loss" if low + width < 0 else "tie")


class TestVerdict:
    def test_it_names_the_best_baseline_and_what_came_of_each(self) -> None:
        found = verdict(
            {
                "warm": ranking(
                    popularity=(0.1, interval(0.2, 0.4)), ease=(0.39, interval(-0.01, 0.03))
                )
            },
            5,
        )
        assert found == {
            "metric": "ndcg@5",
            "group": "warm",
            "best_baseline": "ease",
            "against": {"popularity": "win", "ease": "tie"},
        }

    def test_users_that_training_met_decide_where_there_are_some(self) -> None:
        warm = ranking(ials=(0.3, interval(0.1, 0.2)))
        cold = ranking(popularity=(0.5, interval(-0.2, -0.1)))
        both = verdict({"cold": cold, "warm": warm}, 5)
        alone = verdict({"cold": cold}, 5)
        assert both is not None
        assert alone is not None
        assert (both["group"], alone["group"]) == ("warm", "cold")

    def test_nothing_to_compare_is_no_verdict(self) -> None:
        assert verdict({}, 5) is None
        assert verdict({"warm": ranking()}, 5) is None

    @pytest.mark.parametrize(
        ("against", "beaten"),
        [({"a": "win", "b": "win"}, True), ({"a": "win", "b": "tie"}, False), ({}, False)],
    )
    def test_the_baselines_are_beaten_when_each_is(
        self, against: dict[str, str], beaten: bool
    ) -> None:
        assert beats_all({"verdict": {"against": against}}) == beaten
        assert not beats_all({"verdict": None})
        assert not beats_all({})


def shop() -> Dataset:
    """User n is of the n-th colour of four, n years old; items are cheap up to the tenth."""
    return read(
        {
            "users": {
                "user_id": list(range(1, USERS + 1)),
                "colour": [["red", "blue", "green", "grey"][n % 4] for n in range(USERS)],
                "age": [float(n) for n in range(USERS)],
            },
            "items": {
                "item_id": list(range(1, ITEMS + 1)),
                "price": [n / 8 for n in range(1, ITEMS + 1)],
                "tags": [["new", "old"] if n % 2 else ["old"] for n in range(1, ITEMS + 1)],
            },
            "interactions": {
                "user_id": [u for u in range(1, USERS + 1) for _ in range(2)],
                "item_id": [1 + n % ITEMS for n in range(2 * USERS)],
            },
        }
    )


def log(pairs: list[tuple[int, int]]) -> Interactions:
    users, items = np.array(pairs, np.int32).reshape(-1, 2).T
    return Interactions(users, items, np.ones(len(pairs), np.float32))


def world() -> tuple[Dataset, ev.HeldOut, Any]:
    """Users above the hundredth met five items, the others one; all are to find two."""
    seen = [
        (u, 1 + (u + n) % ITEMS) for u in range(1, USERS + 1) for n in range(1 + 4 * (u > 100))
    ]
    wanted = [(u, 1 + (u + n) % ITEMS) for u in range(1, USERS + 1) for n in (8, 9)]
    known = histories(log(seen), num_users=USERS)
    return shop(), ev.held_out(log(wanted), known), known


def sliced() -> dict[str, Slice]:
    return {part.name: part for part in slices(*world())}


class TestSlices:
    def test_they_are_of_histories_columns_and_items(self) -> None:
        assert set(sliced()) == {
            *("histories up to 3", "histories above 3"),
            *("users with colour red", "users with colour blue", "users with colour green"),
            *("users with age up to 99.5", "users with age above 99.5"),
            *("popular items", "items of the tail"),
            *("items with price up to 1.3125", "items with price above 1.3125"),
            *("items with tags new",),
        }

    def test_a_slice_of_users_has_those_users_and_all_they_are_to_find(self) -> None:
        part, held = sliced()["users with colour blue"], world()[1]
        rows = [u for u in range(1, USERS + 1) if u % 4 == 2]
        assert part.held.user_rows.tolist() == rows
        assert held.user_rows[part.is_in].tolist() == rows
        assert len(part.held.items) == 2 * len(rows)

    def test_a_slice_of_items_has_only_those_and_whoever_is_to_find_one(self) -> None:
        part = sliced()["items with tags new"]
        assert (part.held.items % 2 == 1).all()
        assert part.is_in.sum() == len(part.held) == USERS
        for place, user in enumerate(part.held.user_rows.tolist()):
            items = part.held.items[part.held.owners == place]
            assert set(items.tolist()) <= {1 + (user + 8) % ITEMS, 1 + (user + 9) % ITEMS}

    def test_head_and_tail_part_the_items(self) -> None:
        head, tail = sliced()["popular items"], sliced()["items of the tail"]
        _, held, seen = world()
        counts = np.bincount(seen.items, minlength=ITEMS + 1)
        assert counts[np.unique(head.held.items)].min() >= counts[tail.held.items].max()
        assert len(head.held.items) + len(tail.held.items) == len(held.items)

    def test_items_that_nobody_met_are_new_and_not_of_the_tail(self) -> None:
        dataset, held, seen = world()
        is_old = seen.items > 6
        owners = np.repeat(np.arange(USERS + 1), seen.lengths())[is_old]
        older = histories(
            log(list(zip(owners, seen.items[is_old], strict=True))), num_users=USERS
        )
        parts = {part.name: part for part in slices(dataset, held, older)}
        assert set(parts["new items"].held.items.tolist()) == set(range(1, 7))
        assert not set(parts["items of the tail"].held.items.tolist()) & set(range(1, 7))

    def test_times_are_cut_at_the_end_of_a_day(self) -> None:
        _, held, seen = world()
        hours = np.datetime64("2024-05-01T00:00:00") + np.arange(USERS).astype("timedelta64[h]")
        tables = {
            "users": {"user_id": list(range(1, USERS + 1)), "joined": hours},
            "items": {"item_id": list(range(1, ITEMS + 1))},
            "interactions": {"user_id": [1], "item_id": [1]},
        }
        parts = {part.name: part for part in slices(read(tables), held, seen)}
        # The middle is four hours into the fifth day.
        early, late = (
            parts["users with joined up to 2024-05-05"],
            parts["users with joined after 2024-05-05"],
        )
        assert early.held.user_rows.tolist() == list(range(1, 121))
        assert late.held.user_rows.tolist() == list(range(121, USERS + 1))

    def test_columns_that_are_too_many_are_counted(self) -> None:
        _, held, seen = world()
        ids = list(range(1, USERS + 1))
        # Texts have no slices and take no column's place.
        texts = {
            f"text{n}": [f"some words about user {u} of {n}" for u in ids] for n in range(3)
        }
        numbers = {f"number{n}": [u + n / 8 for u in ids] for n in range(1, 15)}
        tables = {
            "users": {"user_id": ids, **texts, **numbers},
            "items": {
                "item_id": list(range(1, ITEMS + 1)),
                "price": [n / 8 for n in range(ITEMS)],
            },
            "interactions": {"user_id": [1], "item_id": [1]},
        }
        dataset = read(tables)
        names = " ".join(part.name for part in slices(dataset, held, seen))
        assert [n for n in range(1, 15) if f"number{n} " in names] == list(range(1, 13))
        assert columns_left_out(dataset) == {"users": 2}
        assert columns_left_out(shop()) == {}

    def test_a_slice_of_a_few_users_is_left_out(self) -> None:
        assert all(part.is_in.sum() >= FEWEST_USERS for part in sliced().values())


def test_lists_are_compared_slice_by_slice() -> None:
    dataset, held, seen = world()
    right = np.stack([held.items[held.owners == n] for n in range(len(held))])
    nothing = np.full_like(right, -1)
    # Ours are right for whom training knows well, theirs for the others.
    knows = (seen.lengths()[held.user_rows] > 3)[:, None]
    ours, theirs = np.where(knows, right, nothing), np.where(knows, nothing, right)
    found = by_slices(ours, theirs, held, dataset, seen, k=2, seed=0, num_resamples=50)
    by_name = {part["slice"]: part for part in found}
    long, short = by_name["histories above 3"], by_name["histories up to 3"]
    assert (long["towers"], long["baseline"], long["users"]) == (1.0, 0.0, 100)
    assert (short["towers"], short["baseline"], short["users"]) == (0.0, 1.0, 100)
    assert outcome(long["difference"]) == "win"
    assert outcome(short["difference"]) == "loss"
    assert outcome(by_name["users with colour red"]["difference"]) == "tie"
