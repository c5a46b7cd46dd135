"""Which table is where: in a folder, in a mapping, or where the config says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower.config import DataConfig
from twotower.data import engine
from twotower.errors import DataError

SPLITS = ("train", "val", "test")
TABLES = ("users", "items", "interactions", *SPLITS)
_EXPECTED = (
    "expected interactions.parquet or train/interactions.parquet (or .csv, .ndjson) there, or "
    "data.interactions in the config"
)


@dataclass(frozen=True)
class Located:
    """Where each table is.

    Attributes:
        tables: name to a path or a data frame; ``interactions``, or ``train`` and perhaps
            ``val`` and ``test``; perhaps ``users`` and ``items``.
        others: further tables in the folder, one of which may be the items.
    """

    tables: Mapping[str, Any]
    others: tuple[str, ...] = ()


def where(source: Any) -> str:
    """A data set's name in messages."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "data"


def locate(source: Any, config: DataConfig) -> Located:
    """Find the tables; the config's paths go before what lies in the folder.

    Raises:
        DataError: no folder, no interactions, or more than one thing that could be them.
    """
    named: dict[str, str] = {
        name: path for name in TABLES if (path := getattr(config, name)) is not None
    }
    found: dict[str, Any] = {}
    others: tuple[str, ...] = ()
    if isinstance(source, Mapping):
        found = _given(source)
    elif isinstance(source, str | os.PathLike):
        folder = Path(source)
        found, others = _in_folder(folder)
        named = {name: _below(folder, path) for name, path in named.items()}
    elif source is not None:
        raise DataError(
            f"expected a folder, or a mapping with 'interactions', 'users' and 'items', got a "
            f"{type(source).__name__}"
        )
    if any(name in named for name in SPLITS):
        found.pop("interactions", None)
    if "interactions" in named:
        found = {name: place for name, place in found.items() if name not in SPLITS}
    together = {**found, **named}
    tables = {name: together[name] for name in TABLES if name in together}
    _check_parts(where(source), tables)
    used = {str(place) for place in tables.values() if isinstance(place, str | os.PathLike)}
    return Located(tables, tuple(path for path in others if path not in used))


def _check_parts(source: str, tables: Mapping[str, Any]) -> None:
    parts = [name for name in SPLITS if name in tables]
    if "interactions" in tables and parts:
        raise DataError(
            f"{source}: has both interactions and {', '.join(parts)}; name the one to use in "
            "the config (data.interactions, or data.train and data.test)"
        )
    if "interactions" not in tables and "train" not in tables:
        raise DataError(f"{source}: no {'train' if parts else 'interactions'}; {_EXPECTED}")


def _below(folder: Path, path: str) -> str:
    return path if engine.is_remote(path) else str(folder / path)


def _given(tables: Mapping[Any, Any]) -> dict[str, Any]:
    unknown = sorted(str(name) for name in tables if name not in TABLES)
    if unknown:
        raise DataError(
            f"data: unknown tables {', '.join(unknown)}; expected users, items and "
            "interactions, or train, val and test"
        )
    return {name: table for name, table in tables.items() if table is not None}


def _in_folder(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    found: dict[str, Any] = {}
    others: list[str] = []
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError:
        raise DataError(f"{folder}: no such data folder; check the path") from None
    except NotADirectoryError:
        raise DataError(
            f"{folder}: is a file; give the folder that holds users, items and interactions"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: can not be read ({error}); check the path") from None
    for entry in entries:
        suffix = engine.suffix_of(entry.name)
        name = entry.name if suffix is None else entry.name[: -len(suffix)]
        if entry.name.startswith(".") or (suffix is None and not entry.is_dir()):
            continue
        if name not in TABLES:
            others += [str(entry)] if entry.is_file() else []
            continue
        place = _in_part(entry) if entry.is_dir() else str(entry)
        if place is not None and name in found:
            raise DataError(
                f"{folder}: has both {Path(found[name]).name} and {entry.name}; keep one, or "
                f"name it in the config (data.{name})"
            )
        if place is not None:
            found[name] = place
    return found, tuple(others)


def _in_part(folder: Path) -> str | None:
    """A folder's one table: its ``interactions`` file, else all its files together, if any."""
    files = [file for file in sorted(folder.iterdir()) if engine.suffix_of(file.name)]
    inner = [file for file in files if file.name.startswith("interactions.")]
    if len(inner) > 1:
        names = " and ".join(file.name for file in inner)
        raise DataError(f"{folder}: has both {names}; keep one")
    if inner:
        return str(inner[0])
    return str(folder) if files else None
