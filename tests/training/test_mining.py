"""What is mined beside a sort of all scores."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from twotower.training import mining
from twotower.training.learn import prepare
from worlds import planned


@pytest.mark.parametrize("history", ["none", "mean"])
@pytest.mark.parametrize("ranks", [(1, 3), (4, 9), (30, 60)])
def test_the_window_of_a_user_is_what_ranks_there_of_what_the_user_does_not_like(
    history: str, ranks: tuple[int, int]
) -> None:
    plan = planned("bpr")
    model_config = plan.contenders[0].model.model_copy(
        update={"history": history, "user_ids": history == "none"}
    )
    config = plan.contenders[0].model_copy(update={"model": model_config})
    learned, objective = prepare(plan.dataset, plan.parts.train, config)
    found = mining.mine(
        learned.model,
        learned.users,
        learned.items,
        learned.liked,
        objective.met,
        ranks,
        history_length=5,
    )
    assert found.shape == (len(learned.users), ranks[1] - ranks[0] + 1)
    assert not learned.model.training
    everybody: Any = np.arange(1, len(learned.users))
    items = mining.item_vectors(learned.model, learned.items)
    users = mining.user_vectors(
        learned.model,
        learned.users,
        everybody,
        learned.liked.latest(5),
        items,
        learned.items.ids,
    )
    scores = (users @ items.T).numpy()
    for user in everybody.tolist():
        liked = set(learned.liked.of(user).tolist())
        left = [item for item in objective.met.tolist() if item not in liked]
        left.sort(key=lambda item: -scores[user - 1, item])
        window = left[ranks[0] - 1 : ranks[1]]
        made = found[user].tolist()
        assert made == window + [0] * (len(made) - len(window))


def test_each_of_a_window_is_drawn_as_often_and_nothing_from_an_empty_one() -> None:
    windows = np.tile(np.array([[7, 3, 0], [0, 0, 0], [1, 2, 5]], np.int32), (3000, 1))
    hard = mining.draw(windows, 2, np.random.default_rng(0))
    assert hard.items.shape == (9000, 2)
    assert not hard.items[1::3].any()
    for first, expected in ((0, {7: 3000, 3: 3000}), (2, {1: 2000, 2: 2000, 5: 2000})):
        counts = Counter(hard.items[first::3].ravel().tolist())
        assert set(counts) == set(expected)
        # Five standard deviations.
        assert all(abs(counts[n] - expected[n]) < 5 * expected[n] ** 0.5 for n in expected)


def test_hard_negatives_begin_after_the_epochs_without_and_only_where_asked_for() -> None:
    others = {"negatives_from": "uniform", "hard_ranks": (1, 5), "hard_after": 2}
    for count, first in ((2, 3), (0, None)):
        plan = planned("bpr", hard_negatives=count, **others)
        learned, objective = prepare(plan.dataset, plan.parts.train, plan.contenders[0])
        for epoch in range(1, 5):
            windows = objective.windows(learned.model, epoch)
            assert (windows is not None) == (first is not None and epoch >= first)
            batch = next(objective.batches(8, np.random.default_rng(0), windows))
            assert (batch.hard is not None) == (windows is not None)
