"""Recommendations of everybody, into one Parquet file: a job that may be killed at any time.

As long as it is not done, there is beside FILE

    .unfinished-FILE/
      job.json                      of which run the lists are, and what was asked
      part-<first>-<last>.parquet   those of the users in these rows; whole, or not there

FILE appears when it is whole. A job that goes on cuts the users into the same blocks as one
that was never stopped, so that their files are the same, row for row.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from twotower import runs
from twotower.data import engine
from twotower.data.alone import Taken, alone_in
from twotower.errors import RequestError, reason
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.write import write_blocks
from twotower.watch import Watch

# Users whose lists are computed at once.
_BLOCK_USERS = 4096
# A part is written when it has so many rows or took so long: what a kill may cost.
_PART_ROWS = 2**20
_PART_SECONDS = 10.0
_MEMORY = "1GB"
_PART = re.compile(r"part-(\d+)-(\d+)\.parquet")


def recommend_all(
    run: str | Path,
    into: str | Path,
    k: int = 10,
    *,
    include_seen: bool = False,
    resume: bool = False,
    watch: Watch | None = None,
) -> int:
    """Write ``user id, item id, rank, score`` of every user, ids under their own names.

    Args:
        run: a run directory.
        resume: go on with the job of the same run and wish that was stopped, if there is one.

    Returns:
        How many rows were written.

    Raises:
        RunError: the run can not be read.
        RequestError: more items than there are, a job for the same file that still goes on, or
            the file can not be written. What is done by then is kept for ``resume``.
    """
    run, into, watch = Path(run), Path(into), watch or Watch()
    _refuse_place(into)
    recommender = runs.load(run)
    job = {"run": runs.version(run), "k": k, "include_seen": include_seen}
    with _alone(into) as work:
        try:
            _begin(work, job, resume=resume, watch=watch)
            _make_parts(recommender, work, k, include_seen=include_seen, watch=watch)
            watch.stage("writing")
            count = _join(_parts(work), work / "whole.parquet")
            _name(work / "whole.parquet", into)
        except BaseException as error:
            kept = _leave(work)
            if isinstance(error, OSError | duckdb.Error):
                raise _refusal(into, error, kept) from None
            if kept:
                watch.note(f"{kept}; go on from there with --resume")
            raise
        shutil.rmtree(work, ignore_errors=True)
    return count


def recommend_some(
    recommender: Recommender,
    users: Sequence[Any],
    into: str | Path,
    k: int = 10,
    *,
    include_seen: bool = False,
) -> int:
    """``recommend_all`` for users by their ids; returns how many rows were written.

    Raises:
        RequestError: users that are not known, more items than there are, or the file can not
            be written.
    """
    found = recommender.recommend(users, k, include_seen=include_seen)
    return write_blocks(iter([found.columns()]), Path(into))


def _refusal(into: Path, error: Exception, kept: str = "") -> RequestError:
    then = f", then go on with --resume ({kept})" if kept else " (nothing was left behind)"
    return RequestError(
        f"{into}: can not be written ({reason(error)}); make room or name another place{then}"
    )


def _refuse_place(into: Path) -> None:
    if into.is_dir() or not into.parent.is_dir():
        what = "is a directory" if into.is_dir() else f"{into.parent} does not exist"
        raise RequestError(f"{into}: can not be written ({what}); give the path of a file")
    if into.suffix.lower() not in {".parquet", ".pq"}:
        raise RequestError(
            f"{into}: what is written is Parquet; give a file that ends in .parquet"
        )


@contextmanager
def _alone(into: Path) -> Iterator[Path]:
    """The job's folder, from which others are kept away; who is killed keeps nobody away."""
    work = into.with_name(f".unfinished-{into.name}")
    with ExitStack() as stack:
        try:
            work.mkdir(exist_ok=True)
            stack.enter_context(alone_in(work))
        except OSError as error:
            raise _refusal(into, error) from None
        except Taken:
            raise RequestError(
                f"{into}: another process is writing it; wait for its end, or name another file"
            ) from None
        yield work


def _begin(work: Path, job: Mapping[str, Any], *, resume: bool, watch: Watch) -> None:
    """Leave in the folder what belongs to this job, and say what becomes of the rest."""
    for stray in work.glob("*.part"):
        stray.unlink()
    parts = _parts(work)
    if parts:
        is_same = _read(work) == job
        done = f"{parts[-1][1]:,} users are done"
        if resume and is_same:
            watch.note(f"going on with {work}: {done}")
            return
        other = "" if is_same else " of another run or another wish"
        watch.note(
            f"{work}: an unfinished job{other} is dropped ({done}); starting from the beginning"
        )
        for _, _, path in parts:
            path.unlink()
    elif resume:
        watch.note(f"nothing unfinished at {work}; starting from the beginning")
    (work / "job.json").write_text(json.dumps(job), encoding="utf-8")


def _read(work: Path) -> Any:
    with suppress(OSError, ValueError):
        return json.loads((work / "job.json").read_text(encoding="utf-8"))
    return None


def _parts(work: Path) -> list[tuple[int, int, Path]]:
    """First row, last row and file of each part, in order and without a gap."""
    found = []
    for path in work.iterdir():
        if match := _PART.fullmatch(path.name):
            found.append((int(match[1]), int(match[2]), path))
    found.sort()
    ends = [0, *(last for _, last, _ in found)]
    return [part for end, part in zip(ends, found, strict=False) if part[0] == end + 1]


def _make_parts(
    recommender: Recommender, work: Path, k: int, *, include_seen: bool, watch: Watch
) -> None:
    parts = _parts(work)
    done = parts[-1][1] if parts else 0
    watch.stage("recommending", len(recommender.users))
    watch.advance(done)
    blocks: list[Mapping[str, np.ndarray]] = []
    first, began = done + 1, time.monotonic()
    for found in recommender.batches(
        k, include_seen=include_seen, size=_BLOCK_USERS, first=done + 1
    ):
        blocks.append(found.columns())
        done += len(found)
        rows = sum(len(block["rank"]) for block in blocks)
        is_enough = rows >= _PART_ROWS or time.monotonic() - began >= _PART_SECONDS
        if is_enough or done == len(recommender.users):
            name = f"part-{first:012}-{done:012}.parquet"
            _write_part(recommender, blocks, work / name)
            blocks, first, began = [], done + 1, time.monotonic()
        watch.advance(len(found))


def _write_part(
    recommender: Recommender, blocks: Sequence[Mapping[str, np.ndarray]], path: Path
) -> None:
    # Of a part without rows nothing else would tell the types.
    types = {
        ids.column: "BIGINT" if ids.are_numbers else "VARCHAR"
        for ids in (recommender.users, recommender.items)
    }
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    chosen = ", ".join(
        f"CAST({engine.quote(name)} AS {types[name]}) AS {engine.quote(name)}"
        if name in types
        else engine.quote(name)
        for name in columns
    )
    beside = path.with_suffix(".part")
    with engine.connect() as connection:
        connection.register("block", columns)
        _copy(connection, f"SELECT {chosen} FROM block", beside)
    _name(beside, path)


def _name(whole: Path, path: Path) -> None:
    """Give a file its name once it is on the disk, that a power failure may not halve it."""
    with whole.open("rb") as file:
        os.fsync(file.fileno())
    whole.replace(path)


def _join(parts: Sequence[tuple[int, int, Path]], into: Path) -> int:
    """Write the rows of all parts into one file, a piece at a time; returns how many."""
    files = ", ".join(engine.literal(str(path)) for _, _, path in parts)
    with engine.connect() as connection:
        connection.execute(f"SET memory_limit = '{_MEMORY}'")
        connection.execute("SET temp_directory = ''")
        return _copy(connection, f"FROM read_parquet([{files}])", into)


def _copy(connection: duckdb.DuckDBPyConnection, query: str, into: Path) -> int:
    target = engine.literal(str(into))
    sql = f"COPY ({query}) TO {target} (FORMAT parquet, COMPRESSION zstd)"
    return int(connection.execute(sql).fetchall()[0][0])


def _leave(work: Path) -> str:
    """What is kept for a job that goes on, in words; the folder goes where that is nothing."""
    parts = _parts(work) if work.is_dir() else []
    if not parts:
        shutil.rmtree(work, ignore_errors=True)
        return ""
    (work / "whole.parquet").unlink(missing_ok=True)
    return f"{work} keeps the lists of {parts[-1][1]:,} users"
