"""What the towers must beat: popularity, and a well-tuned matrix factorisation.

Each baseline comes out as ``Factors``, a vector a user and a vector an item, so it ranks
through the same index, filters and metrics as the towers: a difference in the report is a
difference between models. Rows are the caller's row numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from jaxtyping import Float32, Int


@dataclass(frozen=True)
class Factors:
    """A fitted baseline; the score of a user and an item is ``users[user] @ items[item]``."""

    name: str
    users: Float32[np.ndarray, "U D"]
    items: Float32[np.ndarray, "I D"]
    settings: dict[str, int | float]
    seconds: float
    """How long the fit took, by the wall clock."""


class IalsSettings(TypedDict):
    """The arguments of ``ials`` that are tuned: ``ials(..., **settings)``."""

    factors: int
    regularization: float
    alpha: float
    iterations: int


@dataclass(frozen=True)
class Trial:
    """One setting tried in tuning, what it scored on validation, and fit plus scoring time."""

    settings: IalsSettings
    score: float
    seconds: float


def popularity(
    user_rows: Int[np.ndarray, " N"],
    item_rows: Int[np.ndarray, " N"],
    *,
    num_users: int,
    num_items: int,
) -> Factors:
    """Everybody gets the items with the most interactions; the score is their number.

    Raises:
        ValueError: no interactions.

    >>> popularity(np.array([0, 1]), np.array([2, 2]), num_users=2, num_items=3).items.ravel()
    array([0., 0., 2.], dtype=float32)
    """
    _require_some(user_rows)
    start = time.perf_counter()
    counts = np.bincount(item_rows, minlength=num_items).astype(np.float32)
    return Factors(
        name="popularity",
        users=np.ones((num_users, 1), dtype=np.float32),
        items=counts[:, None],
        settings={},
        seconds=time.perf_counter() - start,
    )


def ials(
    user_rows: Int[np.ndarray, " N"],
    item_rows: Int[np.ndarray, " N"],
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
    vector is added. A pair met twice counts once; a user or an item without an interaction has
    a zero vector. Solved by the ``implicit`` package on the CPU, where the same seed gives the
    same factors.

    Args:
        user_rows: who, below ``num_users``.
        item_rows: met what, below ``num_items``.
        num_users: rows of the user factors.
        num_items: rows of the item factors.
        factors: the vectors' width D.
        regularization: pull towards zero, not scaled by how much a user or item was seen.
        alpha: the weight of a met pair against that of any other.
        iterations: alternations; each solves all users, then all items.
        seed: of the first factors.

    Raises:
        ValueError: no interactions.
    """
    # Here, not above: reading metrics or popularity must not load the solver.
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix
    from threadpoolctl import threadpool_limits

    _require_some(user_rows)
    start = time.perf_counter()
    ones = np.ones(len(user_rows), dtype=np.float32)
    met = csr_matrix((ones, (user_rows, item_rows)), shape=(num_users, num_items))
    met.data[:] = 1  # the constructor has summed repeated pairs
    # The solver has its own threads: BLAS threads inside them make it several times slower, of
    # which it warns.
    with threadpool_limits(limits=1, user_api="blas"):
        model = AlternatingLeastSquares(
            factors=factors,
            regularization=regularization,
            alpha=alpha,
            iterations=iterations,
            random_state=seed,
        )
        model.fit(met, show_progress=False)
    return Factors(
        name="ials",
        users=model.user_factors,
        items=model.item_factors,
        settings={
            "factors": factors,
            "regularization": regularization,
            "alpha": alpha,
            "iterations": iterations,
        },
        seconds=time.perf_counter() - start,
    )


# Where the search starts, cheap ones: on dense data (MovieLens) the first two are near the best
# found, on sparse data (Gowalla, Amazon Beauty) the third is, with more factors; the fourth won
# on ML-1M split by time. Steps finer than doubling gained nothing beyond noise on ML-100K.
FIRST_SETTINGS: tuple[IalsSettings, ...] = tuple(
    IalsSettings(factors=factors, regularization=regularization, alpha=alpha, iterations=12)
    for factors, regularization, alpha in [
        (64, 40.0, 5.0),
        (64, 10.0, 1.0),
        (64, 10.0, 40.0),
        (64, 40.0, 1.0),
    ]
)
MOST_FACTORS = 512


def tuned_ials(
    train_user_rows: Int[np.ndarray, " N"],
    train_item_rows: Int[np.ndarray, " N"],
    score: Callable[[Factors], float],
    *,
    num_users: int,
    num_items: int,
    budget_seconds: float,
    seed: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[IalsSettings, list[Trial]]:
    """The best settings of ``ials`` found within the budget, and all that was tried.

    Fits on train and asks ``score`` how well the factors rank the *validation* part, which is
    neither in train nor in test: a baseline tuned on test is no fair opponent, nor is one that
    nobody tuned. The caller then fits ``ials`` once more, with the settings returned, on train
    and validation together.

    First come ``FIRST_SETTINGS``, then the best so far with one of its factors, regularization
    or alpha doubled or halved, until nothing near the best is better or the time is spent. A
    trial is not begun when one as long as the longest so far would not fit any more, and not
    cut short when it has begun; the first is always made.

    Args:
        train_user_rows: as in ``ials``.
        train_item_rows: as in ``ials``.
        score: what the report ranks by, on validation; higher is better.
        num_users: as in ``ials``.
        num_items: as in ``ials``.
        budget_seconds: for fits and scores together.
        seed: of each fit.
        clock: tells the time, in seconds.

    Raises:
        ValueError: no interactions, or a score that is not a finite number.
    """
    trials: list[Trial] = []
    start = clock()
    longest = 0.0
    while not trials or clock() - start + longest <= budget_seconds:
        settings = _next_settings(trials)
        if settings is None:
            break
        trial_start = clock()
        fitted = ials(
            train_user_rows,
            train_item_rows,
            num_users=num_users,
            num_items=num_items,
            seed=seed,
            **settings,
        )
        result = score(fitted)
        if not math.isfinite(result):
            raise ValueError(f"the score of {settings} is {result}")
        trials.append(Trial(settings, result, clock() - trial_start))
        longest = max(longest, trials[-1].seconds)
    return _best(trials).settings, trials


def _next_settings(trials: Sequence[Trial]) -> IalsSettings | None:
    """What to try after these trials; None when nothing near the best is untried."""
    if len(trials) < len(FIRST_SETTINGS):
        return FIRST_SETTINGS[len(trials)]
    tried = [trial.settings for trial in trials]
    near = _near(_best(trials).settings)
    return next((settings for settings in near if settings not in tried), None)


def _near(settings: IalsSettings) -> Iterator[IalsSettings]:
    """The settings one step away, the step that gains most on sparse data first."""
    if settings["factors"] * 2 <= MOST_FACTORS:
        yield {**settings, "factors": settings["factors"] * 2}
    for step in (2.0, 0.5):
        yield {**settings, "regularization": settings["regularization"] * step}
        yield {**settings, "alpha": settings["alpha"] * step}
    if settings["factors"] > 1:
        yield {**settings, "factors": settings["factors"] // 2}


def _best(trials: Sequence[Trial]) -> Trial:
    """The trial with the highest score; the earlier one of two equals."""
    return max(trials, key=lambda trial: trial.score)


def _require_some(user_rows: Int[np.ndarray, " N"]) -> None:
    if len(user_rows) == 0:
        raise ValueError("a baseline needs at least one interaction")
