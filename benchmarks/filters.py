"""Filters that leave half, few or none: how full the lists are, how right, and how late.

    python -m benchmarks.filters [--items 20000 100000] [--requests 200]

A service is asked over loopback by one client, one known user a request, k = 10, all filters
in turn. What is right is found in NumPy by the vectors of the run: all products, less what the
user met and what the filter leaves out, sorted. A list is full where it has k items, or all
that there are.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.services import Asker, service
from benchmarks.serving import recommender_of
from twotower import runs
from twotower.retrieval.recommender import Recommender

K, COLUMN = 10, "avg_rating"
SHARES = {"all": None, "50 %": 0.5, "1 %": 0.01, "0.01 %": 0.0001, "none": 0.0}


@dataclass
class Seen:
    """What came of one filter."""

    given: int = 0
    there: int = 0
    found: int = 0
    milliseconds: list[float] = field(default_factory=list)


class Truth:
    """The best by brute force."""

    def __init__(self, ours: Recommender) -> None:
        self.items = ours.items.values
        self.vectors = ours.item_vectors[1:].numpy().astype(np.float64)
        self.users = ours.user_vectors[1:].numpy().astype(np.float64)
        self.met = ours.seen
        self.values = np.asarray(ours.item_values[COLUMN], np.float64)

    def threshold(self, share: float) -> float:
        """Above it lies such a share of the items."""
        ordered = np.sort(self.values)[::-1]
        count = round(share * len(ordered))
        return float(ordered[count]) if count else float(ordered[0])

    def best(self, row: int, above: float | None) -> set[Any]:
        """Ids of the k best of a user, by row from 0."""
        scores = self.vectors @ self.users[row]
        scores[self.met.of(row + 1) - 1] = -np.inf
        if above is not None:
            scores[self.values <= above] = -np.inf
        order = np.argsort(-scores, kind="stable")[:K]
        return set(self.items[order[np.isfinite(scores[order])]].tolist())


def measure(num_items: int, requests: int) -> list[str]:
    """Rows of the table."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        ours = recommender_of(place / "world", num_items, 128)
        runs.save(ours, place / "runs" / "one")
        truth, seen = Truth(ours), defaultdict[str, Seen](Seen)
        rng = np.random.default_rng(0)
        limits = {n: None if s is None else truth.threshold(s) for n, s in SHARES.items()}
        with service(place / "runs" / "one") as alive:
            asker = Asker(alive.url)
            for _ in range(requests):
                row = int(rng.integers(len(truth.users)))
                user = ours.users.values[row : row + 1].tolist()[0]
                for name, limit in limits.items():
                    body: dict[str, Any] = {"people": [{"user": user}], "k": K}
                    if limit is not None:
                        body["where"] = {COLUMN: {">": limit}}
                    reply = asker.ask("POST", "/v1/recommend", body)
                    found = {each["item"] for each in reply.json["answers"][0]["items"]}
                    right = truth.best(row, limit)
                    own = seen[name]
                    own.given, own.there = own.given + len(found), own.there + len(right)
                    own.found += len(found & right)
                    own.milliseconds.append(reply.seconds * 1e3)
    rows = []
    for name, own in seen.items():
        limit = limits[name]
        left = num_items if limit is None else int((truth.values > limit).sum())
        full = f"{own.given / own.there:.1%}" if own.there else f"{own.given} of 0"
        recall = f"{own.found / own.there:.4f}" if own.there else ""
        p50, p99 = np.quantile(own.milliseconds, [0.5, 0.99])
        rows.append(
            f"| {num_items:,} | {name} | {left:,} | {full} | {recall} | {p50:.1f} | {p99:.1f} |"
        )
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--items", type=int, nargs="+", default=[20_000, 100_000])
    arguments.add_argument("--requests", type=int, default=200)
    given = arguments.parse_args()
    print(
        "| items | filter leaves | items left | fill of what exists | recall of brute force "
        "| p50 ms | p99 ms |\n|--:|---|--:|--:|--:|--:|--:|"
    )
    for num_items in given.items:
        print("\n".join(measure(num_items, given.requests)), flush=True)


if __name__ == "__main__":
    main()
