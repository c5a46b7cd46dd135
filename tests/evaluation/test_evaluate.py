"""What is measured is what is served: the same index, the same lists, nothing seen."""

from __future__ import annotations

import re
from collections import defaultdict
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from judges import by_user, judged
from twotower.data.interactions import Interactions, histories
from twotower.evaluation import evaluate as ev
from twotower.retrieval.recommender import Recommender
from worlds import NUM_ITEMS, NUM_USERS, trained

USERS, ITEMS = 6, 9


def log(pairs: list[tuple[int, int]]) -> Interactions:
    users, items = np.array(pairs, np.int32).reshape(-1, 2).T
    return Interactions(users, items, np.ones(len(pairs), np.float32))


pairs_of = st.lists(st.tuples(st.integers(1, USERS), st.integers(1, ITEMS)), max_size=30)


@given(pairs_of, pairs_of)
def test_what_is_to_be_found_is_what_was_held_out_less_what_was_seen(
    test: list[tuple[int, int]], train: list[tuple[int, int]]
) -> None:
    expected: dict[int, set[int]] = defaultdict(set)
    for user, item in test:
        if (user, item) not in train:
            expected[user].add(item)
    held = ev.held_out(log(test), histories(log(train), num_users=USERS))
    found: dict[int, set[int]] = defaultdict(set)
    for item, owner in zip(held.items.tolist(), held.owners.tolist(), strict=True):
        found[int(held.user_rows[owner])].add(item)
    assert found == expected
    assert held.user_rows.tolist() == sorted(expected)
    assert len(held.items) == sum(map(len, expected.values()))
    trained_on = {user for user, _ in train}
    assert held.is_warm.tolist() == [user in trained_on for user in sorted(expected)]


# All users together, or one after another.
at_once = st.sampled_from([1 << 20, 1])


@given(pairs_of.filter(bool), pairs_of, st.integers(1, ITEMS), st.integers(0, 99), at_once)
def test_a_ranking_holds_the_best_of_what_was_not_seen_and_may_be_recommended(
    test: list[tuple[int, int]], train: list[tuple[int, int]], k: int, seed: int, at_once: int
) -> None:
    seen = histories(log(train), num_users=USERS)
    held = ev.held_out(log(test), seen)
    rng = torch.Generator().manual_seed(seed)
    items = torch.randn((ITEMS, 4), generator=rng)
    may_be = torch.rand(ITEMS, generator=rng) < 0.7
    users = torch.randn((len(held), 4), generator=rng)
    with patch.object(ev, "_SEEN_AT_ONCE", at_once):
        ranked = ev.rank(lambda part: users[part] @ items.T, held, seen, k, is_candidate=may_be)
    for row, user in enumerate(held.user_rows.tolist()):
        score = {item: float(users[row] @ items[item - 1]) for item in range(1, ITEMS + 1)}
        fresh = [i for i in score if may_be[i - 1] and (user, i) not in train]
        best = sorted(fresh, key=lambda item: -score[item])[:k]
        assert ranked[row].tolist() == best + [-1] * (k - len(best))


def ranked_by(recommender: Recommender, held: ev.HeldOut, k: int) -> np.ndarray:
    users = recommender.user_vectors[torch.from_numpy(held.user_rows)]
    index = recommender.index
    assert index.is_candidate is not None
    return ev.rank(
        lambda part: users[part] @ index.vectors.T,
        held,
        recommender.seen,
        k,
        is_candidate=index.is_candidate,
    )


def test_what_is_ranked_is_what_is_recommended() -> None:
    recommender = trained()
    everything = log([(u, i) for u in range(1, NUM_USERS + 1) for i in range(1, 49)])
    held = ev.held_out(everything, recommender.seen)
    assert len(held) == NUM_USERS
    for k in (1, 10, NUM_ITEMS):
        ranked = ranked_by(recommender, held, k)
        served = recommender.recommend(recommender.users.of(held.user_rows).tolist(), k)
        ids = [[499 + row for row in rows if row != -1] for rows in ranked.tolist()]
        assert ids == list(by_user(served).values())


@pytest.mark.parametrize("k", [1, 10, 20, 48])
def test_from_lists_to_figures_an_independent_library_says_the_same(k: int) -> None:
    recommender = trained()
    rng = np.random.default_rng(k)
    # Some users see nearly everything, so that their lists are short.
    chance = rng.random((NUM_USERS, 1)) ** 2
    drawn = np.argwhere(rng.random((NUM_USERS, NUM_ITEMS)) < chance) + 1
    held = ev.held_out(log([(int(u), int(i)) for u, i in drawn]), recommender.seen)
    ranked = ranked_by(recommender, held, k)
    ours = {name: each.mean() for name, each in ev.ranking_values(ranked, held, [k]).items()}

    wanted: dict[int, set[int]] = defaultdict(set)
    seen = {u: set(recommender.seen.of(u).tolist()) for u in range(1, NUM_USERS + 1)}
    for user, item in drawn.tolist():
        wanted[99 + user] |= {499 + item} - {499 + i for i in seen[user]}
    served = recommender.recommend(sorted(wanted), k)
    theirs = judged(by_user(served), wanted, k)
    assert len(theirs) == 5
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=1e-9)


def test_a_list_longer_than_the_catalogue_ends_with_it() -> None:
    held = ev.held_out(log([(1, 1), (1, 2)]), histories(log([]), num_users=1))
    short = np.array([[2, 3, 1]])
    values = ev.ranking_values(short, held, [3, 10])
    assert values["recall@10"].tolist() == values["recall@3"].tolist() == [1.0]
    assert values["precision@10"].tolist() == [pytest.approx(0.2)]


def test_each_metric_has_an_interval_that_holds_its_mean() -> None:
    values = {"a": np.linspace(0, 1, 101), "b": np.full(101, 0.25)}
    summary = ev.summarize(values, seed=0, num_resamples=200)
    assert list(summary) == ["a", "b"]
    assert summary["a"]["mean"] == pytest.approx(0.5)
    assert summary["a"]["low"] < 0.5 < summary["a"]["high"]
    assert summary["b"] == {"mean": 0.25, "low": 0.25, "high": 0.25}


def test_two_models_are_compared_user_by_user() -> None:
    theirs = np.random.default_rng(0).random(300)
    # The users differ a lot from each other, and the models by the same for each.
    difference = ev.compare(theirs + 0.01, theirs, seed=0, num_resamples=200)
    assert difference == pytest.approx({"mean": 0.01, "low": 0.01, "high": 0.01})


@pytest.mark.parametrize("at_once", [1 << 20, 1])
def test_beyond_accuracy_tells_how_much_is_shown_and_how_popular_it_is(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ev, "_SEEN_AT_ONCE", at_once)
    seen = histories(log([(1, 1), (2, 1), (2, 2)]), num_users=3)
    held = ev.held_out(log([(1, 3), (2, 3)]), seen)
    # Item 1 was met twice and item 2 once; the users' own average 2 and 1.5.
    popular = ev.beyond_accuracy(np.array([[2], [1]]), held, seen, 8)
    assert popular == pytest.approx({"coverage": 2 / 8, "popularity_bias": 1.5 / 1.75 - 1})


def test_whoever_saw_nothing_has_no_popularity_to_compare_with() -> None:
    seen = histories(log([(2, 1)]), num_users=2)
    held = ev.held_out(log([(1, 3)]), seen)
    assert ev.beyond_accuracy(np.array([[1]]), held, seen, 4) == {"coverage": 0.25}


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0]])
def test_labels_all_alike_measure_nothing(labels: list[int]) -> None:
    assert ev.label_metrics(np.array(labels, np.float32), np.full(3, 0.5)) == {}


@pytest.mark.parametrize(
    ("num_warm", "num_cold", "said"),
    [
        (200, 0, None),
        (500, 500, None),
        (150, 0, "only 150 test users: .*bring more data"),
        (100, 50, r"only 100 of the 150 test users are known .*random_per_user"),
        (28, 300, r"only 28 of the 328 test users are known .*random_per_user"),
    ],
)
def test_too_few_users_are_said(num_warm: int, num_cold: int, said: str | None) -> None:
    size = num_warm + num_cold
    test = log([(user, 1) for user in range(1, size + 1)])
    train = log([(user, 2) for user in range(1, num_warm + 1)])
    warnings = ev.user_warning(ev.held_out(test, histories(train, num_users=size)))
    assert len(warnings) == (said is not None)
    assert said is None or re.search(said, warnings[0])
