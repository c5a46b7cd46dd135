"""A folder that one process at a time works in."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_LOCK = "lock"


class Taken(Exception):
    """Another process works in the folder, or has come to its end and taken it away."""


@contextmanager
def alone_in(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep others away from a folder; who is killed keeps nobody away.

    Args:
        wait: for whoever is there to be done, in place of being refused.

    Raises:
        Taken: somebody else is there, or took the folder away when done.
        OSError: the folder can not be written.
    """
    path = folder / _LOCK
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(path.open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Whoever is done removes the folder, and the next one may have its file open.
            is_there = os.path.samestat(path.stat(), os.fstat(lock.fileno()))
        except (BlockingIOError, FileNotFoundError):
            is_there = False
        if not is_there:
            raise Taken
        yield
