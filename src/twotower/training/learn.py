"""Interactions and features -> trained towers: those of the best epoch, or of the last."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from twotower.config import Config
from twotower.data.arrays import rows_met
from twotower.data.entities import Entities
from twotower.data.features import (
    Encoders,
    FeatureShape,
    FeatureTable,
    encode_entities,
    fit_encoders,
)
from twotower.data.interactions import Histories, Interactions
from twotower.data.tables import Dataset
from twotower.errors import ConfigError
from twotower.model.two_tower import TwoTower
from twotower.model.words import Side, word_columns
from twotower.training import closed_form
from twotower.training.checkpoint import keeping, load_checkpoint, save_checkpoint
from twotower.training.loop import Keep, Optimizers, Progress, copy_of, epochs
from twotower.training.neighbours import neighbours_of, step_reads_most
from twotower.training.objective import Objective, make_objective
from twotower.watch import Enough, Watch

# Users from whom on a step of all rows takes longer than the rest of it.
_MANY_USERS = 2**14


@dataclass(frozen=True)
class Learned:
    """Towers, and everything they were fitted with.

    Attributes:
        users, items: feature tables, row 0 included, on the model's device.
        liked: each user's positives in what was learned from.
        has_own_id: (I + 1,) whether an item was met.
        interrupted: whether somebody ended the training.
    """

    model: TwoTower
    user_encoders: Encoders
    item_encoders: Encoders
    users: FeatureTable
    items: FeatureTable
    liked: Histories
    has_own_id: np.ndarray
    progress: Progress
    interrupted: bool = False


Validate = Callable[[Learned], dict[str, float]]


def choose_device(name: str) -> torch.device:
    """The device that the config names; ``auto`` takes CUDA's where there is one.

    Raises:
        ConfigError: it is not there.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        # Apple's lacks numbers of 64 bits, which most losses use on the way.
        return torch.device("cuda" if there["cuda"] else "cpu")
    if not there[name]:
        raise ConfigError(
            f"training.device is {name!r}, which this machine does not have; use 'auto'"
        )
    return torch.device(name)


def prepare(dataset: Dataset, train: Interactions, config: Config) -> tuple[Learned, Objective]:
    """Fresh towers and what they will learn from, all fitted on ``train`` and nothing else."""
    device = choose_device(config.training.device)
    user_encoders, users, _ = _encode(dataset.users, train.user_rows, config, device)
    item_encoders, items, is_met = _encode(dataset.items, train.item_rows, config, device)
    loss = config.training.loss
    assert loss != "auto"
    objective = make_objective(
        loss,
        config.training,
        users,
        items,
        train,
        history_length=config.model.history_length,
        has_history=config.model.history != "none",
        is_by_features=config.model.history == "none" and not config.model.user_ids,
        is_in_order=config.model.history == "transformer",
    )
    torch.manual_seed(config.training.seed)
    shapes: dict[Side, FeatureShape] = {
        "user": user_encoders.shape(len(dataset.users)),
        "item": item_encoders.shape(len(dataset.items)),
    }
    model = TwoTower(
        shapes["user"],
        shapes["item"],
        config.model,
        user_ids=bool(config.model.user_ids),
        item_ids=bool(config.model.item_ids),
        words={side: word_columns(shapes[side]) for side in _told_by_words(config)},
        sparse=_read_in_part(config, len(dataset.users), len(dataset.items)),
    ).to(device)
    if count := config.model.item_neighbours:
        assert count != "auto"
        near = neighbours_of(
            objective.positives, num_users=len(users) - 1, num_items=len(items) - 1, count=count
        )
        model.item_features.neighbours = near.to(device)
    if model.words is not None:
        model.words.begin({"user": _met(users), "item": _met(items)})
    if loss == "softmax":
        # There it is a temperature, which training would lower to know train by heart.
        model.log_scale.requires_grad_(False)
    if loss == "bce" and config.training.negatives_from == "labels":
        liked = float(train.labels.mean())
        model.offset.data.fill_(float(np.log(liked / (1 - liked))))
    learned = Learned(
        model, user_encoders, item_encoders, users, items, objective.liked, is_met, Progress()
    )
    return learned, objective


def _told_by_words(config: Config) -> list[Side]:
    """The sides that have neither ids nor histories.

    None where labels are learned from: a few dislikes would teach words by heart, as they would
    ids.
    """
    model, from_labels = config.model, config.training.negatives_from == "labels"
    told: dict[Side, bool] = {
        "user": not model.user_ids and model.history == "none",
        "item": not model.item_ids,
    }
    return [side for side, is_told in told.items() if is_told and not from_labels]


def _met(table: FeatureTable) -> FeatureTable:
    return table.take(torch.nonzero(table.ids).squeeze(1))


def _read_in_part(config: Config, num_users: int, num_items: int) -> list[Side]:
    """The sides whose tables move by the rows of a step, as it reads some alone.

    Not that of items, with all its tables, where a step reads all items or, by their
    neighbours, most. Beside all items that are users from some number on: what a step of all
    rows costs grows with them, but few users learn more in as many epochs.
    """
    if config.training.negatives_from == "all":
        return ["user"] if num_users > _MANY_USERS else []
    return ["user"] if step_reads_most(config, num_items) else ["user", "item"]


def _encode(
    entities: Entities, rows: np.ndarray, config: Config, device: torch.device
) -> tuple[Encoders, FeatureTable, np.ndarray]:
    """Encoders fitted on who was met, everybody's features, and (N + 1,) who was met."""
    met = rows_met(rows)
    is_met = np.zeros(len(entities) + 1, bool)
    is_met[met] = True
    fitted = fit_encoders(entities, met, config.model)
    return fitted, encode_entities(fitted, entities, is_met).to(device), is_met


def learn(
    dataset: Dataset,
    train: Interactions,
    config: Config,
    validate: Validate | None,
    *,
    metric: str,
    checkpoint: Path | None = None,
    identity: str = "",
    resume: bool = False,
    began: float | None = None,
    watch: Watch | None = None,
) -> Learned:
    """Train, and give back the towers of the best epoch.

    Args:
        validate: what to measure after an epoch; None trains all ``config.training.epochs``
            and keeps the last.
        metric: which of the values decides; a name with "loss" in it is better when smaller.
        checkpoint: where to keep the state after each epoch; a large table's best weights
            wait beside it.
        identity: what is trained on what; a checkpoint of anything else is not gone on from.
        resume: whether to go on from there.
        began: when all of the training did, by ``time.perf_counter``; None for now.

    A watch that says ``Enough``, or a KeyboardInterrupt, ends the training early and the best
    towers so far are kept. The interrupt is raised where there are none: in the first epoch,
    or without validation.
    """
    watch = watch or Watch()
    began = time.perf_counter() if began is None else began
    learned, objective = prepare(dataset, train, config)
    model = learned.model
    optimizers = Optimizers(model, config.training)
    keep = copy_of if checkpoint is None else keeping(checkpoint.parent)
    begun = None
    if resume and checkpoint is not None:
        begun = load_checkpoint(checkpoint, model, optimizers, of=identity)
    if begun is not None:
        stage = "refit" if validate is None else "training"
        watch.note(f"{stage} goes on after epoch {begun.epoch}")
    elif objective.loss == "softmax" and model.has_item_ids:
        watch.stage("start in closed form")
        begun = _begin_in_closed_form(learned, objective, validate, keep)
    progress = begun = begun or Progress()
    interrupted = False
    batch_size = config.training.batch_size
    assert batch_size != "auto"
    try:
        for progress in epochs(
            model,
            objective,
            optimizers,
            _values(learned, validate),
            batch_size=batch_size,
            better=lambda new, old: validate is None or is_better(new, old, metric),
            metric="train_loss" if validate is None else metric,
            progress=begun,
            keep=keep,
            on_epoch=lambda: watch.stage(
                "refit" if validate is None else "training", objective.num_rows()
            ),
            on_step=watch.advance,
        ):
            if checkpoint is not None:
                seconds = time.perf_counter() - began
                save_checkpoint(
                    checkpoint, model, optimizers, progress, of=identity, seconds=seconds
                )
            watch.epoch(progress, metric)
    except Enough:
        pass
    except KeyboardInterrupt:
        if progress.best_weights is None or validate is None:
            raise
        interrupted = True
        again = "; once more on all but the test part" if config.training.refit else ""
        watch.note(f"interrupted; {progress.best_in_words()} was the best and counts{again}")
    assert progress.best_weights is not None
    # Their moments are done with.
    del optimizers
    model.load_state_dict(progress.best_weights)
    model.item_features.settle()
    model.eval()
    return replace(learned, progress=progress, interrupted=interrupted)


def _begin_in_closed_form(
    learned: Learned, objective: Objective, validate: Validate | None, keep: Keep
) -> Progress:
    """Begin the tables of item ids and biases in closed form, and measure what that gives."""
    model = learned.model
    id_table = model.item_features.id_table
    assert id_table is not None
    begun = closed_form.item_table(
        objective.positives,
        num_users=objective.liked.num_users,
        num_items=objective.num_items,
        dim=model.embedding_dim,
    )
    id_table.weight.data.copy_(begun)
    closed_form.add_popularity(
        model,
        objective.positives,
        num_items=objective.num_items,
        weight=closed_form.BIAS,
    )
    if validate is None:
        return Progress(best_weights=keep(model))
    model.eval()
    return Progress(start=validate(learned), best_weights=keep(model))


def _values(
    learned: Learned, validate: Validate | None
) -> Callable[[TwoTower], dict[str, float]]:
    if validate is None:
        return lambda _: {}
    return lambda _: validate(learned)


def is_better(new: float, old: float, metric: str) -> bool:
    """Whether a value of the metric beats another: a loss by being smaller."""
    return new < old if "loss" in metric else new > old
