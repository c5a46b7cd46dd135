"""From Parquet on disk to the first step of training: seconds and memory, in parts.

A log of users who met items (popular ones more often), with times, and tables of both with a
few features; then ``twotower.train`` in a fresh process, ended after its first step.

    python -m benchmarks.loading [--millions 1 5 10 50] [--loss in_batch_softmax] [--texts]
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import duckdb

from twotower.data.kept import ENOUGH

USERS, ITEMS = 1_000_000, 100_000
# What is timed, by the function that does it; what one calls of the others counts there.
PARTS = {
    "checks": [
        ("data.tables", "check_interactions"),
        ("data.tables", "check_ids"),
        ("data.tables", "settle_time"),
        ("data.tables", "infer_columns"),
        ("data.tables", "look"),
    ],
    "ids to rows": [("data.tables", "_number_rows"), ("data.tables", "read_log")],
    "kept on the disk": [("data.kept", "place_for"), ("data.kept", "keep")],
    "users and items": [("data.tables", "read_entities")],
    "split": [("pipeline", "split")],
    "what auto means": [("pipeline", "contenders")],
    "identity": [("training.unfinished", "digest")],
    "validation": [("pipeline", "validation")],
    "encoders": [("training.learn", "_encode")],
    "objective": [("training.learn", "make_objective")],
    "first step": [
        ("training.loop", "Optimizers.step"),
        ("training.objective", "Objective.loss_of"),
    ],
}


class Done(BaseException):
    """The first step was made."""


class Clock:
    """Seconds and peak of memory of each part, those of parts within it left out."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_gib: dict[str, float] = {}
        self._open = ["imports"]
        self._since = time.perf_counter()

    def turn(self) -> None:
        """What passed since the last turn belongs to the part that is open."""
        now, part = time.perf_counter(), self._open[-1]
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self.peak_gib[part] = max(self.peak_gib.get(part, 0.0), peak_gib())
        # The peak from here on is that of the next part.
        Path("/proc/self/clear_refs").write_text("5")
        self._since = now

    def rest(self, part: str) -> None:
        """What is no other part is this one from now on."""
        self.turn()
        self._open[0] = part

    def within(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        @wraps(work)
        def timed(*given: Any, **named: Any) -> Any:
            self.turn()
            self._open.append(part)
            try:
                return work(*given, **named)
            finally:
                self.turn()
                self._open.pop()

        return timed


def peak_gib() -> float:
    """The most memory that this process held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def write_world(
    into: Path,
    num_interactions: int,
    *,
    num_users: int = USERS,
    num_items: int = ITEMS,
    texts: bool = False,
    labels: bool = False,
    wide: bool = False,
) -> None:
    """The same rows for the same size, whatever the threads.

    Args:
        wide: with a weight and a rating as well.
    """
    users, items = ("'u' || {}", "'i' || {}") if texts else ("{} * 3 + 7", "{} * 5 + 1")
    share = "(hash({}) / 18446744073709551616.0)"
    tables = {
        "users": f"""SELECT {users.format("n")} AS user_id, 18 + hash(n, 1) % 60 AS age,
            'c' || (hash(n, 2) % 40)::VARCHAR AS country,
            'p' || (hash(n, 3) % 3)::VARCHAR AS plan FROM range({num_users}) AS t(n)""",
        "items": f"""SELECT {items.format("n")} AS item_id,
            round(exp(4 * {share.format("n, 4")}), 2) AS price,
            'k' || (hash(n, 5) % 200)::VARCHAR AS kind,
            TIMESTAMP '2020-01-01' + to_days((hash(n, 6) % 1500)::INTEGER) AS published
            FROM range({num_items}) AS t(n)""",
        "interactions": f"""SELECT {users.format("u")} AS user_id,
            {items.format("i")} AS item_id, t AS timestamp
            {", hash(u, i, 9) % 2 AS label" if labels else ""}
            {", 1.0 + hash(u, i, 10) % 4 AS weight, hash(u, i, 11) % 5 AS rating" * wide} FROM (
            SELECT hash(n, 7) % {num_users} AS u,
            floor({num_items} * pow({share.format("n, 8")}, 2.5))::BIGINT AS i,
            TIMESTAMP '2024-01-01' + to_seconds(n * {31_000_000 / num_interactions}) AS t
            FROM range({num_interactions}) AS t(n))""",
    }
    into.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as engine:
        for name, sql in tables.items():
            engine.execute(f"COPY ({sql}) TO '{into / name}.parquet' (FORMAT parquet)")


def measure(data: str, loss: str, runs: str) -> None:
    """Prints what it took to the first step, as JSON."""
    clock = Clock()
    import twotower
    from twotower.config import parse_config
    from twotower.watch import Watch

    class First(Watch):
        def advance(self, _rows: int) -> None:
            raise Done

    for part, functions in PARTS.items():
        for module, path in functions:
            holder: Any = importlib.import_module(f"twotower.{module}")
            *outer, name = path.split(".")
            for each in outer:
                holder = getattr(holder, each)
            setattr(holder, name, clock.within(part, getattr(holder, name)))
    config = parse_config({"training": {"loss": loss}})
    clock.rest("all else")
    try:
        now = datetime.now(UTC)
        twotower.train(data, config, into=runs, name="first", now=now, watch=First())
    except Done:
        clock.turn()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([clock.seconds, clock.peak_gib, used.ru_utime + used.ru_stime]))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--millions", nargs="+", type=float, default=[1, 5, 10, 50])
    arguments.add_argument("--loss", default="in_batch_softmax")
    arguments.add_argument("--texts", action="store_true", help="ids that are texts")
    arguments.add_argument("--keep", type=Path, help="where worlds are, and stay")
    arguments.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.measure:
        world, runs = given.measure
        measure(world, given.loss, runs)
        return
    names = ["imports", *PARTS, "all else"]
    print(f"{USERS:,} users, {ITEMS:,} items, loss {given.loss}; seconds, and in brackets")
    print("the peak of memory while a part ran, in GiB\n")
    print("| interactions | all | of processors | " + " | ".join(names) + " |")
    print("|--:|" + "--:|" * (len(names) + 2), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for millions in given.millions:
            kind = "texts" if given.texts else "numbers"
            world = (given.keep or Path(scratch)) / f"{millions:g}-{kind}"
            if not (world / "interactions.parquet").exists():
                write_world(world, int(millions * 1_000_000), texts=given.texts)
            # Where rows are kept, the second start finds them.
            again = ["", " again"] if millions * 1_000_000 >= ENOUGH else [""]
            with tempfile.TemporaryDirectory(dir=given.keep) as runs:
                for which in again:
                    cells = row(world, runs, given.loss, names)
                    print(f"| {millions:g} M{which} | {' | '.join(cells)} |", flush=True)


def row(world: Path, runs: str, loss: str, names: list[str]) -> list[str]:
    """One start in a fresh process: the cells of the table."""
    what = ["--measure", str(world), runs, "--loss", loss]
    command = [sys.executable, "-m", "benchmarks.loading", *what]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds, peaks, of_processors = json.loads(out)
    parts = [f"{seconds.get(n, 0):.1f} ({peaks.get(n, 0):.1f})" for n in names]
    total = f"{sum(seconds.values()):.1f} ({max(peaks.values()):.1f})"
    return [total, f"{of_processors:.1f}", *parts]


if __name__ == "__main__":
    main()
