"""Features that seem to have been computed from the interactions, the test part included."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Shaped

from twotower.data.arrays import blocks, counts_of
from twotower.data.entities import Entities
from twotower.data.interactions import Interactions

_TOO_ALIKE = 0.95
_LEAST_ROWS = 20


def leak_suspects(
    entities: Entities,
    who: Literal["user", "item"],
    met: Interactions,
    repeats: Iterable[Interactions] = (),
) -> dict[str, str]:
    """Numeric columns that follow what the interactions say of the same users or items.

    Args:
        who: whether the entities are the users or the items of ``met``.
        repeats: rows of the tables that do not count since their pair came once more. Who
            computed a column perhaps did not drop them.

    Returns:
        Column name -> what it follows and how closely.
    """
    size = len(entities) + 1
    measured = [(likeness, *said) for said in _summaries(who, [met], size)]
    if repeats := list(repeats):
        # Repeats make giants of a few, and by value any honest number follows those.
        measured += [(by_rank, *said) for said in _summaries(who, [met, *repeats], size)]
    suspects = {}
    for name, values in entities.values.items():
        if entities.columns[name].kind != "numeric":
            continue
        closest, what = max(
            ((measure(values, said), what) for measure, what, said in measured),
            key=lambda found: found[0],
        )
        if closest > _TOO_ALIKE:
            suspects[name] = f"{what} (correlation {closest:.2f})"
    return suspects


def _summaries(
    who: Literal["user", "item"], tables: Sequence[Interactions], size: int
) -> list[tuple[str, Float64[np.ndarray, " E"]]]:
    """What the tables together say of each user or item, and its name."""
    whose = [table.user_rows if who == "user" else table.item_rows for table in tables]
    counts = np.sum([counts_of(rows, size) for rows in whose], axis=0)[1:]
    found = [("number of interactions", counts.astype(np.float64))]
    labels, ratings = ([getattr(t, name) for t in tables] for name in ("labels", "ratings"))
    found.append(("mean label", _means(whose, labels, size)))
    if all(values is not None for values in ratings):
        found.append(("mean rating", _means(whose, ratings, size)))
    return found


def _means(
    whose: Sequence[np.ndarray], values: Sequence[Float[np.ndarray, " N"]], size: int
) -> Float64[np.ndarray, " E"]:
    """The mean of each row's values, NaN where it has none."""
    sums, counts = np.zeros(size), np.zeros(size)
    for rows, said in zip(whose, values, strict=True):
        for part in blocks(len(rows)):
            there = ~np.isnan(said[part])
            known = rows[part][there]
            sums += np.bincount(known, said[part][there], minlength=size)
            counts += np.bincount(known, minlength=size)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)[1:]


def likeness(one: Float[np.ndarray, " E"], other: Float[np.ndarray, " E"]) -> float:
    """How alike two columns order the rows, 0 to 1; 0 where too few rows have both.

    It is Spearman's correlation, or Pearson's where that is larger and the ranks agree in the
    main: one giant among dwarfs makes any two columns correlate.

    >>> growing = np.arange(30.0)
    >>> round(likeness(growing, -np.exp(growing)), 6)
    1.0
    """
    ranked = by_rank(one, other)
    if ranked <= 0.8:
        return ranked
    both = ~(np.isnan(one) | np.isnan(other))
    return max(ranked, abs(_correlation(one[both], other[both])))


def by_rank(one: Float[np.ndarray, " E"], other: Float[np.ndarray, " E"]) -> float:
    """Spearman's correlation without its sign; 0 where too few rows have both."""
    both = ~(np.isnan(one) | np.isnan(other))
    x, y = one[both], other[both]
    if len(x) < _LEAST_ROWS or not (_varies(x) and _varies(y)):
        return 0.0
    return abs(_correlation(ranks(x), ranks(y)))


def _varies(values: np.ndarray) -> bool:
    # Two values are a yes or no; nothing can be told from how it correlates.
    return len(np.unique(values)) > 2


def _correlation(x: Float64[np.ndarray, " E"], y: Float64[np.ndarray, " E"]) -> float:
    # Scaled first, since the square of a large float is no float.
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    x, y = x - x.mean(), y - y.mean()
    spread = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / spread if spread > 0 else 0.0


def ranks(values: Shaped[np.ndarray, " E"]) -> Float64[np.ndarray, " E"]:
    """The rank of each value from 1, equal values sharing the mean of theirs.

    >>> ranks(np.array([3.0, 1.0, 3.0]))
    array([2.5, 1. , 2.5])
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts).astype(np.float64)
    shared: Float64[np.ndarray, " E"] = (last - (counts - 1) / 2)[inverse]
    return shared


def counts_rows(values: Float[np.ndarray, " E"]) -> bool:
    """Whether a column is 0, 1, 2, ... (or from another start) in the order of the table."""
    there: Bool[np.ndarray, " E"] = ~np.isnan(values)
    numbers = values[there]
    return len(numbers) >= _LEAST_ROWS and bool((np.diff(numbers) == 1).all())
