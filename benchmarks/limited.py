"""A log four times as large as the memory it may take: ``python -m benchmarks.limited``.

Under ``RLIMIT_DATA`` (what ``ulimit -d`` sets: all that a process allocates, but not files that
are mapped) a process trains on a log whose columns, as arrays, take four times the limit;
to the end, and perhaps once more from the rows that are kept then.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.loading import write_world

USERS, ITEMS = 100_000, 20_000
# Of a row: user, item, label, weight, rating and time.
ROW_BYTES = 28
BATCHES = {"bce": 65536, "in_batch_softmax": 256}
MODEL = {
    "embedding_dim": 8,
    "user_hidden_dims": [],
    "item_hidden_dims": [],
    "history": "none",
    "user_ids": True,
}
# Lists of the users held out are in memory.
DATA = {"test_fraction": 0.0005, "val_fraction": 0.0005, "duplicates": "keep"}


def measure(world: str, runs: str, limit_mib: int, loss: str) -> None:
    """Prints seconds to the first step and to the end, as JSON."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit_mib << 20, limit_mib << 20))
    started = time.perf_counter()
    import twotower
    from twotower.config import parse_config
    from twotower.watch import Watch

    class First(Watch):
        seconds = 0.0

        def note(self, text: str) -> None:
            print(f"note {text}", file=sys.stderr)

        def stage(self, name: str, total: int | None = None) -> None:
            spent = time.perf_counter() - started
            print(f"{name} {total or ''} at {spent:.0f} s", file=sys.stderr, flush=True)

        def advance(self, _rows: int) -> None:
            self.seconds = self.seconds or time.perf_counter() - started

    watch = First()
    config = parse_config(
        {
            "model": MODEL,
            "training": {
                "loss": loss,
                "batch_size": BATCHES[loss],
                "epochs": 1,
                "refit": False,
            },
            "data": DATA,
            "evaluation": {"baselines": ["popularity"], "bootstrap": 10},
        }
    )
    now = datetime.now(UTC)
    _, run = twotower.train(world, config, into=runs, name="large", now=now, watch=watch)
    used = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    peak_kib = next(int(line[1]) for line in used if line[0] == "VmHWM:")
    everything = time.perf_counter() - started
    print(json.dumps([watch.seconds, everything, peak_kib / 2**20, run.name]))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--limit", type=int, default=1536, help="MiB")
    arguments.add_argument("--loss", default="bce", choices=list(BATCHES))
    arguments.add_argument("--times", type=float, default=4.0)
    arguments.add_argument("--again", action="store_true", help="from the rows that are kept")
    arguments.add_argument("--keep", type=Path, help="where worlds are, and stay")
    arguments.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.measure:
        world, runs, limit, loss = given.measure
        measure(world, runs, int(limit), loss)
        return
    rows = int(given.limit * 2**20 * given.times / ROW_BYTES)
    print(
        f"{USERS:,} users, {ITEMS:,} items, {rows:,} interactions of {ROW_BYTES} bytes, which"
    )
    print(f"are {rows * ROW_BYTES / 2**20:,.0f} MiB, under RLIMIT_DATA {given.limit:,} MiB\n")
    print("| loss | | seconds to the first step | to the end | resident at most, GiB |")
    print("|---|---|--:|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory(dir=given.keep) as scratch:
        world = (given.keep or Path(scratch)) / f"{rows}-wide"
        if not (world / "interactions.parquet").exists():
            write_world(world, rows, num_users=USERS, num_items=ITEMS, labels=True, wide=True)
        for which in ["first", *["again"] * given.again]:
            line = ["-m", "benchmarks.limited", "--measure", str(world), scratch]
            out = subprocess.run(
                [sys.executable, *line, str(given.limit), given.loss],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout
            begun, done, peak, _ = json.loads(out)
            print(
                f"| {given.loss} | {which} | {begun:.0f} | {done:.0f} | {peak:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
