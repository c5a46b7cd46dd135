"""What the towers must beat: popularity, recent popularity, item-kNN, EASE and iALS.

Each fits on interactions and comes out as a ``Ranker``. A pair met twice counts once, but for
popularity.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from twotower.data.arrays import blocks, counts_of
from twotower.data.interactions import Interactions
from twotower.evaluation.rankers import Factors, ItemToItem

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MICROSECONDS_A_DAY = 86_400_000_000
# Rows of all pairs of items that are looked at together.
_AT_ONCE = 512


def popularity(met: Interactions, *, num_users: int, num_items: int) -> Factors:
    """Everybody gets the items with the most interactions; the score is their number.

    Args:
        met: the interactions, with one at least here and below.
        num_users, num_items: rows, row 0 included, here and below.
    """
    start = time.perf_counter()
    counts = counts_of(met.item_rows, num_items).astype(np.float32)
    return _same_for_all("popularity", counts, num_users, {}, start)


def recent_popularity(
    met: Interactions, *, num_users: int, num_items: int, half_life_days: float
) -> Factors:
    """Popularity in which an interaction counts half as much for each half-life of its age.

    Args:
        half_life_days: age is counted from the last interaction.

    Raises:
        ValueError: the interactions have no times.
    """
    start = time.perf_counter()
    if met.times is None:
        raise ValueError("recent popularity needs the times of interactions")
    days = (met.times.max() - met.times) / MICROSECONDS_A_DAY
    weights = np.exp2(-days / half_life_days)
    counts = np.bincount(met.item_rows, weights, minlength=num_items).astype(np.float32)
    settings = {"half_life_days": half_life_days}
    return _same_for_all("recent_popularity", counts, num_users, settings, start)


def _same_for_all(
    name: str, scores: np.ndarray, num_users: int, settings: dict[str, float], start: float
) -> Factors:
    return Factors(
        name,
        np.ones((num_users, 1), dtype=np.float32),
        scores[:, None],
        settings,
        time.perf_counter() - start,
        knows_the_new=True,
    )


def item_knn(
    met: Interactions, *, num_users: int, num_items: int, neighbours: int, weighting: str
) -> ItemToItem:
    """Each item's nearest others by whom they share (Sarwar et al., WWW 2001), by ``implicit``.

    Args:
        neighbours: how many of an item's nearest count.
        weighting: of interactions before the cosine: ``cosine`` (none), ``tfidf``, ``bm25``.
    """
    from implicit import nearest_neighbours as knn

    start = time.perf_counter()
    matrix = _matrix(met, num_users, num_items)
    # An item met only by users who met everything has no length under tfidf.
    with np.errstate(invalid="ignore"):
        if weighting == "bm25":
            weighted = knn.bm25_weight(matrix.T, K1=1.2, B=0.75)
        else:
            plain = knn.tfidf_weight(matrix.T) if weighting == "tfidf" else matrix.T
            weighted = knn.normalize(plain)
    weighted.data = np.nan_to_num(weighted.data)
    # Every item is its own nearest, and is no help: what was met is never recommended.
    nearest = knn.all_pairs_knn(weighted.T.tocsr(), neighbours + 1, show_progress=False)
    return ItemToItem(
        "item_knn",
        matrix,
        nearest.T.tocsr().astype(np.float32),
        {"neighbours": neighbours, "weighting": weighting},
        time.perf_counter() - start,
    )


def ease(
    met: Interactions,
    *,
    num_users: int,
    num_items: int,
    ridge: float,
    together: np.ndarray | None = None,
) -> ItemToItem:
    """EASE (Steck, WWW 2019): the best linear weights between items, in closed form.

    Holds one dense matrix of all pairs of items, in which all of it happens.

    Args:
        ridge: pull of the weights towards zero, in interactions; lambda in the paper.
        together: ``met_together`` of the same interactions, which is left as it is.
    """
    # LAPACK in place: twice as fast as by torch, which makes a copy for each step.
    from scipy.linalg.lapack import spotrf, spotri

    start = time.perf_counter()
    if together is None:
        weights = met_together(met, num_users=num_users, num_items=num_items)
    else:
        weights = together.copy()
    np.fill_diagonal(weights, weights.diagonal() + np.float32(ridge))
    # Of a symmetric matrix rows are columns, as Fortran has them: nothing is copied.
    factor, failed = spotrf(weights.T, lower=1, clean=0, overwrite_a=1)
    assert not failed
    inverse, failed = spotri(factor, lower=1, overwrite_c=1)
    assert not failed
    # The half above the diagonal is still the old one.
    for part in blocks(num_items, _AT_ONCE):
        inverse[part, part.stop :] = inverse[part.stop :, part].T
        square = inverse[part, part]
        inverse[part, part] = np.tril(square) + np.tril(square, -1).T
    weights = inverse.T
    weights /= -inverse.diagonal().copy()
    np.fill_diagonal(weights, 0.0)
    seconds = time.perf_counter() - start
    return ItemToItem(
        "ease", _matrix(met, num_users, num_items), weights, {"ridge": ridge}, seconds
    )


def met_together(met: Interactions, *, num_users: int, num_items: int) -> np.ndarray:
    """(I, I): how many users met both items; on the diagonal, the item."""
    matrix = _matrix(met, num_users, num_items)
    found = np.empty((num_items, num_items), np.float32)
    by_item = matrix.T.tocsr()
    # Where most pairs are met, a sparse matrix of them is thrice as large as a dense one.
    for part in blocks(num_items, _AT_ONCE):
        found[part] = (by_item[part] @ matrix).toarray()
    return found


def ials(
    met: Interactions,
    *,
    num_users: int,
    num_items: int,
    factors: int,
    regularization: float,
    alpha: float,
    iterations: int,
    seed: int,
) -> Factors:
    """Implicit alternating least squares (Hu, Koren and Volinsky, ICDM 2008).

    Makes the score 1 where the user met the item and 0 elsewhere, in squared error, where a met
    pair weighs ``alpha`` and any other 1; ``regularization`` times the squared length of each
    vector is added. A user or an item without an interaction has a zero vector. Solved by the
    ``implicit`` package on the CPU, where the same seed gives the same factors.

    Args:
        factors: the vectors' width D.
        regularization: pull towards zero, not scaled by how much a user or item was seen.
        alpha: the weight of a met pair against that of any other.
        iterations: alternations; each solves all users, then all items.
        seed: of the first factors.
    """
    # Here, not above: reading metrics or popularity must not load the solver.
    from implicit.cpu.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    start = time.perf_counter()
    settings = {
        "factors": factors,
        "regularization": regularization,
        "alpha": alpha,
        "iterations": iterations,
    }
    # The solver has its own threads: BLAS threads inside them make it several times slower, of
    # which it warns.
    with threadpool_limits(limits=1, user_api="blas"):
        model = AlternatingLeastSquares(**settings, random_state=seed)
        model.fit(_matrix(met, num_users, num_items), show_progress=False)
    seconds = time.perf_counter() - start
    return Factors("ials", model.user_factors, model.item_factors, settings, seconds)


def _matrix(met: Interactions, num_users: int, num_items: int) -> csr_matrix:
    """(U, I) of ones where a user met an item."""
    from scipy.sparse import csr_matrix

    ones = np.ones(len(met), dtype=np.float32)
    matrix = csr_matrix((ones, (met.user_rows, met.item_rows)), shape=(num_users, num_items))
    matrix.data[:] = 1  # the constructor has summed repeated pairs
    return matrix
