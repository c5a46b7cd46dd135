"""What the benchmarks on public data are asked: which sets, with which seeds, from where."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

Cell = str | float
"""Of a table: words, or a figure that may be averaged over seeds."""


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


def print_rows(
    given: Asked, header: str, row: Callable[[str, int, Path], Sequence[Cell]]
) -> None:
    """A table with a row for each job and seed, each printed as soon as it is measured.

    After several seeds one more row has, of each figure, the mean over them and its interval.
    """
    print(header, flush=True)
    for name in given.names:
        rows = []
        for seed in given.seeds:
            rows.append(row(name, seed, given.folder))
            print(line(name, str(seed), *rows[-1]), flush=True)
        if len(rows) > 1:
            print(line(name, "all", *over_seeds(rows)), flush=True)


def line(*cells: Cell) -> str:
    """A row of a table.

    >>> line("ml-100k", 0.25)
    '| ml-100k | 0.2500 |'
    """
    said = (f"{cell:.4f}" if isinstance(cell, float) else cell for cell in cells)
    return f"| {' | '.join(said)} |"


def over_seeds(rows: Sequence[Sequence[Cell]]) -> list[str]:
    """Of each column of figures the mean and its interval; of another one nothing.

    >>> over_seeds([[0.25, "7 s"], [0.35, "9 s"]])
    ['0.3000 ± 0.6353', '']
    """
    columns = [
        [cell for cell in column if isinstance(cell, float)]
        for column in zip(*rows, strict=True)
    ]
    return [interval(column) if len(column) == len(rows) else "" for column in columns]


def interval(values: Sequence[float]) -> str:
    """The mean over several seeds and its 95 % interval (Student's t)."""
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.4f} ± {half:.4f}"
