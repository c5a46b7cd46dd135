"""How cost grows: the same jobs at growing sizes, a table and a picture.

One axis grows at a time and all else stays. The jobs: a training step (ids, features, layers of
256 and 128, softmax over a batch of 8,192 or over all items); the hundred best items of a user,
exactly; and, for rows, from Parquet on disk to the first step and the steps after it. Each
measurement is a fresh process; sizes of an axis take turns, several rounds.

    python -m benchmarks.growing [AXIS ...] [--rounds N] [--kept FILE] [--picture FILE]

Measurements are kept as JSON, and those that are there are not made again: what was stopped
goes on, one more size costs only itself, and without the file all is measured anew. Drawing
wants matplotlib (extra ``bench``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.loading import peak_gib, write_world

HERE = Path(__file__).parent
BATCH, K, SECONDS = 8192, 100, 3.0
# Products of a call that ranks: of so many users that calls take about as long.
RANKED = 2**34


@dataclass(frozen=True)
class Size:
    """What grows; these values stay while something else does."""

    rows: int = 2_000_000
    users: int = 100_000
    items: int = 20_000
    dimension: int = 64
    features: int = 4
    threads: int = 1


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        rate: positives a second of a step, or users a second of a ranking.
        peak_gib: the most that the process held.
        seconds: to the first step, where the job begins on disk.
    """

    axis: str
    job: str
    size: int
    rate: float
    peak_gib: float
    seconds: float = 0.0


# Ranking reads vectors only, a user at a time: rows, users and features are nothing to it.
AXES: dict[str, dict[str, tuple[int, ...]]] = {
    "rows": {"load": (500_000, 2_000_000, 8_000_000, 32_000_000, 100_000_000)},
    "users": {"step": (10_000, 100_000, 1_000_000, 10_000_000)},
    "items": {
        "step": (10_000, 100_000, 1_000_000, 4_000_000),
        "softmax": (10_000, 30_000, 100_000),
        "rank": (10_000, 100_000, 1_000_000, 4_000_000),
    },
    "dimension": {"step": (16, 32, 64, 128, 256), "rank": (16, 32, 64, 128, 256)},
    "features": {"step": (1, 4, 16, 64)},
    "threads": {"step": (1, 2), "rank": (1, 2)},
}
WORDS = {
    "step": "training step",
    "softmax": "training step, softmax over all items",
    "rank": "ranking",
    "load": "from Parquet",
}


def step(size: Size, **training: Any) -> tuple[float, float]:
    """Positives a second, and the peak of memory."""
    from benchmarks.throughput import Ours
    from benchmarks.throughput_world import make

    values = (1000,) * size.features
    world = make(size.users, size.items, size.rows, user_features=values, item_features=values)
    loss = training.pop("loss", "in_batch_softmax")
    ours = Ours.of(world, loss, BATCH, dim=size.dimension, **training)
    return replace(ours, positives=BATCH).training()(SECONDS), peak_gib()


def rank(size: Size) -> tuple[float, float]:
    """Users a second, and the peak of memory."""
    from twotower.retrieval.index import ExactIndex

    many = min(max(RANKED // (size.items * size.dimension), 64), 4096)
    index = ExactIndex(torch.randn(size.items, size.dimension))
    users = torch.randn(many, size.dimension)
    index.search(users[:64], K)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        index.search(users, K)
        done += many
    return done / (time.perf_counter() - started), peak_gib()


class _Enough(BaseException):
    pass


def load(data: str, size: Size) -> tuple[float, float, float]:
    """Positives a second after the first step, the peak, and seconds to the first step."""
    started = time.perf_counter()
    import twotower
    from twotower.watch import Watch

    told: list[tuple[float, int]] = []

    class Steps(Watch):
        def advance(self, rows: int) -> None:
            told.append((time.perf_counter(), rows))
            if told[-1][0] - told[0][0] > SECONDS and len(told) > 5:
                raise _Enough

    training = {"loss": "in_batch_softmax", "batch_size": BATCH, "precision": "fp32"}
    model = {"embedding_dim": size.dimension}
    config = twotower.parse_config({"model": model, "training": training})
    now = datetime.now(UTC)
    runs = Path(data) / "runs"
    with suppress(_Enough):
        twotower.train(data, config, into=runs, name="n", now=now, watch=Steps())
    rate = sum(rows for _, rows in told[1:]) / (told[-1][0] - told[0][0])
    return rate, peak_gib(), told[0][0] - started


def measure(axis: str, job: str, number: int, data: str) -> Point:
    """One measurement, in this process."""
    size = replace(Size(), **{axis: number})
    torch.set_num_threads(size.threads)
    if job == "load":
        return Point(axis, job, number, *load(data, size))
    if job == "rank":
        return Point(axis, job, number, *rank(size))
    over_all = {"loss": "softmax", "negatives_from": "all"} if job == "softmax" else {}
    return Point(axis, job, number, *step(size, **over_all))


def measured(axis: str, job: str, number: int) -> Point:
    """One measurement, in a process of its own."""
    with tempfile.TemporaryDirectory() as data:
        if job == "load":
            write_world(Path(data), number)
        given = ["--measure", axis, job, str(number), data]
        line = [sys.executable, "-m", "benchmarks.growing", *given]
        out = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Point(**json.loads(out.splitlines()[-1]))


def missing(axes: list[str], rounds: int, there: list[Point]) -> Iterator[tuple[str, str, int]]:
    """What is to be measured, sizes of an axis in turn."""
    done = [(point.axis, point.job, point.size) for point in there]
    for axis in axes:
        for turn in range(rounds):
            for job, sizes in AXES[axis].items():
                for size in sizes:
                    if done.count((axis, job, size)) <= turn:
                        yield axis, job, size


def table(points: list[Point]) -> str:
    """Markdown: a row for each axis, job and size."""
    lines = [
        "| axis | size | job | a second (median) | least to most | peak, GiB "
        "| to the first step, s | cost of one, times the first size's |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for (axis, job), sizes in curves(points).items():
        first = statistics.median(point.rate for point in next(iter(sizes.values())))
        for size, several in sizes.items():
            rates = [point.rate for point in several]
            median, peak = statistics.median(rates), max(point.peak_gib for point in several)
            begun = statistics.median(point.seconds for point in several)
            lines.append(
                f"| {axis} | {size:,} | {WORDS[job]} | {median:,.0f} "
                f"| {min(rates):,.0f} to {max(rates):,.0f} | {peak:.2f} "
                f"| {f'{begun:.0f}' if begun else ''} | {first / median:.2f} |"
            )
    return "\n".join(lines)


def curves(points: list[Point]) -> dict[tuple[str, str], dict[int, list[Point]]]:
    """Measurements by axis and job, and there by size, ascending."""
    found: dict[tuple[str, str], dict[int, list[Point]]] = {}
    for axis, jobs in AXES.items():
        for job in jobs:
            mine = sorted(
                (p for p in points if (p.axis, p.job) == (axis, job)), key=lambda p: p.size
            )
            for point in mine:
                found.setdefault((axis, job), {}).setdefault(point.size, []).append(point)
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("axes", nargs="*", default=list(AXES), help=", ".join(AXES))
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--kept", type=Path, default=HERE / "results" / "growing.json")
    arguments.add_argument("--picture", type=Path, default=HERE.parent / "docs" / "growth.svg")
    arguments.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.measure:
        axis, job, number, data = given.measure
        print(json.dumps(asdict(measure(axis, job, int(number), data))))
        return
    kept: Path = given.kept
    points = [Point(**p) for p in json.loads(kept.read_text())] if kept.exists() else []
    for axis, job, size in missing(given.axes, given.rounds, points[:]):
        print(f"{axis} {size:,}: {WORDS[job]} ...", file=sys.stderr, flush=True)
        points.append(measured(axis, job, size))
        lines = ",\n".join(json.dumps(asdict(point)) for point in points)
        kept.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    stays = ", ".join(f"{value:,} {name}" for name, value in asdict(Size()).items())
    print(f"{datetime.now(UTC).date()}; where nothing else is said: {stays}\n")
    print(table(points))
    from benchmarks.growing_picture import draw

    draw(points, given.picture)


if __name__ == "__main__":
    main()
