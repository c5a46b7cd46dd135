"""Interactions that stay on the disk: found again by what is in the tables they came from.

Beside the runs, in ``.rows-<hash>``, lie the columns of each log as arrays of row numbers,
labels and times, and a manifest. They are mapped into memory and not read: as much of them is
in memory as is being used. A folder may be deleted at any time; it is then made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from twotower.config import DataConfig
from twotower.data import engine
from twotower.data.alone import Taken, alone_in
from twotower.data.arrays import blocks
from twotower.data.interactions import Interactions, likes
from twotower.data.locate import Located
from twotower.data.writing import whole_directory
from twotower.errors import DataError, reason

_FORMAT = 2
_MANIFEST = "manifest.json"
# Fewer interactions than this are read anew: 2 ** 24 rows take a third of a GiB.
ENOUGH = 1 << 24


@dataclass(frozen=True)
class Kept:
    """What was kept of a data set.

    Attributes:
        repeats: rows that do not count, by part.
        notes: what was said when it was read.
        has_orphans: whether somebody is in a log and not in their table.
    """

    interactions: Mapping[str, Interactions]
    repeats: Mapping[str, Interactions]
    notes: tuple[str, ...]
    has_orphans: bool


def place_for(beside: Path, located: Located, config: DataConfig) -> Path | None:
    """Where a data set's interactions are kept; None where its tables are no files here."""
    places = [*located.tables.values(), *located.others]
    if not all(isinstance(place, str) and not engine.is_remote(place) for place in places):
        return None
    rules = (config.columns, config.rating_threshold, config.orphans, config.duplicates)
    total = hashlib.sha256(repr((_FORMAT, sorted(located.tables), rules)).encode())
    for place in places:
        for path in engine.expand(place):
            with open(path, "rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return beside / f".rows-{total.hexdigest()[:16]}"


def find(place: Path) -> Kept | None:
    """What was kept there; None where nothing is, or not all of it."""
    try:
        manifest = json.loads((place / _MANIFEST).read_text(encoding="utf-8"))
        logs, repeats = (
            {name: _open(place, columns) for name, columns in manifest[which].items()}
            for which in ("logs", "repeats")
        )
    except (OSError, ValueError, KeyError):
        return None
    return Kept(logs, repeats, tuple(manifest["notes"]), manifest["has_orphans"])


def _open(place: Path, columns: Mapping[str, str | None]) -> Interactions:
    found = {
        name: None if file is None else np.load(place / file, mmap_mode="r")
        for name, file in columns.items()
    }
    if found["labels"] is None:
        rows = found["user_rows"]
        assert rows is not None
        found["labels"] = likes(len(rows))
    return Interactions(**found)  # type: ignore[arg-type]


def keep(place: Path, kept: Kept) -> Kept:
    """Write it, whole or not at all, and give it back as it lies there.

    Raises:
        DataError: the disk refuses.
    """
    shutil.rmtree(place, ignore_errors=True)
    with whole_directory(place, ()) as part:
        manifest: dict[str, Any] = {
            "logs": {name: _close(part, name, log) for name, log in kept.interactions.items()},
            "repeats": {
                name: _close(part, f"{name}.repeats", log) for name, log in kept.repeats.items()
            },
            "notes": kept.notes,
            "has_orphans": kept.has_orphans,
        }
        (part / _MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    found = find(place)
    assert found is not None
    return found


def _close(folder: Path, name: str, log: Interactions) -> dict[str, str | None]:
    return {
        field.name: _write(folder, f"{name}.{field.name}.npy", getattr(log, field.name))
        for field in fields(log)
    }


def _write(folder: Path, name: str, column: np.ndarray | None) -> str | None:
    if column is None or column.strides == (0,):
        return None
    with open(folder / name, "wb") as file:
        header = {"descr": column.dtype.str, "fortran_order": False, "shape": column.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in blocks(len(column)):
            file.write(np.ascontiguousarray(column[part]).data)
    return name


@contextmanager
def workroom(place: Path) -> Iterator[Path]:
    """A folder beside that place for arrays until they are kept.

    One process at a time has it; the next waits, and may find what it came for.

    Raises:
        DataError: the disk is full, or no folder can be made.
    """
    work = place.with_name(f"{place.name}.part")
    try:
        with ExitStack() as stack:
            while True:
                work.mkdir(parents=True, exist_ok=True)
                with suppress(Taken):
                    stack.enter_context(alone_in(work, wait=True))
                    break
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{place}: {reason(error)}; interactions that are many are kept on the disk: make "
            "room, or name another folder with --into"
        ) from None
