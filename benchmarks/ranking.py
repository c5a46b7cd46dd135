"""The best items of many users, exactly: peers beside us and beside the products alone.

Vectors are random and the same for all. The products alone, in blocks of the best size and into
one buffer, are the limit: nobody can rank what was not scored.

    python -m benchmarks.ranking [--items N] [--users N] [--k N] [--rounds N] [--threads N]
        [--only NAME ...]
    python -m benchmarks.ranking --file [--items N] [--users N] [--k N]

The latter writes everybody's list into a Parquet file, 100 seen items left out for each user.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from twotower import fit, parse_config
from twotower.data.ids import Ids
from twotower.data.interactions import Histories
from twotower.data.synthetic import generate
from twotower.model.precision import bfloat16_pays
from twotower.retrieval import index as module
from twotower.retrieval.index import ExactIndex
from twotower.retrieval.write import write_blocks

DIM, SEEN = 128, 100
Ranker = Callable[[], object]


def blocks(rows: Tensor, size: int) -> list[Tensor]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def products(users: Tensor, items: Tensor) -> Ranker:
    """The products alone, into one buffer that fits into a cache."""
    rows, width = 512, 8192
    buffer = torch.empty(rows * width, dtype=users.dtype)

    def run() -> None:
        for some in blocks(users, rows):
            for part in blocks(items, width):
                out = buffer[: len(some) * len(part)].view(len(some), len(part))
                torch.mm(some, part.T, out=out)

    return run


def rankers(users: Tensor, items: Tensor, k: int, threads: int) -> dict[str, Ranker]:
    """Everybody's way to the k best items of all users."""
    narrow = users.bfloat16(), items.bfloat16()
    index = ExactIndex(items)
    rng = np.random.default_rng(1)
    seen = torch.from_numpy(rng.integers(0, len(items), SEEN * len(users)))
    owners = torch.arange(len(users)).repeat_interleave(SEEN)

    def in_float32() -> None:
        with patch.object(module, "bfloat16_pays", lambda: False):
            index.search(users, k)

    def plain() -> None:
        for some in blocks(users, max(2**24 // len(items), 1)):
            torch.topk(some @ items.T, k, dim=1)

    ways: dict[str, Ranker] = {
        "products, float32": products(users, items),
        "products, bfloat16": products(*narrow),
        "torch: matmul and topk": plain,
        "twotower, float32 pass": in_float32,
        "twotower": lambda: index.search(users, k),
        f"twotower, {SEEN} seen items a user": lambda: index.search(
            users, k, excluded_items=seen, excluded_owners=owners
        ),
    }
    from implicit.cpu.topk import topk

    ways["implicit"] = lambda: topk(items.numpy(), users.numpy(), k, num_threads=threads)
    try:
        import faiss
    except ImportError:
        print("faiss-cpu is not installed and is left out\n")
        return ways
    faiss.omp_set_num_threads(threads)
    flat = faiss.IndexFlatIP(DIM)
    flat.add(items.numpy())
    ways["faiss-cpu, IndexFlatIP"] = lambda: flat.search(users.numpy(), k)
    return ways


def disagreements(users: Tensor, items: Tensor, k: int) -> int:
    """Items found whose score in double is below the k-th by more than float32 can tell."""
    positions, _ = ExactIndex(items).search(users, k)
    wrong = 0
    for some, found in zip(blocks(users, 64), blocks(positions, 64), strict=True):
        scores = some.double() @ items.double().T
        kth = torch.topk(scores, k, dim=1).values[:, -1:]
        tolerance = DIM * 2.0**-24 * some.norm(dim=1, keepdim=True) * items.norm(dim=1).max()
        wrong += int((scores.gather(1, found) < kth - tolerance).sum())
    return wrong


def compare(
    num_items: int, num_users: int, k: int, rounds: int, threads: int, only: list[str]
) -> None:
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(num_items, DIM, generator=generator)
    users = torch.randn(num_users, DIM, generator=generator)
    ways = {
        name: way
        for name, way in rankers(users, items, k, threads).items()
        if name.startswith(("products", *only))
    }
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            begun, spent = time.perf_counter(), time.process_time()
            way()
            if turn:
                wall[name].append(time.perf_counter() - begun)
                cpu[name].append(time.process_time() - spent)
    print(
        f"{num_items:,} items, {num_users:,} users a round, {DIM} dimensions, k = {k}, "
        f"{threads} threads, {rounds} rounds\n\n"
        "| way | users/s (median) | least | most | CPU ms a user | GFLOP/s "
        "| products' CPU / its CPU |\n|---|--:|--:|--:|--:|--:|--:|"
    )
    for name in ways:
        speeds = [num_users / seconds for seconds in wall[name]]
        median = statistics.median(speeds)
        is_narrow = bfloat16_pays() and name.startswith(("twotower", "products, b"))
        is_narrow &= "float32" not in name
        limit = cpu["products, bfloat16" if is_narrow else "products, float32"]
        share = statistics.median(a / b for a, b in zip(limit, cpu[name], strict=True))
        print(
            f"| {name} | {median:,.0f} | {min(speeds):,.0f} | {max(speeds):,.0f} "
            f"| {1000 * statistics.median(cpu[name]) / num_users:.3f} "
            f"| {2e-9 * num_items * DIM * median:,.0f} | {share:.2f} |"
        )
    some = users[: min(len(users), 256)]
    print(
        f"\nOf {k * len(some):,} items found, {disagreements(some, items, k)} score in double "
        "below the k-th best by more than float32 can tell."
    )


def write_file(num_items: int, num_users: int, k: int) -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch) / "world", num_users=300, num_items=200, num_interactions=9000)
        training = {"epochs": 1, "refit": False}
        evaluation = {"baselines": ["popularity"], "bootstrap": 10}
        config = parse_config({"training": training, "evaluation": evaluation})
        made = fit(Path(scratch) / "world", config)
    vectors = [rng.standard_normal((n + 1, DIM), np.float32) for n in (num_users, num_items)]
    offsets = np.concatenate([[0, 0], np.arange(1, num_users + 1) * SEEN])
    seen = rng.integers(1, num_items + 1, num_users * SEEN, np.int32)
    large = dataclasses.replace(
        made,
        users=Ids("user_id", np.arange(num_users)),
        items=Ids("item_id", np.arange(num_items)),
        user_vectors=torch.from_numpy(vectors[0]),
        item_vectors=torch.from_numpy(vectors[1]),
        seen=Histories(offsets, seen),
        has_own_id=np.arange(num_items + 1) > 0,
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as scratch:
        begun = time.perf_counter()
        path = Path(scratch) / "all.parquet"
        rows = write_blocks((block.columns() for block in large.batches(k)), path)
        seconds = time.perf_counter() - begun
        size = path.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        "| users | items | rows | users/s | peak GiB | GiB before | file GiB |\n"
        "|--:|--:|--:|--:|--:|--:|--:|\n"
        f"| {num_users:,} | {num_items:,} | {rows:,} | {num_users / seconds:,.0f} "
        f"| {peak / 2**20:.2f} | {before / 2**20:.2f} | {size / 2**30:.2f} |"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    defaults = {"items": 100_000, "users": 20_000, "k": 100, "rounds": 5, "threads": 2}
    for name, default in defaults.items():
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--only", nargs="+", default=[""], help="how their names begin")
    arguments.add_argument("--file", action="store_true")
    given = arguments.parse_args()
    if given.file:
        write_file(given.items, given.users, given.k)
    else:
        compare(given.items, given.users, given.k, given.rounds, given.threads, given.only)


if __name__ == "__main__":
    main()
