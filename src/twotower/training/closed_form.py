"""A start in closed form: the best linear item-to-item model that two tables can hold.

EASE (Steck, WWW 2019) scores an item by a sum over the items of a user's history, with weights
between any two items that follow from one matrix inverse. With V and s the right singular
vectors and values of the interactions and r the ridge, they are ``V G V' / (1 - lp)`` off the
diagonal, where ``G = s^2 / (s^2 + r)`` and lp is the diagonal of ``V G V'``. The first D
values give two tables whose inner products are those weights: the items' vectors in histories,
``V G``, and the items' own, ``V / (1 - lp)``. Where EASE needs a matrix of all pairs of items,
this takes seconds and D numbers an item, and on small data fewer values generalise better.

Interactions are first divided by powers of their users' and items' counts, lest busy users and
popular items decide everything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from twotower.data.interactions import Interactions

# Of those that score alike the first is taken.
_POWERS = ((0.25, 0.25), (0.0, 0.0), (0.5, 0.25), (0.5, 0.5))
_RIDGES = (1.0, 0.25, 4.0, 16.0)
_PARTS_OF_RANK = (2, 1, 4)
TRIALS = len(_POWERS) * len(_RIDGES) + len(_PARTS_OF_RANK) - 1
_ITERATIONS = 5
# Singular vectors beyond those asked for, which make those exact (Halko et al., 2011).
_SPARE = 30


@dataclass(frozen=True)
class Start:
    """What decides the two tables.

    Attributes:
        user_power, item_power: of the counts that interactions are divided by.
        ridge: in units of the mean squared singular value.
        rank: how many singular values.
    """

    user_power: float
    item_power: float
    ridge: float
    rank: int


@dataclass(frozen=True)
class Spectrum:
    """The largest singular values and right vectors of the scaled interactions.

    Attributes:
        squares: squared singular values, largest first.
        vectors: a row an item, row 0 included.
        item_scale: what each item's column was multiplied by.
    """

    squares: Float[Tensor, " Q"]
    vectors: Float[Tensor, "I Q"]
    item_scale: Float[Tensor, " I"]

    def tables(
        self, *, ridge: float, rank: int
    ) -> tuple[Float[Tensor, "I R"], Float[Tensor, "I R"]]:
        """The items' vectors in histories and the items' own, each with a mean square of 1."""
        squares, vectors = self.squares[:rank], self.vectors[:, :rank]
        kept = squares / (squares + ridge * self.squares.mean())
        own = (vectors.square() * kept).sum(1, keepdim=True)
        in_history = vectors * kept * self.item_scale[:, None]
        # An item of which one singular vector is all would be divided by nothing.
        items = vectors / (1 - own).clamp(min=1e-3) / self.item_scale[:, None]
        return _unit_size(in_history), _unit_size(items)


def _unit_size(table: Tensor) -> Tensor:
    return (table / table.square().mean().sqrt().clamp(min=1e-12)).float()


def spectrum(
    positives: Interactions,
    *,
    num_users: int,
    num_items: int,
    rank: int,
    user_power: float,
    item_power: float,
) -> Spectrum:
    """Decompose the interactions; a pair met several times counts once.

    Args:
        rank: how many singular values; as many as there are, if those are fewer.
    """
    keys = positives.user_rows.astype(np.int64) * (num_items + 1) + positives.item_rows
    users, items = np.divmod(np.unique(keys), num_items + 1)
    user_scale = _scale(users, num_users + 1, user_power)
    item_scale = _scale(items, num_items + 1, item_power)
    matrix = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([users, items])),
        torch.from_numpy(user_scale[users] * item_scale[items]),
        (num_users + 1, num_items + 1),
        check_invariants=False,
        is_coalesced=True,
    )
    wanted = min(rank + _SPARE, num_users, num_items)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _, values, vectors = torch.svd_lowrank(matrix, q=wanted, niter=_ITERATIONS)
    rank = min(rank, wanted)
    return Spectrum(
        values[:rank].square().double(),
        vectors[:, :rank].double(),
        torch.from_numpy(item_scale).double(),
    )


def _scale(rows: np.ndarray, size: int, power: float) -> np.ndarray:
    counts = np.maximum(np.bincount(rows, minlength=size), 1)
    scale: np.ndarray = (counts.astype(np.float64) ** -power).astype(np.float32)
    return scale


def usual(rank: int) -> Start:
    """The start to take where nothing can be tried: the first that ``choose`` tries."""
    return Start(*_POWERS[0], _RIDGES[0], max(rank // _PARTS_OF_RANK[0], 1))


def choose(
    positives: Interactions,
    score: Callable[[tuple[Tensor, Tensor]], float],
    *,
    num_users: int,
    num_items: int,
    rank: int,
) -> tuple[Start, Spectrum]:
    """The start whose tables score highest, and the spectrum that they come from.

    First powers and ridge are tried, then the rank.
    """

    def scores(found: Spectrum, start: Start) -> float:
        return score(found.tables(ridge=start.ridge, rank=start.rank))

    best: tuple[float, Start, Spectrum] | None = None
    for user_power, item_power in _POWERS:
        found = spectrum(
            positives,
            num_users=num_users,
            num_items=num_items,
            rank=rank,
            user_power=user_power,
            item_power=item_power,
        )
        part = max(len(found.squares) // _PARTS_OF_RANK[0], 1)
        for ridge in _RIDGES:
            start = Start(user_power, item_power, ridge, part)
            value = scores(found, start)
            if best is None or value > best[0]:
                best = value, start, found
    assert best is not None
    value, start, found = best
    for share in _PARTS_OF_RANK[1:]:
        other = replace(start, rank=max(len(found.squares) // share, 1))
        there = scores(found, other)
        if there > value:
            value, start = there, other
    return start, found
