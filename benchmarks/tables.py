"""A step on tables of ten million users and a million items beside one on small tables.

Towers, batches and loss are those of ``benchmarks.throughput``; only tables grow, and worlds
take turns in one process. A batch of a large world has more different users and items, hence
more rows for the towers to read, however large the tables are: the "even" world is small and
draws evenly, so that a step reads about as many rows as in the large one. Beside the step stand
its products alone, and what it does to the tables of ids alone: to gather rows and to move them
by lazy Adam.

    python -m benchmarks.tables [--users N] [--items N] [--dim N] [--rows N ...] [--rounds N]
    python -m benchmarks.tables --memory [--users N] [--items N] [--dim N]

The latter learns an epoch in a fresh process, keeps the best weights and a checkpoint, and says
its peak beside what no step can do without: weights and both moments of Adam.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.throughput import Contestant, Ours
from benchmarks.throughput_world import config_of, dataset_of, make
from twotower.training.batches import PairBatch
from twotower.training.learn import learn

GIB = 2**30
LOSS, PAIRS = "in_batch_softmax", 5_000_000
SMALL, EVEN = (10_000, 20_000), (100_000, 40_000)
# Batches whose rows are touched in turn: many enough that they are not in a cache by then.
BATCHES = 100


def rows_of_steps(ours: Ours) -> list[tuple[np.ndarray, np.ndarray]]:
    """The different users and items of some batches."""
    found = []
    for batch in ours.objective.batches(ours.positives, np.random.default_rng(1)):
        assert isinstance(batch, PairBatch)
        found.append((np.unique(batch.user_rows), np.unique(batch.item_rows)))
        if len(found) == BATCHES:
            break
    return found


def touching(ours: Ours, steps: list[tuple[np.ndarray, np.ndarray]]) -> Contestant:
    """Gathers a step's rows of both tables of ids and moves them, and nothing else."""
    layers = ours.learned.model.user_features, ours.learned.model.item_features
    tables = [layer.id_table.weight for layer in layers if layer.id_table is not None]
    lazy = ours.optimizers.parts[-1]
    each = [[torch.from_numpy(rows) for rows in both] for both in steps]

    def run(seconds: float) -> float:
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < seconds or done < 3:
            for table, rows in zip(tables, each[done % len(each)], strict=True):
                taken = table.detach().index_select(0, rows)
                table.grad = torch.sparse_coo_tensor(
                    rows[None], taken, table.shape, check_invariants=False
                )
            lazy.step()
            done += 1
        for table in tables:
            table.grad = None
        return done * ours.positives / (time.perf_counter() - started)

    return run


def compare(worlds: dict[str, Ours], rows: int, rounds: int, seconds: float) -> None:
    """All worlds in turn, several times; a row of the table each."""
    parts: dict[str, dict[str, Contestant]] = {}
    read: dict[str, tuple[float, float]] = {}
    for name, world in worlds.items():
        ours = dataclasses.replace(world, positives=rows)
        steps = rows_of_steps(ours)
        users, items = (
            statistics.mean(len(rows) for rows in side) for side in zip(*steps, strict=True)
        )
        read[name] = users, items
        parts[name] = {
            "step": ours.training(),
            "products": ours.products(),
            "tables": touching(ours, steps),
        }
    spent: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds + 1):
        for name, runs in parts.items():
            for part, run in runs.items():
                took = 1000 * rows / run(seconds)
                if turn:
                    spent.setdefault((name, part), []).append(took)
    first = next(iter(worlds))
    for name in worlds:
        ratios = np.array(spent[name, "step"]) / np.array(spent[first, "step"])
        cells = [f"{statistics.median(spent[name, part]):.1f}" for part in parts[name]]
        print(
            f"| {rows:,} | {name} | {read[name][0]:,.0f} + {read[name][1]:,.0f} "
            f"| {' | '.join(cells)} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f} to {max(ratios):.2f} |",
            flush=True,
        )


def times(given: argparse.Namespace) -> None:
    """Prints the table of milliseconds."""
    worlds = {}
    for (users, items), even in (
        (SMALL, False),
        (EVEN, True),
        ((given.users, given.items), False),
    ):
        name = f"{users:,} + {items:,}" + ", even" * even
        worlds[name] = Ours.of(
            make(users, items, PAIRS, even=even), LOSS, given.rows[0], dim=given.dim
        )
    print(
        f"{given.dim} numbers a row, loss {LOSS}, {given.threads} threads, "
        f"{given.rounds} rounds; milliseconds (medians)\n\n"
        "| batch | users + items | rows read a step | step | products alone | tables alone "
        "| step / the first's | least to most |\n|--:|---|--:|--:|--:|--:|--:|--:|",
        flush=True,
    )
    for rows in given.rows:
        compare(worlds, rows, given.rounds, given.seconds)


def held() -> tuple[float, float]:
    """GiB that this process holds now and at most until now."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    of = {line[0]: int(line[1]) / 2**20 for line in lines if line[0] in {"VmRSS:", "VmHWM:"}}
    return of["VmRSS:"], of["VmHWM:"]


def memory(given: argparse.Namespace) -> None:
    """Prints the table of GiB."""
    dataset, train = dataset_of(make(given.users, given.items, given.rows[0] * 100))
    config = config_of(LOSS, given.rows[0], dataset, train, dim=given.dim, epochs=1)
    before, _ = held()
    Path("/proc/self/clear_refs").write_text("5")
    with tempfile.TemporaryDirectory() as scratch:
        learned = learn(
            dataset,
            train,
            config,
            lambda _: {"val": 1.0},
            metric="val",
            checkpoint=Path(scratch) / "checkpoint.safetensors",
        )
    _, peak = held()
    layers = learned.model.user_features, learned.model.item_features
    tables = [layer.id_table.weight for layer in layers if layer.id_table is not None]
    needed = sum(table.nbytes for table in tables) * 3 / GIB
    print(
        "| users + items | numbers a row | weights and moments, GiB | before, GiB | peak, GiB "
        "| peak / weights and moments |\n|---|--:|--:|--:|--:|--:|\n"
        f"| {given.users:,} + {given.items:,} | {given.dim} | {needed:.2f} | {before:.2f} "
        f"| {peak:.2f} | {peak / needed:.2f} |"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--users", type=int, default=10_000_000)
    arguments.add_argument("--items", type=int, default=1_000_000)
    arguments.add_argument("--dim", type=int, default=64)
    arguments.add_argument("--rows", type=int, nargs="+", default=[1024, 8192])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=2.0)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--memory", action="store_true")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    if given.memory:
        memory(given)
    else:
        times(given)


if __name__ == "__main__":
    main()
