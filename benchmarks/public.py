"""What the benchmarks on public data are asked: which sets, with which seeds, from where."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Asked:
    """Names of jobs, seeds, the folder of the data sets, and what else was asked."""

    names: list[str]
    seeds: list[int]
    folder: Path
    more: argparse.Namespace


def asked(
    description: str | None, names: Collection[str], more: Mapping[str, Any] | None = None
) -> Asked:
    """What the command line says; all names and seed 42 where it says nothing.

    Args:
        more: further options, and what each is where nothing is said.
    """
    arguments = argparse.ArgumentParser(description=description)
    for name, default in (more or {}).items():
        arguments.add_argument(f"--{name}", type=type(default), default=default)
    arguments.add_argument("names", nargs="*", default=list(names))
    arguments.add_argument("--seeds", nargs="+", type=int, default=[42])
    given = arguments.parse_args()
    if unknown := [name for name in given.names if name not in names]:
        raise SystemExit(f"{', '.join(unknown)}: not one of {', '.join(names)}")
    folder = os.environ.get("TWOTOWER_DATA")
    if folder is None:
        raise SystemExit("set TWOTOWER_DATA to a folder of data sets (`twotower download`)")
    return Asked(given.names, given.seeds, Path(folder), given)


def print_rows(given: Asked, header: str, row: Callable[[str, int, Path], str]) -> None:
    """A table with a row for each job and seed, each printed as soon as it is measured."""
    print(header, flush=True)
    for name in given.names:
        for seed in given.seeds:
            print(row(name, seed, given.folder), flush=True)
