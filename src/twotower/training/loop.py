"""A generator of epochs; whoever calls it holds the loop.

Everything random in an epoch comes from (seed, epoch), so an epoch can be repeated alone and
a training that was stopped after any epoch goes on exactly as if it never was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from twotower.config import TrainingConfig
from twotower.errors import TwoTowerError
from twotower.model.transformer import TransformerHistory
from twotower.model.two_tower import TwoTower
from twotower.training.adam import Adam, LazyAdam
from twotower.training.objective import Objective
from twotower.training.stages import stage, steps_of
from twotower.training.threads import Crew, alike, up_to

# An epoch is judged by the mean of so many, it and those before it.
_JUDGED_TOGETHER = 3
# Rows of a step up to which all threads may be slower than one.
_SMALL_BATCH = 1024

Weights = dict[str, Tensor]
Keep = Callable[[TwoTower], Weights]
Validate = Callable[[TwoTower], dict[str, float]]


@dataclass(frozen=True)
class Progress:
    """Where a training stands: all that must be kept to go on from here.

    Attributes:
        epoch: epochs done.
        history: one list a quantity, an entry an epoch.
        best_epoch: the epoch (from 1) whose weights are the best so far; 0 for none, or for
            the start.
        best_weights: a copy of them, in memory or on the disk.
        start: the values before the first epoch, where training starts from something; an
            epoch must beat them to be the best.
    """

    epoch: int = 0
    history: dict[str, list[float]] | None = None
    best_epoch: int = 0
    best_weights: Weights | None = None
    start: dict[str, float] | None = None

    def best_value(self, metric: str) -> float | None:
        """What the best weights so far scored; None where there are none."""
        if self.best_epoch:
            return (self.history or {})[metric][self.best_epoch - 1]
        return self.start[metric] if self.start and metric in self.start else None

    def judged(self, metric: str, epoch: int) -> float:
        """What an epoch, from 1, is judged by: one alone may be the best by chance."""
        values = (self.history or {})[metric]
        return float(np.mean(values[max(epoch - _JUDGED_TOGETHER, 0) : epoch]))

    def best_in_words(self) -> str:
        """Which weights are the best."""
        return f"epoch {self.best_epoch}" if self.best_epoch else "the start"

    def is_over(self, config: TrainingConfig) -> bool:
        """Whether the last epoch was reached, or nothing got better for long enough."""
        waited = self.epoch - self.best_epoch
        return self.epoch >= config.epochs or waited >= config.early_stopping_patience


class Optimizers:
    """One for the dense layers and others for the tables, lazy where gradients are sparse.

    Lazy means: a row that is not in the batch keeps its moments and its place (`LazyAdam`), so
    that a step costs as much for a table of ten million rows as for one of a thousand.
    """

    def __init__(self, model: TwoTower, config: TrainingConfig) -> None:
        ids, features = _tables(model)
        words = [] if model.words is None else list(model.words.parameters())
        of_tables = {id(weight) for weight in (*ids, *features, *words)}
        self.weights = list(model.parameters())
        dense = [p for p in model.parameters() if p.requires_grad and id(p) not in of_tables]
        rate, embedding_rate = config.learning_rate, config.embedding_learning_rate
        assert rate != "auto"
        assert embedding_rate != "auto"
        is_decoupled = config.optimizer == "adamw"
        self.parts = [
            Adam(dense, rate, decay=config.weight_decay, is_decoupled=is_decoupled),
            # A batch has most words that there are, many times.
            Adam(words, embedding_rate),
            LazyAdam(features, rate),
            LazyAdam(ids, embedding_rate),
        ]

    def step(self) -> None:
        """Move along the gradients and forget them."""
        for optimizer in self.parts:
            optimizer.step()
        for weight in self.weights:
            weight.grad = None


def _tables(model: TwoTower) -> tuple[list[Tensor], list[Tensor]]:
    """The tables of ids, which want large steps, and those of categories and texts."""
    layers = (model.user_features, model.item_features)
    tables = [layer.id_table for layer in layers]
    tables.append(model.item_bias)
    if isinstance(model.history, TransformerHistory):
        tables.append(model.history.id_table)
    ids = [table.weight for table in tables if table is not None]
    return list(ids), [weight for layer in layers for weight in layer.feature_tables()]


def epochs(
    model: TwoTower,
    objective: Objective,
    optimizers: Optimizers,
    validate: Validate,
    *,
    batch_size: int,
    better: Callable[[float, float], bool],
    metric: str,
    progress: Progress,
    keep: Keep | None = None,
    on_epoch: Callable[[], None] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[Progress]:
    """Train until it is over, an epoch at a time.

    Args:
        validate: the model -> the epoch's validation values by name.
        better: whether the first value of ``metric`` beats the second.
        progress: where to start; ``Progress()`` for the beginning.
        keep: how to copy the best weights; None copies them in memory.
        on_epoch: is told that an epoch begins.
        on_step: is told how many rows each step learned from.

    Yields:
        Where the training stands after each epoch.

    Raises:
        TwoTowerError: the loss is no number any more.
    """
    config = objective.config
    device = objective.users.ids.device
    # Apple's devices have no numbers of 64 bits.
    precise = torch.float32 if device.type == "mps" else torch.float64
    is_bf16 = config.precision == "bf16"
    in_precision = torch.autocast(device.type, torch.bfloat16, enabled=is_bf16)
    crew = Crew(_threads(model, objective, batch_size))
    while not progress.is_over(config):
        number = progress.epoch + 1
        if on_epoch is not None:
            on_epoch()
        rng = np.random.default_rng([config.seed, 3, number])
        torch.manual_seed(int(rng.integers(2**62)))
        with stage("batches"):
            windows = objective.windows(model, number)
        model.train()
        # Sums of a loss a row; read once an epoch, lest each step waits for the device.
        total = torch.zeros((), dtype=precise, device=device)
        rows = 0
        described = objective.described(model, batch_size)
        for batch in steps_of(objective.batches(batch_size, rng, windows)):
            with crew.step():
                with stage("loss"), in_precision:
                    loss = objective.loss_of(model, batch, described)
                with stage("backward"):
                    loss.backward()  # type: ignore[no-untyped-call]
                    if described is not None and described.is_used_up:
                        described.learn()
                with stage("optimizer"):
                    optimizers.step()
            total.add_(loss.detach(), alpha=len(batch))
            rows += len(batch)
            if on_step is not None:
                on_step(len(batch))
        if described is not None:
            described.learn()
            optimizers.step()
        model.eval()
        train_loss = float(total) / max(rows, 1)
        if not np.isfinite(train_loss):
            raise TwoTowerError(
                f"training: the loss of epoch {number} is {train_loss}; lower "
                "training.learning_rate or look for extreme numbers in the features"
            )
        with stage("validation"):
            values = {"train_loss": train_loss, **validate(model)}
        progress = _after(progress, model, values, metric, better, keep or copy_of)
        yield progress


def _threads(model: TwoTower, objective: Objective, batch_size: int) -> Sequence[int]:
    """In how many threads a step may be done: all, or whatever is quickest of a small one.

    Of those in which weights come to the same. PyTorch adds up the gradients of a LayerNorm a
    thread at a time.
    """
    most = torch.get_num_threads()
    is_small = objective.loss != "softmax" and batch_size <= _SMALL_BATCH
    if not is_small or objective.users.ids.device.type != "cpu":
        return [most]
    if any(isinstance(each, nn.LayerNorm) for each in model.modules()):
        return [1]
    layers = (each for each in model.modules() if isinstance(each, nn.Linear))
    shapes = [(each.out_features, each.in_features) for each in layers]
    shapes.append((batch_size, model.embedding_dim))
    return alike(up_to(most), batch_size, shapes)


def _after(
    progress: Progress,
    model: TwoTower,
    values: dict[str, float],
    metric: str,
    better: Callable[[float, float], bool],
    keep: Keep,
) -> Progress:
    before = progress.history or {}
    history = {name: [*before.get(name, []), value] for name, value in values.items()}
    epoch = progress.epoch + 1
    best = progress.best_value(metric)
    progress = replace(progress, epoch=epoch, history=history)
    if progress.best_epoch:
        best = progress.judged(metric, progress.best_epoch)
    if best is None or better(progress.judged(metric, epoch), best):
        return replace(progress, best_epoch=epoch, best_weights=keep(model))
    return progress


def copy_of(model: TwoTower) -> Weights:
    """The model's weights as they are now."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
