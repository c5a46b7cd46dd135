"""The command line in real processes: cold ones, and warm ones for tests that need many."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection, Listener
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from unittest.mock import patch

# Children work on small data, and threads of one would wait for those of another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@cache
def _server() -> ForkServerContext:
    """A process that has all that a command imports, and is forked for each."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["__main__", "warmed"])
    # It finds what an interpreter finds that just began, and passes over what it does not.
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with patch.dict(os.environ, PYTHONPATH=path.strip(os.pathsep)):
        ensure_running()
    return server


COMMAND = Path(sys.executable).with_name("twotower")
# What a shell finds in place of the command. Only a service, which signals end, begins anew.
SHIM = f"""#!{sys.executable} -IS
import os, sys
from multiprocessing.connection import Client
if "serve" in sys.argv[1:2]:
    os.execv("{COMMAND}", ["twotower", *sys.argv[1:]])
with Client(os.path.dirname(__file__) + "/socket") as server:
    said = [f"/proc/{{os.getpid()}}/fd/{{number}}" for number in (1, 2)]
    server.send((sys.argv[1:], os.getcwd(), said))
    sys.exit(server.recv())
"""


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


def cold(command: str, place: Path) -> Done:
    """Run ``twotower COMMAND`` in a folder as a shell would."""
    done = subprocess.run(
        [str(COMMAND), *shlex.split(command)],
        cwd=place,
        env={**os.environ, "COLUMNS": "140"},
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Warm:
    """``twotower COMMAND`` in a process of its own, forked from one that has the imports.

    It differs from a cold one in that it starts at once.

    Args:
        place: the folder it runs in; what it says goes into files beside that.
        largest_file: bytes after which the disk is full.
    """

    def __init__(self, command: str, place: Path, *, largest_file: int | None = None) -> None:
        self._said = [place.with_name(f"{place.name}.{name}") for name in ("out", "err")]
        for path in self._said:
            path.write_bytes(b"")
        arguments = (shlex.split(command), str(place), list(map(str, self._said)), largest_file)
        self.process: ForkServerProcess = _server().Process(target=_run, args=arguments)
        self.process.start()

    def wait(self) -> Done:
        """Its end."""
        self.process.join()
        code = self.process.exitcode
        assert code is not None
        out, err = (path.read_text(encoding="utf-8") for path in self._said)
        return Done(code, out, err)


def warm(command: str, place: Path, *, largest_file: int | None = None) -> Done:
    """Run ``twotower COMMAND`` in a folder, without the wait for imports."""
    return Warm(command, place, largest_file=largest_file).wait()


def _run(arguments: list[str], place: str, said: list[str], largest_file: int | None) -> None:
    assert "warmed" in sys.modules
    os.chdir(place)
    for number, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    os.environ["COLUMNS"] = "140"
    sys.argv = ["twotower", *arguments]
    from twotower.cli import main

    main()


@contextmanager
def warm_for_shells() -> Iterator[Path]:
    """A folder for the ``PATH`` of a shell, whose ``twotower COMMAND`` is then a warm one."""
    if not Path("/proc/self/fd").is_dir():
        # Nobody else's output can be opened: a cold one.
        yield COMMAND.parent
        return
    # The path of a socket must be short.
    with TemporaryDirectory(prefix="warm-") as place:
        shim = Path(place, "twotower")
        shim.write_text(SHIM, encoding="utf-8")
        shim.chmod(0o755)
        with Listener(f"{place}/socket") as listener:
            Thread(target=_serve, args=(listener,), daemon=True).start()
            yield Path(place)


def _serve(listener: Listener) -> None:
    while True:
        try:
            asked = listener.accept()
        except OSError:
            return
        Thread(target=_answer, args=(asked,), daemon=True).start()


def _answer(asked: Connection) -> None:
    with asked:
        arguments, place, said = asked.recv()
        process = _server().Process(target=_run, args=(arguments, place, said, None))
        process.start()
        process.join()
        asked.send(process.exitcode)


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The system refuses to write beyond ``size`` bytes of a file, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
