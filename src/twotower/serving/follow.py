"""What a process does beside answering: it follows the others, and what names the run."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Collection
from pathlib import Path

from twotower import runs
from twotower.errors import (
    RequestError,
    RunError,
    ServiceError,
    StateError,
    TwoTowerError,
    reason,
)
from twotower.serving.origin import OtherDataError
from twotower.serving.served import written_at
from twotower.serving.service import Service

_log = logging.getLogger("twotower.serving")
# So long until one process knows what another was told.
SECONDS_BEHIND = 0.1
_SECONDS_TO_LOOK = 1.0
_BUSY = 409


def wanted(watched: Path, refused: Collection[str] = ()) -> str | None:
    """The run that a file names, or the newest of a folder; None where there is none yet.

    Args:
        refused: names of runs that are none of the folder's.

    Raises:
        RequestError: it can not be read.
    """
    try:
        if watched.is_dir():
            there = [path for path in runs.list_runs(watched) if path.name not in refused]
            return max(there, key=_age).name if there else None
        # A path may be written; only its last part is looked up in the runs folder.
        return Path(watched.read_text(encoding="utf-8").strip()).name or None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{watched}: can not be read ({reason(error)})") from None


def _age(run: Path) -> tuple[float, str]:
    """What the newest run has most of."""
    try:
        return written_at(run), run.name
    except RunError:
        # Why it can not be read is said when it is loaded.
        return (run / runs.MANIFEST).stat().st_mtime, run.name


def follow(
    service: Service, watched: Path | None, leader: int | None, ending: threading.Event
) -> None:
    """Keep up with other processes, and with what a file or a folder asks for.

    A run that can not be read is refused, and not looked at again until another was asked for.

    Args:
        leader: the process that started this one and is to end it, if there is one.
        ending: until it is set.
    """
    last, looked, is_behind = service.served.name, 0.0, False
    refused: set[str] = set()
    while not ending.wait(SECONDS_BEHIND):
        if leader is not None and os.getppid() != leader:
            # It was killed, and nobody else would end this one.
            os.kill(os.getpid(), signal.SIGTERM)
            return
        try:
            service.catch_up()
            is_behind = False
        except StateError as error:
            if not is_behind:
                _log.warning("behind", extra={"fields": {"why": str(error)}})
            is_behind = True
        if watched is not None and time.monotonic() - looked >= _SECONDS_TO_LOOK:
            looked = time.monotonic()
            last = _look(service, watched, last, refused)


def _look(service: Service, watched: Path, last: str, refused: set[str]) -> str:
    """Load the run that is asked for, if it is another than before.

    Args:
        refused: names of runs that are of other data; it is filled in.
    """
    name: str | None = last
    try:
        name = wanted(watched, refused)
        if name not in {None, last, service.served.name}:
            service.load(str(name))
            _log.info("loaded", extra={"fields": {"run": name}})
    except TwoTowerError as error:
        if isinstance(error, ServiceError) and error.status == _BUSY:
            # Another is being loaded, perhaps this one by word of another process.
            return last
        _log.error("not loaded", extra={"fields": {"run": name, "why": str(error)}})
        if isinstance(error, OtherDataError) and watched.is_dir():
            # It stays there, and from now on the newest of the others is asked for.
            refused.add(str(name))
            return last
    return name or last
