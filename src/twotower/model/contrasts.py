"""Losses of a liked item beside N others: pure functions of scores, one value a row.

WHAT is compared is a score, the inner product of two vectors, so that any of these losses
goes with any source of others. Where the others were drawn, each stands for several items:
what is drawn at a chance counts in inverse proportion to it, and the loss aims at what it
would be beside all items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Scores of a block of rows: 8 MiB of float32. What a loss makes of them is several times that.
_BLOCK_SCORES = 2**21


@dataclass(frozen=True)
class Beside:
    """Scores of R liked items, each beside N others.

    Attributes:
        own: of the liked items.
        others: of the others.
        stands_for: how many items each of the others stands for; 0 for what is none of the
            others, like an item that the user is known to like.
        num_others: how many items there are that are not liked; what ``stands_for`` adds up to,
            in the mean over draws at least.
    """

    own: Float[Tensor, " R"]
    others: Float[Tensor, "R N"]
    stands_for: Float[Tensor, "R N"]
    num_others: Float[Tensor, " R"]

    def mean(self, values: Float[Tensor, "R N"]) -> Float[Tensor, " R"]:
        """The mean of a value over all items that are not liked."""
        return (self.stands_for * values).sum(dim=1) / self.num_others

    def evenly(self) -> Beside:
        """The same where each of the others stands for as many items as the next."""
        is_there = (self.stands_for > 0).to(self.own.dtype)
        each = self.num_others / is_there.sum(dim=1).clamp_min(1)
        return replace(self, stands_for=is_there * each[:, None])


RowLoss = Callable[[Beside], Float[Tensor, " R"]]


def softmax(scores: Beside) -> Float[Tensor, " R"]:
    """Minus the log of the liked item's share of all; `losses.full_softmax` beside all items.

    >>> zeros = torch.zeros(1, 3)
    >>> softmax(Beside(torch.zeros(1), zeros, zeros + 2, torch.tensor([6.0])))  # log(1 + 3 * 2)
    tensor([1.9459])
    """
    others = scores.others + scores.stands_for.log()
    every = torch.cat([scores.own[:, None], others], dim=1)
    return torch.logsumexp(every, dim=1) - scores.own


def binary_cross_entropy(scores: Beside) -> Float[Tensor, " R"]:
    """Of the liked item under label 1 and, in the mean, of the others under label 0.

    Beside one other it is the pair of rows that NCF learns from (He et al., WWW 2017).

    >>> ones = torch.ones(1, 3)
    >>> binary_cross_entropy(Beside(torch.zeros(1), 0 * ones, ones, torch.tensor([3.0])))
    tensor([1.3863])
    """
    return F.softplus(-scores.own) + scores.mean(F.softplus(scores.others))


def bpr(scores: Beside) -> Float[Tensor, " R"]:
    """Minus the log of the chance that the liked item wins, in the mean over the others.

    Rendle et al., UAI 2009.
    """
    return scores.mean(F.softplus(scores.others - scores.own[:, None]))


def cosine_contrastive(
    scores: Beside, *, margin: float, negative_weight: float
) -> Float[Tensor, " R"]:
    """``1 - own + negative_weight * mean(relu(other - margin))``, of cosines.

    SimpleX (Mao et al., CIKM 2021): others that are far enough away are let alone, which is
    nearly all of them, and so the rest weighs more than 1.

    >>> scores = Beside(*(torch.tensor(x) for x in ([0.9], [[0.7, 0.1]], [[1.0, 1.0]], [2.0])))
    >>> cosine_contrastive(scores, margin=0.5, negative_weight=10.0)  # 0.1 + 10 * 0.2 / 2
    tensor([1.1000])
    """
    return 1 - scores.own + negative_weight * scores.mean(torch.relu(scores.others - margin))


def warp(scores: Beside, *, margin: float) -> Float[Tensor, " R"]:
    """The hinge of those others that come within ``margin``, times the log of their number.

    ``log(1 + rank) * mean(relu(other - own + margin))``, the mean over the others within the
    margin, the rank being how many those stand for. It is WARP (Weston et al., IJCAI 2011)
    with N others looked at together in place of draws until one is within; its weight, the sum
    of ``1 / n`` up to the rank, is nearly that logarithm. The rank is no part of the gradient.
    """
    hinge = torch.relu(scores.others - scores.own[:, None] + margin)
    within = scores.stands_for * (hinge > 0)
    rank = within.sum(dim=1).detach()
    return rank.log1p() * (within * hinge).sum(dim=1) / rank.clamp_min(1e-12)


def triplet(scores: Beside, *, margin: float) -> Float[Tensor, " R"]:
    """``relu(near - far + margin)`` in squared distances, in the mean over the others.

    A score here is ``user @ item - |item|^2 / 2``, half the squared distance but for what all
    items of a user share: see `distance_vectors`.
    """
    return scores.mean(torch.relu(2 * (scores.others - scores.own[:, None]) + margin))


def semi_hard_triplet(scores: Beside, *, margin: float) -> Float[Tensor, " R"]:
    """`triplet` beside one of the others: the nearest that is farther than the liked item.

    Where all are nearer it is the farthest (FaceNet, Schroff et al., CVPR 2015): the very
    nearest ones make embeddings collapse. Scores are those of `triplet`.
    """
    is_there = scores.stands_for > 0
    own, least = scores.own[:, None], torch.finfo(scores.own.dtype).min
    is_farther = is_there & (scores.others < own)
    nearest = scores.others.masked_fill(~is_farther, least).max(dim=1).indices
    farthest = scores.others.masked_fill(~is_there, -least).min(dim=1).indices
    chosen = torch.where(is_farther.any(dim=1), nearest, farthest)[:, None]
    hinge = torch.relu(2 * (scores.others.gather(1, chosen) - own) + margin)
    return (hinge * is_there.gather(1, chosen)).squeeze(1)


def distance_vectors(
    user: Float[Tensor, "R D"], item: Float[Tensor, "I D"]
) -> tuple[Float[Tensor, "R D1"], Float[Tensor, "I D1"]]:
    """Vectors whose inner product is ``(|user|^2 - |user - item|^2) / 2``.

    >>> user, item = distance_vectors(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
    >>> (user @ item.T).item()  # (5 - 4) / 2
    0.5
    """
    half = item.square().sum(dim=1, keepdim=True) / -2
    return torch.cat([user, torch.ones_like(user[:, :1])], 1), torch.cat([item, half], 1)


@dataclass(frozen=True)
class Others:
    """What R rows are compared with: N items that all share, and H of each row's own.

    Attributes:
        vectors: of the shared ones.
        stands_for: how many items each stands for; of each row, where rows differ in it.
        hit_rows, hit_columns: which of them are known positives of which row; rows ascending.
        num_others: how many items each row could be compared with.
        own: vectors of each row's own ones.
        own_stand_for: how many items each of those stands for; 0 where it is none.
    """

    vectors: Float[Tensor, "N V"]
    stands_for: Float[Tensor, " N"] | Float[Tensor, "R N"]
    hit_rows: Int64[Tensor, " E"]
    hit_columns: Int64[Tensor, " E"]
    num_others: Float[Tensor, " R"]
    own: Float[Tensor, "R H V"] | None = None
    own_stand_for: Float[Tensor, "R H"] | None = None


def each_row(
    loss: RowLoss,
    user: Float[Tensor, "R V"],
    liked: Float[Tensor, "R V"],
    others: Others,
    *,
    is_even: bool = False,
) -> Float[Tensor, " R"]:
    """The loss of every row, its scores made a block of rows at a time and never all kept.

    The backward pass makes them again, so the memory for R x N scores is that of a block,
    whatever R is.

    Args:
        is_even: whether each of a row's others stands for as many items as the next, however
            they were drawn.
    """
    width = max(len(others.vectors), 1)
    step = max(1, _BLOCK_SCORES // width)
    blocks = []
    for start in range(0, len(user), step):
        rows = slice(start, start + step)
        if len(user) <= step:
            blocks.append(_block(loss, user, liked, others, rows, is_even))
        else:
            again = checkpoint(
                _block,
                *(loss, user, liked, others, rows, is_even),
                use_reentrant=False,
                preserve_rng_state=False,
            )
            blocks.append(again)
    return torch.cat(blocks)


def _block(
    loss: RowLoss, user: Tensor, liked: Tensor, others: Others, rows: slice, is_even: bool
) -> Float[Tensor, " r"]:
    user, num_others = user[rows], others.num_others[rows].clamp_min(1)
    ends = torch.tensor([rows.start, rows.start + len(user)], device=user.device)
    begin, end = torch.searchsorted(others.hit_rows, ends).tolist()
    is_hit: Bool[Tensor, "r N"] = torch.zeros(
        len(user), len(others.vectors), dtype=torch.bool, device=user.device
    )
    is_hit[others.hit_rows[begin:end] - rows.start, others.hit_columns[begin:end]] = True
    stands_for = others.stands_for if others.stands_for.ndim == 1 else others.stands_for[rows]
    stands_for = stands_for.expand(is_hit.shape).masked_fill(is_hit, 0.0)
    # Under autocast a product is less precise than what is made of it.
    scores = (user @ others.vectors.T).to(user.dtype)
    if others.own is not None and others.own_stand_for is not None:
        own = (user[:, None] * others.own[rows]).sum(dim=2)
        scores = torch.cat([scores, own], dim=1)
        stands_for = torch.cat([stands_for, others.own_stand_for[rows]], dim=1)
    beside = Beside((user * liked[rows]).sum(dim=1), scores, stands_for, num_others)
    return loss(beside.evenly() if is_even else beside)
