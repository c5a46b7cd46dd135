"""Where the time of a training goes."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import numpy as np
import pytest
import torch

from twotower.config import Loss
from twotower.model.two_tower import TwoTower
from twotower.training.learn import prepare
from twotower.training.loop import Optimizers, Progress, epochs
from twotower.training.stages import STAGES, Stages, stage, watched
from worlds import planned


def test_a_stage_is_told_the_time_in_it_less_that_of_the_stages_within() -> None:
    stages = Stages()
    with watched(stages), stage("loss"):
        time.sleep(0.02)
        with stage("towers"):
            time.sleep(0.2)
    assert 0.02 <= stages.seconds["loss"] < 0.1
    assert 0.2 <= stages.seconds["towers"] < 0.3


@pytest.mark.parametrize("loss", ["softmax", "bpr", "bce"])
def test_a_training_has_every_stage_and_a_trace_of_its_first_steps(loss: Loss) -> None:
    plan = planned(loss, epochs=2)
    config = plan.contenders[0]
    learned, objective = prepare(plan.dataset, plan.parts.train, config)

    def validate(_: TwoTower) -> dict[str, float]:
        time.sleep(0.01)
        return {}

    asked: dict[str, Any] = {
        "batch_size": 64,
        "better": lambda _new, _old: True,
        "metric": "train_loss",
        "progress": Progress(),
    }
    optimizers = Optimizers(learned.model, config.training)
    told: list[int] = []
    stages = Stages()
    started = time.perf_counter()
    with watched(stages):
        list(
            epochs(learned.model, objective, optimizers, validate, on_step=told.append, **asked)
        )
    passed = time.perf_counter() - started
    assert stages.steps == len(told)
    assert stages.seconds.keys() == STAGES.keys()
    assert all(each > 0 for each in stages.seconds.values())
    assert stages.seconds["validation"] >= 0.02
    assert sum(stages.seconds.values()) <= passed
    events = json.loads(gzip.decompress(stages.trace))["traceEvents"]
    names = [event.get("name") for event in events]
    assert {"batches", "gather", "towers", "loss", "backward", "optimizer"} <= set(names)


def test_looking_changes_no_weight() -> None:
    plan = planned("softmax", epochs=1)
    weights = []
    for watching in (True, False):
        learned, objective = prepare(plan.dataset, plan.parts.train, plan.contenders[0])
        batch = next(objective.batches(64, np.random.default_rng(0)))
        torch.manual_seed(0)
        learned.model.train()
        with watched(Stages() if watching else None):
            objective.loss_of(learned.model, batch).backward()  # type: ignore[no-untyped-call]
        weights.append([each.grad for each in learned.model.parameters()])
    for one, other in zip(*weights, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
