"""What a person can be shown of a recommender: titles, pictures, columns, a search by words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from twotower.data.features import Encoders
from twotower.data.ids import Ids
from twotower.data.schema import is_picture
from twotower.retrieval.filters import Catalogue
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.words import in_words, is_yes_no, timestamps
from twotower.serving.schemas import Card, ColumnAbout

# As many values of a column are offered to choose from.
_VALUES = 40
_COLUMNS = 60
_TITLES = ("title", "name", "item", "product", "label", "headline")
# Nothing but images of the page's own service, or written out in the column itself.
_PICTURE = re.compile(r"data:image/(png|jpeg|gif|webp|avif);base64,[A-Za-z0-9+/=]+|/[^/\\].*")


@dataclass(frozen=True)
class Shelf:
    """Users or items, and how each is shown; entry n is row n + 1.

    Attributes:
        values: plain values of their columns (see ``Entities``).
        title, picture: the column that names each, or shows it; None where there is none.
        pictures: the columns that lead to images, also to those that the page may not load.
    """

    ids: Ids
    values: Mapping[str, np.ndarray]
    catalogue: Catalogue
    times: set[str]
    title: str | None
    picture: str | None
    pictures: frozenset[str]

    @classmethod
    def of(cls, ids: Ids, values: Mapping[str, np.ndarray], encoders: Encoders) -> Shelf:
        """Of the users or the items of a recommender."""
        known = {name: column for name, (column, _) in encoders.by_column.items()}
        catalogue = Catalogue.of(known, values, len(ids))
        texts = {
            name: each.values
            for name, each in catalogue.columns.items()
            if each.values.dtype == object and each.column.kind != "list"
        }
        pictures = frozenset(n for n, column in texts.items() if _are(column, is_picture))
        picture = next((n for n, column in texts.items() if _are(column, _may_be_loaded)), None)
        named = {n: column for n, column in texts.items() if n not in {picture, *pictures}}
        title = _title(named)
        return cls(ids, values, catalogue, timestamps(encoders), title, picture, pictures)

    def cards(self, rows: Sequence[int] | np.ndarray) -> list[Card]:
        """How each of some rows from 1 is shown."""
        rows = np.asarray(rows, np.int64)
        abouts = in_words(self._said, rows, times=self.times)
        cards = []
        ids = self.ids.of(rows).tolist()
        for row, identity, about in zip(rows.tolist(), ids, abouts, strict=True):
            picture = self._text(self.picture, row)
            is_safe = picture is not None and _may_be_loaded(picture)
            cards.append(
                Card.model_construct(
                    id=identity,
                    title=self._text(self.title, row) or about or str(identity),
                    about=about if self._text(self.title, row) else "",
                    picture=picture if is_safe else None,
                )
            )
        return cards

    def find(self, words: str, most: int) -> np.ndarray:
        """Rows of the id, then of those whose title begins with the words, then holds them."""
        wanted = words.strip().casefold()
        exact = self.ids.rows([wanted, words.strip()])
        found = dict.fromkeys(exact[exact > 0].tolist())
        begins = [row for row, text in enumerate(self._searched, 1) if text.startswith(wanted)]
        found.update(dict.fromkeys(begins[:most]))
        if len(found) < most:
            parts = wanted.split()
            for row, text in enumerate(self._searched, 1):
                if all(part in text for part in parts):
                    found[row] = None
                    if len(found) >= most:
                        break
        return np.array(list(found)[:most], np.int64)

    @cached_property
    def columns(self) -> list[ColumnAbout]:
        """What there is to choose by, a column each, with its commonest values or its range."""
        return list(self._columns())[:_COLUMNS]

    def _columns(self) -> Iterator[ColumnAbout]:
        for name, each in self.catalogue.columns.items():
            if name in {self.title, self.picture, *self.pictures}:
                continue
            if each.values.dtype == object:
                counts = Counter(value for group in each.groups for value in group)
                common = [value for value, n in counts.most_common(_VALUES) if n > 1]
                if common:
                    kind = "list" if each.column.kind == "list" else "category"
                    yield ColumnAbout(name=name, kind=kind, values=common)
                continue
            there = each.values[~np.isnan(each.values)]
            if len(there) and name in self.times:
                first, last = _day(there.min()), _day(there.max())
                yield ColumnAbout(name=name, kind="time", low=first, high=last)
            elif len(there) and (each.column.kind == "boolean" or is_yes_no(there)):
                is_flag = each.column.kind == "boolean"
                yield ColumnAbout(
                    name=name, kind="yes_no", values=[True, False] if is_flag else [1, 0]
                )
            elif len(there):
                low, high = (float(f"{value:.5g}") for value in (there.min(), there.max()))
                yield ColumnAbout(name=name, kind="number", low=low, high=high)

    @cached_property
    def _said(self) -> dict[str, np.ndarray]:
        shown = {self.title, self.picture}
        return {name: column for name, column in self.values.items() if name not in shown}

    @cached_property
    def _searched(self) -> list[str]:
        if self.title is None:
            return [str(each).casefold() for each in self.ids.values.tolist()]
        return [(value or "").casefold() for value in self.values[self.title].tolist()]

    def _text(self, column: str | None, row: int) -> str | None:
        return None if column is None else self.values[column][row - 1]


def items_of(recommender: Recommender) -> Shelf:
    """The items; those removed are among them, since histories go on to name them."""
    return Shelf.of(recommender.items, recommender.item_values, recommender.item_encoders)


def users_of(recommender: Recommender) -> Shelf:
    """The users."""
    return Shelf.of(recommender.users, recommender.user_values, recommender.user_encoders)


def _may_be_loaded(picture: str) -> bool:
    return _PICTURE.fullmatch(picture) is not None


def _are(column: np.ndarray, fits: Callable[[str], bool]) -> bool:
    some = [value for value in column[:1000] if value is not None]
    return bool(some) and all(fits(value) for value in some[:50])


def _title(texts: Mapping[str, np.ndarray]) -> str | None:
    """A column that is called so, or else one that tells nearly each from the others."""
    for name in _TITLES:
        found = next((column for column in texts if column.casefold() == name), None)
        if found is not None:
            return found
    for name, column in texts.items():
        there = [value for value in column[:1000] if value is not None]
        if len(there) > 0.5 * len(column[:1000]) and len(set(there)) > 0.8 * len(there):
            return name
    return None


def _day(seconds: Any) -> str:
    return str(np.datetime64(int(seconds), "s").astype("datetime64[D]"))
