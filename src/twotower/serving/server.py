"""Processes that listen: the run is loaded behind an open port, and the end is graceful."""

from __future__ import annotations

import gc
import ipaddress
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import uvicorn
from threadpoolctl import threadpool_limits

from twotower import runs
from twotower.errors import RequestError, reason
from twotower.serving import crew
from twotower.serving.app import create_app
from twotower.serving.connection import patient_for
from twotower.serving.follow import follow, wanted
from twotower.serving.gate import Limits, log_as_json
from twotower.serving.keys import Key
from twotower.serving.metrics import Metrics, forget
from twotower.serving.service import Service
from twotower.serving.state import State

_BACKLOG = 1000
_SECONDS_TO_FINISH = 15
# So long for threads to see that nobody waits for what they are at.
_SECONDS_TO_END = 3.0


@dataclass(frozen=True)
class _Plan:
    """What every process of a service needs to know.

    Attributes:
        crew: whatever its processes have in common, and no other service.
        figures: the folder in which several processes count.
    """

    run: Path
    state: str
    keys: Sequence[Key]
    runs_folder: Path
    limits: Limits
    watched: Path | None
    adopts: bool
    crew: str
    figures: Path | None = None


def serve(
    run: Path,
    *,
    host: str,
    port: int,
    state: str | None = None,
    keys: Sequence[Key] = (),
    runs_folder: Path | None = None,
    limits: Limits | None = None,
    workers: int = 1,
    watched: Path | None = None,
    adopts: bool = False,
    on_open: Callable[[str], None] = lambda _: None,
) -> None:
    """Answer until SIGTERM or SIGINT; what is being answered then is answered.

    Args:
        state: URL of the database; default: SQLite in ``service.sqlite`` beside the run.
        runs_folder: where runs lie that may be loaded later; default: where the run lies.
        workers: processes that answer; they share the port, the database and mapped files.
        watched: a file that names the run to answer by, or a folder whose newest run that is.
        adopts: whether the state was told about the run's data, whatever it says of itself.
        on_open: called with the address when the port is open.

    Raises:
        RequestError: listening beyond loopback without keys, or on a port that is taken.
        RunError: the run can not be read.
        StateError: the database can not be used, or is of other data.
    """
    if not keys and not _is_loopback(host):
        raise RequestError(
            f"serve: {host} can be reached by others, so keys are needed: --keys FILE; "
            "`twotower key NAME --into FILE` makes them"
        )
    runs.read_manifest(run)
    runs_folder = runs_folder or run.resolve().parent
    state = state or f"sqlite:///{runs_folder / 'service.sqlite'}"
    if watched is not None:
        wanted(watched)
        runs_folder = watched if watched.is_dir() else runs_folder
    log_as_json()
    plan = _Plan(
        run, state, keys, runs_folder, limits or Limits(), watched, adopts, secrets.token_hex(8)
    )
    listening = _listen(host, port)
    try:
        # Made only where a service can be.
        State(state).close()
        on_open(_address(host, listening.getsockname()[1]))
        if workers == 1:
            _answer(plan, listening)
        else:
            leader = os.getpid()
            with TemporaryDirectory(prefix="twotower-") as place:
                of_all = replace(plan, figures=Path(place))
                work = partial(_answer, of_all, listening, leader)
                crew.keep(workers, work, ended=partial(forget, Path(place)))
    finally:
        listening.close()


def _answer(plan: _Plan, listening: socket.socket, leader: int | None = None) -> None:
    """Answer in this process until it, or the one that leads it, is ended."""
    # Answers are computed side by side, so one must not take all cores.
    torch.set_num_threads(1)
    threadpool_limits(1)
    opened = State(plan.state)
    service = Service(plan.runs_folder, opened, Metrics(plan.figures), crew=plan.crew)
    gate = create_app(service, plan.keys, plan.limits)
    server = uvicorn.Server(
        uvicorn.Config(
            gate,
            http=patient_for(plan.limits.body_seconds, plan.limits.connections, gate.note),
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            lifespan="off",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_SECONDS_TO_FINISH,
        )
    )
    failures: list[Exception] = []
    ending = threading.Event()

    def start() -> None:
        try:
            service.start(plan.run, adopts=plan.adopts)
        except Exception as error:
            # Raised again below; a thread's end is noticed by nobody.
            failures.append(error)
            server.should_exit = True
        else:
            # What is there now stays; to look through it for garbage holds up requests.
            gc.collect()
            gc.freeze()
            follow(service, plan.watched, leader, ending)

    def end(*_: object) -> None:
        server.should_exit = True

    starting = threading.Thread(target=start, name="start", daemon=True)
    try:
        starting.start()
        while leader is not None and not service.is_ready and starting.is_alive():
            # One that is not ready takes no connection from the others, which may be.
            time.sleep(0.01)
        for number in (signal.SIGINT, signal.SIGTERM):
            # Until the server takes these itself; at its end it raises them again.
            signal.signal(number, end)
        if not failures:
            server.run(sockets=[listening])
        gate.close()
        ending.set()
        is_over = _are_over(_SECONDS_TO_END)
    finally:
        opened.close()
        # Else what was kept from the collector is found at the end, and called a leak.
        gc.unfreeze()
    if failures:
        raise failures[0]
    if not is_over:
        # The interpreter would end them amid the work of torch, which aborts the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _are_over(seconds: float) -> bool:
    """Whether all threads that may be computing have ended, after so long at most."""
    deadline = time.monotonic() + seconds
    threads = [each for each in threading.enumerate() if each.daemon]
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # Said to be TCP, or asyncio leaves Nagle's delay of 40 ms on.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        raise RequestError(
            f"serve: can not listen on {host}, port {port} ({reason(error)}); choose another"
        ) from None
    return listening


def _address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
