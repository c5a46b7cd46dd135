"""What the benchmarks on public data are asked: which sets, with which seeds, from where."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Asked:
    """Names of jobs, seeds, and the folder of the data sets."""

    names: list[str]
    seeds: list[int]
    folder: Path


def asked(description: str | None, names: Collection[str]) -> Asked:
    """What the command line says; all names and seed 42 where it says nothing."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("names", nargs="*", default=list(names))
    arguments.add_argument("--seeds", nargs="+", type=int, default=[42])
    given = arguments.parse_args()
    if unknown := [name for name in given.names if name not in names]:
        raise SystemExit(f"{', '.join(unknown)}: not one of {', '.join(names)}")
    folder = os.environ.get("TWOTOWER_DATA")
    if folder is None:
        raise SystemExit("set TWOTOWER_DATA to a folder of data sets (`twotower download`)")
    return Asked(given.names, given.seeds, Path(folder))
