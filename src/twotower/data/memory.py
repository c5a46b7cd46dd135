"""How much memory there is, and how much it takes to read tables: told before it is taken."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path

from twotower.config import DataConfig
from twotower.errors import DataError

GIB = 2**30
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)
# An id that is a text, as Python keeps it; a value of a column that is one, which repeats.
_TEXT_ID, _TEXT = 70, 12
# Of an interaction: what the engine joins, what the arrays hold, what finding repeats takes.
_JOINED, _SORTED = 24, 36


def available_bytes(config: DataConfig) -> int:
    """What may be taken: what the config allows, else what machine and limits leave free."""
    if config.memory_gib != "auto":
        return int(config.memory_gib * GIB)
    return min([_free(), *_left_by_limits(), *_left_by_cgroups()])


def in_words(size_bytes: float) -> str:
    """A size as people say it.

    >>> in_words(3.0 * 2**30), in_words(5.0 * 2**40), in_words(700.0)
    ('3.0 GiB', '5.0 TiB', '0.7 KiB')
    """
    units = ("KiB", "MiB", "GiB", "TiB")
    power = next((n for n, _ in enumerate(units, 1) if size_bytes < 1024 ** (n + 1)), 4)
    return f"{size_bytes / 1024**power:,.1f} {units[power - 1]}"


def largest_first(parts: Mapping[str, float]) -> str:
    """The three largest parts of an estimate, in words."""
    ranked = sorted(parts.items(), key=lambda part: -part[1])[:3]
    return ", ".join(f"{in_words(size)} {what}" for what, size in ranked)


def bytes_to_read(
    *, num_interactions: int, num_ids: Mapping[str, int], num_cells: int, has_text_ids: bool
) -> dict[str, float]:
    """About what reading takes at its peak, by what for.

    Args:
        num_ids: how many users and items there are.
        num_cells: values of all their features together.
    """
    each_id = _bytes_an_id(has_text_ids)
    ids = {f"for the ids of {count:,} {who}": count * each_id for who, count in num_ids.items()}
    parts = {
        f"for {num_interactions:,} interactions": num_interactions * (_JOINED + _SORTED),
        "for features": num_cells * (8 + _TEXT),
        **ids,
    }
    return {what: float(part) for what, part in parts.items()}


def _bytes_an_id(is_text: bool) -> int:
    return 16 + (_TEXT_ID if is_text else 8)


def require_room_to_read(
    where: str,
    parts: Mapping[str, float],
    config: DataConfig,
    *,
    num_ids: int = 0,
    has_text_ids: bool = False,
) -> None:
    """Says that tables are too large before they are read.

    Args:
        num_ids: how many there are in all, for what would fit where they are most of it.

    Raises:
        DataError: they are.
    """
    needed, there = sum(parts.values()), available_bytes(config)
    if needed > there:
        raise DataError(
            f"{where}: reading it takes about {in_words(needed)} of memory "
            f"({largest_first(parts)}), and {in_words(float(there))} are free; leave out old "
            "interactions and whoever met next to nothing, name fewer columns, or use a "
            f"machine with more{_about_ids(needed, float(there), num_ids, has_text_ids)}"
        )


def _about_ids(needed: float, there: float, num_ids: int, is_text: bool) -> str:
    """What would fit, where ids are much of what is needed."""
    taken, as_numbers = (float(num_ids * _bytes_an_id(each)) for each in (is_text, False))
    beside = needed - taken
    if taken < needed / 4 or beside > there:
        return ""
    fit = int(there - beside) // _bytes_an_id(is_text)
    about = fit - fit % 10 ** max(len(str(fit)) - 2, 0)
    said = f"; about {about:,} ids would fit"
    if is_text:
        enough = ", which fits" if beside + as_numbers <= there else ""
        said += (
            f", and ids that are whole numbers take {in_words(as_numbers)} in place of "
            f"{in_words(taken)}{enough}"
        )
    return said


def _free() -> int:
    """What the system can give without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_by_limits() -> list[int]:
    """What ``ulimit -v`` and ``ulimit -d`` leave of this process's own."""
    try:
        pages = [int(n) for n in Path("/proc/self/statm").read_text(encoding="ascii").split()]
    except OSError:
        return []
    taken = {resource.RLIMIT_AS: pages[0], resource.RLIMIT_DATA: pages[5]}
    limits = {limit: resource.getrlimit(limit)[0] for limit in taken}
    size = os.sysconf("SC_PAGE_SIZE")
    return [
        max(limit - taken[kind] * size, 0)
        for kind, limit in limits.items()
        if limit != resource.RLIM_INFINITY
    ]


def _left_by_cgroups() -> list[int]:
    """What a container's limit leaves."""
    left = []
    for limit, used in _CGROUPS:
        try:
            most = Path(limit).read_text(encoding="ascii").strip()
            now = Path(used).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if most.isdigit():
            left.append(max(int(most) - int(now), 0))
    return left
