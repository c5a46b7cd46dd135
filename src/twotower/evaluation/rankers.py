"""Whatever gives a user a score for every item, by which items can be ranked.

Rows are the caller's row numbers; row 0 is the unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Settings = Mapping[str, int | float | str]

# The baselines as people write them.
IN_WORDS: Mapping[str, str] = {
    "popularity": "popularity",
    "recent_popularity": "recent popularity",
    "item_knn": "item-kNN",
    "ease": "EASE",
    "ials": "iALS",
}


@dataclass(frozen=True)
class Factors:
    """A vector a user and a vector an item; the score is their inner product.

    Attributes:
        name: as reports call it.
        settings: what it was fitted with.
        seconds: how long the fit took, by the wall clock.
        knows_the_new: whether its scores mean something for users that training never met.
    """

    name: str
    users: Float32[np.ndarray, "U D"]
    items: Float32[np.ndarray, "I D"]
    settings: Settings = field(default_factory=dict)
    seconds: float = 0.0
    knows_the_new: bool = False

    def scores(self, user_rows: Int64[np.ndarray, " B"]) -> Float32[Tensor, "B I"]:
        """Of each user the scores of all items, row 0 left out, in a tensor of its own."""
        users = torch.from_numpy(self.users[user_rows])
        return users @ torch.from_numpy(self.items[1:]).T


@dataclass(frozen=True)
class ItemToItem:
    """A weight for each two items; the score sums those of a user's items with the item.

    Beside what ``Factors`` has:

    Attributes:
        met: (U, I) of ones where a user met an item.
        weights: (I, I), from the item met to the item scored; dense or sparse.
    """

    name: str
    met: csr_matrix
    weights: np.ndarray | csr_matrix
    settings: Settings = field(default_factory=dict)
    seconds: float = 0.0
    knows_the_new: bool = False

    def scores(self, user_rows: Int64[np.ndarray, " B"]) -> Float32[Tensor, "B I"]:
        """As ``Factors.scores``."""
        found = self.met[user_rows] @ self.weights
        dense = found if isinstance(found, np.ndarray) else found.toarray()
        return torch.from_numpy(np.ascontiguousarray(dense[:, 1:], np.float32))


Ranker = Factors | ItemToItem
