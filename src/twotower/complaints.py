"""What is wrong with settings, in our words and by the file's own keys."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_origin

from pydantic import BaseModel, ValidationError

from twotower.errors import shortened

_WANTED = "Input should be "
_PLAIN = {"a valid tuple": "a list", "a valid dictionary": "keys with values", "Tuple": "List"}


def describe_all(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """One line a key; what each branch of a union expects is joined by or.

    Args:
        root: what was validated: a model of sections, each a model of keys.
    """
    lines: dict[str, list[Mapping[str, Any]]] = {}
    mistakes = error.errors(include_url=False)
    faulty = {each["loc"][:-1] for each in mistakes}
    for mistake in mistakes:
        if mistake["type"] == "too_short" and mistake["loc"] in faulty:
            # Values that can not be are not counted: too few is no mistake of its own.
            continue
        lines.setdefault(_path(mistake["loc"], root), []).append(dict(mistake))
    return [_describe(path, mistakes, root) for path, mistakes in lines.items()]


def _describe(path: str, mistakes: Sequence[Mapping[str, Any]], root: type[BaseModel]) -> str:
    first = mistakes[0]
    if first["type"] == "extra_forbidden":
        return f"{path}: unknown key; {_hint(first['loc'], root)}"
    if first["type"] in {"model_type", "model_attributes_type"}:
        found = type(first["input"]).__name__
        return f"{path}: expected keys with values, found {shown(first['input'])}, a {found}"
    # Why a text could not be read as a number says less than the text itself, shown behind.
    wanted = dict.fromkeys(_plain(str(each["msg"])) for each in mistakes)
    said, *others = wanted
    for other in others:
        # "'a' or 'b'" and "'c'" are "'a', 'b' or 'c'".
        said = said.replace("' or '", "', '") + " or " + other.removeprefix(_WANTED)
    return f"{path or 'file'}: {said} (got {shown(first['input'])})"


def _plain(message: str) -> str:
    """In words of the file and not of Python."""
    for word, plain in _PLAIN.items():
        message = message.replace(word, plain)
    return message.split(", unable")[0]


def _path(location: Sequence[int | str], root: type[BaseModel]) -> str:
    """The key as the file spells it, without the names of a union's branches behind it."""
    keys = [str(part) for part in location if part != "[key]"]
    section = root.model_fields.get(keys[0]) if keys else None
    if section is None or not isinstance(section.annotation, type) or len(keys) < 2:
        return ".".join(keys)
    field = section.annotation.model_fields.get(keys[1])
    is_union = field is not None and get_origin(field.annotation) in {Union, UnionType}
    return ".".join(keys[:2] if is_union else keys)


def _hint(location: Sequence[int | str], root: type[BaseModel]) -> str:
    keys = [str(part) for part in location]
    known = _known_keys(keys[:-1], root)
    close = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.4)
    if not close:
        # An abbreviation such as "lr" is no close match letter by letter.
        close = [key for key in known if _initials(key) == keys[-1].lower()]
    if close:
        return f"did you mean {close[0]}?"
    return f"known keys: {', '.join(known)}"


def shown(value: object) -> str:
    """A value as a message shows it: short."""
    try:
        found = repr(value)
    except ValueError:
        # A number of more digits than Python writes.
        return "a number beyond all bounds"
    return shortened(found, 60)


def _initials(key: str) -> str:
    return "".join(word[:1] for word in key.split("_"))


def _known_keys(path: list[str], section: type[BaseModel]) -> list[str]:
    for key in path:
        field = section.model_fields.get(key)
        if field is None or not isinstance(field.annotation, type):
            return []
        if not issubclass(field.annotation, BaseModel):
            return []
        section = field.annotation
    return list(section.model_fields)
