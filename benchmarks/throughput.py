"""Positives a second in training, beside peers and beside the matrix products alone.

100,000 users, 20,000 items, 5 million interactions, ids and side features (4 and 3), hidden
layers of 256 and 128, embeddings of 128. A batch is so many positives under the softmax over
the batch, and half as many under bce, each beside one uniform negative. Contestants take turns,
on two threads; a peer in another environment runs in a process of its own.

    python -m benchmarks.throughput [--rounds 5] [--seconds 2] [--threads 2] [--tfrs PYTHON]

``--tfrs`` names the Python of an environment with TensorFlow Recommenders and Keras-RS, which
``make .venv-tfrs`` makes. The products are those that one step asks of the processor, of the
same shapes and precision, done again with nothing between them and into the same memory each
time. bfloat16 is left out where this processor multiplies it no faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.throughput_world import (
    CATEGORY_DIM,
    DIM,
    HIDDEN,
    ITEM_FEATURES,
    TEMPERATURE,
    USER_FEATURES,
    World,
    config_of,
    dataset_of,
    make,
)
from twotower.config import Config
from twotower.model.precision import bfloat16_pays
from twotower.training.learn import Learned, prepare
from twotower.training.loop import Optimizers, Progress, epochs
from twotower.training.objective import Objective

SIZES = (256, 1024, 8192)
LOSSES = ("in_batch_softmax", "bce")
# Does steps for so many seconds; returns the positives of a second.
Contestant = Callable[[float], float]


@dataclass(frozen=True)
class Ours:
    """What is trained, and the batch size in positives."""

    config: Config
    learned: Learned
    objective: Objective
    optimizers: Optimizers
    positives: int

    @classmethod
    def of(cls, world: World, loss: str, rows: int, *, dim: int = DIM, **training: Any) -> Ours:
        dataset, train = dataset_of(world)
        positives = rows if loss == "in_batch_softmax" else rows // 2
        config = config_of(loss, positives, dataset, train, dim=dim, **training)
        learned, objective = prepare(dataset, train, config)
        optimizers = Optimizers(learned.model, config.training)
        return cls(config, learned, objective, optimizers, positives)

    def training(self) -> Contestant:
        """The training loop as it is, an epoch begun anew in each turn."""
        model = self.learned.model

        def run(seconds: float) -> float:
            return _speed(
                lambda tell: epochs(
                    model,
                    self.objective,
                    self.optimizers,
                    lambda _: {},
                    batch_size=self.positives,
                    better=lambda _new, _old: False,
                    metric="train_loss",
                    progress=Progress(start={"train_loss": 0.0}),
                    on_step=tell,
                ),
                seconds,
            )

        return run

    def products(self) -> Contestant:
        """The products of one step, again and again."""
        model, is_bf16 = self.learned.model.train(), self.config.training.precision == "bf16"
        batch = next(self.objective.batches(self.positives, np.random.default_rng(0)))
        with _Products() as record:
            with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
                loss = self.objective.loss_of(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
        into: dict[Any, Tensor] = {}
        for left, right in record.found:
            kind = (left.shape[0], right.shape[1], left.dtype)
            into.setdefault(kind, left.new_empty(kind[:2]))
        jobs = [
            (left, right, into[left.shape[0], right.shape[1], left.dtype])
            for left, right in record.found
        ]

        def run(seconds: float) -> float:
            started, steps = time.perf_counter(), 0
            while time.perf_counter() - started < seconds or steps < 3:
                for left, right, out in jobs:
                    torch.mm(left, right, out=out)
                steps += 1
            return steps * self.positives / (time.perf_counter() - started)

        return run


class _EnoughSteps(Exception):
    pass


def _speed(start: Callable[[Callable[[int], None]], Iterator[Any]], seconds: float) -> float:
    """Positives a second of what tells of each step, the first few not counted."""
    told: list[tuple[float, int]] = []

    def tell(rows: int) -> None:
        told.append((time.perf_counter(), rows))
        if len(told) > 5 and told[-1][0] - told[2][0] > seconds:
            raise _EnoughSteps

    with suppress(_EnoughSteps):
        next(start(tell))
    return sum(rows for _, rows in told[3:]) / (told[-1][0] - told[2][0])


class PlainTower(nn.Module):
    """The same tower, written the ordinary way."""

    def __init__(self, count: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.ids = nn.Embedding(count, DIM)
        self.codes = nn.ModuleList(nn.Embedding(size, CATEGORY_DIM) for size in sizes)
        widths = [len(sizes) * CATEGORY_DIM, *HIDDEN]
        layers: list[nn.Module] = []
        for below, above in pairwise(widths):
            layers += [nn.Linear(below, above), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], DIM))

    def forward(self, rows: Tensor, codes: Tensor) -> Tensor:
        parts = [table(codes[:, place]) for place, table in enumerate(self.codes)]
        described = self.layers(torch.cat(parts, 1))
        return functional.normalize(self.ids(rows) + described, dim=1)


def plain(world: World, loss: str, rows: int, *, by_loader: bool) -> Contestant:
    """PyTorch with dense Adam.

    Args:
        by_loader: whether batches come from a DataLoader that shuffles, as in tutorials; else
            all rows are shuffled at once and cut.
    """
    users, items = (
        PlainTower(len(world.user_codes), USER_FEATURES),
        PlainTower(len(world.item_codes), ITEM_FEATURES),
    )
    adam = torch.optim.Adam([*users.parameters(), *items.parameters()])
    user_codes = torch.from_numpy(world.user_codes.astype(np.int64))
    item_codes = torch.from_numpy(world.item_codes.astype(np.int64))
    pairs = torch.from_numpy(np.stack([world.user_rows, world.item_rows], 1).astype(np.int64))
    counts = torch.bincount(pairs[:, 1], minlength=len(item_codes))
    log_q = (counts / len(pairs)).clamp_min(1e-12).log()
    positives = rows if loss == "in_batch_softmax" else rows // 2

    def step(batch: Tensor) -> None:
        user, item = batch.unbind(1)
        adam.zero_grad()
        queries = users(user, user_codes[user])
        if loss == "in_batch_softmax":
            logits = queries @ items(item, item_codes[item]).T / TEMPERATURE - log_q[item]
            total = functional.cross_entropy(logits, torch.arange(len(batch)))
        else:
            other = torch.randint(1, len(item_codes), (len(batch),))
            every = torch.cat([item, other])
            scores = (queries.repeat(2, 1) * items(every, item_codes[every])).sum(1)
            labels = torch.cat([torch.ones(len(batch)), torch.zeros(len(batch))])
            total = functional.binary_cross_entropy_with_logits(scores / TEMPERATURE, labels)
        total.backward()  # type: ignore[no-untyped-call]
        adam.step()

    def run(seconds: float) -> float:
        def steps(tell: Callable[[int], None]) -> Iterator[None]:
            if by_loader:
                loader = DataLoader(TensorDataset(pairs), positives, shuffle=True)
                batches = (batch for (batch,) in loader)
            else:
                cut = pairs[torch.randperm(len(pairs))].split(positives)  # type: ignore[no-untyped-call]
                batches = iter(cut)
            for batch in batches:
                step(batch)
                tell(len(batch))
            yield

        return _speed(steps, seconds)

    return run


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the shapes, strides and kinds of what is multiplied."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in {"mm", "addmm", "addmm_"}:
            left, right = args[:2] if name == "mm" else args[1:3]
            if left.shape[0] > 1 and right.shape[1] > 1:
                self.found.append((_alike(left), _alike(right)))
        return func(*args, **(kwargs or {}))


def _alike(matrix: Tensor) -> Tensor:
    made = torch.empty_strided(matrix.shape, matrix.stride(), dtype=matrix.dtype)
    return made.normal_()


PEERS = {
    "TFRS, Adagrad": ("peer_tfrs.py", "Adagrad", ""),
    "TFRS, Adam": ("peer_tfrs.py", "Adam", ""),
    "Keras-RS on TensorFlow, Adagrad": ("peer_keras_rs.py", "Adagrad", "tensorflow"),
    "Keras-RS on JAX, Adagrad": ("peer_keras_rs.py", "Adagrad", "jax"),
}
"""Of each peer in another environment its script, optimizer and Keras's backend."""


def elsewhere(python: str, world: Path, loss: str, rows: int, peer: str) -> Contestant:
    """A peer in a process of its own, which works when it is told to; the world is a file."""
    script, optimizer, backend = PEERS[peer]
    threads = str(torch.get_num_threads())
    worker = subprocess.Popen(
        [python, str(Path(__file__).with_name(script)), str(world), loss, str(rows), optimizer],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={
            **os.environ,
            "TF_NUM_INTRAOP_THREADS": threads,
            "TF_NUM_INTEROP_THREADS": threads,
            "KERAS_BACKEND": backend,
        },
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    to, answers = worker.stdin, worker.stdout
    answers.readline()

    def run(seconds: float) -> float:
        to.write(f"{seconds}\n")
        to.flush()
        return float(answers.readline())

    return run


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=2.0)
    arguments.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    arguments.add_argument("--losses", nargs="+", default=LOSSES)
    arguments.add_argument("--pairs", type=int, default=5_000_000)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--tfrs")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    world = make(100_000, 20_000, given.pairs)
    scratch = tempfile.TemporaryDirectory()
    saved = Path(scratch.name) / "world.npz"
    if given.tfrs:
        np.savez(saved, **vars(world))
    print("| loss | rows | who | positives/s (median) | least | most | of its products |")
    print("|---|--:|---|--:|--:|--:|--:|", flush=True)
    for loss in given.losses:
        for rows in given.sizes:
            who: dict[str, Contestant] = {}
            for precision in ("fp32", "bf16") if bfloat16_pays() else ("fp32",):
                made = Ours.of(world, loss, rows, precision=precision)
                who[f"products, {precision}"] = made.products()
                who[f"twotower, {precision}"] = made.training()
            who["PyTorch, Adam"] = plain(world, loss, rows, by_loader=False)
            who["PyTorch with a DataLoader, Adam"] = plain(world, loss, rows, by_loader=True)
            for peer in PEERS if given.tfrs else ():
                who[peer] = elsewhere(given.tfrs, saved, loss, rows, peer)
            compare(loss, rows, who, given.rounds, given.seconds)


def compare(
    loss: str, rows: int, who: dict[str, Contestant], rounds: int, seconds: float
) -> None:
    """Everybody in turn, several times; a row of the table each."""
    speeds: dict[str, list[float]] = {name: [] for name in who}
    for _ in range(rounds):
        for name, run in who.items():
            speeds[name].append(run(seconds))
    for name, each in speeds.items():
        of_products = ""
        if name.startswith("twotower"):
            limit = np.array(speeds[name.replace("twotower", "products")])
            of_products = f"{np.median(np.array(each) / limit):.0%}"
        print(
            f"| {loss} | {rows:,} | {name} | {statistics.median(each):,.0f} "
            f"| {min(each):,.0f} | {max(each):,.0f} | {of_products} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
