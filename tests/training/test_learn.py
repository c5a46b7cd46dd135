"""Whole trainings on the checkerboard: the same again, stopped and resumed, good enough."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from twotower import pipeline, read
from twotower.config import Loss
from twotower.data.encoders import text_grams
from twotower.errors import ConfigError
from twotower.evaluation.validation import validation
from twotower.pipeline import Plan
from twotower.training.learn import Learned, choose_device, learn, prepare
from twotower.training.loop import Progress
from twotower.watch import Watch
from worlds import checkerboard, planned, search_world, settings

LOSSES: tuple[Loss, ...] = get_args(Loss)
EPOCHS = 3


class Stopped(Exception):
    """From outside, as a kill would."""


class Keeping(Watch):
    """Keeps a copy of the checkpoint of each epoch."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def epoch(self, progress: Progress, metric: str) -> None:
        shutil.copy(self.checkpoint, f"{self.checkpoint}-{progress.epoch}")


class Killing(Watch):
    """Stops a training in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.left = epoch

    def stage(self, name: str, total: int | None = None) -> None:
        self.left -= name in {"training", "refit"}

    def advance(self, rows: int) -> None:
        if self.left == 0:
            raise Stopped


def taught(plan: Plan, **asked: Any) -> Learned:
    metric = f"val_{plan.contenders[0].training.early_stopping_metric}"
    wanted = {"metric": metric, "validate": validation(plan.parts, plan.contenders[0]), **asked}
    return learn(plan.dataset, plan.parts.train, plan.contenders[0], **wanted)


def weights(learned: Learned) -> dict[str, Tensor]:
    return learned.model.state_dict()


def same(one: Learned, other: Learned) -> bool:
    """To the last bit."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


MINED = {"hard_negatives": 2, "hard_ranks": (2, 20), "hard_after": 1}
# What an epoch has beside its rows: mined by the weights before, or left by earlier batches.
SAMPLERS: list[tuple[Loss, dict[str, Any]]] = [
    ("softmax", {"negatives_from": "mixed", "memory_batches": 2, **MINED}),
    ("in_batch_softmax", {"negatives_from": "mixed", "distinct_negatives": True, **MINED}),
    ("warp", {"negatives_from": "popularity", "negatives": 16, "memory_batches": 3, **MINED}),
    ("triplet", {"negatives_from": "in_batch", "semi_hard": True}),
    ("softmax", {"negatives_from": "mixed", "model": {"item_neighbours": 3}}),
]


@pytest.mark.parametrize(("loss", "others"), [*((loss, {}) for loss in LOSSES), *SAMPLERS])
def test_a_training_stopped_after_any_epoch_ends_as_if_it_never_was(
    loss: Loss, others: dict[str, Any], tmp_path: Path
) -> None:
    plan = planned(loss, epochs=EPOCHS, batch_size=64, **others)
    path = tmp_path / "state"
    whole = taught(plan, checkpoint=path, watch=Keeping(path))
    for epoch in range(1, EPOCHS + 1):
        resumed = taught(plan, checkpoint=Path(f"{path}-{epoch}"), resume=True)
        assert same(resumed, whole)
        assert resumed.progress.history == whole.progress.history
        assert resumed.progress.best_epoch == whole.progress.best_epoch


@pytest.mark.parametrize(("loss", "others"), [("softmax", {}), ("bpr", {}), *SAMPLERS])
def test_a_training_killed_within_an_epoch_goes_on_after_the_last_whole_one(
    loss: Loss, others: dict[str, Any], tmp_path: Path
) -> None:
    plan = planned(loss, epochs=EPOCHS, batch_size=64, **others)
    path = tmp_path / "state"
    whole = taught(plan)
    with pytest.raises(Stopped):
        taught(plan, checkpoint=path, watch=Killing(epoch=2))
    assert same(taught(plan, checkpoint=path, resume=True), whole)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_seed_gives_the_same_weights_to_the_last_bit_and_another_seed_others(
    loss: Loss,
) -> None:
    plan = planned(loss, epochs=2, batch_size=64)
    seven = plan.contenders[0].training.model_copy(update={"seed": 7})
    other = replace(
        plan, contenders=(plan.contenders[0].model_copy(update={"training": seven}),)
    )
    one = taught(plan, validate=None)
    # What else was drawn in between must not matter.
    torch.rand(3)
    np.random.default_rng().random(3)
    assert same(taught(plan, validate=None), one)
    assert not same(taught(other, validate=None), one)


def script(values: list[float], metric: str) -> Callable[[Learned], dict[str, float]]:
    left: Iterator[float] = iter(values)
    return lambda _: {metric: next(left)}


@pytest.mark.parametrize(
    ("metric", "values"),
    [
        ("val_ndcg", [0.1, 0.6, 0.2, 0.5, 0.5, 0.2, 0.2]),
        ("val_loss", [9.0, 4.0, 8.0, 5.0, 5.0, 8.0, 8.0]),
    ],
)
def test_it_stops_when_nothing_gets_better_and_keeps_the_towers_of_the_best_epoch(
    metric: str, values: list[float]
) -> None:
    plan = planned("bpr", epochs=20, early_stopping_patience=3)
    stopped = taught(plan, metric=metric, validate=script(values, metric))
    # The second epoch is the best alone, and the fourth with the two before it.
    assert stopped.progress.best_epoch == 4
    assert stopped.progress.history is not None
    assert stopped.progress.history[metric] == values
    assert same(stopped, taught(planned("bpr", epochs=4), validate=None))


def test_an_interrupted_training_keeps_the_best_towers_there_are() -> None:
    def interrupted_after(values: list[float]) -> Callable[[Learned], dict[str, float]]:
        asked = script(values, "val_ndcg")

        def validate(learned: Learned) -> dict[str, float]:
            try:
                return asked(learned)
            except StopIteration:
                raise KeyboardInterrupt from None

        return validate

    plan = planned("bpr", epochs=20)
    kept = taught(plan, validate=interrupted_after([0.2, 0.3, 0.1]))
    assert same(kept, taught(planned("bpr", epochs=2), validate=None))
    with pytest.raises(KeyboardInterrupt):
        taught(plan, validate=interrupted_after([]))


def test_whom_training_does_not_meet_has_no_say_in_what_is_learned() -> None:
    world = checkerboard()
    unmet = {**world, "users": dict(world["users"]), "items": dict(world["items"])}
    unmet["users"]["age"] = [*world["users"]["age"][:100], *[1000] * 20]
    unmet["items"]["genre"] = [*world["items"]["genre"][:40], *["new"] * 8]
    made = []
    for tables in (world, unmet):
        plan = planned("in_batch_softmax", epochs=2)
        train = plan.parts.train
        met = train.take((train.user_rows <= 100) & (train.item_rows <= 40))
        parts = replace(plan.parts, train=met)
        made.append(taught(replace(plan, dataset=read(tables), parts=parts), validate=None))
    assert same(*made)
    assert made[0].has_own_id.tolist() == [False] + [True] * 40 + [False] * 8
    assert made[0].items.ids.tolist() == [0, *range(1, 41), *[0] * 8]
    assert made[0].users.ids.tolist() == [0, *range(1, 101), *[0] * 20]


def test_under_bce_the_first_affinities_are_about_the_share_of_likes() -> None:
    plan = planned("bce")
    learned, objective = prepare(plan.dataset, plan.parts.train, plan.contenders[0])
    assert learned.model.affinity(torch.zeros(1)).item() == pytest.approx(
        objective.train.labels.mean(), abs=1e-5
    )


def test_a_device_that_is_not_there_is_refused_with_what_to_do() -> None:
    # No machine has both.
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    missing = [name for name, is_there in there.items() if not is_there]
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type not in missing
    for name in missing:
        with pytest.raises(ConfigError, match=f"training.device is '{name}'.*'auto'"):
            choose_device(name)


def test_no_device_is_taken_unasked_that_lacks_numbers_of_64_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("loss", "described"),
    [*((loss, False) for loss in LOSSES), ("softmax", True), ("triplet", True)],
)
def test_in_seconds_every_loss_finds_what_popularity_does_not(
    loss: Loss, described: bool
) -> None:
    world = checkerboard(disliked=8 if loss in {"bce", "triplet"} else 0)
    if not described:
        # From who met what alone.
        world = {"interactions": world["interactions"]}
    short = {"loss": loss, "epochs": 12, "refit": False, "learning_rate": 0.02}
    ranking = pipeline.fit(world, settings(training=short)).metrics["ranking"]["warm"]
    ours, theirs = (ranking[name]["ndcg@10"]["mean"] for name in ("towers", "popularity"))
    # Some four unseen items of the own genre come first, in any order.
    assert ours > 0.5
    assert ours > theirs + 0.4


@pytest.mark.parametrize(("loss", "others"), SAMPLERS[1:3])
def test_in_seconds_mined_and_remembered_others_teach_what_popularity_does_not(
    loss: Loss, others: dict[str, Any]
) -> None:
    world = {"interactions": checkerboard()["interactions"]}
    short = {"loss": loss, "epochs": 12, "refit": False, "learning_rate": 0.02, **others}
    ranking = pipeline.fit(world, settings(training=short)).metrics["ranking"]["warm"]
    ours, theirs = (ranking[name]["ndcg@10"]["mean"] for name in ("towers", "popularity"))
    assert ours > 0.5
    assert ours > theirs + 0.4


def test_softmax_without_a_history_learns_from_pairs() -> None:
    world = {"interactions": checkerboard()["interactions"]}
    short = {"loss": "softmax", "epochs": 12, "refit": False}
    config = settings(model={"history": "none"}, training=short)
    ranking = pipeline.fit(world, config).metrics["ranking"]["warm"]
    assert ranking["towers"]["ndcg@10"]["mean"] > 0.5


def test_a_training_that_begins_in_closed_form_ends_no_worse() -> None:
    # Such steps leave nothing as it was.
    rates = {"learning_rate": 10.0, "embedding_learning_rate": 10.0}
    wild = taught(planned("softmax", early_stopping_patience=2, **rates))
    assert wild.progress.start is not None
    assert wild.progress.history is not None
    best = wild.progress.best_value("val_ndcg")
    assert best is not None
    assert best >= wild.progress.start["val_ndcg"]
    plan = planned("softmax")
    measured = validation(plan.parts, plan.contenders[0])(wild)["val_ndcg"]
    assert measured == pytest.approx(best)
    tame = taught(planned("softmax", epochs=3)).progress.best_value("val_ndcg")
    assert tame is not None
    assert tame > wild.progress.start["val_ndcg"]


def test_only_softmax_begins_in_closed_form_and_keeps_its_temperature() -> None:
    for loss in LOSSES:
        plan = planned(loss, epochs=1)
        learned = taught(plan)
        assert (learned.progress.start is not None) == (loss == "softmax")
        stays = learned.model.log_scale.item() == pytest.approx(
            -math.log(plan.contenders[0].model.temperature), abs=1e-6
        )
        assert stays == (loss in {"softmax", "triplet", "ccl"})


@pytest.mark.parametrize(
    ("model", "sides"),
    [
        ({"history": "none", "user_ids": False, "item_ids": False}, {"user", "item"}),
        ({"history": "none", "user_ids": True, "item_ids": False}, {"item"}),
        ({"history": "mean", "item_ids": False}, {"item"}),
        ({"history": "mean", "item_ids": True}, set()),
        ({"history": "none", "item_ids": False, "loss": "bce"}, set()),
    ],
)
def test_words_stand_in_where_neither_ids_nor_histories_tell(
    model: dict[str, Any], sides: set[str]
) -> None:
    world, loss = search_world("users"), model.pop("loss", "auto")
    if loss == "bce":
        world["train"]["label"] = [n % 2 for n in range(len(world["train"]["user_id"]))]
        world["test"]["label"] = [1] * len(world["test"]["user_id"])
    config = settings(model=model, training={"loss": loss}, data={"split": "given"})
    plan = pipeline.plan(world, config, Watch())
    learned, _ = prepare(plan.dataset, plan.parts.train, plan.contenders[0])
    words = learned.model.words
    if not sides:
        assert words is None
        return
    assert words is not None
    assert set(words.columns) == sides
    if len(sides) == 1:
        return
    # A query's own number is rare, and "lamp" is in a quarter of all.
    [rare, often] = (
        learned.item_encoders.encode(
            {"title": np.array(["no77", "lamp"], object)}, np.zeros(2, np.int64)
        )
        .bags[0]
        .codes.split([len(text_grams("no77")), len(text_grams("lamp"))])
    )
    lengths = words.tables["text"].weight.norm(dim=1)  # type: ignore[operator, union-attr]
    assert lengths[rare[0]] > 2 * lengths[often[0]]


@pytest.mark.parametrize(
    ("loss", "item_ids", "is_shared"),
    [("bce", True, True), ("triplet", False, True), ("bpr", True, False)],
)
def test_where_labels_are_learned_steps_share_descriptions(
    loss: str, item_ids: bool, is_shared: bool
) -> None:
    config = settings(model={"item_ids": item_ids}, training={"loss": loss})
    plan = pipeline.plan(checkerboard(disliked=8), config, Watch())
    learned, objective = prepare(plan.dataset, plan.parts.train, plan.contenders[0])
    assert learned.model.item_tower is not None
    batch_size = objective.num_rows() // 9
    assert (objective.described(learned.model, batch_size) is not None) == is_shared
