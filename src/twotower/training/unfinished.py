"""Where checkpoints lie until a run is whole, and whether they are of the same training."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np

from twotower.config import Config
from twotower.data.alone import Taken, alone_in
from twotower.data.arrays import blocks
from twotower.data.tables import Dataset
from twotower.errors import ConfigError, RunError, TwoTowerError, reason
from twotower.watch import Watch

_PREFIX = ".unfinished-"
_IDENTITY = "identity"
# File systems allow 255, of which time and prefix take some.
_LONGEST_NAME = 200


def run_name(name: str, now: datetime) -> str:
    """The directory of a run that begins now.

    Raises:
        ConfigError: a name that is no name of a directory.

    >>> run_name("lab", datetime(2026, 1, 31, 12))
    '20260131-120000-lab'
    """
    is_long = len(os.fsencode(name)) > _LONGEST_NAME
    if not name or is_long or "/" in name or "\\" in name or "\0" in name:
        raise ConfigError(
            f"the run's name {name!r}: must be a name without slashes, of up to "
            f"{_LONGEST_NAME} bytes; give --name"
        )
    return f"{now:%Y%m%d-%H%M%S}-{name}"


def finished_name(work: Path) -> str:
    """The name that a finished run takes."""
    return work.name.removeprefix(_PREFIX)


def identity(dataset: Dataset, *configs: Config) -> str:
    """What makes two trainings the same one: the data, how it is cut, and the settings.

    Args:
        configs: those to choose from, with nothing left on "auto".
    """
    data = configs[0].data
    cut = (data.split, data.test_fraction, data.val_fraction)
    settings = repr(([(each.model, each.training) for each in configs], cut))
    return hashlib.sha256((settings + digest(dataset)).encode()).hexdigest()


def digest(dataset: Dataset) -> str:
    """A hash that tells whether data is the same: who met what, and all their features."""
    total = hashlib.sha256()
    for name, part in sorted(dataset.interactions.items()):
        total.update(name.encode())
        for array in (part.user_rows, part.item_rows, part.labels, part.times, part.weights):
            if array is not None:
                for rows in blocks(len(array)):
                    total.update(_bytes(array[rows]))
    for entities in (dataset.users, dataset.items):
        total.update(_bytes(entities.ids))
        for name, values in sorted(entities.values.items()):
            total.update(f"{name} {entities.columns[name].kind}".encode())
            total.update(_bytes(values))
    return total.hexdigest()


def _bytes(array: np.ndarray) -> bytes:
    if array.dtype == object:
        return json.dumps(array.tolist()).encode()
    return np.ascontiguousarray(array).tobytes()


def find(into: Path, name: str, wanted: str) -> tuple[Path | None, str]:
    """The newest unfinished training of that name and identity, and a sentence about it.

    One of other settings or other data is left as it is.
    """
    there = _newest_first(into, re.escape(name))
    for work in there[:]:
        if (into / finished_name(work)).exists():
            # Killed between the end of the run and the end of its checkpoints.
            leave(work, keep_checkpoints=False)
            there.remove(work)
    for work in there:
        if _identity_of(work) == wanted:
            return work, f"going on with {work}"
    if there:
        return None, (
            f"{there[0]}: is unfinished, but of other settings or other data; it is left as it "
            "is and the training starts from the beginning"
        )
    return None, f"nothing unfinished named {name!r} in {into}; starting from the beginning"


def _newest_first(into: Path, name: str) -> list[Path]:
    """The unfinished trainings in a folder whose names are of a pattern."""
    pattern = re.compile(re.escape(_PREFIX) + r"\d{8}-\d{6}-" + name)
    there = sorted(into.iterdir(), reverse=True) if into.is_dir() else []
    return [path for path in there if pattern.fullmatch(path.name)]


def way_to_one(into: Path) -> str:
    """How a folder without a run comes to one, in words."""
    there = _newest_first(into, ".*")
    if not there:
        return "`twotower train` makes one"
    return (
        f"{there[0].name} is still being trained or was stopped; the same `twotower train` "
        "with --resume goes on with one that was stopped"
    )


def _identity_of(work: Path) -> str:
    try:
        return (work / _IDENTITY).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def start(into: Path, name: str, identity: str) -> Path:
    """A new place for the checkpoints of the run ``name``.

    Raises:
        ConfigError: a run of that name is there or being trained, or it can not be written.
    """
    work = into / f"{_PREFIX}{name}"
    if (into / name).exists() or work.exists():
        raise ConfigError(f"{into / name}: already exists; wait a second, or give another name")
    try:
        work.mkdir(parents=True)
        (work / _IDENTITY).write_text(identity, encoding="utf-8")
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise ConfigError(
            f"{into}: can not be written ({error.strerror}); name another folder with --into"
        ) from None
    return work


@contextmanager
def alone(work: Path, watch: Watch) -> Iterator[None]:
    """Train in that place with nobody beside; who is killed keeps nobody away.

    Where the block does not end well, what is worth going on from stays.

    Raises:
        ConfigError: another process trains there, or it can not be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(alone_in(work))
        except Taken:
            raise ConfigError(
                f"that training is still running ({work}); wait for its end or stop it"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"{work}: can not be written ({reason(error)}); make that possible, or train "
                "without resume"
            ) from None
        try:
            yield
        except BaseException as error:
            # A checkpoint is worth keeping where the training was stopped from outside; from
            # a mistake in data or settings it would only lead to the same mistake.
            is_mistake = isinstance(error, TwoTowerError) and not isinstance(error, RunError)
            if leave(work, keep_checkpoints=not is_mistake):
                watch.note(
                    f"{work} keeps what was learned; train with resume to go on from there"
                )
            raise
        leave(work, keep_checkpoints=False)


def leave(work: Path, *, keep_checkpoints: bool) -> bool:
    """Clean up; returns whether there is something left to go on from."""
    kept = keep_checkpoints and any(work.glob("*.safetensors"))
    if not kept:
        shutil.rmtree(work, ignore_errors=True)
    return kept
