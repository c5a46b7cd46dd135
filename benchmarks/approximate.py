"""The approximate index beside the exact one: seconds to build, recall, queries a second.

Items lie about 300 centres, each with a bias; users lie between two of them. Half of the users
measure the index, the other half ask.

    python -m benchmarks.approximate [--items 100000] [--threads 1] [--recall 0.99] [--rounds 5]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from twotower.retrieval.approximate import ApproximateIndex, share_found
from twotower.retrieval.index import ExactIndex, products, top_k

DIM, CENTRES, USERS = 128, 300, 1000
Vectors = tuple[torch.Tensor, torch.Tensor]


def clustered(num_items: int) -> Vectors:
    """Vectors of items and of users, as towers have them: a bias and a 1 at the end."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CENTRES, DIM)).astype(np.float32)

    def near(count: int) -> np.ndarray:
        noise = rng.standard_normal((count, DIM), dtype=np.float32)
        vectors = centres[rng.integers(0, CENTRES, count)] + 0.7 * noise
        unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    bias = 0.1 * rng.standard_normal((num_items, 1), dtype=np.float32)
    items = np.concatenate([near(num_items), bias], axis=1)
    users = near(2 * USERS) + 0.7 * near(2 * USERS)
    users = np.concatenate([users, np.ones((2 * USERS, 1), np.float32)], axis=1)
    return torch.from_numpy(items), torch.from_numpy(users)


def exactly(users: torch.Tensor, items: torch.Tensor, k: int) -> None:
    """The exact search of an answer."""
    top_k(lambda part: products(users[part], items), len(users), len(items), k)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--items", type=int, default=100_000)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--recall", type=float, default=0.99)
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    items, users = clustered(given.items)
    exact = ExactIndex(items)
    begin = time.perf_counter()
    index = ApproximateIndex.build(exact, users[:USERS], recall=given.recall)
    took = time.perf_counter() - begin
    print(f"{given.items:,} items x {DIM}, {given.threads} thread(s); built in {took:.1f} s:")
    print(f"{index.probes} of {index.inverted.nlist} lists, recall@100 {index.recall:.4f}\n")
    print("| k | a call | recall | exact, users/s | index, users/s | ratio |")
    print("|---|---|---|---|---|---|")
    asking = users[USERS:]
    for k, size in ((10, 1), (10, 64), (100, 1), (100, 64)):
        some = asking[: 100 if size == 1 else USERS]
        blocks = [some[start : start + size] for start in range(0, len(some), size)]
        true = torch.cat([exact.search(block, k)[0] for block in blocks])
        found = torch.cat([index.search(block, items, k)[0] for block in blocks])
        recall = share_found(found.numpy(), true.numpy())
        seconds: dict[str, list[float]] = {"exact": [], "index": []}
        # By turns, so that what else the machine does is shared.
        for _ in range(given.rounds):
            begin = time.perf_counter()
            for block in blocks:
                exactly(block, items, k)
            middle = time.perf_counter()
            for block in blocks:
                index.search(block, items, k)
            seconds["exact"].append(middle - begin)
            seconds["index"].append(time.perf_counter() - middle)
        slow, fast = (len(true) / float(np.median(each)) for each in seconds.values())
        print(
            f"| {k} | {size} | {recall:.4f} | {slow:,.0f} | {fast:,.0f} | {fast / slow:.1f} |"
        )


if __name__ == "__main__":
    main()
