"""The exceptions raised on purpose.

    TwoTowerError            a user's mistake: printed without traceback, exit code 2
    ├── DataError            a table, a column or a value is not what it must be
    ├── ConfigError          a setting does not exist or is out of its bounds
    ├── RunError             a run directory is missing, changed or from another version
    ├── RequestError         a question that can not be answered: unknown user, k too large
    ├── StateError           the database of a service can not be reached, or refuses
    ├── ServiceError         a service can not answer: too busy, not ready, no such key
    └── GivenUpError         nobody waits any more for what was being computed

Each message says what is wrong, where, what was found and what to do. A programmer's mistake
is a ``ValueError`` or an ``assert``, not one of these.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence


class TwoTowerError(Exception):
    """A mistake that the user can mend; ``str(error)`` says how."""


class DataError(TwoTowerError):
    """A table, a column or a value is not what it must be."""


class ConfigError(TwoTowerError):
    """A setting does not exist or is out of its bounds."""


class RunError(TwoTowerError):
    """A run directory is missing, incomplete, changed, or written by another version."""


class RequestError(TwoTowerError):
    """A question that can not be answered as asked."""


class StateError(TwoTowerError):
    """The database of a service can not be reached, or refuses; nothing was stored."""


class ServiceError(TwoTowerError):
    """What a service answers instead: its HTTP status, and after how long to try again."""

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class GivenUpError(TwoTowerError):
    """Nobody waits any more for what was being computed."""


def reason(error: BaseException) -> str:
    """Why a file could not be read or written, in the system's own words.

    >>> reason(OSError(28, "No space left on device", "some/file"))
    'No space left on device'
    >>> reason(RuntimeError("I/O error: File too large (os error 27)"))
    'File too large'
    """
    # The table engine and safetensors say the number somewhere in a longer text.
    number = re.search(r"(?:errno\W+|os error )(\d+)", str(error))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if number:
        return os.strerror(int(number.group(1)))
    return next(iter(str(error).splitlines()), type(error).__name__)


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters; what is longer ends in dots.

    >>> shortened("recommendation", 9)
    'recomm...'
    """
    return text if len(text) <= most else text[: most - 3] + "..."


def join_mistakes(where: str, mistakes: Sequence[str]) -> str:
    """One message for all mistakes found in one place, so that they can be mended in one go.

    >>> join_mistakes("users.parquet", ["no rows"])
    'users.parquet: no rows'
    >>> print(join_mistakes("users.parquet", ["no rows", "no column 'user_id'"]))
    users.parquet has 2 errors:
      no rows
      no column 'user_id'
    """
    if len(mistakes) == 1:
        return f"{where}: {mistakes[0]}"
    return "\n  ".join([f"{where} has {len(mistakes)} errors:", *mistakes])
