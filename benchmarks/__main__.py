"""Benchmarks, one after the other, into a dated file of tables: ``make bench``.

    python -m benchmarks [NAME ...] [--into FILE]

Without names all but those that take hours: ``ml_100k``, ``ncf``, ``light_gcn``, ``beauty``,
``features`` and ``holdout`` are the published protocols, several seeds each, baselines beside
them, and ``racing`` is the time until iALS is passed. These and ``cold`` need public data sets
(``TWOTOWER_DATA``), serving needs wrk; else they are left out. Training and serving stand
beside TensorFlow Recommenders where ``make .venv-tfrs`` was run. Of each the table is written
as it comes, below the command that makes it again.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch

HERE = Path(__file__).parent
TFRS = HERE.parent / ".venv-tfrs" / "bin" / "python"
BESIDE_TFRS = ["--tfrs", str(TFRS)] if TFRS.exists() else []
COMMANDS = {
    "generate": ["generate"],
    "loading": ["loading"],
    "fitting": ["fitting"],
    "lab_scores": ["lab_scores"],
    "lab_throughput": ["lab_throughput"],
    "serving": ["serving", *BESIDE_TFRS],
    "ranking": ["ranking"],
    "ranking_1m": ["ranking", "--items", "1000000", "--users", "1000", "--rounds", "3"],
    "ranking_file": ["ranking", "--file", "--users", "100000"],
    "throughput": ["throughput", *BESIDE_TFRS],
    "tables": ["tables"],
    "tables_memory": ["tables", "--memory"],
    "growing": ["growing"],
    "room": ["room"],
    "approximate": ["approximate"],
    "approximate_1m": ["approximate", "--items", "1000000", "--rounds", "3"],
    "cold": ["cold"],
}
THREE = ["--seeds", "42", "43", "44"]
FIVE = [*THREE, "45", "46"]
# Hours each.
LONG = {
    "ml_100k": ["published", "ml-100k-75-25", *FIVE],
    "ncf": ["published", "ml-1m-ncf", "ml-1m-ncf-in-order", *THREE],
    "light_gcn": ["published", "gowalla", "yelp2018", *THREE],
    "beauty": ["published", "amazon-beauty", *THREE],
    "features": ["features", *FIVE],
    "holdout": ["holdout", *FIVE],
    "racing": ["racing", *THREE],
}
NEED_DATA = {"cold", *LONG}


def machine() -> str:
    """What it ran on."""
    cores = os.cpu_count()
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{cores} cores, {platform.machine()} ({capability}), Python "
        f"{platform.python_version()}, torch {torch.__version__}"
    )


def lines_of(command: list[str]) -> Iterator[str]:
    """The command, and the table that it prints, as it prints it.

    Raises:
        SystemExit: it failed.
    """
    module, *arguments = command
    line = ["-m", f"benchmarks.{module}", *arguments]
    yield f"    python {' '.join(line)}\n\n"
    with subprocess.Popen(
        [sys.executable, *line], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode:
        raise SystemExit(process.returncode)


def main() -> None:
    every = COMMANDS | LONG
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("names", nargs="*", metavar="NAME", help=", ".join(every))
    arguments.add_argument("--into", type=Path)
    given = arguments.parse_args()
    if unknown := [name for name in given.names if name not in every]:
        raise SystemExit(f"{', '.join(unknown)}: not one of {', '.join(every)}")
    today = datetime.now(UTC).date().isoformat()
    file_name = "-".join([today, *given.names]) + ".md"
    into: Path = given.into or HERE / "results" / file_name
    into.parent.mkdir(parents=True, exist_ok=True)
    with into.open("w", encoding="utf-8") as file:
        file.write(f"# {today}\n\n{machine()}\n")
        for name in given.names or COMMANDS:
            if name in NEED_DATA and "TWOTOWER_DATA" not in os.environ:
                print(f"{name}: left out, TWOTOWER_DATA is not set", file=sys.stderr)
                continue
            if name == "serving" and shutil.which("wrk") is None:
                print("serving: left out, wrk is not installed", file=sys.stderr)
                continue
            print(f"{name} ...", file=sys.stderr, flush=True)
            file.write(f"\n## {name}\n\n")
            for line in lines_of(every[name]):
                file.write(line)
                file.flush()
    print(into)


if __name__ == "__main__":
    main()
