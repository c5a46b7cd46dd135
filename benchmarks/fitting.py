"""What a training is said to take, and what it took: ``python -m benchmarks.fitting``.

Each job learns one epoch and makes the vectors of everybody in a process of its own; of its
peak the memory that imports and data took before is left out, as the estimate leaves it out.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any

import numpy as np

GIB = 2**30
JOBS: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "in-batch, 128 numbers": ((100_000, 20_000, 200_000), {}),
    "a batch of 16,384": ((100_000, 20_000, 50_000), {"batch_size": 16_384}),
    "a million items": ((100_000, 1_000_000, 100_000), {"dim": 64}),
    "a million users with ids": (
        (1_000_000, 20_000, 200_000),
        {"dim": 64, "user_ids": True, "history": "none"},
    ),
    "softmax over all of 20,000": ((10_000, 20_000, 100_000), {"loss": "softmax"}),
    "bce": ((100_000, 20_000, 200_000), {"loss": "bce", "batch_size": 8192}),
    "warp": ((100_000, 20_000, 50_000), {"loss": "warp"}),
}


def measure(name: str) -> None:
    """Prints bytes estimated and bytes taken."""
    from twotower import pipeline
    from twotower.config import parse_config
    from twotower.training.learn import learn
    from twotower.training.memory import Size, bytes_to_train
    from twotower.watch import Watch

    (users, items, rows), asked = JOBS[name]
    rng = np.random.default_rng(0)
    log = {
        "user_id": rng.integers(0, users, rows),
        "item_id": (items * rng.random(rows) ** 2).astype(np.int64),
    }
    if asked.get("loss") == "bce":
        log["label"] = rng.integers(0, 2, rows)
    tables = {
        "users": {"user_id": np.arange(users), "age": rng.normal(size=users)},
        "items": {"item_id": np.arange(items), "price": rng.normal(size=items)},
        "interactions": log,
    }
    model = {key: asked[key] for key in ("user_ids", "history") if key in asked}
    training = {"batch_size": asked.get("batch_size", 2048), "epochs": 1, "refit": False}
    config = parse_config(
        {
            "model": {"embedding_dim": asked.get("dim", 128), "item_ids": True, **model},
            "training": {"loss": asked.get("loss", "in_batch_softmax"), **training},
            "data": {"split": "random"},
        }
    )
    planned = pipeline.plan(tables, config, Watch())
    [settled] = planned.contenders
    size = Size.of(planned.dataset, planned.parts, has_folder=False)
    before = peak()
    learned = learn(
        planned.dataset, planned.parts.train, settled, lambda _: {"val": 1.0}, metric="val"
    )
    pipeline.assemble(planned.dataset, planned.parts, settled, learned, {}, None)
    print(json.dumps([sum(bytes_to_train(size, settled).values()), peak() - before]))


def peak() -> int:
    """The most bytes that this process held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    if len(sys.argv) > 1:
        measure(sys.argv[1])
        return
    print("| job | users, items, rows | estimated, GiB | taken, GiB | estimated / taken |")
    print("|---|---|--:|--:|--:|", flush=True)
    for name, (sizes, _) in JOBS.items():
        command = [sys.executable, "-m", "benchmarks.fitting", name]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        estimated, taken = json.loads(out)
        counts = ", ".join(f"{size:,}" for size in sizes)
        print(
            f"| {name} | {counts} | {estimated / GIB:.2f} | {taken / GIB:.2f} "
            f"| {estimated / taken:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
