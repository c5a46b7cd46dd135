"""The losses: pure functions of tensors, each the mean over its examples, in nats.

A score is the inner product of two embeddings, and a logit as it stands: the model folds its
temperature and item bias into the vectors. ``temperature`` serves those who come with vectors
of their own. The order is always ``score / temperature``, then ``- log_q``, then masks: a
``log_q`` divided by the temperature corrects for popularity ``1 / temperature`` times over.

With ``weights`` (not negative) a mean is ``sum(weight * loss) / sum(weight)``, and 0 where all
are 0.

The softmax losses never hold all logits: they take a few users at a time in one buffer and
make the gradients on the way, in the forward pass. So they can be differentiated once only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Scalar = Float[Tensor, ""]


def binary_cross_entropy(
    logits: Float[Tensor, " B"],
    labels: Float[Tensor, " B"],
    weights: Float[Tensor, " B"] | None = None,
) -> Scalar:
    """Cross-entropy of the labels, shares from 0 to 1, under ``sigmoid(logits)``.

    >>> binary_cross_entropy(torch.zeros(2), torch.tensor([0.0, 1.0])).item()  # log(2)
    0.693147...
    """
    if weights is None:
        return F.binary_cross_entropy_with_logits(logits, labels)
    loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return weighted_mean(loss, weights)


def triplet(
    user: Float[Tensor, "B D"],
    liked: Float[Tensor, "B D"],
    disliked: Float[Tensor, "B D"],
    *,
    margin: float,
) -> Scalar:
    """How far the liked item is from being ``margin`` nearer than the disliked one.

    ``relu(|user - liked|^2 - |user - disliked|^2 + margin)``, in squared Euclidean distance,
    which on unit vectors is ``2 - 2 * score``. The one loss that is not in nats.

    >>> user, near, far = torch.tensor([[0.0]]), torch.tensor([[1.0]]), torch.tensor([[2.0]])
    >>> triplet(user, near, far, margin=1.0).item()  # 1 - 4 + 1 < 0: far enough apart
    0.0
    >>> triplet(user, far, near, margin=1.0).item()  # 4 - 1 + 1
    4.0
    """
    near = (user - liked).square().sum(dim=1)
    far = (user - disliked).square().sum(dim=1)
    return torch.relu(near - far + margin).mean()


def bpr(
    positive_scores: Float[Tensor, " B"],
    negative_scores: Float[Tensor, " B"] | Float[Tensor, "B N"],
) -> Scalar:
    """Mean of ``-log sigmoid(positive - negative)`` over all pairs (Rendle et al., UAI 2009).

    >>> bpr(torch.tensor([1.0]), torch.tensor([[1.0, 1.0]])).item()  # log(2): a toss-up
    0.693147...
    """
    if negative_scores.ndim == 2:
        positive_scores = positive_scores.unsqueeze(1)
    return F.softplus(negative_scores - positive_scores).mean()


def in_batch_softmax(
    user: Float[Tensor, "B D"],
    item: Float[Tensor, "B D"],
    is_hit: Bool[Tensor, "B B"],
    *,
    temperature: float = 1.0,
    log_q: Float[Tensor, " B"] | None = None,
    weights: Float[Tensor, " B"] | None = None,
) -> Scalar:
    """Cross-entropy of each user's item against the batch's other items.

    Row b is an observed interaction; the other rows' items are its negatives. An accidental
    hit (``is_hit[b, c]``: item c is in truth a positive of user b) is no negative and gets no
    probability. The diagonal is the positive, whatever ``is_hit`` says there.

    ``log_q`` is the log of the chance that a row holds this item: its share of all
    interactions. Negatives are corrected by it, lest popular items be punished for being
    common negatives; the positive is not: see `sampled_softmax`.

    Returns:
        The mean over rows, in nats an interaction. For uninformative towers ``log(B)``; with
        ``log_q``, about the log of the number of items.

    >>> towers = torch.eye(2)
    >>> no_hits = torch.zeros(2, 2, dtype=torch.bool)
    >>> in_batch_softmax(towers, towers, no_hits, temperature=0.1).item() < 1e-4
    True
    """
    if log_q is not None:
        # Of a row's B candidates only B - 1 were drawn: it is itself not one of its negatives.
        log_q = log_q + math.log(max(len(item) - 1, 1) / len(item))
    is_hit = is_hit.clone().fill_diagonal_(True)
    return sampled_softmax(
        user, item, item, is_hit, temperature=temperature, log_q_negative=log_q, weights=weights
    )


def sampled_softmax(
    user: Float[Tensor, "B D"],
    positive_item: Float[Tensor, "P D"],
    negative_item: Float[Tensor, "N D"],
    is_hit: Bool[Tensor, "B N"],
    *,
    positive_user: Int64[Tensor, " P"] | None = None,
    temperature: float = 1.0,
    log_q_positive: Float[Tensor, " P"] | None = None,
    log_q_negative: Float[Tensor, " N"] | None = None,
    weights: Float[Tensor, " P"] | None = None,
) -> Scalar:
    """Cross-entropy of users' items against N sampled items, shared by the batch.

    A row of ``user`` has one item or, where ``positive_user`` says of each item the row, any
    number; those then share one softmax and compete in it, as in `full_softmax`.
    ``is_hit[b, n]`` says that sample n is a known positive of user b, the row's own items
    included; it gets no probability. ``log_q_negative`` is the log of a sample's expected
    share of the N: for draws with replacement the chance of one draw, for a set without
    repeats the chance to be in it, over N.

    With it the loss aims at `full_softmax`: a sample stands for ``1 / (N q)`` items, its
    logit is ``score / temperature - log(N q)``, and ``exp(loss)`` has the full softmax's as
    its expectation, for any N. The gradient's bias is of order 1 / N. For this the positive,
    there by right and not by chance, must *not* be corrected (arXiv 2507.09331). The classic
    form (Yi et al., RecSys 2019) corrects it too, by ``log_q_positive``, and has the same aim
    only if the row's own item is no hit when it is sampled.

    Returns:
        The mean over items, in nats an interaction; for uninformative towers ``log(1 + N)``
        or, with ``log_q_negative``, about the log of the number of items.

    Raises:
        ValueError: ``log_q_positive`` came without ``log_q_negative``.

    >>> user, item, negatives = torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(4, 2)
    >>> is_hit = torch.tensor([[True, False, False, False]])
    >>> sampled_softmax(user, item, negatives, is_hit).item()  # log(1 + 3)
    1.386294...
    """
    if log_q_positive is not None and log_q_negative is None:
        raise ValueError("log_q_positive means nothing without log_q_negative: give both")
    user = user / temperature
    owner = user if positive_user is None else user.index_select(0, positive_user)
    own = (owner * positive_item).sum(dim=1)
    log_n = math.log(len(negative_item))
    if log_q_positive is not None:
        own = own - (log_q_positive + log_n)
    if log_q_negative is not None:
        # One more dimension costs less than one more pass over all logits.
        log_count = (log_q_negative + log_n).unsqueeze(1)
        user = torch.cat([user, torch.ones_like(user[:, :1])], dim=1)
        negative_item = torch.cat([negative_item, -log_count], dim=1)
    width = len(negative_item) + 1
    targets = torch.arange(1, len(user) + 1, device=user.device) * width - 1
    hits = _places(is_hit)
    excluded = hits + hits // (width - 1)
    share = _shares(weights, own)
    if positive_user is None:
        return _cross_entropy(user, negative_item, own, targets, share, excluded)
    # The chance of an item is that of any of its row's, times its share among those.
    together = _logsumexp_of_groups(own, positive_user, len(user))
    within = share @ (together.index_select(0, positive_user) - own)
    share = share.new_zeros(len(user)).index_add_(0, positive_user, share)
    return within + _cross_entropy(user, negative_item, together, targets, share, excluded)


def full_softmax(
    user: Float[Tensor, "B D"],
    items: Float[Tensor, "I D"],
    target_rows: Int64[Tensor, " P"],
    target_users: Int64[Tensor, " P"],
    *,
    excluded_rows: Int64[Tensor, " E"] | None = None,
    excluded_users: Int64[Tensor, " E"] | None = None,
    target_weights: Float[Tensor, " P"] | None = None,
    temperature: float = 1.0,
    chunk_rows: int = 256,
) -> Scalar:
    """Cross-entropy of users' items against the whole catalogue; a user may have several.

    A user's targets share one softmax and compete in it: the multinomial likelihood of
    Mult-VAE (Liang et al., WWW 2018).

    Args:
        user: The users; one without targets has no part in the loss.
        items: The catalogue.
        target_rows: Of each target pair the item, as a row of ``items``.
        target_users: And its user, as a row of ``user``. Ascending is fastest.
        excluded_rows: The items of pairs that get no probability, like the history that
            serving would never show. A pair that is a target too stays a target.
        excluded_users: And their users.
        target_weights: ``1 / (number of the user's targets)`` gives the mean over users.
        temperature: Divides the scores.
        chunk_rows: How many users' logits are held at once.

    Returns:
        The mean over target pairs, in nats a pair; ``log(I)`` for uninformative towers.

    >>> user, items = torch.zeros(1, 2), torch.zeros(4, 2)
    >>> both, nobody = torch.tensor([0, 1]), torch.tensor([0, 0])
    >>> full_softmax(user, items, both, nobody).item()  # log(4)
    1.386294...
    """
    if (excluded_rows is None) != (excluded_users is None):
        raise ValueError("excluded_rows and excluded_users are halves of pairs: give both")
    share = _shares(target_weights, user.new_empty(len(target_rows)))
    target_users, order = target_users.sort(stable=True)
    targets, excluded = target_users * len(items) + target_rows[order], target_rows[:0]
    if excluded_rows is not None and excluded_users is not None:
        excluded = excluded_users * len(items) + excluded_rows
        if (excluded_users[1:] < excluded_users[:-1]).any():
            excluded = excluded.sort()[0]
    user = user / temperature
    return _cross_entropy(user, items, None, targets, share[order], excluded, chunk_rows)


def weighted_mean(losses: Float[Tensor, " B"], weights: Float[Tensor, " B"] | None) -> Scalar:
    """``sum(weight * loss) / sum(weight)``, and 0 where all weights are 0."""
    return _shares(weights, losses) @ losses


def _logsumexp_of_groups(
    values: Float[Tensor, " P"], groups: Int64[Tensor, " P"], count: int
) -> Float[Tensor, " B"]:
    """The logsumexp over each group; of one that is empty some finite number."""
    highest = values.detach().new_zeros(count)
    highest = highest.scatter_reduce(0, groups, values.detach(), "amax", include_self=False)
    parts = (values - highest.index_select(0, groups)).exp()
    total = parts.new_zeros(count).index_add(0, groups, parts)
    return highest + total.clamp_min(torch.finfo(values.dtype).tiny).log()


def _places(is_hit: Bool[Tensor, "B N"]) -> Int64[Tensor, " H"]:
    """Where a mask, laid flat, is true; NumPy is several times as fast at it as torch."""
    flat = is_hit.reshape(-1)
    if flat.device.type != "cpu":
        return flat.nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(flat.numpy()))


def _shares(weights: Tensor | None, like: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Weights that sum to 1, or are all 0."""
    weights = torch.ones_like(like) if weights is None else weights
    return weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def _cross_entropy(
    user: Float[Tensor, "B D"],
    items: Float[Tensor, "I D"],
    own: Float[Tensor, " B"] | None,
    targets: Int64[Tensor, " P"],
    share: Float[Tensor, " P"],
    excluded: Int64[Tensor, " E"],
    chunk_rows: int = 256,
) -> Scalar:
    """Sum of ``share * -log(probability)`` over the targets.

    The logits are ``user @ items.T`` and, where there is one, the row's ``own`` logit as last
    column. Targets and exclusions are places in that matrix laid flat, row after row.
    """
    inputs = [user, items] if own is None else [user, items, own]
    wanted = torch.is_grad_enabled() and any(each.requires_grad for each in inputs)
    with torch.no_grad():
        gradients = [torch.zeros_like(each) if wanted else each for each in inputs]
        width = len(items) + (own is not None)
        buffer = user.new_empty(min(chunk_rows, len(user)), width)
        user_share = user.new_zeros(len(user)).index_add_(0, targets // width, share)
        # A user's share is put in last, where it scales D columns and not I.
        within_user = share / user_share.clamp_min(1e-30)[targets // width]
        loss = user.new_zeros(())
        starts = range(0, len(user), chunk_rows)
        ends = torch.tensor([*starts, len(user)], device=user.device) * width
        spans = zip(starts, _spans(targets, ends), _spans(excluded, ends), strict=True)
        for start, pairs, out in spans:
            rows, chunk = slice(start, start + chunk_rows), buffer[: len(user) - start]
            over_items = chunk[:, : len(items)]
            torch.mm(user[rows], items.T, out=over_items)
            if own is not None:
                chunk[:, -1] = own[rows]
            at = targets[pairs] - start * width
            loss += share[pairs] @ _softmax_(chunk, at, excluded[out] - start * width)
            if wanted:
                chunk.view(-1).index_add_(0, at, within_user[pairs], alpha=-1)
                factor = user_share[rows].unsqueeze(1)
                torch.mm(over_items, items, out=gradients[0][rows]).mul_(factor)
                gradients[1].addmm_(over_items.T, user[rows] * factor)
                if own is not None:
                    gradients[2][rows] = chunk[:, -1] * user_share[rows]
    apply: Callable[..., Tensor] = _WithGradients.apply
    return apply(loss, gradients, *inputs) if wanted else loss


def _softmax_(
    chunk: Float[Tensor, "r I"], targets: Int64[Tensor, " p"], excluded: Int64[Tensor, " e"]
) -> Float[Tensor, " p"]:
    """-log(probability) of the targets; leaves probabilities in ``chunk`` for its logits."""
    flat = chunk.view(-1)
    target_logits = flat[targets]
    # Not -inf: a user with nothing left is NaN then, though nobody asks for this user.
    flat[excluded] = torch.finfo(chunk.dtype).min
    flat[targets] = target_logits
    highest = chunk.amax(dim=1)
    torch.softmax(chunk, dim=1, out=chunk)
    # The highest probability is at least 1 / I, so its log is safe; to look for it twice is
    # much cheaper than a logsumexp.
    log_total = highest - chunk.amax(dim=1).log()
    return log_total[targets // chunk.shape[1]] - target_logits


def _spans(places: Int64[Tensor, " P"], ends: Int64[Tensor, " C"]) -> list[slice]:
    """The slices of ``places`` between one end and the next; their order within is free."""
    return [slice(*pair) for pair in pairwise(torch.searchsorted(places, ends).tolist())]


class _WithGradients(Function):
    """A loss whose gradients are known: one for each of the last arguments, in their order."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *_inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *[upstream * each for each in ctx.saved_tensors]
