"""A list that is not the k best one by one: unlike each other (MMR), few of a kind (quotas)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64


def choose(
    scores: Float32[np.ndarray, " P"],
    embeddings: Float32[np.ndarray, "P D"],
    k: int,
    *,
    diversity: float,
    groups: Sequence[tuple[Sequence[tuple[Any, ...]], int]] = (),
) -> Int64[np.ndarray, " K"]:
    """Places of at most k of P candidates, the next always the best of those left.

    The best is the largest ``(1 - diversity) * relevance - diversity * nearest`` (Carbonell and
    Goldstein, SIGIR 1998): relevance is the score, stretched to 0 to 1 over the candidates,
    nearest the largest cosine with one that is chosen already.

    Args:
        scores: descending.
        groups: by column, the groups of each candidate, and how many of a group there may be.
    """
    span = float(scores[0] - scores[-1]) if len(scores) else 0.0
    relevance = (scores - scores[-1]) / span if span > 0 else np.zeros(len(scores), np.float32)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.maximum(norms, 1e-12)
    nearest = np.zeros(len(scores), np.float32)
    counts: list[Counter[Any]] = [Counter() for _ in groups]
    is_left = np.ones(len(scores), bool)
    chosen: list[int] = []
    while len(chosen) < k and is_left.any():
        value = (1 - diversity) * relevance - diversity * nearest
        best = int(np.argmax(np.where(is_left, value, -np.inf)))
        is_left[best] = False
        own = [places[best] for places, _ in groups]
        limits = [most for _, most in groups]
        full = zip(counts, own, limits, strict=True)
        if any(count[group] >= most for count, mine, most in full for group in mine):
            continue
        for count, mine in zip(counts, own, strict=True):
            count.update(mine)
        cosines = unit @ unit[best]
        nearest = cosines if not chosen else np.maximum(nearest, cosines)
        chosen.append(best)
    return np.array(chosen, np.int64)
