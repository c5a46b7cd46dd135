"""A run as it answers: loaded, brought up to what changed since, and warm."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from twotower import runs
from twotower.config import Kind
from twotower.data.features import Encoders
from twotower.errors import DataError, RunError, TwoTowerError
from twotower.retrieval.answer import answer
from twotower.retrieval.approximate import ApproximateIndex
from twotower.retrieval.changes import ItemRecords
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.wish import Person, Wish

_log = logging.getLogger("twotower.serving")


@dataclass(frozen=True)
class Served:
    """A run that answers.

    Attributes:
        base: as the run has it.
        recommender: with the items as they were changed since.
        name, version: of the run.
        written_at: seconds since 1970.
    """

    base: Recommender
    recommender: Recommender
    name: str
    version: str
    written_at: float


def with_changes(
    recommender: Recommender, changes: Mapping[str, Mapping[str, Any] | None]
) -> Recommender:
    """With items put and removed; what does not fit the run is left out."""
    removed = [item for item, features in changes.items() if features is None]
    put = {item: features for item, features in changes.items() if features is not None}
    try:
        if put:
            recommender = recommender.add_items(ItemRecords(list(put), list(put.values())))
    except DataError:
        recommender = _one_by_one(recommender, put)
    return recommender.remove_items(removed) if removed else recommender


def _one_by_one(recommender: Recommender, put: Mapping[str, Mapping[str, Any]]) -> Recommender:
    left_out = 0
    for item, features in put.items():
        try:
            recommender = recommender.add_items(ItemRecords([item], [features]))
        except DataError:
            left_out += 1
    _log.warning("item changes do not fit the run", extra={"fields": {"left_out": left_out}})
    return recommender


def load(run: Path) -> Served:
    """A run as it was written.

    Raises:
        RunError: it can not be read.
    """
    version = runs.version(run) if (run / runs.MANIFEST).is_file() else ""
    recommender = replace(runs.load(run), approximate=_index_of(run))
    if runs.version(run) != version:
        raise RunError(f"{run}: was changed while it was read; load it again")
    return Served(recommender, recommender, run.resolve().name, version, written_at(run))


def written_at(run: Path) -> float:
    """When a run was written, in seconds since 1970; a copy of it is as old.

    Raises:
        RunError: no run there, or one that was changed.
    """
    said = runs.read_manifest(run).get("written_at")
    if said is None:
        # Of an earlier version, which did not say.
        return (run / runs.MANIFEST).stat().st_mtime
    return datetime.fromisoformat(said).timestamp()


def _index_of(run: Path) -> ApproximateIndex | None:
    """The run's index; where it can not be used the exact search does as well, if slower."""
    try:
        return runs.read_index(run)
    except TwoTowerError as error:
        _log.warning("searching exactly", extra={"fields": {"why": str(error)}})
        return None


def warm(recommender: Recommender) -> None:
    """Make now what the first requests would have to wait for."""
    answer(recommender, [Person()], Wish(k=1))
    assert recommender.catalogue is not None


def json_values(
    values: Mapping[str, np.ndarray], row: int, encoders: Encoders
) -> dict[str, Any]:
    """The plain values of one row from 1 in JSON's types: times in UTC, yes and no as such."""
    kinds = {name: column.kind for name, (column, _) in encoders.by_column.items()}
    return {name: _json(column[row - 1], kinds.get(name)) for name, column in values.items()}


def _json(value: Any, kind: Kind | None) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_json(part, None) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if kind == "boolean" and value is not None:
        return bool(value)
    if kind == "timestamp" and value is not None:
        return f"{np.datetime64(int(value), 's')}Z"
    return value
