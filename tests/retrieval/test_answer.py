"""Answers to wishes, beside plain loops over every item."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from twotower import pipeline, runs
from twotower.errors import DataError, GivenUpError, RequestError
from twotower.retrieval import explain
from twotower.retrieval.answer import answer
from twotower.retrieval.changes import ItemRecords, Recent
from twotower.retrieval.people import encoded, look_up
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.rerank import choose
from twotower.retrieval.wish import Others, Person, Wish
from worlds import GENRES, NUM_ITEMS, checkerboard, genre_of, settings, shopkeeper, trained

SOME = [Person(user=user) for user in (100, 101, 117, 142)]


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    return trained()


@cache
def without_layers() -> Recommender:
    """A recommender whose score is linear in the items of a history."""
    config = settings(model={"history_hidden_dims": []}, training={"epochs": 3})
    return pipeline.fit(checkerboard(), config)


@cache
def by_age() -> Recommender:
    """A recommender to whom it matters how long ago something was liked."""
    made = pipeline.fit(checkerboard(), settings(model={"history": "weighted"}))
    with torch.no_grad():
        made.model.history.ages.copy_(torch.linspace(1, -2, len(made.model.history.ages)))
    return made


@cache
def reader() -> Recommender:
    """A recommender whose history is read in order."""
    config = settings(model={"history": "transformer"}, training={"epochs": 3})
    return pipeline.fit(checkerboard(), config)


def items_of(recommender: Recommender, person: Person, **asked: Any) -> list[Any]:
    [found] = answer(recommender, [person], Wish(**asked))
    return [each.item for each in found.items]


class TestWho:
    def test_a_known_user_gets_what_recommend_gives(self, recommender: Recommender) -> None:
        plain = recommender.recommend([each.user for each in SOME], 7)
        for own, pairs in zip(answer(recommender, SOME, Wish(k=7)), plain, strict=True):
            assert [each.item for each in own.items] == [item for item, _ in pairs]
            np.testing.assert_allclose(
                [each.score for each in own.items], [s for _, s in pairs], atol=1e-4
            )
            assert own.rests_on == ["features", "history"]

    @pytest.mark.parametrize(
        "asked",
        [
            {"features": {"taste": "folk"}},
            {"history": [502, 506]},
            {"features": {"taste": "folk", "age": 30}, "history": [502, 506]},
        ],
    )
    def test_somebody_new_gets_what_recommend_for_gives(
        self, recommender: Recommender, asked: dict[str, Any]
    ) -> None:
        [pairs] = recommender.recommend_for(**asked, k=6)
        [own] = answer(recommender, [Person(user="new", **asked)], Wish(k=6))
        assert [each.item for each in own.items] == [item for item, _ in pairs]
        assert own.rests_on == [name for name in ("features", "history") if name in asked]

    @pytest.mark.parametrize("make", [trained, reader, shopkeeper, lambda: trained("bce")])
    def test_a_known_user_encoded_anew_has_the_stored_vector(
        self, make: Any, tmp_path: Path
    ) -> None:
        recommender = runs.load(runs.save(make(), tmp_path / "run"))
        people = [
            look_up(recommender, Person(user=user), None)
            for user in recommender.users.values.tolist()
        ]
        anew = recommender.encode_users(*encoded(recommender, people))
        torch.testing.assert_close(anew, recommender.user_vectors[1:], atol=1e-4, rtol=1e-4)

    def test_a_feature_given_counts_before_the_one_trained_on(
        self, recommender: Recommender
    ) -> None:
        other = Person(user=100, features={"taste": "folk"})
        [own], [changed] = (answer(recommender, [each]) for each in (Person(user=100), other))
        assert own.items != changed.items

    def test_nobody_is_an_error_and_nobody_known_gets_what_is_popular(
        self, recommender: Recommender
    ) -> None:
        [found] = answer(recommender, [Person(user="who?")], Wish(k=NUM_ITEMS))
        assert found.rests_on == ["popularity"]
        counts = np.bincount(recommender.liked.items, minlength=NUM_ITEMS + 1)
        rows = recommender.items.rows([each.item for each in found.items])
        assert (np.diff(counts[rows]) <= 0).all()
        assert {each.affinity for each in found.items} == {None}
        assert answer(recommender, []) == []

    def test_unknown_items_of_a_history_are_named(self, recommender: Recommender) -> None:
        [found] = answer(recommender, [Person(history=[501, 9, "x"])])
        assert found.unknown == [9, "x"]
        assert found.rests_on == ["history"]

    def test_a_batch_says_what_each_alone_says(self, recommender: Recommender) -> None:
        people = [*SOME, Person(history=[503]), Person(), Person(features={"taste": "punk"})]
        wish = Wish(k=5, diversity=0.3, where={"year": {">=": 1960}})
        for together, person in zip(answer(recommender, people, wish), people, strict=True):
            [alone] = answer(recommender, [person], wish)
            assert [e.item for e in alone.items] == [e.item for e in together.items]

    @pytest.mark.parametrize(
        ("person", "problem"),
        [
            ({"features": {"tastes": "folk"}}, "unknown feature 'tastes'.*taste, age"),
            ({"features": {"age": "old"}}, "'age'"),
            ({"features": {"age": float("inf")}}, "'age'"),
        ],
    )
    def test_a_wrong_feature_is_named(
        self, recommender: Recommender, person: dict[str, Any], problem: str
    ) -> None:
        with pytest.raises(RequestError, match=problem):
            answer(recommender, [Person(**person)])

    @pytest.mark.parametrize(
        "bad", [True, 1.5, "", "x" * 257, 2**63, None, [1], "\ud800", "\0"]
    )
    def test_what_can_be_no_id_is_refused(self, bad: Any) -> None:
        with pytest.raises(ValidationError):
            Person(history=[bad])


class TestRecent:
    def test_what_was_liked_since_counts_like_a_history(self, recommender: Recommender) -> None:
        recent = Recent()
        for item in (502, 506, 502):
            recent.add("new", str(item), liked=True)
        [since] = answer(recommender, [Person(user="new")], Wish(k=9), recent=recent)
        [given] = answer(recommender, [Person(history=[506, 502])], Wish(k=9))
        assert since.items == given.items
        assert since.rests_on == ["history"]

    def test_a_known_users_history_grows_and_what_was_met_does_not_come_again(
        self, recommender: Recommender
    ) -> None:
        recent = Recent()
        before = items_of(recommender, SOME[0], k=3)
        recent.add("100", str(before[0]), liked=True)
        recent.add("100", str(before[1]), liked=False)
        [after] = answer(recommender, SOME[:1], Wish(k=30), recent=recent)
        assert not {each.item for each in after.items} & set(before[:2])
        known = look_up(recommender, SOME[0], recent)
        rows = recommender.items.rows(before)
        assert known.history[-1] == rows[0]
        assert rows[1] not in known.history
        assert known.history[:-1].tolist() == recommender.liked.of(1).tolist()

    def test_what_came_late_is_where_it_belongs_in_time(self) -> None:
        recent = Recent()
        for at, item, liked in (
            *((3, "a", True), (5, "b", True), (1, "c", True), (5, "d", True), (4, "b", False)),
            *((2, "a", True), (6, "c", False), (0, "c", True), (7, "a", False), (8, "a", True)),
        ):
            recent.add("u", item, liked=liked, at=at)
        # The last meeting in time counts, whenever it came.
        assert recent.liked_by("u") == ["b", "d", "a"]
        assert recent.disliked_by("u") == ["c"]
        recent.add("u", "e", liked=True, at=2)
        assert recent.liked_by("u") == ["e", "b", "d", "a"]

    def test_a_history_that_the_run_has_already_counts_once(
        self, recommender: Recommender
    ) -> None:
        recent = Recent()
        for row in recommender.liked.of(1):
            recent.add("100", str(recommender.items.values[row - 1]), liked=True)
        known = look_up(recommender, SOME[0], recent)
        assert known.history.tolist() == recommender.liked.of(1).tolist()


# Each condition, and the same in plain Python.
CONDITIONS = [
    ({"genre": "jazz"}, lambda g, y: g == "jazz"),
    ({"genre": ["jazz", "folk"]}, lambda g, y: g in {"jazz", "folk"}),
    ({"genre": {"not in": ["jazz", "folk"]}}, lambda g, y: g not in {"jazz", "folk"}),
    ({"year": {">=": 1960, "<": 1963}}, lambda g, y: 1960 <= y < 1963),
    ({"year": 1955}, lambda g, y: y == 1955),
    ({"year": {">": 1960.5}, "genre": ["punk"]}, lambda g, y: y > 1960.5 and g == "punk"),
    ({"year": {"<=": 1900}}, lambda g, y: False),
    ({"genre": []}, lambda g, y: False),
    ({}, lambda g, y: True),
]


class TestWhere:
    @pytest.mark.parametrize(("where", "fits"), CONDITIONS, ids=[str(w) for w, _ in CONDITIONS])
    @pytest.mark.parametrize("k", [3, 40])
    def test_a_list_holds_the_best_of_what_is_allowed_and_never_fewer(
        self, recommender: Recommender, where: dict[str, Any], fits: Any, k: int
    ) -> None:
        genres, years = (recommender.item_values[name] for name in ("genre", "year"))
        for own in answer(recommender, SOME, Wish(k=k, where=where)):
            row = int(recommender.users.rows([own.user])[0])
            scores = (recommender.item_vectors @ recommender.user_vectors[row]).numpy()
            seen = set(recommender.seen.of(row).tolist())
            allowed = [
                n
                for n in range(1, NUM_ITEMS + 1)
                if n not in seen and fits(genres[n - 1], years[n - 1])
            ]
            best = sorted(allowed, key=lambda n: -scores[n])[:k]
            assert [each.item for each in own.items] == recommender.items.of(
                np.array(best, np.int64)
            ).tolist()

    def test_lists_flags_and_times_can_be_asked_for(self) -> None:
        shop = shopkeeper()
        person = Person(user="c1")
        every = {"k": 40, "include_seen": True}
        tagged = items_of(shop, person, where={"tags": "vinyl"}, **every)
        assert sorted(tagged) == [1000 + n for n in range(40) if n % 5]
        late = items_of(shop, person, where={"released": {">=": "2020-01-01"}}, **every)
        assert sorted(late) == [1000 + n for n in range(40) if n % 24 >= 20]
        priced = items_of(shop, person, where={"price": {">": 0}}, **every)
        assert sorted(priced) == [1000 + n for n in range(40) if n % 8]

    @pytest.mark.parametrize(
        ("where", "problem"),
        [
            ({"colour": "red"}, "no column 'colour'; the items' columns are: genre, year"),
            ({"year": "new"}, "where.year: expected a numeric, got 'new'"),
            ({"year": True}, "where.year: expected a numeric, got True"),
            ({"genre": {">": "a"}}, "where.genre: a categorical has no order"),
            ({"year": {">=": [1]}}, "expected a numeric"),
            ({"year": {"in": 1}}, "'in' takes several"),
            ({"year": {"=": [1]}}, "'=' takes one value"),
        ],
    )
    def test_a_wrong_condition_is_named(
        self, recommender: Recommender, where: dict[str, Any], problem: str
    ) -> None:
        with pytest.raises(RequestError, match=problem):
            answer(recommender, SOME, Wish(where=where))

    def test_excluded_items_do_not_come(self, recommender: Recommender) -> None:
        first, second, *_ = items_of(recommender, SOME[0], k=2)
        mine = Person(user=100, exclude=[first])
        assert first not in items_of(recommender, mine, k=40)
        assert second not in items_of(recommender, mine, k=40, exclude=[second, "no such"])


class TestDials:
    @pytest.mark.parametrize("diversity", [0.0, 0.2, 0.7, 1.0])
    def test_the_choice_is_that_of_plain_loops(self, diversity: float) -> None:
        rng = np.random.default_rng(3)
        scores = -np.sort(-rng.normal(size=30)).astype(np.float32)
        embeddings = rng.normal(size=(30, 4)).astype(np.float32)
        kinds = [(int(n),) for n in rng.integers(0, 4, 30)]
        unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        relevance = (scores - scores.min()) / (scores.max() - scores.min())
        chosen: list[int] = []
        while len(chosen) < 8:
            best, most = -1, -np.inf
            for n in range(30):
                taken = sum(kinds[c] == kinds[n] for c in chosen)
                if n in chosen or taken == 3:
                    continue
                near = max((float(unit[n] @ unit[c]) for c in chosen), default=0.0)
                value = (1 - diversity) * relevance[n] - diversity * near
                if value > most + 1e-7:
                    best, most = n, value
            chosen.append(best)
        found = choose(scores, embeddings, 8, diversity=diversity, groups=[(kinds, 3)])
        assert found.tolist() == chosen

    def test_more_diversity_makes_lists_less_alike(self, recommender: Recommender) -> None:
        def likeness(diversity: float) -> float:
            rows = recommender.items.rows(
                items_of(recommender, SOME[0], k=6, diversity=diversity)
            )
            v = torch.nn.functional.normalize(recommender.item_vectors[rows, :-1], dim=1)
            return float((v @ v.T).sum() - len(rows))

        plain = items_of(recommender, SOME[0], k=6)
        assert items_of(recommender, SOME[0], k=6, diversity=0.0) == plain
        assert max(likeness(1.0), likeness(0.5)) < likeness(0.0)

    def test_a_quota_holds_and_leaves_no_list_short(self, recommender: Recommender) -> None:
        found = items_of(recommender, SOME[0], k=8, at_most={"genre": 2})
        assert sorted(genre_of(item) for item in found) == [0, 0, 1, 1, 2, 2, 3, 3]
        first = items_of(recommender, SOME[0], k=2)
        assert found[:2] == first
        # Nine can not be had of four genres, and eight are not held back.
        assert len(items_of(recommender, SOME[0], k=9, at_most={"genre": 2})) == 8

    def test_a_quota_looks_beyond_its_first_pool(self) -> None:
        rng = np.random.default_rng(0)
        count = 3000
        ids = [10_000 + n for n in range(count)]
        # All but three of the new items are of the favourite genre.
        genre = ["jazz"] * (count - 3) + ["punk", "folk", "funk"]
        larger = trained().add_items(
            ItemRecords(
                ids,
                [{"genre": g, "year": int(1950 + rng.integers(40))} for g in genre],
            )
        )
        found = items_of(larger, SOME[0], k=4, at_most={"genre": 1})
        values = dict(zip(larger.items.values, larger.item_values["genre"], strict=True))
        assert sorted(values[item] for item in found) == sorted(GENRES)

    @pytest.mark.parametrize("dial", [-1.0, -0.3, 0.4, 1.0])
    def test_the_popularity_dial_is_one_more_dimension(
        self, recommender: Recommender, dial: float
    ) -> None:
        [own] = answer(recommender, SOME[:1], Wish(k=9, popularity=dial, include_seen=True))
        items = torch.cat([recommender.item_vectors, recommender.popularity[:, None]], 1)
        user = torch.cat([recommender.user_vectors[1], torch.tensor([dial])])
        scores = (items @ user)[1:]
        best = torch.argsort(scores, descending=True)[:9]
        assert [each.item for each in own.items] == recommender.items.values[best].tolist()
        np.testing.assert_allclose([e.score for e in own.items], scores[best], atol=1e-4)

    @pytest.mark.parametrize(
        "wrong", [{"k": 0}, {"diversity": 1.5}, {"popularity": float("nan")}]
    )
    def test_a_dial_beyond_its_end_is_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Wish(**wrong)


class TestWhy:
    @pytest.mark.parametrize("make", [trained, reader, lambda: trained("bce"), shopkeeper])
    @pytest.mark.parametrize("popularity", [0.0, 0.5])
    def test_the_parts_add_up_to_the_score(self, make: Any, popularity: float) -> None:
        recommender = make()
        people = [Person(user=u) for u in recommender.users.values[:3].tolist()]
        for own in answer(recommender, people, Wish(k=4, explain=True, popularity=popularity)):
            for each in own.items:
                why = each.why
                assert why is not None
                parts = why.id + why.features + why.history + why.bias + why.popularity
                assert parts == pytest.approx(each.score, abs=1e-3)

    def test_of_a_pooled_history_without_layers_the_items_add_up(self) -> None:
        recommender = without_layers()
        [own] = answer(recommender, [Person(history=[500, 501, 504])], Wish(explain=True))
        for each in own.items:
            assert each.why is not None
            assert each.why.is_exact
            adds = {part.name: part.adds for part in each.why.items}
            assert adds.keys() == {500, 501, 504}
            assert sum(adds.values()) == pytest.approx(each.why.history, abs=1e-4)
        assert own.items[0].why is not None
        assert min(own.items[0].why.items, key=lambda part: part.adds).name == 501

    def test_of_a_long_history_the_largest_are_named_and_the_others_added_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recommender = without_layers()
        person = Person(history=[501, 505, 509, *range(500, 528, 4)])
        wish = Wish(k=NUM_ITEMS, include_seen=True, explain=True)
        [own] = answer(recommender, [person], wish)
        monkeypatch.setattr(explain, "_SHOWN", NUM_ITEMS)
        [whole] = answer(recommender, [person], wish)
        named = []
        for each, every in zip(own.items, whole.items, strict=True):
            assert each.why is not None
            assert every.why is not None
            assert every.why.others == Others(count=0, adds=0.0)
            assert each.why.items == every.why.items[:5]
            sizes = [abs(part.adds) for part in every.why.items]
            assert sizes == sorted(sizes, reverse=True)
            assert each.why.others.count == 5
            parts = sum(part.adds for part in each.why.items) + each.why.others.adds
            assert parts == pytest.approx(each.why.history, abs=1e-4)
            named += [part.adds for part in each.why.items]
        assert min(named) < -0.3 < 0.3 < max(named)

    @pytest.mark.parametrize("make", [trained, by_age, reader])
    def test_of_a_history_that_layers_read_a_part_is_what_is_lost_without_it(
        self, make: Any
    ) -> None:
        recommender, history = make(), [500, 501, 504]
        [own] = answer(recommender, [Person(history=history)], Wish(k=5, explain=True))
        for each in own.items:
            assert each.why is not None
            assert not each.why.is_exact
            for part in each.why.items:
                rest = Person(history=[item for item in history if item != part.name])
                [without] = answer(recommender, [rest], Wish(k=NUM_ITEMS, include_seen=True))
                score = {e.item: e.score for e in without.items}[each.item]
                assert part.adds == pytest.approx(each.score - score, abs=1e-4)

    def test_the_feature_that_decides_adds_most(self) -> None:
        person = Person(features={"taste": "folk", "age": 30})
        [own] = answer(trained("bce"), [person], Wish(k=3, explain=True))
        for each in own.items:
            assert each.why is not None
            assert [part.name for part in each.why.columns] == ["taste", "age"]
            assert each.why.columns[0].adds > 0


class TestChanges:
    def test_records_are_added_as_a_table_is(self, recommender: Recommender) -> None:
        table = {"item_id": [999, 500], "genre": ["folk", "punk"], "year": [1975, 1980]}
        records = [{"genre": "folk", "year": 1975}, {"genre": "punk", "year": 1980}]
        one = recommender.add_items(table)
        other = recommender.add_items(ItemRecords([999, "500"], records))
        assert torch.equal(one.item_vectors, other.item_vectors)
        assert one.item_values["genre"].tolist() == other.item_values["genre"].tolist()
        assert 999 in items_of(other, Person(features={"taste": "folk"}), k=13)

    @pytest.mark.parametrize(
        ("features", "problem"),
        [
            ({"colour": 1}, "unknown feature 'colour'; the items' columns are: genre, year"),
            ({"year": "new"}, "'year': expected a numeric, got 'new'"),
            ({}, "none of their columns is a feature"),
        ],
    )
    def test_a_bad_record_is_refused(
        self, recommender: Recommender, features: dict[str, Any], problem: str
    ) -> None:
        with pytest.raises(DataError, match=problem):
            recommender.add_items(ItemRecords([999], [features]))
        with pytest.raises(DataError, match="'x' is no whole number"):
            recommender.add_items(ItemRecords(["x"], [{"genre": "folk"}]))

    def test_what_was_removed_comes_no_more_but_counts_in_histories(
        self, recommender: Recommender, tmp_path: Path
    ) -> None:
        first = next(item for item in items_of(recommender, SOME[0], k=2) if item != 504)
        smaller = recommender.remove_items([first, 9, 504])
        smaller = runs.load(runs.save(smaller, tmp_path / "run"))
        found = items_of(smaller, SOME[0], k=48, include_seen=True)
        assert not {first, 504} & set(found)
        assert len(found) == 46
        near = items_of(smaller, Person(history=[504]), k=5)
        assert [genre_of(item) for item in near] == [0] * 5
        with pytest.raises(RequestError, match="1 unknown"):
            smaller.similar_items(first)
        with pytest.raises(RequestError, match="1 unknown"):
            smaller.score([(100, first)])
        back = smaller.add_items(ItemRecords([first], [{"genre": "jazz", "year": 1990}]))
        assert first in items_of(back, SOME[0], k=48)


@pytest.mark.parametrize("wish", [Wish(explain=True), Wish(diversity=0.5)])
def test_an_answer_that_nobody_waits_for_ends_with_the_next_person(wish: Wish) -> None:
    asked = iter([True, True])
    with pytest.raises(GivenUpError):
        answer(trained(), SOME, wish, is_wanted=lambda: next(asked, False))
    assert next(asked, None) is None
