"""Which kind of history validation chooses, and that the choice leaves no trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from twotower import pipeline
from twotower.config import Config
from twotower.evaluation.validation import validation
from twotower.pipeline import Plan
from twotower.training import resolve
from twotower.training.learn import Learned, Validate
from twotower.training.loop import Progress
from twotower.training.search import search
from twotower.watch import Watch
from worlds import settings, shop

USERS, ITEMS, STEPS = 150, 30, 9


def walks(*, in_order: bool = True) -> dict[str, Any]:
    """Everybody goes from item n to n + 1, from somewhere; or has been there in any order."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        items = (rng.integers(ITEMS) + np.arange(STEPS)) % ITEMS
        rows += [(user, item) for item in (items if in_order else rng.permutation(items))]
    users, items = np.array(rows).T
    return {"interactions": {"user_id": users, "item_id": items}}


def plan(world: dict[str, Any], split: str = "leave_last", **sections: Any) -> Plan:
    sections = {"data": {"split": split}, "training": {"epochs": 6}, **sections}
    return pipeline.plan(world, settings(**sections), Watch())


class Told(Watch):
    """Keeps what it is told, and interrupts after an epoch if asked."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.epochs, self.interrupt_after = 0, interrupt_after
        self.notes: list[str] = []

    def epoch(self, progress: Progress, metric: str) -> None:
        self.epochs += 1
        if self.epochs == self.interrupt_after:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(text)


def found(
    planned: Plan,
    work: Path | None,
    *,
    resume: bool = False,
    watch: Watch | None = None,
    validate: Validate | None = None,
) -> tuple[Config, Learned]:
    return search(
        planned.dataset,
        planned.parts.train,
        planned.contenders,
        validate or validation(planned.parts, planned.contenders[0]),
        work=work,
        identity="x",
        resume=resume,
        watch=watch or Watch(),
    )


def same(one: Learned, other: Learned) -> bool:
    first, second = one.model.state_dict(), other.model.state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Learned, list[str]]:
    """What is found where everybody goes from item n to n + 1, and what is said of it."""
    told = Told()
    config, learned = found(plan(walks()), tmp_path_factory.mktemp("whole"), watch=told)
    return config, learned, told.notes


def kinds(planned: Plan) -> list[str]:
    return [config.model.history for config in planned.contenders]


def test_a_transformer_is_tried_where_what_comes_next_is_asked_for() -> None:
    assert kinds(plan(walks())) == ["mean", "transformer"]
    assert kinds(plan(shop(), "time")) == ["mean", "transformer", "none"]
    assert kinds(plan(walks(), "random_per_user")) == ["mean"]
    assert kinds(plan(walks(), model={"history": "mean"})) == ["mean"]
    assert kinds(plan(walks(), training={"loss": "bpr"})) == ["mean"]


def courses(*, taken: int) -> dict[str, Any]:
    """Everybody takes some courses, mostly of their own kind; a column has it on each side."""
    rng = np.random.default_rng(0)
    users, items, num_kinds = 800, 300, 6
    of_users, of_items = (rng.integers(num_kinds, size=size) for size in (users, items))
    chance = np.where(of_users[:, None] == of_items, 0.9, 0.1 / num_kinds)
    chance /= chance.sum(1, keepdims=True)
    rows = [
        (user, item)
        for user in range(users)
        for item in rng.choice(items, taken, replace=False, p=chance[user])
    ]
    user_rows, item_rows = np.array(rows).T
    return {
        "users": {"user_id": np.arange(users), "kind": [f"k{kind}" for kind in of_users]},
        "items": {"item_id": np.arange(items), "kind": [f"k{kind}" for kind in of_items]},
        "interactions": {"user_id": user_rows, "item_id": item_rows},
    }


def test_no_history_is_tried_where_it_is_short_and_features_tell_something() -> None:
    free = {"split": "random_per_user"}
    assert kinds(plan(courses(taken=2), **free)) == ["mean", "none"]
    assert kinds(plan(courses(taken=40), **free)) == ["mean"]
    without = {name: courses(taken=2)[name] for name in ("items", "interactions")}
    assert kinds(plan(without, **free)) == ["mean"]
    assert kinds(plan(courses(taken=2), **free, model={"history": "mean"})) == ["mean"]
    # What was asked for may need the ids that a model by features alone would not have.
    lent = {"item_neighbours": 3}
    assert kinds(plan(courses(taken=2), **free, model=lent)) == ["mean"]


def test_it_is_chosen_where_it_finds_clearly_more(tmp_path: Path) -> None:
    patient = {"epochs": 30, "early_stopping_patience": 10}
    planned = plan(courses(taken=2), "random_per_user", training=patient)
    told = Told()
    config, _ = found(planned, tmp_path, watch=told)
    assert config.model.history == "none", told.notes


def test_of_many_likes_a_lower_temperature_is_tried_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = {"model": {"temperature": "auto"}}
    few = plan(walks(), **free).contenders
    likes = int((plan(walks(), **free).parts.train.labels > 0.5).sum())
    monkeypatch.setattr(resolve, "_MANY_TO_TRY", likes)
    first, lower, other = plan(walks(), **free).contenders
    assert (first, other) == few
    assert lower.model.temperature == first.model.temperature / 2
    assert lower.model_copy(update={"model": first.model}) == first
    assert kinds(plan(walks(), model={"temperature": 0.2})) == ["mean", "transformer"]
    monkeypatch.setattr(resolve, "_MANY_TO_TRY", likes + 1)
    assert len(plan(walks(), **free).contenders) == 2


def test_where_the_order_says_what_comes_next_it_is_read_in_order(
    whole: tuple[Config, Learned, list[str]],
) -> None:
    config, learned, notes = whole
    assert config.model.history == "transformer"
    ndcg = learned.progress.best_value("val_ndcg")
    assert ndcg is not None
    assert ndcg > 0.9
    (said,) = (note for note in notes if note.endswith(" it is"))
    assert said.startswith("history 'transformer' at")


def test_where_it_says_nothing_it_is_not(tmp_path: Path) -> None:
    config, _ = found(plan(walks(in_order=False)), tmp_path)
    assert config.model.history == "mean"


def test_what_was_chosen_is_as_if_it_had_been_asked_for(
    tmp_path: Path, whole: tuple[Config, Learned, list[str]]
) -> None:
    _, chosen, _ = whole
    _, alone = found(plan(walks(), model={"history": "transformer"}), tmp_path)
    assert same(chosen, alone)
    assert chosen.progress.history == alone.progress.history


@pytest.mark.parametrize("epoch", [3, 8])
def test_a_search_that_was_killed_goes_on_as_if_it_never_was(
    epoch: int, tmp_path: Path, whole: tuple[Config, Learned, list[str]]
) -> None:
    class Killing(Told):
        def epoch(self, progress: Progress, metric: str) -> None:
            super().epoch(progress, metric)
            if self.epochs == epoch:
                raise SystemExit

    planned = plan(walks())
    with pytest.raises(SystemExit):
        found(planned, tmp_path, watch=Killing())
    _, resumed = found(planned, tmp_path, resume=True)
    assert same(resumed, whole[1])
    assert resumed.progress.history == whole[1].progress.history


@pytest.mark.parametrize("epoch", [2, 3, 4])
def test_an_interrupted_search_keeps_the_best_so_far_and_tries_nothing_more(
    epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twotower.training.search._FEW_ROWS", 0)
    monkeypatch.setattr("twotower.training.search._ROWS_TO_TELL", 1)
    told = Told(interrupt_after=epoch)
    config, learned = found(plan(walks()), tmp_path, watch=told)
    assert told.epochs == epoch
    assert learned.progress.epoch == min(epoch, 3 if config.model.history == "mean" else 1)


def test_one_that_gets_no_better_early_does_not_end_the_search(tmp_path: Path) -> None:
    told = Told()
    impatient = {"epochs": 6, "early_stopping_patience": 1, "embedding_learning_rate": 9}
    found(plan(walks(), training=impatient), tmp_path, watch=told)
    tried = [note for note in told.notes if note.endswith("is tried")]
    assert len(tried) == 2
    assert "'mean'" in tried[0]
    assert "'transformer'" in tried[1]


@pytest.mark.parametrize(("enough", "epochs"), [(1, 1), (1.5, 2), (9, 3)])
def test_the_more_interactions_the_fewer_epochs_is_each_tried(
    enough: float, epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(walks(), training={"epochs": 3})
    rows = int(enough * len(planned.parts.train))
    monkeypatch.setattr("twotower.training.search._ENOUGH_ROWS", rows)
    monkeypatch.setattr("twotower.training.search._FEW_ROWS", 0)
    told = Told()
    found(planned, tmp_path, watch=told)
    # Who is chosen goes on to the end.
    assert told.epochs == epochs + 3


def test_what_needs_no_choice_is_learned_without_a_checkpoint(tmp_path: Path) -> None:
    planned = plan(walks(), model={"history": "mean"})
    assert len(planned.contenders) == 1
    found(planned, None)


@pytest.mark.parametrize(("colder", "chosen"), [(0.101, 0.2), (0.103, 0.1)])
def test_who_is_tried_later_has_to_be_clearly_better(
    tmp_path: Path, colder: float, chosen: float
) -> None:
    planned = plan(walks(), model={"temperature": 0.2, "history": "mean"})
    [first] = planned.contenders
    model = first.model.model_copy(update={"temperature": 0.1})
    contenders = first, first.model_copy(update={"model": model})

    def validate(learned: Learned) -> dict[str, float]:
        is_colder = learned.model.log_scale.item() > 2
        return {"val_ndcg": colder if is_colder else 0.1}

    config, _ = found(replace(planned, contenders=contenders), tmp_path, validate=validate)
    assert config.model.temperature == chosen
