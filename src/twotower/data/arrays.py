"""Orders, groups and counts of row numbers, at the cost of a few passes over them.

What is made of a memory-mapped array is memory-mapped as well: no function here holds more
than a block of such an array in memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

# Rows that are worked on at once.
BLOCK = 1 << 22
_LOW = (1 << 32) - 1


def blocks(size: int, block: int = BLOCK) -> Iterator[slice]:
    """The places 0 to ``size``, in pieces."""
    for start in range(0, size, block):
        yield slice(start, min(start + block, size))


def room_for(size: int, dtype: Any, beside: np.ndarray | Path | None) -> np.ndarray:
    """An array to be filled: on the disk in that folder or where ``beside`` is, else in memory.

    Its file has no name any more, and goes when the array does. Where the folder of ``beside``
    was deleted meanwhile it is on the same disk, one higher.
    """
    if isinstance(beside, np.memmap):
        beside = Path(str(beside.filename)).parent
        beside = beside if beside.is_dir() else beside.parent
    if not isinstance(beside, Path) or not size:
        return np.empty(size, dtype)
    with tempfile.NamedTemporaryFile(dir=beside) as file:
        # Taken now, since where a disk is full later on nobody can be told.
        os.posix_fallocate(file.fileno(), 0, size * np.dtype(dtype).itemsize)
        return np.memmap(file.name, dtype, "r+", shape=(size,))


def written(values: np.ndarray, folder: Path) -> np.ndarray:
    """The same values mapped from a file in that folder, which goes when the array does."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        # Written and not copied into a map, whose pages would be this process's until they are.
        np.ascontiguousarray(values).tofile(file.file)
        return np.memmap(file.name, values.dtype, "r+", shape=values.shape)


def is_ascending(values: np.ndarray) -> bool:
    """Whether no value is smaller than the one before."""
    last = len(values) - 1
    return all(
        bool((values[part] <= values[part.start + 1 : part.stop + 1]).all())
        for part in blocks(max(last, 0))
    )


def order_of(rows: np.ndarray, then: np.ndarray | None = None) -> Int64[np.ndarray, " N"]:
    """The places of row numbers in ascending order; of equals, as ``then`` has it.

    Where ``then`` is equal too, or is None, the first stays first.

    >>> order_of(np.array([2, 1, 2], np.int32), np.array([5.0, 9.0, 4.0]))
    array([1, 2, 0])
    """
    if then is not None and not is_ascending(then):
        first = np.argsort(then, kind="stable")
        again: np.ndarray = first[order_of(rows[first])]
        return again
    # A row number and its place are one whole number, and those are sorted fastest.
    keys = rows.astype(np.int64)
    keys <<= 32
    keys |= np.arange(len(rows), dtype=np.uint32)
    keys.sort()
    keys &= _LOW
    return keys


def distinct(keys: np.ndarray) -> np.ndarray:
    """The different ones, ascending; many times as fast as ``np.unique`` where most differ.

    >>> distinct(np.array([7, 3, 7]))
    array([3, 7])
    """
    ranked = np.sort(keys)
    is_first = np.ones(len(ranked), bool)
    np.not_equal(ranked[1:], ranked[:-1], out=is_first[1:])
    return ranked if is_first.all() else ranked[is_first]


def is_last_of_pair(
    user_rows: np.ndarray, item_rows: np.ndarray, times: np.ndarray | None = None
) -> np.ndarray:
    """Which pairs do not come once more, later in time or else in order.

    >>> is_last_of_pair(np.array([1, 1, 1]), np.array([7, 8, 7]))
    array([False,  True,  True])
    """
    is_last = np.zeros(len(user_rows), bool)
    if times is not None and not is_ascending(times):
        later = np.argsort(times, kind="stable")
        is_last[later] = is_last_of_pair(user_rows[later], item_rows[later])
    elif isinstance(user_rows, np.memmap):
        places = room_for(len(user_rows), np.uint32, user_rows)
        for part in blocks(len(places)):
            places[part] = np.arange(part.start, part.stop)
        offsets, [items, places] = grouped(user_rows, [item_rows, places])
        for first, last in blocks_of_groups(offsets):
            rows = slice(offsets[first], offsets[last])
            owners = np.repeat(np.arange(last - first), np.diff(offsets[first : last + 1]))
            kept = _is_last(owners, items[rows])
            is_last[places[rows][kept]] = True
    elif len(user_rows):
        is_last = _is_last(user_rows, item_rows)
    return is_last


def _is_last(user_rows: np.ndarray, item_rows: np.ndarray) -> np.ndarray:
    user_bits, item_bits, place_bits = (
        int(largest).bit_length()
        for largest in (user_rows.max(), item_rows.max(), len(user_rows))
    )
    keys = user_rows.astype(np.uint64)
    keys <<= np.uint64(item_bits)
    keys |= item_rows.astype(np.uint32)
    if user_bits + item_bits + place_bits <= 64:
        # A pair and its place are one whole number, and those are sorted fastest.
        keys <<= np.uint64(place_bits)
        keys |= np.arange(len(keys), dtype=np.uint32)
        keys.sort()
        places: np.ndarray = (keys & np.uint64((1 << place_bits) - 1)).astype(np.uint32)
        keys >>= np.uint64(place_bits)
    else:
        places = np.argsort(keys, kind="stable")
        keys = keys[places]
    is_last = np.ones(len(keys), bool)
    is_last[places[:-1]] = keys[1:] != keys[:-1]
    return is_last


def blocks_of_groups(
    offsets: Int64[np.ndarray, " G1"], block: int = BLOCK
) -> Iterator[tuple[int, int]]:
    """Groups from one to before another, which together have about a block of rows."""
    first = 0
    while first < len(offsets) - 1:
        end = np.searchsorted(offsets, offsets[first] + block, side="right") - 1
        last = max(int(end), first + 1)
        yield first, last
        first = last


def chosen(column: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
    """Some rows of a column, by numbers, by a mask or from one to another."""
    if isinstance(rows, slice) or not isinstance(column, np.memmap):
        part: np.ndarray = column[rows]
        return part
    if rows.dtype != bool:
        pieces = ((len(piece), piece) for piece in (rows[p] for p in blocks(len(rows))))
        size = len(rows)
    else:
        kept = ((p, np.flatnonzero(rows[p])) for p in blocks(len(rows)))
        pieces = ((len(places), places + p.start) for p, places in kept)
        size = int(np.count_nonzero(rows))
    filled, done = room_for(size, column.dtype, column), 0
    for count, places in pieces:
        filled[done : done + count] = column[places]
        done += count
    return filled


def counts_of(rows: np.ndarray, size: int) -> Int64[np.ndarray, " S"]:
    """How often each of the row numbers 0 to ``size`` - 1 occurs."""
    counts = np.zeros(size, np.int64)
    for part in blocks(len(rows)):
        counts += np.bincount(rows[part], minlength=size)
    return counts


def rows_met(rows: np.ndarray) -> Int64[np.ndarray, " M"]:
    """The row numbers that occur, ascending.

    >>> rows_met(np.array([5, 2, 5]))
    array([2, 5])
    """
    size = int(rows.max(initial=-1)) + 1
    return np.flatnonzero(counts_of(rows, size))


def grouped(
    groups: np.ndarray, columns: list[np.ndarray], size: int | None = None
) -> tuple[Int64[np.ndarray, " S1"], list[np.ndarray]]:
    """Columns by group, each group's in the order they had; and where the groups begin.

    Args:
        groups: row numbers 0 to ``size`` - 1; where that is None to the largest there is.
    """
    size = int(groups.max(initial=-1)) + 1 if size is None else size
    offsets = np.zeros(size + 1, np.int64)
    np.cumsum(counts_of(groups, size), out=offsets[1:])
    filled = [room_for(len(column), column.dtype, column) for column in columns]
    next_place = offsets[:-1].copy()
    for part in blocks(len(groups)):
        order = order_of(groups[part])
        ranked = groups[part][order]
        begins = np.flatnonzero(np.diff(ranked, prepend=-1))
        lengths = np.diff(begins, append=len(ranked))
        owners = ranked[begins]
        places = np.arange(len(ranked)) + np.repeat(next_place[owners] - begins, lengths)
        next_place[owners] += lengths
        for column, into in zip(columns, filled, strict=True):
            into[places] = column[part][order]
    return offsets, filled


def last_of_each(rows: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " M"]:
    """Each once, at its last place."""
    _, from_end = np.unique(rows[::-1], return_index=True)
    kept: np.ndarray = rows[np.sort(len(rows) - 1 - from_end)]
    return kept
