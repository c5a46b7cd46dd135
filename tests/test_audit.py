"""What the audit of dependencies makes of what it is told."""

from __future__ import annotations

import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
AUDIT = runpy.run_path(str(ROOT / ".ci" / "audit.py"))


def dependency(name: str, *vulnerabilities: str) -> dict[str, Any]:
    known = [{"id": each, "fix_versions": ["2.0"]} for each in vulnerabilities]
    return {"name": name, "version": "1.0", "vulns": known}


def test_a_known_vulnerability_fails_and_is_named() -> None:
    unknown = {"name": "own", "skip_reason": "not found"}
    code, said = AUDIT["outcome"]({"dependencies": [dependency("a", "PYSEC-1"), unknown]})
    assert code == 1
    assert said == [
        "audit: a 1.0 has PYSEC-1; mended in 2.0",
        "audit: not known to PyPI: own",
    ]
    assert AUDIT["outcome"]({"dependencies": [dependency("a")]})[0] == 0


def test_where_nobody_can_be_asked_it_says_so_in_a_line() -> None:
    code, said = AUDIT["outcome"]({"dependencies": [{"name": "a", "skip_reason": "away"}]})
    assert (code, len(said)) == (0, 1)


@pytest.mark.parametrize(
    ("last", "code"),
    [
        ("requests.exceptions.ConnectionError: no name", 0),
        ("No module named pip_audit", 1),
        ("error: unrecognized arguments", 1),
    ],
)
def test_only_a_service_that_is_away_is_forgiven(
    monkeypatch: pytest.MonkeyPatch, last: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    done = subprocess.CompletedProcess([], 1, stdout="", stderr=f"Traceback\n{last}\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert AUDIT["main"]() == code
    assert last in capsys.readouterr().out


def test_it_is_part_of_the_check() -> None:
    assert "$(BIN)/python .ci/audit.py" in (ROOT / "Makefile").read_text(encoding="utf-8")
