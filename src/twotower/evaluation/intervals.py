"""How sure a mean over users is: percentile bootstrap intervals.

The user is the unit that is drawn again, because a user's rows are not independent of each
other. An interval tells what another draw of *users* would have changed; it does not know what
another training seed would have changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int

# Bounds the memory: about 4 million drawn users at a time, 32 MB an array.
DRAWS_AT_A_TIME = 2**22


@dataclass(frozen=True)
class Interval:
    """A mean, and where it may as well lie.

    >>> print(Interval(0.1234, 0.1181, 0.1279))
    0.123 [0.118, 0.128]
    >>> f"{Interval(0.0016, -0.0004, 0.0031):.4f}"
    '0.0016 [-0.0004, 0.0031]'
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return format(self, ".3f")

    def __format__(self, spec: str) -> str:
        if not spec:
            return str(self)
        # "z": a small negative number is written 0.000, not -0.000.
        mean, low, high = (
            format(value, "z" + spec) for value in (self.mean, self.low, self.high)
        )
        return f"{mean} [{low}, {high}]"


def bootstrap_means(
    values: Float[np.ndarray, "U M"],
    *,
    seed: int,
    num_resamples: int = 1000,
    level: float = 0.95,
) -> list[Interval]:
    """The mean of each column with its interval; all columns see the same resamples.

    Draws U users with replacement ``num_resamples`` times and takes the middle ``level`` of the
    resampled means (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

    Args:
        values: one row a user, one column a metric.
        seed: the same seed and number of users give the same resamples in every call.
        num_resamples: how often to draw.
        level: the interval's coverage, between 0 and 1.

    Returns:
        One interval a column. A single user's interval has no width: it says nothing.

    Raises:
        ValueError: no users, no resamples, or a level that is not between 0 and 1.
    """
    if len(values) == 0:
        raise ValueError("no users to take the mean of")
    if num_resamples < 1 or not 0 < level < 1:
        raise ValueError(f"need resamples and a level in (0, 1): {num_resamples=}, {level=}")
    exact = values.astype(np.float64)
    means = exact.mean(axis=0)
    # Deviations, not values: no precision is lost on metrics that are all nearly the same.
    deviations = exact - means
    resampled = np.concatenate(
        [
            times @ deviations / len(exact)
            for times in _times_drawn(len(exact), num_resamples, np.random.default_rng(seed))
        ]
    )
    low, high = means + np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    columns = zip(means.tolist(), low.tolist(), high.tolist(), strict=True)
    return [Interval(*column) for column in columns]


def _times_drawn(
    num_users: int, num_resamples: int, rng: np.random.Generator
) -> Iterator[Float64[np.ndarray, "R U"]]:
    """How often each user is drawn in each resample, a few resamples at a time."""
    at_a_time = max(1, DRAWS_AT_A_TIME // num_users)
    for start in range(0, num_resamples, at_a_time):
        num_rows = min(at_a_time, num_resamples - start)
        drawn: Int[np.ndarray, "R U"] = rng.integers(num_users, size=(num_rows, num_users))
        # One count for all resamples of the chunk: resample r owns the numbers r*U to (r+1)*U.
        drawn += num_users * np.arange(num_rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=num_rows * num_users)
        yield times.reshape(num_rows, num_users).astype(np.float64)


def bootstrap_mean(
    values: Float[np.ndarray, " U"],
    *,
    seed: int,
    num_resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """The mean of one metric with its interval; see ``bootstrap_means``.

    >>> bootstrap_mean(np.array([0.25]), seed=0)
    Interval(mean=0.25, low=0.25, high=0.25)
    """
    columns = bootstrap_means(
        values[:, None], seed=seed, num_resamples=num_resamples, level=level
    )
    return columns[0]


def paired_difference(
    ours: Float[np.ndarray, " U"],
    theirs: Float[np.ndarray, " U"],
    *,
    seed: int,
    num_resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """How much better ``ours`` is, user by user, on average; above 0 where we are better.

    Row u of both is the same user, and each resample draws the same users for both: what makes
    a user easy or hard for everybody cancels, so the interval is tighter than the two intervals
    side by side. Zero outside it: the difference is not an accident of who the users were.

    >>> print(paired_difference(np.array([0.4, 0.9]), np.array([0.3, 0.8]), seed=0))
    0.100 [0.100, 0.100]
    """
    return bootstrap_mean(ours - theirs, seed=seed, num_resamples=num_resamples, level=level)
