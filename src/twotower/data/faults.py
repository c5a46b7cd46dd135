"""What is wrong with a text file that the engine refuses, or takes for another table.

The engine guesses how a file is written. One bad line can lead it to a guess that fits the line
and no other, and what it then says is of the guess. So the file is read again here, slowly and
by the plainest rule: the first line names the columns, and every line has as many values.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from io import BufferedReader, FileIO, TextIOWrapper
from itertools import chain, islice
from typing import NamedTuple

from twotower.errors import shortened

_DELIMITERS = ",;\t|"
# If the first line is a header, some of so many lines have as many values as it has names.
_LINES_TO_AGREE = 20
_LONGEST_SHOWN = 40
_LONGEST_LINE = 1 << 16
# What says nothing of a line: of these the engine's own words are the better ones.
_UNREADABLE = (OSError, EOFError, zlib.error, csv.Error)


def first_fault(files: Sequence[str], names: Collection[str] | None) -> str | None:
    """What is wrong with the first of the files that is not as it must be, in one sentence.

    Args:
        files: CSV, TSV or NDJSON on this machine.
        names: the columns that the engine found; None where it refused the files.

    Returns:
        None where the engine found what the files say, or where nothing wrong is seen.
    """
    filled = [file for file in files if _first_line(file) != ""]
    for file in filled:
        if fault := _fault_of(file, names):
            return f"{file}: {fault}"
    empty = [file for file in files if file not in filled]
    # A part without a row is nothing odd among others, unless the engine trips over it.
    if empty and (names is None or not filled):
        return f"{empty[0]}: is empty; write a header and rows into it, or delete it"
    return None


def mentions(file: str, column: str) -> bool:
    """Whether the first line of a text file has a column's name in it."""
    return column in (_first_line(file) or "")


def _fault_of(file: str, names: Collection[str] | None) -> str | None:
    try:
        with _open(file) as opened:
            lines = _numbered(opened)
            if file.lower().endswith((".ndjson", ".jsonl")):
                return None if names is not None and set(names) != {"json"} else _json(lines)
            return _delimited(lines, "\t" if file.lower().endswith(".tsv") else None, names)
    except _FaultError as fault:
        return str(fault)
    except _UNREADABLE:
        return None


class _Record(NamedTuple):
    """One row: the number of its first line, its text and its values."""

    line: int
    text: str
    values: list[str]


class _FaultError(Exception):
    """What is wrong with a line, found where lines are read."""


def _open(file: str) -> TextIOWrapper:
    """The text of a file, each line with the characters it ends with."""
    opener = gzip.GzipFile if file.lower().endswith(".gz") else FileIO
    return TextIOWrapper(
        BufferedReader(opener(file)), "utf-8-sig", errors="surrogateescape", newline=""
    )


def _first_line(file: str) -> str | None:
    """None where it can not be read."""
    try:
        with _open(file) as opened:
            return opened.readline(_LONGEST_LINE)
    except _UNREADABLE:
        return None


def _numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Each line with its number from 1."""
    for number, line in enumerate(lines, 1):
        wrong = None if line.isascii() else re.search("[\udc80-\udcff]", line)
        if wrong:
            byte = ord(wrong.group()) - 0xDC00
            before = line[: wrong.start()]
            after = f" after {_shown(before)}" if before else ""
            raise _FaultError(
                f"line {number} is not UTF-8 (byte 0x{byte:02x}{after}); save the file as UTF-8"
            )
        yield number, line


def _json(lines: Iterable[tuple[int, str]]) -> str | None:
    for number, line in lines:
        text = line.strip()
        if not text:
            continue
        try:
            if isinstance(json.loads(text), dict):
                continue
        except ValueError:
            pass
        if text.startswith("["):
            return (
                f"line {number} begins a JSON array ({_shown(text)}); write each row as an "
                "object on a line of its own"
            )
        return f"line {number} is no JSON object ({_shown(text)}); mend or drop that line"
    return None


def _delimited(
    numbered: Iterator[tuple[int, str]], delimiter: str | None, names: Collection[str] | None
) -> str | None:
    lines = ((number, line) for number, line in numbered if not line.startswith("#"))
    first, header = next(((number, line) for number, line in lines if line.strip()), (0, ""))
    delimiter = delimiter or max(_DELIMITERS, key=lambda each: len(_values(header, each)))
    columns = _values(header, delimiter)
    named = {name for name in map(_bare, columns) if name}
    if names is not None and named <= set(map(_bare, names)):
        return None
    records = _records(lines, delimiter)
    start = list(islice(records, _LINES_TO_AGREE))
    if not any(len(record.values) == len(columns) for record in start):
        return None
    ends = {_end(header): first}
    for record in chain(start, records):
        ends.setdefault(_end(record.text), record.line)
        if record.values and len(record.values) != len(columns):
            return _misfit(record, len(columns), delimiter)
    ends.pop("", None)
    if len(ends) > 1:
        said = " and ".join(f"line {number} in {end}" for end, number in ends.items())
        return f"its lines end in different ways ({said}); save it with one kind of line end"
    return None


def _misfit(record: _Record, num_columns: int, delimiter: str) -> str:
    count = len(record.values)
    hint = f" (a value that has {delimiter!r} in it stands in quotes)"
    return (
        f"line {record.line} has {count} value{'s' * (count != 1)} ({_shown(record.text)}) and "
        f"the header {num_columns} columns; mend or drop that line"
        + (hint if count > num_columns else "")
    )


def _records(lines: Iterable[tuple[int, str]], delimiter: str) -> Iterator[_Record]:
    seen: list[tuple[int, str]] = []

    def remembered() -> Iterator[str]:
        for numbered in lines:
            seen.append(numbered)
            yield numbered[1]

    for values in csv.reader(remembered(), delimiter=delimiter):
        yield _Record(seen[0][0], "".join(text for _, text in seen), values)
        seen.clear()


def _values(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _bare(name: str) -> str:
    """A column's name as the engine has it."""
    return name.strip(" '\"\r\n")


def _end(line: str) -> str:
    ends = {"\r\n": "CRLF", "\n": "LF", "\r": "CR"}
    return next((name for end, name in ends.items() if line.endswith(end)), "")


def _shown(line: str) -> str:
    return repr(shortened(line.strip(), _LONGEST_SHOWN))
