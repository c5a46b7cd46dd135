"""Embeddings -> places on a plane: near one another where they are nearest in truth."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from twotower.training.adam import Adam

# Of each point so many are its neighbours.
NEIGHBOURS = 10
_STEPS = 300
_OTHERS = 20
_RATE = 0.3
# Scores that are held at once.
_HELD = 2**22


def lay_out(vectors: Float32[Tensor, "I D"], *, seed: int) -> Float32[Tensor, "I 2"]:
    """Places where whatever is nearest in the vectors is near, as far as two axes allow.

    From the first two principal axes on, each point has to tell one of its nearest neighbours
    by the cosine among random others, where ``-log(1 + distance ** 2)`` is the logit: the
    softmax loss of the towers once more, with the kernel of t-SNE (InfoNC-t-SNE, Damrich et
    al., ICLR 2023). The axes alone keep far fewer neighbours (``benchmarks/LOG.md``).

    Args:
        seed: the same seed and vectors give the same places.
    """
    num_points = len(vectors)
    unit = torch.nn.functional.normalize(vectors, dim=1)
    start = principal_axes(unit)
    if num_points <= NEIGHBOURS:
        return start
    near = nearest(unit, unit, NEIGHBOURS, own=True)
    chance = torch.Generator().manual_seed(seed)
    # Where all vectors are one, the axes have no length, and points must differ to part.
    jitter = 1e-4 * torch.randn(start.shape, generator=chance)
    places = (start / start.std().clamp(min=1e-6) + jitter).requires_grad_()
    adam = Adam([places], _RATE)
    own = torch.arange(num_points)
    right = torch.zeros(num_points, dtype=torch.int64)
    for step in range(_STEPS):
        adam.rate = _RATE * (1 - step / _STEPS)
        one = near[own, torch.randint(near.shape[1], (num_points,), generator=chance)]
        others = torch.randint(num_points, (num_points, _OTHERS), generator=chance)
        candidates = torch.cat([one[:, None], others], 1)
        # index_select, not indexing: its gradient is a sum in one order.
        there = places.index_select(0, candidates.flatten()).view(*candidates.shape, 2)
        logits = -torch.log1p((places[:, None] - there).square().sum(2))
        loss = torch.nn.functional.cross_entropy(logits, right)
        places.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    # Wider than high, as screens are.
    return principal_axes(places.detach())


def principal_axes(vectors: Float32[Tensor, "I D"]) -> Float32[Tensor, "I 2"]:
    """The vectors along the two directions in which they differ most."""
    centred = vectors - vectors.mean(0)
    _, _, axes = torch.linalg.svd(centred.T @ centred)
    found = centred @ axes[:2].T
    # A direction is as good as its opposite; the one in which the largest lies is taken.
    signs = torch.sign(found.gather(0, found.abs().argmax(0, keepdim=True)))
    padded = torch.zeros(len(vectors), 2)
    padded[:, : found.shape[1]] = found * signs
    return padded


def nearest(
    queries: Float32[Tensor, "Q D"], points: Float32[Tensor, "I D"], k: int, *, own: bool
) -> Int64[Tensor, "Q k"]:
    """The k points of the largest inner product with each query, best first.

    Args:
        own: whether query n is point n, which then is not its own neighbour.
    """
    found = []
    block = max(_HELD // max(len(points), 1), 1)
    for start in range(0, len(queries), block):
        scores = queries[start : start + block] @ points.T
        if own:
            rows = torch.arange(len(scores))
            scores[rows, start + rows] = -torch.inf
        found.append(scores.topk(k).indices)
    return torch.cat(found)


def neighbours_kept(
    vectors: Float32[Tensor, "I D"], places: Float32[Tensor, "I 2"], *, most: int = 2000
) -> float | None:
    """Of a point's nearest by the cosine the share that is among its nearest on the plane.

    Args:
        most: so many points are asked, the first ones.

    Returns:
        Their mean, 0 to 1; None where everybody is everybody's neighbour.
    """
    if len(vectors) <= NEIGHBOURS + 1:
        return None
    unit = torch.nn.functional.normalize(vectors, dim=1)
    wanted = nearest(unit[:most], unit, NEIGHBOURS, own=True)
    # The nearest by distance have the largest 2 a b - b b.
    flat = torch.cat([2 * places, torch.ones(len(places), 1)], 1)
    far = torch.cat([places, -places.square().sum(1, keepdim=True)], 1)
    found = nearest(flat[:most], far, NEIGHBOURS, own=True)
    return float((wanted[:, :, None] == found[:, None, :]).any(2).float().mean())
