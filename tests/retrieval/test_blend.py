from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

import twotower
import worlds
from twotower import Person, Recommender, Wish, answer, pipeline
from twotower.data.interactions import Histories, offsets_of
from twotower.errors import RequestError
from twotower.evaluation import blending
from twotower.evaluation.words import of_blend
from twotower.retrieval import blend as module
from twotower.retrieval.answer import score_pairs
from twotower.retrieval.blend import Blend

NUM_ITEMS = 6


def drawn(seed: int) -> np.ndarray:
    """Weights between items; those of row 0, the unknown, are nothing."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(NUM_ITEMS + 1, NUM_ITEMS + 1)).astype(np.float32)
    weights[0], weights[:, 0] = 0, 0
    weights[rng.random(weights.shape) < 0.3] = 0
    return weights


def histories(lists: list[list[int]]) -> Histories:
    items = np.array([item for one in lists for item in one], np.int32)
    return Histories(offsets_of(np.array([0, *map(len, lists)], np.int64)), items)


lists_of_items = st.lists(
    st.lists(st.integers(1, NUM_ITEMS), max_size=5), min_size=1, max_size=4
)


@settings(max_examples=50, deadline=None)
@given(lists_of_items, st.integers(0, 9), st.booleans(), st.integers(0, 3))
def test_a_history_adds_the_weights_of_its_items(
    lists: list[list[int]], seed: int, is_sparse: bool, num_new: int
) -> None:
    weights = drawn(seed)
    made = Blend.of_weights(csr_matrix(weights) if is_sparse else weights).times(2.0)
    liked, rows = histories(lists), np.arange(1, len(lists) + 1)
    expected = np.array([2 * weights[items].sum(0) for items in lists])
    added = made.scores(liked, rows, NUM_ITEMS + num_new)
    np.testing.assert_allclose(added[:, :NUM_ITEMS], expected[:, 1:], atol=1e-5)
    # Items that came since get nothing, and say nothing.
    assert not added[:, NUM_ITEMS:].any()
    items = np.full(len(lists), NUM_ITEMS)
    np.testing.assert_allclose(made.pairs(liked, rows, items), expected[:, -1], atol=1e-5)
    assert made.pairs(liked, rows, items + num_new)[0] == pytest.approx(
        expected[0, -1] if num_new == 0 else 0, abs=1e-5
    )
    each = made.of_each(np.array([*lists[0], NUM_ITEMS + 1], np.int32), np.array([1, 2]))
    np.testing.assert_allclose(each.sum(0), expected[0, 1:3], atol=1e-5)


def test_of_many_weights_the_largest_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_NEAR", 2)
    weights = np.zeros((5, 5), np.float32)
    weights[1] = [0, 0.1, -0.9, 0.5, 0.2]
    added = Blend.of_weights(weights).scores(histories([[1]]), np.array([1]), 4)
    np.testing.assert_allclose(added, [[0, -0.9, 0.5, 0]])


@pytest.fixture(scope="module")
def beside() -> Recommender:
    """Towers of two numbers, which know too little, and EASE beside them."""
    config = {
        "model": {"embedding_dim": 2, "blend": "ease"},
        "training": {"epochs": 1, "seed": 5},
        "evaluation": {"baseline_seconds": 1, "bootstrap": 50},
    }
    return twotower.fit(_clusters(), config)


def _clusters() -> dict[str, dict[str, list[int]]]:
    """Forty kinds of people, each with six items of their own, of which each saw four."""
    rng = np.random.default_rng(0)
    pairs = [
        (100 + user, 500 + 6 * (user % 40) + item)
        for user in range(400)
        for item in rng.permutation(6)[:4]
    ]
    users, items = zip(*pairs, strict=True)
    return {"interactions": {"user_id": list(users), "item_id": list(items)}}


def test_what_helps_on_validation_stands_beside_the_towers(beside: Recommender) -> None:
    assert beside.blend is not None
    assert beside.metrics["blend"]["kind"] == "ease"
    assert beside.metrics["blend"]["val_ndcg_gain"] > 0.1
    warm = beside.metrics["ranking"]["warm"]
    assert warm["difference"]["alone"]["ndcg@10"]["low"] > 0.1
    assert "alone" not in beside.metrics["verdict"]["against"]


def test_whoever_is_asked_gives_the_same_scores(beside: Recommender, tmp_path: Path) -> None:
    users = beside.users.values[[0, 7, 333]].tolist()
    lists = beside.recommend(users, 5)
    people = [Person(user=user) for user in users]
    answers = answer(beside, people, Wish(k=5, explain=True))
    for ids, scores, each in zip(lists.item_ids, lists.scores, answers, strict=True):
        assert [one.item for one in each.items] == ids.tolist()
        np.testing.assert_allclose([one.score for one in each.items], scores, rtol=1e-5)
        for one in each.items:
            why = one.why
            assert why is not None
            parts = why.id + why.features + why.history + why.bias + why.popularity
            assert parts == pytest.approx(one.score, abs=1e-4)
    pairs = list(zip(users, lists.item_ids[:, 0].tolist(), strict=True))
    np.testing.assert_allclose(beside.score(pairs), lists.scores[:, 0], rtol=1e-5)
    scored = score_pairs(beside, people, [item for _, item in pairs])
    np.testing.assert_allclose([each.score for each in scored], lists.scores[:, 0], rtol=1e-5)
    run = twotower.save(beside, tmp_path / "run")
    again = twotower.load(run).recommend(users, 5)
    assert (again.item_ids == lists.item_ids).all()
    assert (again.scores == lists.scores).all()
    with pytest.raises(RequestError, match="searched exactly"):
        pipeline.index(run)


def test_filters_and_new_histories_hear_it_too(beside: Recommender) -> None:
    history = beside.items.values[[0, 1]].tolist()
    whole = beside.recommend_for(history=history, k=20)
    [found] = answer(beside, [Person(history=history)], Wish(k=20))
    assert [each.item for each in found.items] == whole.item_ids[0].tolist()
    assert found.rests_on == ["history"]
    # The four others of their kind.
    assert set(whole.item_ids[0, :4].tolist()) <= set(range(500, 506))


def test_an_item_given_twice_counts_once(beside: Recommender) -> None:
    one, two = beside.items.values[[0, 9]].tolist()
    twice = beside.recommend_for(history=[one, two, one], k=5)
    once = beside.recommend_for(history=[two, one], k=5)
    assert (twice.item_ids == once.item_ids).all()
    assert (twice.scores == once.scores).all()


def test_the_popularity_dial_is_as_loud_as_all_that_is_added_to(beside: Recommender) -> None:
    alone = replace(beside, blend=None)
    towers = (beside.user_vectors[1:] @ beside.item_vectors[1:].T).std(1).mean()
    rows = np.arange(1, len(beside.users) + 1)
    assert beside.blend is not None
    added = beside.blend.scores(beside.histories, rows, len(beside.items))
    both = beside.user_vectors[1:] @ beside.item_vectors[1:].T + torch.from_numpy(added)
    louder = beside.popularity[1:] / alone.popularity[1:]
    np.testing.assert_allclose(louder, both.std(1).mean() / towers, rtol=0.1)


def test_towers_that_read_no_history_have_one_read_beside_them() -> None:
    config = {
        "model": {"embedding_dim": 2, "blend": "ease", "history": "none"},
        "training": {"epochs": 1, "seed": 5},
        "evaluation": {"baseline_seconds": 1, "bootstrap": 50, "baselines": []},
    }
    found = twotower.fit(_clusters(), config)
    history = found.items.values[[0, 1]].tolist()
    [answered] = answer(found, [Person(history=history)], Wish(k=4, explain=True))
    assert answered.rests_on == ["history"]
    lists = found.recommend_for(history=history, k=4)
    assert [each.item for each in answered.items] == lists.item_ids[0].tolist()
    why = answered.items[0].why
    assert why is not None
    assert sum(part.adds for part in why.items) == pytest.approx(why.history, abs=1e-4)
    [said] = of_blend(found.metrics)
    assert said.startswith("EASE stands beside the towers, which pays: ndcg@10 +")


def test_evaluation_of_the_same_data_says_the_same(beside: Recommender) -> None:
    again = twotower.evaluate(beside, _clusters())
    mean = beside.metrics["ranking"]["warm"]["towers"]["ndcg@10"]["mean"]
    assert again["ranking"]["warm"]["towers"]["ndcg@10"]["mean"] == pytest.approx(mean)


def test_nothing_stands_there_where_nothing_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blending, "_LOUDNESS", (1e-9,))
    config = worlds.settings(model={"blend": "auto"}, training={"epochs": 2})
    found = twotower.fit(worlds.checkerboard(), config)
    assert found.blend is None
    assert found.metrics["blend"] == {"asked": "auto", "kind": None}
    assert torch.isfinite(found.item_vectors).all()
