# mypy: ignore-errors
"""What peers in other environments share: the size of their towers, and working when told to.

Nothing of this project, nor of any library, is imported here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

DIM, ID_DIM, HIDDEN, CATEGORY_DIM = 128, 64, (256, 128), 16


def work(step: Callable[[], object], positives: int) -> None:
    """Told a number of seconds by a line, take steps for so long; say positives a second."""
    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < float(line) or steps < 3:
            step()
            steps += 1
        print(steps * positives / (time.perf_counter() - started), flush=True)
