"""Several processes that do the same: started, started anew where one dies, ended together."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable

from twotower.errors import TwoTowerError

_log = logging.getLogger("twotower.serving")
# Whoever lives shorter has a reason that starting it at once would not cure.
_SECONDS_TO_LIVE = 1.0
_REFUSED = 2


def keep(
    count: int, work: Callable[[], None], *, ended: Callable[[int], None] = lambda _: None
) -> None:
    """Let ``count`` forked processes work until SIGTERM or SIGINT, which they are handed on.

    A process that dies is replaced.

    Args:
        work: called in each. No thread may be running yet, since a fork takes none along.
        ended: told of each process that has ended.

    Raises:
        TwoTowerError: what one of the first raised; the others are ended.
    """
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    started: dict[int, float] = {}
    ending: list[int] = []

    def end(number: int, _: object) -> None:
        ending.append(number)
        for process in started:
            _end(process, signal.SIGTERM)

    def start() -> int:
        process = _fork(work, writing)
        started[process] = time.monotonic()
        if ending:
            _end(process, signal.SIGTERM)
        return process

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    first = {start() for _ in range(count)}
    refused = ""
    try:
        while started:
            process, status = os.wait()
            lived = time.monotonic() - started.pop(process)
            ended(process)
            code = os.waitstatus_to_exitcode(status)
            said = _read(reading) if code == _REFUSED else ""
            if ending:
                continue
            if said and process in first:
                # So it would be with any other; later, it may be cured by time.
                refused = said
                end(signal.SIGTERM, None)
                continue
            fields = {"code": code, "why": said}
            _log.error("a worker ended and is replaced", extra={"fields": fields})
            time.sleep(max(0.0, _SECONDS_TO_LIVE - lived))
            start()
    finally:
        os.close(reading)
        os.close(writing)
        for process in started:
            _end(process, signal.SIGKILL)
    if refused:
        raise TwoTowerError(refused)


def _fork(work: Callable[[], None], writing: int) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        work()
        status = 0
    except TwoTowerError as error:
        os.write(writing, f"{' '.join(str(error).split())[:1000]}\n".encode())
        status = _REFUSED
    except BaseException:
        _log.exception("a worker failed")
    finally:
        # Nothing of the process that this is a copy of is to be ended here.
        sys.stderr.flush()
        os._exit(status)


def _read(reading: int) -> str:
    """What one process said, the first where several did."""
    with contextlib.suppress(BlockingIOError):
        return os.read(reading, 2**16).decode().splitlines()[0]
    return ""


def _end(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)
