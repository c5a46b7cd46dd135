"""Memory and time of `twotower recommend --all`, and what a kill in the middle costs.

Towers of made-up vectors. What is measured is a process of its own that loads the run and
writes the lists; its peak memory is told beside that of one that only loads the run.

    python -m benchmarks.lists [--users 20000 80000] [--items 5000] [-k 10]
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from twotower import Recommender, fit, parse_config, save
from twotower.data.ids import Ids
from twotower.data.interactions import Histories

_DIM = 64
_SEEN = 20


def crowd(users: int, items: int) -> Recommender:
    """Towers that nobody trained, of as many users and items as wanted."""
    pairs = [(user, item) for user in range(40) for item in range(20) if (user + item) % 3]
    who, what = zip(*pairs, strict=True)
    tables = {"interactions": {"user_id": list(who), "item_id": list(what)}}
    config = {
        "model": {"embedding_dim": _DIM, "history": "none"},
        "training": {"epochs": 1, "refit": False, "loss": "bpr"},
        "evaluation": {"baselines": ["popularity"], "bootstrap": 10},
        "data": {"split": "random_per_user"},
    }
    small, rng = fit(tables, parse_config(config)), np.random.default_rng(0)

    def vectors(rows: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=(rows, _DIM + 1)).astype(np.float32))

    def met() -> Histories:
        offsets = np.r_[0, np.arange(users + 1) * _SEEN]
        return Histories(offsets, rng.integers(1, items + 1, users * _SEEN, np.int32))

    return replace(
        small,
        users=Ids("user_id", np.arange(users)),
        items=Ids("item_id", np.arange(items)),
        user_vectors=vectors(users + 1),
        item_vectors=vectors(items + 1),
        seen=met(),
        liked=met(),
        has_own_id=np.ones(items + 1, bool),
        user_has_own_id=np.ones(users + 1, bool),
        user_values={},
        item_values={},
    )


def measured(code: str) -> tuple[float, float]:
    """Seconds and peak MB of a process that runs this."""
    # Its own word: what the system counts for a child begins with the size of its parent.
    code += "\nprint(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    started = time.perf_counter()
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return time.perf_counter() - started, int(said) / 1024


def row(users: int, items: int, k: int, place: Path) -> str:
    run, into = save(crowd(users, items), place / f"run-{users}"), place / "lists.parquet"
    load = f"from twotower import load; load({str(run)!r})"
    job = (
        "from twotower.export.lists import recommend_all; "
        f"recommend_all({str(run)!r}, {str(into)!r}, {k}, resume=True)"
    )
    load_seconds, load_mb = measured(load)
    seconds, mb = measured(job)
    into.unlink()
    killed = subprocess.Popen([sys.executable, "-c", job])
    time.sleep(load_seconds + 0.6 * (seconds - load_seconds))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    rest, _ = measured(job)
    into.unlink()
    done = users / (seconds - load_seconds)
    return (
        f"| {users:,} | {items:,} | {k} | {load_mb:,.0f} | {mb:,.0f} | {seconds:.1f} "
        f"| {done:,.0f} | {rest:.1f} |"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--users", type=int, nargs="+", default=[20_000, 80_000])
    arguments.add_argument("--items", type=int, default=5_000)
    arguments.add_argument("-k", type=int, default=10)
    given = arguments.parse_args()
    print(
        "| users | items | k | peak MB, run loaded | peak MB, all | seconds, all "
        "| users/s after loading | seconds to go on after a kill at 60 % |\n"
        "|--:|--:|--:|--:|--:|--:|--:|--:|"
    )
    with tempfile.TemporaryDirectory() as place:
        for users in given.users:
            print(row(users, given.items, given.k, Path(place)), flush=True)


if __name__ == "__main__":
    main()
