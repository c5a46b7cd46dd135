"""Every figure of a report, made again from ids and lists alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from judges import by_user, judged
from twotower import pipeline
from twotower.config import Config
from twotower.evaluation.validation import validation
from twotower.retrieval.recommender import Recommender
from twotower.training.learn import learn
from twotower.watch import Watch
from worlds import NUM_USERS, checkerboard, settings, trained

Tables = dict[str, Mapping[str, Any]]
GIVEN = {"split": "auto"}
COLD, AGAIN = range(100, 108), range(108, 120)


def rows(users: list[Any], items: list[Any], labels: list[int] | None = None) -> dict[str, Any]:
    columns = {"user_id": users, "item_id": items}
    return columns if labels is None else {**columns, "label": labels}


def parted(*, disliked: int = 0) -> Tables:
    """The checkerboard with parts cut by hand: each user's rows in turn.

    The users of ``COLD`` have no row but in test; those of ``AGAIN`` meet in test an item of
    train once more.
    """
    world = checkerboard(liked=9, disliked=disliked)
    log = world.pop("interactions")
    parts: dict[str, dict[str, list[Any]]] = {
        name: {column: [] for column in log} for name in ("train", "val", "test")
    }
    first: dict[Any, Any] = {}
    for number, row in enumerate(zip(*log.values(), strict=True)):
        name = ("train", "train", "val", "test")[number % 4]
        user = row[0]
        if user in COLD:
            name = "test"
        targets = [name]
        if name == "train" and user in AGAIN and user not in first:
            first[user] = row
            targets = ["train", "test"]
        for target in targets:
            for column, value in zip(log, row, strict=True):
                parts[target][column].append(value)
    return {**world, **parts}


@dataclass(frozen=True)
class Measured:
    tables: Tables
    recommender: Recommender

    def known(self) -> dict[Any, set[Any]]:
        """What each user met before the test part."""
        return met(self.tables["train"], self.tables["val"])

    def held_out(self, *, warm: bool) -> dict[Any, set[Any]]:
        """What is to be found, of the users whom the parts before test know or do not."""
        known = self.known()
        return {
            user: items - known.get(user, set())
            for user, items in met(self.tables["test"]).items()
            if (user in known) == warm
        }


def met(*parts: Mapping[str, Any]) -> dict[Any, set[Any]]:
    found: dict[Any, set[Any]] = defaultdict(set)
    for part in parts:
        for user, item in zip(part["user_id"], part["item_id"], strict=True):
            found[user].add(item)
    return dict(found)


@cache
def measured() -> Measured:
    tables = parted()
    config = settings(data=GIVEN, training={"epochs": 8}, evaluation={"k": [5, 10]})
    return Measured(tables, pipeline.fit(tables, config))


def means(summary: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: each["mean"] for name, each in summary.items()}


def assert_says(summary: Mapping[str, Any], theirs: Mapping[str, float]) -> None:
    ours = means(summary)
    assert {name: ours[name] for name in theirs} == pytest.approx(dict(theirs), abs=1e-9)


@pytest.mark.parametrize("group", ["warm", "cold"])
@pytest.mark.parametrize("k", [5, 10])
def test_the_figures_are_those_of_the_lists_that_people_get(group: str, k: int) -> None:
    wanted = measured().held_out(warm=group == "warm")
    assert len(wanted) == (len(COLD) if group == "cold" else NUM_USERS - len(COLD))
    lists = by_user(measured().recommender.recommend(list(wanted), k))
    report = measured().recommender.metrics
    assert_says(report["ranking"][group]["towers"], judged(lists, wanted, k))


def test_an_item_met_before_is_not_to_be_found_again() -> None:
    # A copy of all that is known, in test, changes no figure.
    tables = measured().tables
    again = {
        column: [*tables["train"][column], *tables["test"][column], *tables["val"][column]]
        for column in tables["test"]
    }
    report = pipeline.evaluate(measured().recommender, {**tables, "test": again})
    assert report["ranking"] == measured().recommender.metrics["ranking"]


def test_warm_and_cold_users_are_counted_and_so_are_the_rows_of_each_part() -> None:
    report = measured().recommender.metrics
    parts = {name: len(measured().tables[name]["user_id"]) for name in ("train", "val", "test")}
    assert report["protocol"] == {
        "split": "given",
        "k": [5, 10],
        "interactions": parts,
        "users": {"warm": NUM_USERS - len(COLD), "all": NUM_USERS},
    }


def test_the_difference_is_ours_less_the_baselines() -> None:
    for group in measured().recommender.metrics["ranking"].values():
        ours, theirs = means(group["towers"]), means(group["popularity"])
        differences = {name: ours[name] - theirs[name] for name in ours}
        assert means(group["difference"]["popularity"]) == pytest.approx(differences)


def test_beyond_accuracy_is_that_of_the_first_ten() -> None:
    wanted = {**measured().held_out(warm=True), **measured().held_out(warm=False)}
    lists = by_user(measured().recommender.recommend(list(wanted), 10))
    shown = {item for items in lists.values() for item in items}
    counts = Counter(i for part in ("train", "val") for i in measured().tables[part]["item_id"])
    known = measured().known()
    own, ours = (
        np.mean([np.mean([counts[i] for i in which[user]]) for user in known])
        for which in (known, lists)
    )
    found = measured().recommender.metrics["beyond_accuracy"]["towers"]
    assert found == pytest.approx(
        {"coverage": len(shown) / 48, "popularity_bias": ours / own - 1}
    )


def test_users_that_training_never_met_have_slices_of_their_own() -> None:
    config = settings(
        data={"split": "cold_users", "test_fraction": 0.5}, training={"epochs": 1}
    )
    parts = pipeline.fit(checkerboard(), config).metrics["slices"]
    assert {(part["group"], part["against"]) for part in parts} == {("cold", "popularity")}
    assert {"items with year up to 1973.5", "items with year above 1973.5"} <= {
        part["slice"] for part in parts
    }


def test_popularity_is_what_was_popular_before_the_test_part() -> None:
    # Item n was met by n users before, and in test the other way around.
    everybody, items = range(1, 31), range(1, 21)
    log = [(user, item) for item in items for user in range(1, item + 1)]
    late = [(user, item) for item in items for user in everybody if user > 10 + item]
    tables: Tables = {
        "train": rows(*map(list, zip(*log[::2], strict=True))),
        "val": rows(*map(list, zip(*log[1::2], strict=True))),
        "test": rows(*map(list, zip(*late, strict=True))),
    }
    config = settings(data=GIVEN, training={"epochs": 1, "loss": "bpr"}, evaluation={"k": [5]})
    report = pipeline.fit(tables, config).metrics
    known = met(tables["train"], tables["val"])
    wanted = {
        user: found - known.get(user, set()) for user, found in met(tables["test"]).items()
    }
    lists = {
        user: [i for i in sorted(items, reverse=True) if i not in known.get(user, set())]
        for user in wanted
    }
    for group, summary in report["ranking"].items():
        chosen = {
            user: each for user, each in wanted.items() if (user in known) == (group == "warm")
        }
        assert_says(summary["popularity"], judged(lists, chosen, 5))


def test_the_labels_figures_are_those_of_the_affinities_that_people_get() -> None:
    tables = parted(disliked=8)
    config = settings(data=GIVEN, training={"epochs": 2, "loss": "bce", "batch_size": 128})
    recommender = pipeline.fit(tables, config)
    test = tables["test"]
    pairs = list(zip(test["user_id"], test["item_id"], strict=True))
    chance = recommender.affinity(recommender.score(pairs)).astype(float).tolist()
    liked = [label == 1 for label in test["label"]]
    losses = [-np.log(p if yes else 1 - p) for p, yes in zip(chance, liked, strict=True)]
    up, down = (
        [p for p, yes in zip(chance, liked, strict=True) if yes == x] for x in (True, False)
    )
    wins = [(one > other) + (one == other) / 2 for one in up for other in down]
    right = [(p >= 0.5) == yes for p, yes in zip(chance, liked, strict=True)]
    assert recommender.metrics["test_loss"] == pytest.approx(np.mean(losses), abs=1e-6)
    assert recommender.metrics["test_auc"] == pytest.approx(np.mean(wins), abs=1e-9)
    assert recommender.metrics["test_accuracy"] == pytest.approx(np.mean(right), abs=1e-9)


def test_without_dislikes_the_labs_keys_are_there_and_empty() -> None:
    report = measured().recommender.metrics
    assert {report[f"test_{name}"] for name in ("loss", "accuracy", "auc")} == {None}


def test_a_test_part_that_shows_nothing_new_is_said() -> None:
    tables = measured().tables
    report = pipeline.evaluate(measured().recommender, {**tables, "test": tables["train"]})
    nobody, copies = report["warnings"]
    assert nobody == "no test user has a liked item that was not already seen"
    assert copies.startswith("100% of the test part's liked pairs are in train")
    assert "ranking" not in report


class TestPeopleAndItemsThatTrainingNeverMet:
    """The same world, under ids that the recommender does not know."""

    def strangers(self, *, features: bool) -> Tables:
        tables = parted()
        for name in ("train", "val", "test"):
            users = [user + 1000 for user in tables[name]["user_id"]]
            tables[name] = {**tables[name], "user_id": users}
        users = tables.pop("users")
        if features:
            # So few ages would be taken for categories, had training not met many.
            ages = [(20, 40)[n % 2] for n in range(NUM_USERS)]
            ids = [user + 1000 for user in users["user_id"]]
            tables["users"] = {"user_id": ids, "taste": users["taste"], "age": ages}
        return tables

    @pytest.mark.parametrize("features", [True, False])
    def test_users_are_judged_by_features_and_by_what_they_liked_before(
        self, features: bool
    ) -> None:
        tables = self.strangers(features=features)
        recommender = trained()
        report = pipeline.evaluate(recommender, tables)
        known = met(tables["train"], tables["val"])
        wanted = {u: i - known.get(u, set()) for u, i in met(tables["test"]).items()}
        lists = {}
        for user in wanted:
            about = {}
            if features:
                number = user - 1100
                about = {name: tables["users"][name][number] for name in ("taste", "age")}
            liked = [
                item
                for part in ("train", "val")
                for who, item in zip(*tables[part].values(), strict=True)
                if who == user
            ]
            [found] = recommender.recommend_for(features=about, history=liked, k=10)
            lists[user] = [item for item, _ in found]
        # Their past is in the data, and still none of them is known from the training.
        assert list(report["ranking"]) == ["cold"]
        assert report["protocol"]["users"] == {"warm": 0, "all": len(wanted)}
        assert_says(report["ranking"]["cold"]["towers"], judged(lists, wanted, 10))
        with_past = {user: each for user, each in wanted.items() if user in known}
        assert judged(lists, with_past, 10)["recall@10"] > 0.8

    def test_warm_are_those_whom_both_the_training_and_the_data_know(self) -> None:
        tables = parted()
        new = range(150, 170)
        for name in ("train", "val", "test", "users"):
            users = [user + 1000 * (user in new) for user in tables[name]["user_id"]]
            tables[name] = {**tables[name], "user_id": users}
        report = pipeline.evaluate(trained(), tables)
        warm = NUM_USERS - len(COLD) - len(new)
        assert report["protocol"]["users"] == {"warm": warm, "all": NUM_USERS}
        [warning] = [each for each in report["warnings"] if "known from training" in each]
        assert warning.startswith(f"only {warm} of the {NUM_USERS} test users")

    def test_items_are_judged_by_features(self) -> None:
        tables = parted()
        for name in ("train", "val", "test", "items"):
            items = [item + 1000 for item in tables[name]["item_id"]]
            tables[name] = {**tables[name], "item_id": items}
        report = pipeline.evaluate(trained(), tables)
        assert means(report["ranking"]["warm"]["towers"])["recall@10"] > 0.8
        assert means(report["ranking"]["warm"]["popularity"])["recall@10"] < 0.4

    def test_where_nothing_is_known_of_an_item_it_is_not_recommended(self) -> None:
        # A model of ids alone, on data with twice the items.
        world = {"interactions": checkerboard()["interactions"]}
        recommender = pipeline.fit(world, settings(training={"epochs": 2}))
        log = world["interactions"]
        new = [item + 1000 for item in log["item_id"]]
        both = rows(log["user_id"] * 2, log["item_id"] + new)
        report = pipeline.evaluate(recommender, {"interactions": both})
        assert report["beyond_accuracy"]["towers"]["coverage"] <= 0.5


class TestValidation:
    """What is measured after each epoch."""

    def parts(self, tables: Tables, config: Config) -> pipeline.Plan:
        return pipeline.plan(tables, config, Watch())

    def test_the_ranking_is_that_of_a_recommender_which_knows_train_only(self) -> None:
        plain = {"data": GIVEN, "model": {"popularity": 0}, "training": {"epochs": 4}}
        plan = self.parts(parted(), settings(**plain))
        parts, config = plan.parts, plan.contenders[0]
        measure = validation(parts, config)
        learned = learn(plan.dataset, parts.train, config, None, metric="train_loss")
        nothing = parts.val.take(np.empty(0, np.int64))
        train_only = replace(parts, val=nothing, test=None)
        recommender = pipeline.assemble(plan.dataset, train_only, config, learned, {}, None)
        known, wanted = met(parted()["train"]), met(parted()["val"])
        lists = by_user(recommender.recommend(list(wanted), 10))
        theirs = judged(lists, {u: i - known.get(u, set()) for u, i in wanted.items()}, 10)
        assert measure(learned)["val_ndcg"] == pytest.approx(theirs["ndcg@10"], abs=1e-9)

    def test_labels_are_the_validation_parts_own_where_there_are_dislikes(self) -> None:
        plan = self.parts(parted(disliked=8), settings(data=GIVEN, training={"loss": "bce"}))
        measure = validation(plan.parts, plan.contenders[0])
        val = plan.parts.val
        assert measure.labels.tolist() == val.labels.tolist()
        assert measure.item_rows.tolist() == val.item_rows.tolist()

    def test_else_beside_each_liked_item_stands_one_that_is_not_known_to_be(self) -> None:
        plan = self.parts(parted(), settings(data=GIVEN))
        measure, val = validation(plan.parts, plan.contenders[0]), plan.parts.val
        everything = plan.parts.train.followed_by(val)
        known = set(
            zip(everything.user_rows.tolist(), everything.item_rows.tolist(), strict=True)
        )
        pairs = list(zip(measure.user_rows.tolist(), measure.item_rows.tolist(), strict=True))
        labels = measure.labels.astype(bool).tolist()
        assert Counter(labels) == {True: len(val), False: len(val)}
        assert [pair in known for pair in pairs] == labels
        others = [user for (user, _), yes in zip(pairs, labels, strict=True) if not yes]
        assert sorted(others) == sorted(val.user_rows.tolist())

    def test_an_epoch_is_judged_by_what_it_can_tell_apart_and_not_by_its_certainty(
        self,
    ) -> None:
        plan = self.parts(
            parted(disliked=8), settings(data=GIVEN, training={"loss": "bce", "epochs": 2})
        )
        measure = validation(plan.parts, plan.contenders[0])
        learned = learn(
            plan.dataset, plan.parts.train, plan.contenders[0], None, metric="train_loss"
        )
        before = measure(learned)
        learned.model.slope.fill_(50)
        assert measure(learned) == before
        assert before["val_loss"] < np.log(2)
        assert 0.5 < before["val_auc"] <= 1
        turned = replace(measure, labels=1 - measure.labels)(learned)
        assert turned["val_auc"] == pytest.approx(1 - before["val_auc"])
