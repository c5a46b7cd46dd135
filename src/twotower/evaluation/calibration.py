"""Scores -> chances: a line in log-odds (Platt scaling), fitted on validation.

And whether chances come true.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from twotower.evaluation.metrics import equal_bins

# Of a normal distribution 95 % are this many deviations from its mean.
_Z = 1.96


def fit_line(
    scores: Float[np.ndarray, " N"], labels: Float[np.ndarray, " N"], *, steps: int = 50
) -> tuple[float, float]:
    """Slope and offset for which ``sigmoid(slope * score + offset)`` fits the labels best.

    Newton's method on the log-loss, with Platt's softened labels (Platt 1999), so that scores
    which separate the labels do not send the slope to infinity. A slope that would turn the
    order around is given up for the best constant.

    >>> slope, offset = fit_line(np.array([-1.0, 1.0, -1.0, 1.0]), np.array([0.0, 1, 1, 1]))
    >>> slope > 0
    True
    """
    x = scores.astype(np.float64)
    center, spread = float(x.mean()), float(x.std()) or 1.0
    design = np.stack([(x - center) / spread, np.ones_like(x)], 1)
    num_liked = float((labels > 0.5).sum())
    num_others = len(labels) - num_liked
    high, low = (num_liked + 1) / (num_liked + 2), 1 / (num_others + 2)
    soft = np.where(labels > 0.5, high, low)
    weights = np.zeros(2)
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-np.clip(design @ weights, -500, 500)))
        gradient = design.T @ (chance - soft)
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design
        step = np.linalg.solve(curvature + 1e-9 * len(x) * np.eye(2), gradient)
        # Newton may overshoot where the loss is nearly flat.
        weights -= step / max(1.0, float(np.abs(step).max()) / 2)
        if np.abs(step).max() < 1e-10:
            break
    if weights[0] <= 0:
        mean = soft.mean()
        weights = np.array([1e-6, np.log(mean / (1 - mean))])
    slope = float(weights[0]) / spread
    return slope, float(weights[1]) - slope * center


def reliability(
    is_liked: Bool[np.ndarray, " N"], chance: Float[np.ndarray, " N"], *, num_bins: int = 10
) -> list[dict[str, float]]:
    """What was promised and what came true, in bins of equal size in order of chance.

    The bins are those of ``metrics.calibration_error``, which is the mean distance between
    ``chance`` and ``share`` over rows.

    Returns:
        Of each bin the mean ``chance``, the ``share`` that was liked with its 95 % interval
        from ``low`` to ``high`` (Wilson 1927), and its ``rows``; the least chance first.

    >>> [found] = reliability(np.array([True, False]), np.array([0.5, 0.5]), num_bins=1)
    >>> found["share"], round(found["low"], 2), round(found["high"], 2)
    (0.5, 0.09, 0.91)
    """
    found = []
    for chances, shares in equal_bins(is_liked, chance, num_bins):
        share, count = float(shares.mean()), len(shares)
        middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
        reach = _Z * np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
        reach /= 1 + _Z**2 / count
        found.append(
            {
                "chance": float(chances.mean()),
                "share": share,
                "low": float(middle - reach),
                "high": float(middle + reach),
                "rows": count,
            }
        )
    return found
