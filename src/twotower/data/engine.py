"""The table engine (DuckDB): open a file or a data frame as one named table."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from tempfile import gettempdir
from typing import Any

import duckdb
import numpy as np

from twotower.config import DataConfig
from twotower.data.faults import first_fault, mentions
from twotower.data.memory import available_bytes, in_words
from twotower.errors import DataError

# With less the engine can not do anything; nor can a thread of several, which all take theirs;
# and it takes more than it counts.
_LEAST_BYTES, _THREAD_BYTES, _UNCOUNTED_BYTES = 2**27, 2**28, 2**27
# Of the size of a text what is taken at least when it is parsed and does not fit into memory.
_OF_A_TEXT = 0.6
_SCALARS = np.number, np.bool_, np.str_

READERS: Mapping[str, str] = {
    ".parquet": "read_parquet({files}",
    ".pq": "read_parquet({files}",
    ".csv": "read_csv({files}, header = true, sample_size = 100_000",
    ".csv.gz": "read_csv({files}, header = true, sample_size = 100_000",
    ".tsv": "read_csv({files}, header = true, delim = '\t', sample_size = 100_000",
    ".ndjson": "read_json({files}, format = 'newline_delimited'",
    ".jsonl": "read_json({files}, format = 'newline_delimited'",
}


@dataclass(frozen=True)
class Table:
    """A table inside the engine.

    Attributes:
        name: its name in SQL, already quoted.
        source: where it came from, for messages.
        types: column name to the engine's type, in the table's order.
        num_rows: how many rows.
    """

    engine: duckdb.DuckDBPyConnection
    name: str
    source: str
    types: Mapping[str, str]
    num_rows: int

    def fetch(self, columns: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Columns by SQL expression, as arrays (masked where null)."""
        chosen = ", ".join(f"{sql} AS {quote(name)}" for name, sql in columns.items())
        sql = f"SELECT {chosen} FROM {self.name}"
        return arrays(self.engine, sql, self.source)

    def value(self, expression: str, suffix: str = "") -> Any:
        """One value, such as ``count(*)``."""
        sql = f"SELECT {expression} FROM {self.name} {suffix}"
        return rows(self.engine, sql, self.source)[0][0]

    @property
    def short(self) -> str:
        """The end of ``source``: what a message about this table begins with."""
        path = Path(self.source)
        # All parts of a given split may have the same file name.
        is_part = path.parent.name in {"train", "val", "test"}
        return f"{path.parent.name}/{path.name}" if is_part else path.name


def connect(config: DataConfig | None = None) -> duckdb.DuckDBPyConnection:
    """A private engine in memory: silent, and in UTC wherever the machine stands.

    It takes half of what is free, or of what the config allows, and goes on on the disk.
    Closed, it gives back the memory but not the addresses, and a limit of the shell counts
    those.
    """
    engine = duckdb.connect()
    free = available_bytes(config or DataConfig()) - _UNCOUNTED_BYTES
    most = max(free // 2, _LEAST_BYTES)
    engine.execute(f"SET memory_limit = '{most // 2**20}MiB'")
    threads = min(max(most // _THREAD_BYTES, 1), os.cpu_count() or 1)
    engine.execute(f"SET threads = {threads}")
    engine.execute(
        f"SET temp_directory = {literal(str(Path(gettempdir()) / f'twotower-{os.getpid()}'))}"
    )
    engine.execute("SET enable_progress_bar = false")
    engine.execute("SET TimeZone = 'UTC'")
    # What a column of Python's objects is, all of it says: of a sample, each list may be empty.
    engine.execute("SET pandas_analyze_sample = 4_294_967_296")
    return engine


def quote(name: str) -> str:
    """A column's name as SQL.

    >>> print(quote('a "b"'))
    "a \""b\"""
    """
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL."""
    return "'" + text.replace("'", "''") + "'"


def rows(engine: duckdb.DuckDBPyConnection, sql: str, source: str) -> list[Any]:
    """Execute and fetch the rows; the engine's complaint about a file becomes one sentence."""
    try:
        fetched: list[Any] = engine.execute(sql).fetchall()
        return fetched
    except duckdb.Error as error:
        raise DataError(f"{source}: {_complaint(error)}") from None


def write_files(
    engine: duckdb.DuckDBPyConnection, sql: str, into: Path, how: str, source: str
) -> int:
    """Write what a query gives into a folder, in files; how many rows that are.

    Raises:
        DataError: it can not be read.
        OSError: the disk refuses.
    """
    try:
        copied = engine.execute(f"COPY ({sql}) TO {literal(str(into))} ({how})").fetchone()
    except duckdb.Error as error:
        number = re.search(r'"errno":"(\d+)"', str(error))
        if number and str(into) in str(error):
            refused = int(number.group(1))
            raise OSError(refused, os.strerror(refused)) from None
        raise DataError(f"{source}: {_complaint(error)}") from None
    return 0 if copied is None else int(copied[0])


def arrays(engine: duckdb.DuckDBPyConnection, sql: str, source: str) -> dict[str, np.ndarray]:
    """Execute and fetch the columns, masked where null; complaints as in ``rows``."""
    try:
        fetched: dict[str, np.ndarray] = engine.execute(sql).fetchnumpy()
        return fetched
    except duckdb.Error as error:
        raise DataError(f"{source}: {_complaint(error)}") from None


def _complaint(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), type(error).__name__)
    first = re.sub(r"^[A-Za-z ]*Error: ?", "", first).strip()
    if value := re.search(r"^Error when converting .*", str(error), re.MULTILINE):
        first = f"{first}. {value.group()}"
    if _lacks_memory(error):
        return (
            f"memory does not suffice to read it ({first}); raise the limit, leave out old "
            "interactions, or name fewer columns"
        )
    return f"can not be read ({first}); is the file whole and of the format its name says?"


def _lacks_memory(error: Exception) -> bool:
    return isinstance(error, duckdb.OutOfMemoryException) or "bad allocation" in str(error)


def suffix_of(path: str) -> str | None:
    """The part of a file's name that tells its format; None when it tells none."""
    lower = path.lower()
    return next((suffix for suffix in READERS if lower.endswith(suffix)), None)


def is_remote(path: str) -> bool:
    """Whether a path names object storage, such as ``s3://bucket/part-*.parquet``."""
    return re.match(r"[a-z][a-z0-9]+://", path) is not None


def open_files(
    engine: duckdb.DuckDBPyConnection, name: str, path: str, column: str | None = None
) -> Table:
    """Open a file, a glob of many, or object storage where the engine reads it.

    Args:
        column: without it the files are of no concern, however odd they are.

    Raises:
        DataError: nothing there, an unknown format, or a file that is not what its name says.
    """
    files = expand(path)
    suffixes = {suffix_of(file) for file in files}
    suffix = suffixes.pop()
    if suffix is None or suffixes:
        known = ", ".join(READERS)
        what = "files of several formats" if suffixes else "unknown format"
        raise DataError(f"{path}: {what}; expected a file that ends in one of {known}")
    listed = ", ".join(literal(f if is_remote(f) else glob.escape(f)) for f in files)
    # Only many files may be parted by folders named day=1; else such a folder, higher up and
    # with a meaning of its own, would add a column.
    folders = "" if len(files) > 1 else ", hive_partitioning = false"
    reader = READERS[suffix].format(files=f"[{listed}]") + folders + ")"
    # Parquet is read where it lies; text would be parsed anew by each question.
    how = "VIEW" if suffix in {".parquet", ".pq"} else "TEMP TABLE"
    raw, is_text = quote(f"{name} raw"), how != "VIEW" and not is_remote(path)
    if is_text:
        _require_disk(path, files)
    try:
        engine.execute(f"CREATE OR REPLACE {how} {raw} AS FROM {reader}").fetchall()
    except duckdb.Error as error:
        # A value of another kind than those before it the engine names by itself.
        is_plain = isinstance(error, duckdb.ConversionException) or _lacks_memory(error)
        fault = first_fault(files, None) if is_text and not is_plain else None
        raise DataError(fault or f"{path}: {_complaint(error)}") from None
    if suffix in {".ndjson", ".jsonl"} and "UUID" in _types(engine, raw, path).values():
        _keep_spelling(engine, raw, reader, path)
    is_meant = is_text and (column is None or any(mentions(file, column) for file in files))
    if is_meant and (fault := first_fault(files, _types(engine, raw, path))):
        raise DataError(fault)
    return _plain_view(engine, name, path)


def _require_disk(path: str, files: Sequence[str]) -> None:
    """Refuse texts for which neither memory nor the disk has room, before they are parsed.

    Raises:
        DataError: they are too large.
    """
    size = float(sum(os.path.getsize(file) for file in files))
    needed, place = size * _OF_A_TEXT, gettempdir()
    there = float(available_bytes(DataConfig()) + disk_usage(place).free)
    if needed > there:
        raise DataError(
            f"{path}: it is text, of {in_words(size)}, and parsing it takes about "
            f"{in_words(needed)} of memory and of the disk at {place}, where {in_words(there)} "
            "are free; write it as Parquet, which is read where it lies, or name a folder with "
            "more room in the environment variable TMPDIR"
        )


def _keep_spelling(engine: duckdb.DuckDBPyConnection, raw: str, reader: str, path: str) -> None:
    """Read once more what was taken for a UUID, which the engine writes in lower case."""
    types = _types(engine, raw, path)
    as_text = (
        f"{literal(name)}: {literal('VARCHAR' if kind == 'UUID' else kind)}"
        for name, kind in types.items()
    )
    columns = f", columns = {{{', '.join(as_text)}}})"
    sql = f"CREATE OR REPLACE TEMP TABLE {raw} AS FROM {reader.removesuffix(')')}{columns}"
    rows(engine, sql, path)


def expand(path: str) -> list[str]:
    """The files that a path, a folder or a glob names.

    Raises:
        DataError: it names none.
    """
    if is_remote(path):
        return [path]
    if not path:
        raise DataError("'' is no path; give that of a file")
    try:
        place = Path(path)
        if place.is_file():
            return [str(place)]
        if place.is_dir():
            inside = [str(file) for file in place.iterdir() if suffix_of(file.name)]
        else:
            inside = glob.glob(path, recursive=True)
        found = sorted(file for file in inside if Path(file).is_file())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: can not be read ({error}); check the path") from None
    if not found:
        raise DataError(f"{path}: no such file; check the path")
    return found


def open_frame(engine: duckdb.DuckDBPyConnection, name: str, frame: Any) -> Table:
    """Open a polars, pandas or pyarrow table, or a mapping of columns.

    Raises:
        DataError: not a table.
    """
    source = f"{name} ({type(frame).__name__})"
    try:
        if isinstance(frame, Mapping):
            frame = _arrays(frame)
        engine.register(f"{name} frame", frame)
        # A copy, since the caller's frame may change or go while the engine still looks at it.
        copy = f"CREATE OR REPLACE TEMP TABLE {quote(f'{name} raw')} AS FROM {{}}"
        engine.execute(copy.format(quote(f"{name} frame"))).fetchall()
        engine.unregister(f"{name} frame")
    except (duckdb.Error, TypeError, ValueError, RuntimeError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"{source}: not a table ({first}); give a path, or a polars, pandas or pyarrow "
            "table"
        ) from None
    return _plain_view(engine, name, source)


def _arrays(columns: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """Columns of equal length; the engine would read past the end of a shorter one."""
    arrays = {str(name): _as_array(values) for name, values in columns.items()}
    if len({array.shape for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{name!r} {len(array):,}" for name, array in arrays.items())
        raise ValueError(f"columns of unequal length: {lengths}")
    return arrays


def _as_array(values: Any) -> np.ndarray:
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        return _listed(values)
    array = np.asarray(values)
    if array.ndim == 2:
        return _listed(array.tolist())
    if array.ndim != 1:
        raise ValueError(f"a column is a list of values, not a {type(values).__name__}")
    if array.dtype.kind == "M" and np.datetime_data(array.dtype)[0] not in {"ms", "us", "ns"}:
        return array.astype("datetime64[s]")
    return array.astype(object) if array.dtype.kind in "US" else array


def _listed(values: Sequence[Any]) -> np.ndarray:
    """Python's values as an array; as they are where numpy would turn them into texts."""
    if any(isinstance(value, _SCALARS) for value in values):
        # The engine would read what numpy's own scalars look like.
        values = [value.item() if isinstance(value, _SCALARS) else value for value in values]
    kept = np.empty(len(values), dtype=object)
    if any(isinstance(value, list | tuple | np.ndarray) for value in values):
        kept[:] = [None if value is None else list(value) for value in values]
        return kept
    if all(isinstance(value, int | float) for value in values):
        array = np.asarray(values)
        if array.dtype.kind in "biuf" and len(values):
            return array
    kept[:] = values
    return kept


def _plain_view(engine: duckdb.DuckDBPyConnection, name: str, source: str) -> Table:
    """The table ``<name> raw`` with NULL for NaN, and text for what is text in disguise.

    NaN is how many data frames write "missing"; that is settled here, once.
    """
    raw = quote(f"{name} raw")
    changed = []
    for column, sql_type in _types(engine, raw, source).items():
        if "\0" in column:
            # The engine's own bindings end the name there.
            raise DataError(f"{source}: column {column!r} has a NUL in its name; rename it")
        sql = quote(column)
        if sql_type in {"FLOAT", "DOUBLE"}:
            changed.append(f"CASE WHEN NOT isnan({sql}) THEN {sql} END AS {sql}")
        elif sql_type.startswith("ENUM"):
            changed.append(f"CAST({sql} AS VARCHAR) AS {sql}")
    replaced = f"REPLACE ({', '.join(changed)})" if changed else ""
    view = f"CREATE OR REPLACE TEMP VIEW {quote(name)} AS SELECT * {replaced} FROM {raw}"
    rows(engine, view, source)
    count = rows(engine, f"SELECT count(*) FROM {raw}", source)[0][0]
    types = _types(engine, quote(name), source)
    return Table(engine, quote(name), source, types, count)


def _types(engine: duckdb.DuckDBPyConnection, table: str, source: str) -> dict[str, str]:
    described = rows(engine, f"DESCRIBE SELECT * FROM {table}", source)
    return {name: sql_type for name, sql_type, *_ in described}


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant; None when none is near.

    >>> closest("user_id", ["userid", "age"])
    'userid'
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return near[0] if near else None
