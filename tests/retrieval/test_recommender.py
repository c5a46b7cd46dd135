"""The object a user holds, on a world whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import polars
import pytest

from twotower.errors import DataError, RequestError
from twotower.retrieval.recommender import Recommender
from worlds import (
    GENRES,
    NUM_ITEMS,
    NUM_USERS,
    checkerboard,
    genre_of,
    shop,
    shopkeeper,
    trained,
)

EVERYBODY = list(range(100, 100 + NUM_USERS))


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    return trained()


def items_of(recommender: Recommender, **asked: Any) -> list[Any]:
    [found] = recommender.recommend_for(**asked)
    return [item for item, _ in found]


def share_with(recommender: Recommender, item: Any, users: list[int], k: int) -> float:
    lists = recommender.recommend(users, k)
    return float(np.mean([item in dict(pairs) for pairs in lists]))


def new_item(genre: str, identity: Any = 999) -> dict[str, list[Any]]:
    return {"item_id": [identity], "genre": [genre], "year": [1975]}


class TestRecommend:
    def test_everybody_gets_the_unseen_items_of_their_genre_first(
        self, recommender: Recommender
    ) -> None:
        found = recommender.recommend(EVERYBODY, 2)
        right = [
            genre_of(item) == user % 4
            for user, pairs in zip(EVERYBODY, found, strict=True)
            for item, _ in pairs
        ]
        assert np.mean(right) > 0.95

    def test_a_batch_says_what_each_alone_says(self, recommender: Recommender) -> None:
        together = list(recommender.recommend(EVERYBODY[:9], 7))
        alone = [next(iter(recommender.recommend(user, 7))) for user in EVERYBODY[:9]]
        for one, other in zip(together, alone, strict=True):
            assert [item for item, _ in one] == [item for item, _ in other]
            assert np.allclose([s for _, s in one], [s for _, s in other], atol=1e-4)

    def test_blocks_of_everybody_say_what_one_batch_says(
        self, recommender: Recommender
    ) -> None:
        whole = recommender.recommend(EVERYBODY, 5)
        blocks = list(recommender.batches(5, size=7))
        assert np.array_equal(np.concatenate([b.item_ids for b in blocks]), whole.item_ids)
        assert np.array_equal(np.concatenate([b.user_ids for b in blocks]), whole.user_ids)

    def test_what_was_seen_comes_only_when_asked_for(self, recommender: Recommender) -> None:
        for row, user in enumerate(EVERYBODY, 1):
            seen = set(recommender.items.of(recommender.seen.of(row)).tolist())
            [fresh] = recommender.recommend(user, NUM_ITEMS)
            [every] = recommender.recommend(user, NUM_ITEMS, include_seen=True)
            assert seen
            assert not seen & {item for item, _ in fresh}
            assert len(fresh) == NUM_ITEMS - len(seen)
            assert {item for item, _ in every} >= seen

    def test_what_was_cut_off_for_test_is_not_recommended_again(
        self, recommender: Recommender
    ) -> None:
        log = checkerboard()["interactions"]
        met = set(zip(log["user_id"], log["item_id"], strict=True))
        for user, pairs in zip(EVERYBODY, recommender.recommend(EVERYBODY, 40), strict=True):
            assert not met & {(user, item) for item, _ in pairs}

    def test_nobody_gets_nothing(self, recommender: Recommender) -> None:
        assert list(recommender.recommend([], 3)) == []

    def test_an_id_may_come_as_a_number_or_as_text(self, recommender: Recommender) -> None:
        assert list(recommender.recommend("104", 3)) == list(recommender.recommend(104, 3))

    def test_unknown_users_are_named_with_what_to_do(self, recommender: Recommender) -> None:
        with pytest.raises(RequestError, match=r"user_id: 2 unknown \(7, 'x'\).*recommend_for"):
            recommender.recommend([100, 7, "x"], 3)

    @pytest.mark.parametrize("k", [0, -1, NUM_ITEMS + 1])
    def test_a_length_that_can_not_be_is_refused(
        self, recommender: Recommender, k: int
    ) -> None:
        with pytest.raises(RequestError, match=f"k must be 1 to 48.*got {k}"):
            recommender.recommend(100, k)
        with pytest.raises(RequestError, match=f"k must be 1 to 48.*got {k}"):
            recommender.recommend_for(k=k)

    def test_text_ids_go_in_and_come_out(self) -> None:
        recommender = trained(text_ids=True)
        found = recommender.recommend("u104", 2)
        assert [genre_of(item) for item, _ in next(iter(found))] == [0, 0]
        assert all(str(item).startswith("i5") for item, _ in next(iter(found)))
        with pytest.raises(RequestError, match="104"):
            recommender.recommend("104", 2)


class TestRecommendFor:
    def test_features_alone_decide(self, recommender: Recommender) -> None:
        for number, genre in enumerate(GENRES):
            found = items_of(recommender, features={"taste": genre}, k=5)
            assert [genre_of(item) for item in found] == [number] * 5

    def test_a_history_alone_decides_and_is_not_recommended(
        self, recommender: Recommender
    ) -> None:
        history = [500 + 4 * n + 2 for n in range(5)]
        found = items_of(recommender, history=history, k=5)
        assert [genre_of(item) for item in found] == [2] * 5
        assert not set(found) & set(history)
        again = items_of(recommender, history=history, k=12, include_seen=True)
        assert set(again) & set(history)

    def test_both_together_and_neither_are_answered(self, recommender: Recommender) -> None:
        both = {"features": {"taste": "punk", "age": 30}, "history": [501, 505]}
        assert [genre_of(item) for item in items_of(recommender, **both, k=4)] == [1] * 4
        assert len(items_of(recommender, k=4)) == 4

    def test_one_item_is_a_history_and_unknown_ones_do_not_count(
        self, recommender: Recommender
    ) -> None:
        one = items_of(recommender, history=501)
        assert one == items_of(recommender, history=[501, 123456, "x"])

    def test_a_known_person_described_anew_gets_the_same(
        self, recommender: Recommender
    ) -> None:
        world = checkerboard()["users"]
        for row in (1, 2, 50):
            liked = recommender.items.of(recommender.liked.of(row)).tolist()
            features = {"taste": world["taste"][row - 1], "age": world["age"][row - 1]}
            every = {"k": 20, "include_seen": True}
            [own] = recommender.recommend(99 + row, **every)
            [anew] = recommender.recommend_for(features=features, history=liked, **every)
            assert [item for item, _ in own] == [item for item, _ in anew]
            assert np.allclose([s for _, s in own], [s for _, s in anew], atol=1e-4)

    def test_a_history_of_nothing_but_unknown_items_is_refused(
        self, recommender: Recommender
    ) -> None:
        with pytest.raises(RequestError, match=r"history: 2 unknown \('typo', 7\)"):
            recommender.recommend_for(history=["typo", 7])

    def test_a_history_for_a_model_that_has_none_is_refused(self) -> None:
        with pytest.raises(RequestError, match="trained without histories"):
            trained("bce").recommend_for(history=[500])

    def test_a_feature_that_does_not_exist_is_named_with_those_that_do(
        self, recommender: Recommender
    ) -> None:
        with pytest.raises(RequestError, match=r"unknown feature 'tastes'.*taste, age"):
            recommender.recommend_for(features={"tastes": "jazz"})
        with pytest.raises(RequestError, match="'age'"):
            recommender.recommend_for(features={"age": "old"})


class TestSimilar:
    def test_the_nearest_are_of_the_same_genre_and_not_the_item_itself(
        self, recommender: Recommender
    ) -> None:
        for item in range(500, 548):
            [found] = recommender.similar_items(item, 5)
            assert item not in {other for other, _ in found}
            assert np.mean([genre_of(other) == genre_of(item) for other, _ in found]) >= 0.8

    def test_the_cosine_is_symmetric_and_within_its_bounds(
        self, recommender: Recommender
    ) -> None:
        every = recommender.similar_items(range(500, 548), 47)
        cosine = {
            (item, other): score
            for item, pairs in zip(range(500, 548), every, strict=True)
            for other, score in pairs
        }
        assert len(cosine) == 48 * 47
        assert max(map(abs, cosine.values())) <= 1 + 1e-5
        for (one, other), value in cosine.items():
            assert value == pytest.approx(cosine[other, one], abs=1e-5)

    def test_an_unknown_item_and_a_length_that_can_not_be_are_refused(
        self, recommender: Recommender
    ) -> None:
        with pytest.raises(RequestError, match=r"item_id: 1 unknown \(9\).*add_items"):
            recommender.similar_items(9)
        for k in (0, 48):
            with pytest.raises(RequestError, match=f"1 to 47.*got {k}"):
                recommender.similar_items(500, k)


class TestScore:
    def test_a_score_is_the_inner_product_and_orders_as_recommend_does(
        self, recommender: Recommender
    ) -> None:
        [found] = recommender.recommend(107, 20)
        scores = recommender.score([(107, item) for item, _ in found])
        assert np.allclose(scores, [score for _, score in found], rtol=1e-5, atol=1e-5)
        assert (np.diff(scores) <= 1e-6).all()
        rows = recommender.items.rows([item for item, _ in found])
        plain = recommender.item_vectors[rows].numpy() @ recommender.user_vectors[8].numpy()
        assert np.allclose(scores, plain, rtol=1e-5, atol=1e-5)

    def test_the_affinity_is_a_chance_that_grows_with_the_score(
        self, recommender: Recommender
    ) -> None:
        scores = np.linspace(-20, 20, 81, dtype=np.float32)
        chances = recommender.affinity(scores)
        assert (chances >= 0).all()
        assert (chances <= 1).all()
        assert (np.diff(chances) >= 0).all()
        own = recommender.affinity(recommender.score([(100, 500), (100, 501)]))
        assert 0 < own[1] < own[0] < 1

    @pytest.mark.parametrize("pair", [100, "ab", (100,), (100, 500, 1)])
    def test_what_is_no_pair_is_refused(self, recommender: Recommender, pair: Any) -> None:
        with pytest.raises(RequestError, match="expected pairs of a user's id and an item's"):
            recommender.score([(100, 500), pair])

    @pytest.mark.parametrize("pair", [(9, 500), (100, 9)])
    def test_a_pair_with_somebody_unknown_is_refused(
        self, recommender: Recommender, pair: tuple[int, int]
    ) -> None:
        with pytest.raises(RequestError, match=r"1 unknown \(9\)"):
            recommender.score([(100, 500), pair])


class TestAddItems:
    def test_a_new_item_is_recommended_to_whom_it_suits(self, recommender: Recommender) -> None:
        larger = recommender.add_items(new_item("folk"))
        right = [user for user in EVERYBODY if user % 4 == 2]
        wrong = [user for user in EVERYBODY if user % 4 != 2]
        # Four items of the own genre are unseen, and now a fifth.
        assert share_with(larger, 999, right, 6) > 0.6
        assert share_with(larger, 999, wrong, 4) < 0.1

    def test_the_old_recommendations_stay_as_they_were(self, recommender: Recommender) -> None:
        larger = recommender.add_items(new_item("folk"))
        before = recommender.recommend(EVERYBODY, 10)
        after = larger.recommend(EVERYBODY, 11)
        for old, new in zip(before, after, strict=True):
            assert [pair for pair in new if pair[0] != 999][:10] == old

    def test_the_original_does_not_change(self, recommender: Recommender) -> None:
        vectors = recommender.item_vectors.clone()
        recommender.add_items(new_item("folk", 500))
        recommender.add_items(new_item("folk"))
        assert (recommender.item_vectors == vectors).all()
        assert len(recommender.items) == NUM_ITEMS
        with pytest.raises(RequestError):
            recommender.similar_items(999)

    def test_a_known_item_gets_its_new_features_and_keeps_what_people_made_of_it(
        self, recommender: Recommender
    ) -> None:
        changed = recommender.add_items(new_item("folk", 500))
        assert len(changed.items) == NUM_ITEMS
        assert changed.item_values["genre"][0] == "folk"
        assert (changed.item_vectors[1] != recommender.item_vectors[1]).any()
        assert changed.has_own_id[1]
        assert (changed.item_vectors[2:] == recommender.item_vectors[2:]).all()

    def test_items_come_one_after_the_other_and_in_any_frame(
        self, recommender: Recommender
    ) -> None:
        once = recommender.add_items(polars.DataFrame(new_item("folk")))
        twice = once.add_items(pandas.DataFrame(new_item("jazz", 998)))
        assert len(twice.items) == NUM_ITEMS + 2
        found = items_of(twice, features={"taste": "jazz"}, history=[500], k=12)
        assert 998 in found
        assert 999 not in found

    def test_a_missing_column_is_missing_for_all(self, recommender: Recommender) -> None:
        larger = recommender.add_items({"item_id": [999], "genre": ["folk"]})
        assert np.isnan(larger.item_values["year"][-1])
        assert 999 in items_of(larger, features={"taste": "folk"}, k=13)

    @pytest.mark.parametrize("column", ["title", "tags", "look", "price", "released"])
    def test_a_missing_column_of_any_kind_is_missing_for_all(self, column: str) -> None:
        record = {name: values[:1] for name, values in shop()["items"].items()}
        record = {**record, "sku": [7], "tags": [["jazz"]]}
        larger = shopkeeper().add_items({n: v for n, v in record.items() if n != column})
        assert 7 in items_of(larger, k=41)
        [*known, new] = larger.item_values[column].tolist()
        np.testing.assert_equal(known, shopkeeper().item_values[column].tolist())
        assert new is None or np.isnan(new).all()

    @pytest.mark.parametrize(
        ("table", "problem"),
        [
            ({"id": [1]}, "no column 'item_id'"),
            ({"item_id": [1, 1]}, "duplicates"),
            ({"item_id": [1, None]}, "nulls"),
            ({"item_id": ["a"]}, "whole numbers"),
            ({"item_id": [1], "year": ["new"]}, "year"),
            ("nowhere.parquet", "no such file"),
            (7, "not a table"),
        ],
    )
    def test_a_bad_table_is_refused(
        self, recommender: Recommender, table: Any, problem: str
    ) -> None:
        with pytest.raises(DataError, match=problem):
            recommender.add_items(table)


class TestColumns:
    def test_they_make_a_frame_of_either_kind(self, recommender: Recommender) -> None:
        found = recommender.recommend([100, 101], 3)
        frame = polars.DataFrame(found.columns())
        assert frame.columns == ["user_id", "item_id", "rank", "score"]
        assert frame["user_id"].to_list() == [100] * 3 + [101] * 3
        assert frame["rank"].to_list() == [1, 2, 3] * 2
        assert frame["item_id"].dtype == polars.Int64
        assert pandas.DataFrame(found.columns()).shape == (6, 4)

    def test_a_short_list_has_no_empty_rows(self, recommender: Recommender) -> None:
        found = recommender.recommend(100, NUM_ITEMS)
        left = NUM_ITEMS - len(recommender.seen.of(1))
        assert found.item_ids.shape == (1, NUM_ITEMS)
        assert len(found.columns()["rank"]) == left
        assert len(next(iter(found))) == left

    def test_text_ids_stay_text(self) -> None:
        found = trained(text_ids=True).recommend("u100", 3)
        frame = polars.DataFrame(found.columns())
        assert frame["item_id"].dtype == polars.String
        assert frame["user_id"].dtype == polars.String
