"""Columns -> rows of numbers: fitted on train, written beside the model, used on a request.

An encoder is a frozen value. It turns a column's plain values (see ``Entities``) into one of
three things: numbers (``Dense``), a code a row (``Coded``), or a bag of codes (``Bagged``).
In codes, 0 is "missing" and 1 is "unknown": a value that train did not show, or only once.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from twotower.config import ModelConfig
from twotower.data.schema import Column
from twotower.errors import DataError

MISSING, UNKNOWN, FIRST = 0, 1, 2
_SECONDS_A_DAY = 86_400.0
_SECONDS_A_YEAR = 365.2425 * _SECONDS_A_DAY
_FURTHEST = 8.0


@dataclass(frozen=True)
class Numeric:
    """A number in standard deviations from train's mean; a flag where train had it missing.

    Values are cut at 8 standard deviations: an outlier says "very large", not "a million".
    """

    mean: float
    deviation: float
    flags_missing: bool

    @property
    def width(self) -> int:
        """Numbers a row."""
        return 1 + self.flags_missing

    def encode(self, values: np.ndarray) -> np.ndarray:
        """(N,) float64 with NaN where missing -> (N, width) float32."""
        # What overflows was far beyond the cut anyway.
        with np.errstate(over="ignore"):
            scaled = (values - self.mean) / self.deviation
        return _filled(np.clip(scaled, -_FURTHEST, _FURTHEST), 0.0, self.flags_missing)


@dataclass(frozen=True)
class Boolean:
    """Yes 1, no 0; train's mean and a flag where it is missing."""

    mean: float
    flags_missing: bool

    @property
    def width(self) -> int:
        """Numbers a row."""
        return 1 + self.flags_missing

    def encode(self, values: np.ndarray) -> np.ndarray:
        """(N,) float64 with NaN where missing -> (N, width) float32."""
        return _filled(values, self.mean, self.flags_missing)


@dataclass(frozen=True)
class Moment:
    """A time: its age before train's last known one, and its place in year, week and day."""

    mean_years: float
    deviation_years: float
    has_hours: bool
    flags_missing: bool

    @property
    def width(self) -> int:
        """Numbers a row."""
        return (7 if self.has_hours else 5) + self.flags_missing

    def encode(self, values: np.ndarray) -> np.ndarray:
        """(N,) float64 seconds since 1970, NaN where missing -> (N, width) float32."""
        missing = np.isnan(values)
        seconds = np.where(missing, 0.0, values)
        age = (seconds / _SECONDS_A_YEAR - self.mean_years) / self.deviation_years
        parts = [np.clip(age, -_FURTHEST, _FURTHEST)]
        periods = [_SECONDS_A_YEAR, 7 * _SECONDS_A_DAY]
        for period in periods + ([_SECONDS_A_DAY] if self.has_hours else []):
            angle = 2 * np.pi * np.mod(seconds, period) / period
            parts += [np.sin(angle), np.cos(angle)]
        rows = np.where(missing[:, None], 0.0, np.stack(parts, 1))
        flags = [missing[:, None]] if self.flags_missing else []
        return np.concatenate([rows, *flags], 1).astype(np.float32)


@dataclass(frozen=True)
class Vector:
    """A vector made elsewhere, scaled to a mean length of the square root of its dimension."""

    dimension: int
    scale: float

    @property
    def width(self) -> int:
        """Numbers a row."""
        return self.dimension

    def encode(self, values: np.ndarray) -> np.ndarray:
        """(N, dimension) float32 with NaN where missing -> the same, scaled, zeros there.

        Raises:
            DataError: another dimension than that of train.
        """
        if values.shape[1] == 0:
            return np.zeros((len(values), self.dimension), np.float32)
        if values.shape[1] != self.dimension:
            raise DataError(
                f"expected vectors of {self.dimension} numbers, got {values.shape[1]}"
            )
        largest = np.finfo(np.float32).max
        scaled = np.clip(values.astype(np.float64) * self.scale, -largest, largest)
        return np.nan_to_num(scaled, nan=0.0).astype(np.float32)


@dataclass(frozen=True)
class Category:
    """One of a list of values; a value seen once or never in train is unknown."""

    values: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many codes there are."""
        return FIRST + len(self.values)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """(N,) str or None -> (N,) int32 codes."""
        code_of: dict[str | None, int] = {None: MISSING}
        code_of.update((value, code) for code, value in enumerate(self.values, FIRST))
        return np.array([code_of.get(value, UNKNOWN) for value in values], np.int32)


@dataclass(frozen=True)
class Categories:
    """Several of a list of values; one that is there n times counts 1 + ln(n) times."""

    values: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many codes there are."""
        return FIRST + len(self.values)

    def encode(self, values: np.ndarray) -> list[list[int]]:
        """(N,) list of str or None -> for each row its codes; none where missing."""
        code_of = {value: number for number, value in enumerate(self.values, FIRST)}
        return [[code_of.get(v, UNKNOWN) for v in _damped(value or ())] for value in values]


@dataclass(frozen=True)
class Text:
    """Words, and the runs of 3 to 5 letters in them, hashed (as fastText does)."""

    buckets: int

    @property
    def size(self) -> int:
        """How many codes there are."""
        return FIRST + self.buckets

    def encode(self, values: np.ndarray) -> list[list[int]]:
        """(N,) str or None -> for each row the codes of its n-grams; none where missing."""
        return [[] if value is None else self._codes(value) for value in values]

    def _codes(self, text: str) -> list[int]:
        # Half a character, as broken JSON may hold, is as good a text as any other.
        grams = (gram.encode(errors="surrogatepass") for gram in text_grams(text))
        return [FIRST + zlib.crc32(gram) % self.buckets for gram in grams]


def text_grams(text: str, *, longest: int = 64) -> list[str]:
    """Words of a text and the letter runs in them, of the first ``longest`` words.

    >>> text_grams("Toy")
    ['<toy>', '<to', 'toy', 'oy>', '<toy', 'toy>']
    """
    grams: list[str] = []
    for word in re.findall(r"\w+", text.lower())[:longest]:
        whole = f"<{word}>"
        grams.append(whole)
        for length in (3, 4, 5):
            if length < len(whole):
                grams += [whole[i : i + length] for i in range(len(whole) - length + 1)]
    return grams


def _damped(values: Iterable[str]) -> list[str]:
    """What is said n times taken 1 + ln(n) times, rounded: it says little more than once."""
    counts = Counter(values)
    return [value for value, n in counts.items() for _ in range(round(1 + math.log(n)))]


def _filled(values: np.ndarray, fill: float, flags_missing: bool) -> np.ndarray:
    """One column of numbers; a second one says where they were missing, if train had that."""
    missing = np.isnan(values)
    columns = [np.where(missing, fill, values), *([missing] if flags_missing else [])]
    return np.stack(columns, 1).astype(np.float32)


Dense = Numeric | Boolean | Moment | Vector
Coded = Category
Bagged = Categories | Text
Encoder = Dense | Coded | Bagged
_ENCODERS: Mapping[str, type[Any]] = {
    kind.__name__: kind
    for kind in (Numeric, Boolean, Moment, Vector, Category, Categories, Text)
}


def fit_encoder(column: Column, values: np.ndarray, config: ModelConfig) -> Encoder | None:
    """The encoder of one column, fitted on its values in train; None if they tell nothing."""
    if column.kind == "numeric":
        return _fit_numeric(values)
    if column.kind == "boolean":
        there = values[~np.isnan(values)]
        if len(there) == 0 or (len(there) == len(values) and there.min() == there.max()):
            return None
        return Boolean(float(there.mean()), len(there) < len(values))
    if column.kind == "timestamp":
        return _fit_moment(values)
    if column.kind == "vector":
        there = ~np.isnan(values).any(1)
        if not there.any() or not values.shape[1]:
            return None
        length = float(np.sqrt(np.mean(values[there].astype(np.float64) ** 2)))
        return Vector(values.shape[1], 1.0 / length) if length > 0 else None
    if column.kind == "text":
        return Text(config.text_buckets) if any(v is not None for v in values) else None
    if column.kind == "list":
        counts = Counter(part for value in values if value for part in set(value))
        return Categories(_vocabulary(counts)) if counts else None
    if column.kind == "categorical":
        counts = Counter(value for value in values if value is not None)
        return Category(_vocabulary(counts)) if len(counts) > 1 else None
    return None


def _fit_numeric(values: np.ndarray) -> Numeric | None:
    there = values[~np.isnan(values)]
    if len(there) == 0:
        return None
    # Scaled first, since the square of a large float is no float.
    largest = max(float(np.abs(there).max()), 1e-300)
    deviation = float(np.std(there / largest)) * largest
    mean = float(np.mean(there / largest)) * largest
    if deviation <= 1e-12 * abs(mean):
        # A constant tells nothing, but that it is missing may.
        return Numeric(mean, 1.0, True) if len(there) < len(values) else None
    return Numeric(mean, deviation, len(there) < len(values))


def _fit_moment(values: np.ndarray) -> Moment | None:
    there = values[~np.isnan(values)]
    if len(there) == 0:
        return None
    years = there / _SECONDS_A_YEAR
    has_hours = bool(np.any(there % _SECONDS_A_DAY))
    deviation = max(float(years.std()), 1 / 365.0)
    return Moment(float(years.mean()), deviation, has_hours, len(there) < len(values))


def _vocabulary(counts: Mapping[str, int], *, largest: int = 100_000) -> tuple[str, ...]:
    """Values met at least twice, the most frequent first; ties by the value itself."""
    often = [(-count, value) for value, count in counts.items() if count > 1]
    return tuple(value for _, value in sorted(often)[:largest])


def to_json(encoders: Mapping[str, tuple[Column, Encoder]]) -> list[dict[str, Any]]:
    """What ``from_json`` reads."""
    return [
        {"column": asdict(column), "encoder": type(encoder).__name__, "fitted": asdict(encoder)}
        for column, encoder in encoders.values()
    ]


def from_json(entries: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Column, Encoder]]:
    """The encoders that ``to_json`` wrote."""
    encoders = {}
    for entry in entries:
        fitted = {k: tuple(v) if isinstance(v, list) else v for k, v in entry["fitted"].items()}
        column = Column(**entry["column"])
        encoders[column.name] = (column, _ENCODERS[entry["encoder"]](**fitted))
    return encoders
