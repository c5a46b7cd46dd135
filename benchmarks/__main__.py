"""Every benchmark, one after the other, into one dated table: ``make bench``.

    python -m benchmarks [NAME ...] [--into FILE]

Holdout, features and cold need public data sets (``TWOTOWER_DATA``), serving needs wrk; else
they are left out. Training stands beside TensorFlow Recommenders where ``make .venv-tfrs`` was
run.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

HERE = Path(__file__).parent
TFRS = HERE.parent / ".venv-tfrs" / "bin" / "python"
COMMANDS = {
    "generate": ["generate"],
    "loading": ["loading"],
    "fitting": ["fitting"],
    "lab_scores": ["lab_scores"],
    "lab_throughput": ["lab_throughput"],
    "serving": ["serving"],
    "ranking": ["ranking"],
    "ranking_1m": ["ranking", "--items", "1000000", "--users", "1000", "--rounds", "3"],
    "ranking_file": ["ranking", "--file", "--users", "100000"],
    "throughput": ["throughput", *(["--tfrs", str(TFRS)] if TFRS.exists() else [])],
    "tables": ["tables"],
    "tables_memory": ["tables", "--memory"],
    "growing": ["growing"],
    "room": ["room"],
    "approximate": ["approximate"],
    "approximate_1m": ["approximate", "--items", "1000000", "--rounds", "3"],
    "holdout": ["holdout", "--seeds", "42", "43"],
    "features": ["features"],
    "cold": ["cold"],
}
NEED_DATA = {"holdout", "features", "cold"}


def machine() -> str:
    """What it ran on."""
    cores = os.cpu_count()
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{cores} cores, {platform.machine()} ({capability}), Python "
        f"{platform.python_version()}, torch {torch.__version__}"
    )


def measure(command: list[str]) -> str:
    """The command and the table it prints."""
    module, *arguments = command
    line = ["-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(
        [sys.executable, *line], check=True, stdout=subprocess.PIPE, text=True
    )
    return f"    python {' '.join(line)}\n\n{done.stdout.strip()}\n"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("names", nargs="*", default=list(COMMANDS))
    arguments.add_argument("--into", type=Path)
    given = arguments.parse_args()
    today = datetime.now(UTC).date().isoformat()
    into = given.into or HERE / "results" / f"{today}.md"
    parts = [f"# {today}\n\n{machine()}\n"]
    for name in given.names:
        if name in NEED_DATA and "TWOTOWER_DATA" not in os.environ:
            print(f"{name}: left out, TWOTOWER_DATA is not set", file=sys.stderr)
            continue
        if name == "serving" and shutil.which("wrk") is None:
            print("serving: left out, wrk is not installed", file=sys.stderr)
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        parts.append(f"## {name}\n\n{measure(COMMANDS[name])}")
    into.parent.mkdir(parents=True, exist_ok=True)
    into.write_text("\n".join(parts), encoding="utf-8")
    print(into)


if __name__ == "__main__":
    main()
