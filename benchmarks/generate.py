"""How long a synthetic world takes, and how much memory: ``python benchmarks/generate.py``.

Each size runs in a process of its own, since the peak of memory is a property of a process.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from twotower.data.synthetic import generate

SIZES = [(1_000, 500, 10_000), (1_000_000, 100_000, 50_000_000)]


def measure(num_users: int, num_items: int, num_interactions: int) -> str:
    """Generates one world; a row of the table below."""
    with tempfile.TemporaryDirectory() as directory:
        world = Path(directory) / "world"
        before = time.perf_counter()
        generate(
            world, num_users=num_users, num_items=num_items, num_interactions=num_interactions
        )
        seconds = time.perf_counter() - before
        size_bytes = sum(path.stat().st_size for path in world.rglob("*") if path.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_bytes = peak if sys.platform == "darwin" else peak * 1024
    return (
        f"| {num_users:,} | {num_items:,} | {num_interactions:,} | {seconds:.2f} "
        f"| {peak_bytes / 2**30:.2f} | {size_bytes / 2**20:,.1f} |"
    )


def main() -> None:
    if len(sys.argv) > 1:
        print(measure(*map(int, sys.argv[1:])))
        return
    print("| users | items | interactions | seconds | peak memory, GiB | on disk, MiB |")
    print("|---:|---:|---:|---:|---:|---:|", flush=True)
    for size in SIZES:
        subprocess.run([sys.executable, __file__, *map(str, size)], check=True)


if __name__ == "__main__":
    main()
