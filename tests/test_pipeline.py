"""The story as a whole: what goes in, what comes out, and that nothing else has a say."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from twotower import pipeline, runs
from twotower.config import Config, read_config
from twotower.errors import ConfigError, DataError, RunError, TwoTowerError
from twotower.evaluation.calibration import fit_line
from twotower.retrieval.recommender import Recommender
from twotower.training.loop import Progress
from twotower.tuning.tune import tune
from twotower.watch import Watch
from worlds import NUM_ITEMS, NUM_USERS, checkerboard, search_world, settings, trained

NOW = datetime(2026, 1, 31, 12)
NAME = "20260131-120000-x"
SHORT = {"epochs": 3, "early_stopping_patience": 3, "batch_size": 128}
ROOT = Path(__file__).parents[1]


class Told(Watch):
    """Remembers what it is told, and does something at each epoch."""

    def __init__(self, at_epoch: Callable[[str, int], None] = lambda _stage, _epoch: None):
        self.notes: list[str] = []
        self.now = ""
        self.at_epoch = at_epoch

    def stage(self, name: str, total: int | None = None) -> None:
        self.now = name

    def epoch(self, progress: Progress, metric: str) -> None:
        self.at_epoch(self.now, progress.epoch)

    def note(self, text: str) -> None:
        self.notes.append(text)


def stop_at(stage: str, epoch: int, error: BaseException) -> Callable[[str, int], None]:
    def at_epoch(now: str, number: int) -> None:
        if (now, number) == (stage, epoch):
            raise error

    return at_epoch


def timeless(report: Any) -> Any:
    """A report without what a clock said."""
    if isinstance(report, Mapping):
        return {name: timeless(each) for name, each in report.items() if "seconds" not in name}
    return report


def assert_same_weights(one: Recommender, other: Recommender) -> None:
    theirs = other.model.state_dict()
    assert all(torch.equal(w, theirs[name]) for name, w in one.model.state_dict().items())
    assert torch.equal(one.user_vectors, other.user_vectors)
    assert torch.equal(one.item_vectors, other.item_vectors)


class TestTrain:
    def test_it_leaves_a_run_named_by_the_time_and_nothing_else(
        self, lab: tuple[Recommender, Path]
    ) -> None:
        _, directory = lab
        assert directory.name == "20260131-120000-lab"
        assert list(directory.parent.iterdir()) == [directory]
        assert runs.list_runs(directory.parent) == [directory]

    def test_the_run_says_what_the_recommender_in_hand_says(
        self, lab: tuple[Recommender, Path]
    ) -> None:
        recommender, directory = lab
        loaded = runs.load(directory)
        assert_same_weights(loaded, recommender)
        assert loaded.metrics == recommender.metrics

    def test_figures_stand_under_the_labs_own_keys(self, lab: tuple[Recommender, Path]) -> None:
        _, directory = lab
        metrics = json.loads((directory / "metrics.json").read_text())
        history = json.loads((directory / "history.json").read_text())
        assert metrics["test_loss"] < 0.45
        assert metrics["test_accuracy"] > 0.8
        assert metrics["test_auc"] > 0.7
        for name in ("train_loss", "val_loss", "val_auc"):
            # Four more than the best, or all fifteen.
            assert len(history[name]) == min(metrics["best_epoch"] + 4, 15)
            assert all(isinstance(value, float) for value in history[name])

    def test_a_made_up_world_says_the_best_that_can_be_had(
        self, lab: tuple[Recommender, Path]
    ) -> None:
        recommender, _ = lab
        metrics, best = recommender.metrics, recommender.metrics["best_possible"]
        assert metrics["test_auc"] == pytest.approx(best["auc"], abs=0.03)
        assert best["log_loss"] < metrics["test_loss"] < best["log_loss"] + 0.03
        assert trained().metrics["best_possible"] is None

    def test_no_run_is_listed_before_the_training_is_over(self, tmp_path: Path) -> None:
        listed = []
        told = Told(lambda *_: listed.append(runs.list_runs(tmp_path)))
        config = settings(training=SHORT)
        pipeline.train(checkerboard(), config, into=tmp_path, name="x", now=NOW, watch=told)
        assert len(listed) >= 4
        assert not any(listed)
        assert runs.list_runs(tmp_path) == [tmp_path / NAME]

    def test_a_mistake_in_the_settings_leaves_nothing(self, tmp_path: Path) -> None:
        config = settings(training={**SHORT, "loss": "bce"})
        with pytest.raises(DataError, match="needs dislikes too"):
            pipeline.train(checkerboard(), config, into=tmp_path, name="x", now=NOW)
        assert list(tmp_path.iterdir()) == []

    def test_a_run_does_not_take_anothers_place(self, tmp_path: Path) -> None:
        config = settings(training=SHORT)
        (tmp_path / NAME).mkdir()
        with pytest.raises(ConfigError, match=f"{NAME}: already exists"):
            pipeline.train(checkerboard(), config, into=tmp_path, name="x", now=NOW)
        assert list((tmp_path / NAME).iterdir()) == []


class TestStopped:
    @pytest.mark.parametrize(("stage", "epoch"), [("training", 2), ("refit", 1)])
    def test_a_training_that_was_killed_goes_on_as_if_it_never_was(
        self, stage: str, epoch: int, tmp_path: Path
    ) -> None:
        config = settings(model={"history": "mean"}, training={**SHORT, "epochs": 6})
        asked = {"into": tmp_path, "name": "x", "now": NOW}
        killed = Told(stop_at(stage, epoch, SystemExit("killed")))
        with pytest.raises(SystemExit):
            pipeline.train(checkerboard(), config, **asked, watch=killed)
        assert runs.list_runs(tmp_path) == []
        [unfinished] = tmp_path.iterdir()
        assert killed.notes == [
            f"{unfinished} keeps what was learned; train with resume to go on from there"
        ]
        told = Told()
        resumed, directory = pipeline.train(
            checkerboard(), config, **asked, resume=True, watch=told
        )
        whole, _ = pipeline.train(checkerboard(), config, into=tmp_path, name="y", now=NOW)
        assert f"{stage} goes on after epoch {epoch}" in told.notes
        assert_same_weights(resumed, whole)
        assert timeless(resumed.metrics) == timeless(whole.metrics)
        assert resumed.history == whole.history
        assert directory == tmp_path / NAME
        assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, NAME[:-1] + "y"]

    def test_its_time_is_that_of_all_its_parts(self, tmp_path: Path) -> None:
        config = settings(training={**SHORT, "refit": True})
        wait, began = 0.7, time.perf_counter()
        for stage in ("training", "refit"):
            with pytest.raises(SystemExit):
                self.resumed(config, tmp_path, Told(self.waiting(stage, wait)))
        recommender = self.resumed(config, tmp_path, Told())
        all_of_it = time.perf_counter() - began
        assert 2 * wait <= recommender.metrics["train_seconds"] <= all_of_it

    @staticmethod
    def waiting(stage: str, seconds: float) -> Callable[[str, int], None]:
        """Waits at the first epoch of a stage and is killed at the second."""
        stop = stop_at(stage, 2, SystemExit("killed"))

        def at_epoch(now: str, number: int) -> None:
            if (now, number) == (stage, 1):
                time.sleep(seconds)
            stop(now, number)

        return at_epoch

    @staticmethod
    def resumed(config: Config, into: Path, told: Told) -> Recommender:
        recommender, _ = pipeline.train(
            checkerboard(), config, into=into, name="x", now=NOW, resume=True, watch=told
        )
        return recommender

    @pytest.mark.parametrize(
        ("error", "is_kept"), [(DataError("a mistake"), False), (RunError("a full disk"), True)]
    )
    def test_what_was_learned_is_kept_but_for_a_mistake_that_would_come_again(
        self, error: TwoTowerError, is_kept: bool, tmp_path: Path
    ) -> None:
        told = Told(stop_at("training", 2, error))
        config = settings(model={"history": "mean"}, training=SHORT)
        with pytest.raises(type(error)):
            pipeline.train(checkerboard(), config, into=tmp_path, name="x", now=NOW, watch=told)
        assert bool(list(tmp_path.rglob("*.safetensors"))) is is_kept
        assert bool(list(tmp_path.iterdir())) is is_kept
        assert bool(told.notes) is is_kept

    def test_an_interrupted_refit_leaves_the_towers_that_validation_chose(self) -> None:
        told = Told(stop_at("refit", 1, KeyboardInterrupt()))
        interrupted = pipeline.fit(checkerboard(), settings(training=SHORT), watch=told)
        without = pipeline.fit(checkerboard(), settings(training={**SHORT, "refit": False}))
        assert_same_weights(interrupted, without)
        assert any("have not seen the validation part" in note for note in told.notes)


class TestFit:
    def test_a_seed_gives_one_recommender_and_another_seed_another(self) -> None:
        one, same, other = (
            pipeline.fit(checkerboard(), settings(training={**SHORT, "seed": seed}))
            for seed in (1, 1, 2)
        )
        assert_same_weights(one, same)
        assert timeless(one.metrics) == timeless(same.metrics)
        assert not torch.equal(one.item_vectors, other.item_vectors)

    def test_settings_may_be_given_as_they_stand_in_a_file(self) -> None:
        one = pipeline.fit(checkerboard(), settings(training=SHORT))
        mapping = settings(training=SHORT).model_dump(mode="json")
        assert_same_weights(one, pipeline.fit(checkerboard(), mapping))
        with pytest.raises(ConfigError, match=r"training\.epoch: unknown key"):
            pipeline.fit(checkerboard(), {"training": {"epoch": 3}})
        with pytest.raises(ConfigError, match=r"training\.epoch: unknown key"):
            pipeline.train(
                checkerboard(), {"training": {"epoch": 3}}, into="runs", name="x", now=NOW
            )
        with pytest.raises(ConfigError, match=r"training\.epoch: unknown key"):
            tune(checkerboard(), {"training": {"epoch": 3}}, trials=1)

    def test_the_test_part_touches_nothing_but_the_figures(self) -> None:
        world = self.parted()
        turned = {**world["test"], "label": [1 - label for label in world["test"]["label"]]}
        one, other = (
            pipeline.fit(tables, settings(data={"split": "auto"}, training=SHORT))
            for tables in (world, {**world, "test": turned})
        )
        assert_same_weights(one, other)
        assert one.history == other.history
        assert one.metrics["test_auc"] != other.metrics["test_auc"]

    def test_what_was_held_out_for_test_was_not_seen_and_all_else_was(self) -> None:
        world = self.parted()
        recommender = pipeline.fit(world, settings(data={"split": "auto"}, training=SHORT))
        seen = {
            (int(user), int(item))
            for row, user in enumerate(recommender.users.values, 1)
            for item in recommender.items.of(recommender.seen.of(row))
        }
        known = {pair for name in ("train", "val") for pair in self.pairs(world[name])}
        assert seen == known
        assert not seen & set(self.pairs(world["test"]))

    def test_the_towers_learn_from_the_validation_part_in_the_end_unless_told_not_to(
        self,
    ) -> None:
        world = self.parted()
        # The order of its rows changes what is learned from them, and no choice made on them.
        turned = {name: values[::-1] for name, values in world["val"].items()}
        for refit in (True, False):
            training = {**SHORT, "epochs": 1, "refit": refit}
            one, other = (
                pipeline.fit(tables, settings(data={"split": "auto"}, training=training))
                for tables in (world, {**world, "val": turned})
            )
            assert torch.equal(one.user_vectors, other.user_vectors) != refit

    def test_affinities_go_by_the_line_that_fits_validation_before_the_refit_and_after(
        self,
    ) -> None:
        world = self.parted()
        searched, refitted = (
            pipeline.fit(
                world, settings(data={"split": "auto"}, training={**SHORT, "refit": refit})
            )
            for refit in (False, True)
        )
        val = world["val"]
        line = fit_line(searched.score(self.pairs(val)), np.array(val["label"], np.float32))
        for model in (searched.model, refitted.model):
            assert (model.slope.item(), model.offset.item()) == pytest.approx(line, rel=1e-3)

    @staticmethod
    def parted() -> dict[str, dict[str, Any]]:
        world = checkerboard(disliked=8)
        log = world.pop("interactions")
        cut = {"train": slice(0, None, 2), "val": slice(1, None, 4), "test": slice(3, None, 4)}
        return {
            **world,
            **{p: {name: v[rows] for name, v in log.items()} for p, rows in cut.items()},
        }

    @staticmethod
    def pairs(part: Mapping[str, Any]) -> list[tuple[int, int]]:
        return list(zip(part["user_id"], part["item_id"], strict=True))


@pytest.mark.parametrize("is_quick", [True, False])
def test_products_in_bf16_on_a_processor_slow_at_them_are_noted(
    monkeypatch: pytest.MonkeyPatch, is_quick: bool
) -> None:
    monkeypatch.setattr(pipeline, "bfloat16_pays", lambda: is_quick)
    told = Told()
    config = settings(training={"precision": "bf16", "device": "cpu"})
    pipeline.plan(checkerboard(), config, told)
    assert any("fp32 is better here" in note for note in told.notes) is not is_quick


class TestEvaluate:
    def test_on_the_data_of_the_training_it_says_what_the_training_said(
        self, lab: tuple[Recommender, Path]
    ) -> None:
        recommender, directory = lab
        told = Told()
        again = timeless(pipeline.evaluate(runs.load(directory), watch=told))
        said = timeless(recommender.metrics)
        assert again == {name: said[name] for name in again}
        assert {"ranking", "test_loss", "test_auc", "beyond_accuracy", "data"} <= set(again)
        assert told.notes == []

    def test_so_it_does_where_the_parts_are_cut_anew(self) -> None:
        again = timeless(pipeline.evaluate(trained(), checkerboard()))
        said = timeless(trained().metrics)
        assert again == {name: said[name] for name in again}

    @pytest.mark.parametrize("table", ["users", "interactions"])
    def test_other_data_is_said_to_be_other(self, table: str) -> None:
        world = checkerboard()
        world[table] = {name: values[:-1] for name, values in world[table].items()}
        told = Told()
        pipeline.evaluate(trained(), world, watch=told)
        assert told.notes == [
            "this is not the data that the run was trained on: the run knows "
            f"{NUM_USERS} of the {NUM_USERS} test users and {NUM_ITEMS} of the "
            f"{NUM_ITEMS} items"
        ]

    def test_how_much_of_other_data_the_run_knows_is_said(self) -> None:
        world = checkerboard()
        # Ten users and four items under other ids.
        for table in ("users", "interactions"):
            ids = [-user if user < 110 else user for user in world[table]["user_id"]]
            world[table]["user_id"] = ids
        for table in ("items", "interactions"):
            ids = [-item if item < 504 else item for item in world[table]["item_id"]]
            world[table]["item_id"] = ids
        assert self.notes_on(world) == [
            "this is not the data that the run was trained on: the run knows 110 of the 120 "
            "test users and 44 of the 48 items"
        ]

    def test_features_that_other_data_lacks_are_named(self) -> None:
        world = checkerboard()
        users, items = world["users"], world["items"]
        users["Age"] = users.pop("age")
        assert self.notes_on(world)[1:] == [
            "users: the data lacks 'age', which the run learned from; of users that the run "
            "does not know they count as missing; not read by the run: 'Age'"
        ]
        del users["taste"], items["genre"]
        assert [note.split(",")[0] for note in self.notes_on(world)[1:]] == [
            "users: the data lacks 'taste'",
            "items: the data lacks 'genre'",
        ]
        alone = self.notes_on({"interactions": world["interactions"]})[1:]
        assert [note.split(", which")[0] for note in alone] == [
            "users: the data lacks 'taste', 'age'",
            "items: the data lacks 'genre', 'year'",
        ]

    def test_data_of_which_the_run_knows_nobody_and_nothing_is_refused(self) -> None:
        world = checkerboard()
        for table, columns in world.items():
            for column in {"user_id", "item_id"} & set(columns):
                world[table][column] = [9000 + each for each in columns[column]]
        with pytest.raises(
            DataError,
            match="knows none of the 120 test users and none of the 48 items; give data with",
        ):
            pipeline.evaluate(trained(), world)

    @pytest.mark.parametrize("column", ["user_id", "item_id"])
    def test_ids_of_another_kind_are_refused(self, column: str) -> None:
        world = checkerboard()
        texts = checkerboard(text_ids=True)
        for table in world:
            if column in world[table]:
                world[table][column] = texts[table][column]
        first = texts["interactions"][column]
        with pytest.raises(
            DataError,
            match=f"the run's '{column}' are numbers, such as .00, and the data's '{column}' "
            f"are texts, such as {first[0][0]}.00; give data with the users or the items",
        ):
            pipeline.evaluate(trained(), world)

    def test_the_same_ids_written_as_texts_are_known(self) -> None:
        world = checkerboard()
        for columns in world.values():
            for column in {"user_id", "item_id"} & set(columns):
                columns[column] = [str(each) for each in columns[column]]
        assert "knows 120 of the 120 test users and 48 of the 48" in self.notes_on(world)[0]

    @staticmethod
    def notes_on(world: dict[str, dict[str, Any]]) -> list[str]:
        """What is said of other data, but for notes of the tables themselves."""
        told = Told()
        pipeline.evaluate(trained(), world, watch=told)
        return told.notes

    def test_data_that_comes_in_parts_is_measured_on_its_own_test_part(self) -> None:
        world = TestFit.parted()
        report = pipeline.evaluate(trained(), world)
        assert report["protocol"]["split"] == "given"
        assert report["data"]["interactions"]["test"] == len(world["test"]["user_id"])

    def test_data_without_a_test_part_is_refused(self) -> None:
        world = TestFit.parted()
        del world["test"]
        with pytest.raises(DataError, match="no test part to evaluate on; add test/interact"):
            pipeline.evaluate(trained(), world)

    def test_a_run_that_does_not_know_its_data_asks_for_it(self) -> None:
        with pytest.raises(DataError, match="does not know where its data is; give the data"):
            pipeline.evaluate(trained())


@pytest.mark.data
def test_the_labs_own_file_and_data_give_an_auc_and_a_log_loss_that_are_hard_to_better(
    data_sets: Path,
) -> None:
    config = read_config(ROOT / "config" / "ranking_config.yaml")
    # The file says nothing of evaluation; to tune a baseline would take longer than this all.
    quick = config.evaluation.model_copy(update={"baselines": ()})
    config = config.model_copy(update={"evaluation": quick})
    metrics = pipeline.fit(data_sets / "lab", config).metrics
    assert metrics["test_auc"] >= 0.73
    assert metrics["test_loss"] <= 0.44
    assert np.isfinite(metrics["test_accuracy"])


@pytest.mark.parametrize("new", ["users", "items"])
def test_what_train_never_met_is_found_by_its_words_in_seconds(new: str) -> None:
    auto = {"temperature": "auto", "embedding_dim": 64}
    made = pipeline.fit(
        search_world(new),
        settings(model=auto, training={"epochs": 3}, data={"split": "given"}),
    )
    ranking = made.metrics["ranking"]["cold" if new == "users" else "warm"]
    assert ranking["towers"]["ndcg@10"]["mean"] > 0.95
    assert ranking["popularity"]["ndcg@10"]["mean"] < 0.3
