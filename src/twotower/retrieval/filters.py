"""Which items fulfil conditions on their columns."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from twotower.config import Kind
from twotower.data.plain import plain_json
from twotower.data.schema import Column
from twotower.errors import DataError, RequestError, shortened

_ORDERED: Mapping[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_SQL_TYPES: Mapping[Kind, str] = {"numeric": "DOUBLE", "list": "VARCHAR[]", "categorical": ""}


@dataclass(frozen=True)
class ItemColumn:
    """A column of I items, ready to be compared.

    Attributes:
        values: plain values (see ``Entities``).
    """

    column: Column
    values: np.ndarray

    def fulfilling(self, condition: Any) -> Bool[np.ndarray, " I"]:
        """Which items fulfil a condition (see ``Condition``); what is missing fulfils none.

        But for ``not in``: what is not known to be one of these is not.

        Raises:
            RequestError: a value that this column can not have, or one that has no order.
        """
        if isinstance(condition, list):
            condition = {"in": condition}
        elif not isinstance(condition, Mapping):
            condition = {"=": condition}
        fits = np.ones(len(self.values), bool)
        for comparison, wanted in condition.items():
            if comparison in _ORDERED:
                fits &= self._ordered(comparison, wanted)
            elif (comparison == "=") == isinstance(wanted, list):
                number = "several, in a list" if comparison != "=" else "one value"
                raise RequestError(f"where.{self.column.name}: {comparison!r} takes {number}")
            else:
                one_of = self._one_of(wanted if isinstance(wanted, list) else [wanted])
                fits &= ~one_of if comparison == "not in" else one_of
        return fits

    def _ordered(self, comparison: str, wanted: Any) -> Bool[np.ndarray, " I"]:
        if self.column.kind not in {"numeric", "timestamp", "boolean"}:
            raise RequestError(
                f"where.{self.column.name}: a {self.column.kind} has no order; compare it "
                "with 'in' or 'not in'"
            )
        with np.errstate(invalid="ignore"):
            compared: np.ndarray = _ORDERED[comparison](self.values, self._plain(wanted))
        return compared

    def _one_of(self, wanted: list[Any]) -> Bool[np.ndarray, " I"]:
        plain = [self._plain(value) for value in wanted]
        if self.values.dtype != object:
            return np.isin(self.values, plain)
        places, rows = self._occurrences
        chosen = [place for value in set(plain) if (place := places.get(value)) is not None]
        fits = np.zeros(len(self.values), bool)
        for place in chosen:
            fits[rows[place]] = True
        return fits

    @cached_property
    def _occurrences(self) -> tuple[dict[str, int], list[Int64[np.ndarray, " N"]]]:
        """Of each different text its place among the lists of items that have it."""
        found: dict[str, list[int]] = {}
        for row, groups in enumerate(self.groups):
            for group in groups:
                found.setdefault(group, []).append(row)
        return {v: n for n, v in enumerate(found)}, [np.array(rows) for rows in found.values()]

    @cached_property
    def groups(self) -> list[tuple[Any, ...]]:
        """Of each item the values it has here: none, one, or those of a list."""
        if self.values.dtype != object:
            return [() if value != value else (value,) for value in self.values.tolist()]
        lists = self.column.kind == "list"
        return [() if v is None else tuple(v) if lists else (v,) for v in self.values]

    def _plain(self, value: Any) -> Any:
        kind = self.column.kind
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = {"numeric": is_number, "boolean": isinstance(value, bool) or value in (0, 1)}
        if isinstance(value, list) or not fits.get(kind, True):
            raise self._refused(value)
        one = Column("", "VARCHAR", "categorical", "") if kind in {"list", "text"} else None
        try:
            plain = plain_json(one or self.column, value)
        except DataError:
            raise self._refused(value) from None
        return plain[0]

    def _refused(self, value: Any) -> RequestError:
        shown = shortened(repr(value), 80)
        return RequestError(
            f"where.{self.column.name}: expected a {self.column.kind}, got {shown}"
        )


@dataclass(frozen=True)
class Catalogue:
    """The columns of I items, by name."""

    columns: Mapping[str, ItemColumn]
    size: int

    @classmethod
    def of(
        cls, known: Mapping[str, Column], values: Mapping[str, np.ndarray], size: int
    ) -> Catalogue:
        """Of the plain values of items, and what training took the columns for."""
        flat = {name: each for name, each in values.items() if each.ndim == 1}
        columns = {
            name: ItemColumn(known.get(name) or _untrained(name, each), each)
            for name, each in flat.items()
        }
        return cls(columns, size)

    def column(self, name: str, where: str) -> ItemColumn:
        """One of them.

        Raises:
            RequestError: there is none of that name; ``where`` says in what it was named.
        """
        if name not in self.columns:
            shown = shortened(name, 80)
            there = ", ".join(self.columns) or "none"
            raise RequestError(f"{where}: no column {shown!r}; the items' columns are: {there}")
        return self.columns[name]

    def fulfilling(self, where: Mapping[str, Any]) -> Bool[np.ndarray, " I"]:
        """Which items fulfil all conditions.

        Raises:
            RequestError: a column that there is not, or a value that it can not have.
        """
        fits = np.ones(self.size, bool)
        for name, condition in where.items():
            fits &= self.column(name, "where").fulfilling(condition)
        return fits


def _untrained(name: str, values: np.ndarray) -> Column:
    """A column that told training nothing, such as one that was the same for all."""
    kind: Kind = "numeric"
    if values.dtype == object:
        is_list = any(isinstance(value, list) for value in values[:1000])
        kind = "list" if is_list else "categorical"
    return Column(name, _SQL_TYPES[kind], kind, "its values")
