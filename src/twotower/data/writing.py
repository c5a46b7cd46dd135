"""Write tables: a Parquet file; and files and directories that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
import numpy as np
from jaxtyping import Shaped

from twotower.data.engine import connect, literal
from twotower.errors import DataError, RequestError, reason

Progress = Callable[[str, float], None]
"""Is told the stage, and the share (0 to 1) of the whole work that is done."""


@contextmanager
def whole_directory(
    target: Path, own_files: Collection[str], *, overwrite: bool | None = None
) -> Iterator[Path]:
    """A hidden directory beside ``target`` that becomes ``target`` if the block ends well.

    If it does not (an error, a full disk, Ctrl-C) nothing is left behind and what was there
    stays. With ``overwrite``, an earlier directory is replaced if all its files are among
    ``own_files`` (paths within it): nobody's notes are ever deleted. None is for those who can
    not be asked to.

    Raises:
        DataError: ``target`` is taken, or the disk refuses.
    """
    target = Path(target).resolve()
    part = target.parent / f".{target.name}.{secrets.token_hex(4)}.part"
    made: list[Path] = []
    try:
        _refuse_taken(target, own_files, overwrite)
        made = [folder for folder in target.parents if not folder.exists()]
        part.mkdir(parents=True)
        yield part
        _refuse_taken(target, own_files, overwrite)  # somebody may have come first
        _take_place(part, target)
    except (OSError, MemoryError, duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise DataError(
            f"{target}: can not be written: {reason(error)}; make room, ask for less or name "
            "another directory (nothing was left behind)"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        for folder in made:
            # One that holds something by now stays.
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A hidden file beside ``path`` that becomes ``path`` if the block ends well.

    If it does not, nothing is left behind and what was there stays.

    Raises:
        RequestError: ``path`` is no place for a file, or the disk refuses.
    """
    if path.is_dir() or not path.parent.is_dir():
        what = "is a directory" if path.is_dir() else f"{path.parent} does not exist"
        raise RequestError(f"{path}: can not be written ({what}); give the path of a file")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(path)
    except (OSError, duckdb.Error) as error:
        raise RequestError(
            f"{path}: can not be written ({reason(error)}); make room or name another place "
            "(nothing was left behind)"
        ) from None
    finally:
        beside.unlink(missing_ok=True)


def write_parquet(table: Mapping[str, Shaped[np.ndarray, " N"]], path: Path) -> None:
    """Writes columns of equal length as one Parquet file, in their order and types."""
    with connect() as connection:
        connection.register("columns_", dict(table))
        target = literal(str(path))
        connection.execute(f"COPY (SELECT * FROM columns_) TO {target} (FORMAT parquet)")


def _refuse_taken(target: Path, own_files: Collection[str], overwrite: bool | None) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not target.is_dir():
        raise DataError(f"{target}: is a file; name a new directory")
    found = {p.relative_to(target).as_posix() for p in target.rglob("*") if not p.is_dir()}
    if foreign := found - set(own_files):
        raise DataError(
            f"{target}: is not empty (it holds {_some(foreign)}); name a new or an empty "
            "directory"
        )
    if not overwrite:
        way = "" if overwrite is None else ", or replace it with --overwrite"
        raise DataError(f"{target}: already holds {_some(found)}; name another directory{way}")


def _some(files: Collection[str]) -> str:
    return ", ".join(sorted(files)[:3]) + (", ..." if len(files) > 3 else "")


def _take_place(part: Path, target: Path) -> None:
    old = part.with_suffix(".old")
    if target.exists():
        target.rename(old)
    try:
        part.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
