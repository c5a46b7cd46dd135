"""Fail where a version of ``constraints.txt`` has a known vulnerability.

Where the service that knows of them can not be asked, it says so in one line and does not fail.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "constraints.txt"


def outcome(found: Mapping[str, Any]) -> tuple[int, Sequence[str]]:
    """An exit code and what to say of a report of pip-audit."""
    every = found["dependencies"]
    asked = [each for each in every if "skip_reason" not in each]
    left_out = [str(each["name"]) for each in every if "skip_reason" in each]
    if not asked:
        return 0, ["audit: not done, since PyPI does not tell of vulnerabilities here"]
    said = [
        f"audit: {each['name']} {each['version']} has {one['id']}; "
        f"mended in {', '.join(one['fix_versions']) or 'no version yet'}"
        for each in asked
        for one in each["vulns"]
    ]
    if left_out:
        said.append(f"audit: not known to PyPI: {', '.join(left_out)}")
    is_bad = any(each["vulns"] for each in asked)
    return int(is_bad), said or [f"audit: {len(asked)} versions, no known vulnerability"]


def main() -> int:
    """Ask, and say what was found."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip_audit", "--requirement", str(FILE)),
            # The file names each version, so that nothing need be resolved.
            *("--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        code, said = outcome(json.loads(done.stdout))
    except ValueError:
        last = next(iter(done.stderr.strip().splitlines()[-1:]), "")
        # Else it is a mistake in how it was asked, which would go unnoticed.
        is_away = "Connection" in last or "Timeout" in last or "ServiceError" in last
        code, said = int(not is_away), [f"audit: not done ({last[:200]})"]
    print("\n".join(said))
    return code


if __name__ == "__main__":
    sys.exit(main())
