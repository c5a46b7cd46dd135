"""Losses of a row, an other at a time, from the words of their docstrings.

Each takes the liked item's score, the others' scores with how many items each stands for, how
many items there are beside what is liked, and a margin.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Scored = list[tuple[Tensor, float]]
Loop = Callable[[Tensor, Scored, float, float], Tensor]
NEGATIVE_WEIGHT = 3.0


def mean(values: Scored, total: float) -> Tensor:
    return sum((w * v for v, w in values), torch.zeros((), dtype=torch.float64)) / total


def softmax(own: Tensor, others: Scored, total: float, margin: float) -> Tensor:
    return (own.exp() + sum(w * o.exp() for o, w in others)).log() - own


def bce(own: Tensor, others: Scored, total: float, margin: float) -> Tensor:
    values = [(-(1 - 1 / (1 + torch.exp(-o))).log(), w) for o, w in others]
    return -(1 / (1 + torch.exp(-own))).log() + mean(values, total)


def bpr(own: Tensor, others: Scored, total: float, margin: float) -> Tensor:
    values = [(-(1 / (1 + torch.exp(o - own))).log(), w) for o, w in others]
    return 0 * own + mean(values, total)


def ccl(own: Tensor, others: Scored, total: float, margin: float) -> Tensor:
    values = [(o - margin if o > margin else 0 * o, w) for o, w in others]
    return 1 - own + NEGATIVE_WEIGHT * mean(values, total)


def warp(own: Tensor, others: Scored, total: float, margin: float) -> Tensor:
    within = [(o - own + margin, w) for o, w in others if o - own + margin > 0]
    rank = sum(w for _, w in within)
    return math.log(1 + rank) * mean(within, rank) if within else 0 * own


def triplet(own: Tensor, others: Scored, total: float, margin: float) -> Tensor:
    values = [(torch.relu(2 * (o - own) + margin), w) for o, w in others]
    return 0 * own + mean(values, total)


def semi_hard(own: Tensor, others: Scored, total: float, margin: float) -> Tensor:
    if not others:
        return 0 * own
    farther = [o for o, _ in others if o < own]
    far = max(farther) if farther else min(o for o, _ in others)
    return torch.relu(2 * (far - own) + margin)


LOOPS: dict[str, Loop] = {
    "softmax": softmax,
    "bce": bce,
    "bpr": bpr,
    "ccl": ccl,
    "warp": warp,
    "triplet": triplet,
    "semi_hard": semi_hard,
}
