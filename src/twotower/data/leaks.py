"""Features that seem to have been computed from the interactions, the test part included."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64, Shaped

from twotower.data.arrays import blocks, counts_of
from twotower.data.entities import Entities
from twotower.data.interactions import Interactions

_TOO_ALIKE = 0.95
_LEAST_ROWS = 20


def leak_suspects(entities: Entities, rows: np.ndarray, met: Interactions) -> dict[str, str]:
    """Numeric columns that follow what the interactions say of the same users or items.

    Args:
        rows: whose each interaction is, counted from 1: the users' or the items' rows of
            ``met``.

    Returns:
        Column name -> what it follows and how closely.
    """
    size = len(entities) + 1
    counts = counts_of(rows, size)[1:].astype(np.float64)
    said = {"number of interactions": counts, "mean label": _means(rows, met.labels, size)}
    if met.ratings is not None:
        said["mean rating"] = _means(rows, met.ratings, size)
    suspects = {}
    for name, values in entities.values.items():
        if entities.columns[name].kind != "numeric":
            continue
        closeness = {what: likeness(values, summary) for what, summary in said.items()}
        what = max(closeness, key=lambda key: closeness[key])
        if closeness[what] > _TOO_ALIKE:
            suspects[name] = f"{what} (correlation {closeness[what]:.2f})"
    return suspects


def _means(
    rows: np.ndarray, values: Float[np.ndarray, " N"], size: int
) -> Float64[np.ndarray, " E"]:
    """The mean of each row's values, NaN where it has none."""
    sums, counts = np.zeros(size), np.zeros(size)
    for part in blocks(len(rows)):
        there = ~np.isnan(values[part])
        whose = rows[part][there]
        sums += np.bincount(whose, values[part][there], minlength=size)
        counts += np.bincount(whose, minlength=size)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)[1:]


def likeness(one: Float[np.ndarray, " E"], other: Float[np.ndarray, " E"]) -> float:
    """How alike two columns order the rows, 0 to 1; 0 where too few rows have both.

    It is Spearman's correlation, or Pearson's where that is larger and the ranks agree in the
    main: one giant among dwarfs makes any two columns correlate.

    >>> growing = np.arange(30.0)
    >>> round(likeness(growing, -np.exp(growing)), 6)
    1.0
    """
    both = ~(np.isnan(one) | np.isnan(other))
    x, y = one[both], other[both]
    if len(x) < _LEAST_ROWS or not (_varies(x) and _varies(y)):
        return 0.0
    by_rank = abs(_correlation(ranks(x), ranks(y)))
    by_value = abs(_correlation(x, y))
    return max(by_rank, by_value) if by_rank > 0.8 else by_rank


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
