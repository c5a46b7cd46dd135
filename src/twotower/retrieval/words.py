"""A user or an item in a few words, from the plain values of its columns."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


def describe(values: Mapping[str, np.ndarray], row: int, *, parts: int = 4) -> str:
    """A row in a few words: texts and categories first, then what is yes, then numbers."""
    words, numbers = [], []
    if row == 0:
        return ""
    for name, column in values.items():
        value = column[row - 1]
        if column.ndim > 1 or value is None:
            continue
        if isinstance(value, list):
            words += [", ".join(map(str, value[:4]))] if value else []
        elif isinstance(value, str):
            words.append(value if len(value) < 40 else value[:37] + "...")
        elif value == 1.0 and is_yes_no(column):
            words.append(name)
        elif not math.isnan(value) and not is_yes_no(column):
            numbers.append(f"{name} {value:.4g}")
    return " · ".join((words + numbers)[:parts])


def is_yes_no(column: np.ndarray) -> bool:
    """Whether a column of numbers holds nothing but 0 and 1, as its first rows tell."""
    there = column[~np.isnan(column)]
    return bool(np.isin(there[:1000], (0.0, 1.0)).all())
