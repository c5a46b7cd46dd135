"""Keys that open a service: made here, kept as sha256, compared in constant time.

A file of keys has a line a key: its name, its scopes with commas between, its sha256.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from twotower.errors import RequestError, reason

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True)
class Key:
    """What a service knows of a key.

    Attributes:
        name: whose it is; it may stand in logs.
        sha256: of the key, in hex. Keys are long and random, so that a plain hash can not be
            guessed.
    """

    name: str
    scopes: frozenset[Scope]
    sha256: str

    def line(self) -> str:
        """As in a file of keys."""
        return f"{self.name} {','.join(sorted(self.scopes))} {self.sha256}\n"


def make_key(name: str, scopes: Collection[str]) -> tuple[str, Key]:
    """A new key, to be shown once, and what is to be kept of it.

    Raises:
        RequestError: a scope that there is not, or a name with odd characters.
    """
    secret = f"tt_{secrets.token_urlsafe(32)}"
    return secret, _key(name, ",".join(scopes), _sha256(secret))


def add_key(path: Path, key: Key) -> None:
    """Write a key to the end of a file that only its owner may read.

    Raises:
        RequestError: a key of that name is there already, or it can not be written.
    """
    if path.exists() and any(other.name == key.name for other in read_keys(path)):
        raise RequestError(f"{path}: there is a key {key.name!r} already; take another name")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(key.line())
    except OSError as error:
        raise RequestError(f"{path}: can not be written ({reason(error)})") from None


def read_keys(path: Path) -> list[Key]:
    """The keys of a file.

    Raises:
        RequestError: it can not be read, holds no key, or a line is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: can not be read ({reason(error)})") from None
    keys = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split()
        if len(parts) != 3 or not re.fullmatch("[0-9a-f]{64}", parts[2]):
            raise RequestError(
                f"{path}: line {number} is no key; `twotower key NAME --into FILE` writes them"
            )
        keys.append(_key(*parts))
    if not keys:
        raise RequestError(f"{path}: holds no key; `twotower key NAME --into FILE` makes one")
    return keys


def find_key(keys: Sequence[Key], secret: str) -> Key | None:
    """Which key a secret is; all are compared, and each in constant time."""
    digest = _sha256(secret)
    found = None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key
    return found


def _key(name: str, scopes: str, sha256: str) -> Key:
    chosen = [scope for scope in scopes.split(",") if scope]
    wrong = [scope for scope in chosen if scope not in SCOPES]
    if wrong or not chosen:
        raise RequestError(
            f"key: scopes are some of {', '.join(SCOPES)}, got {', '.join(wrong) or 'none'}"
        )
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise RequestError(
            f"key: a name is made of letters, digits, dots and dashes, got {name[:64]!r}"
        )
    return Key(name, frozenset(scope for scope in SCOPES if scope in chosen), sha256)


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
