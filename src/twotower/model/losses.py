"""The losses: pure functions of tensors, each the mean over its examples, in nats.

A score is the inner product of two embeddings, and a logit as it stands: the model folds its
temperature and item bias into the vectors. ``temperature`` serves those who come with vectors
of their own. The order is always ``score / temperature``, then ``- log_q``, then masks: a
``log_q`` divided by the temperature corrects for popularity ``1 / temperature`` times over.

With ``weights`` (not negative) a mean is ``sum(weight * loss) / sum(weight)``, and 0 where all
are 0.

The softmax losses never hold all logits: they take a few users at a time in one buffer and
make the gradients on the way, in the forward pass. So they can be differentiated once only.
Under autocast their products, and the logits in that buffer, have its precision; what comes of
them does not.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from twotower.model.precision import dots
from twotower.model.softmax import among_all, beside_own

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
    hit_users, hit_rows = is_hit.clone().fill_diagonal_(True).nonzero(as_tuple=True)
    return sampled_softmax(
        user,
        item,
        item,
        hit_users=hit_users,
        hit_rows=hit_rows,
        temperature=temperature,
        log_q_negative=log_q,
        weights=weights,
    )


def sampled_softmax(
    user: Float[Tensor, "B D"],
    positive_item: Float[Tensor, "P D"],
    negative_item: Float[Tensor, "N D"],
    *,
    hit_users: Int64[Tensor, " H"],
    hit_rows: Int64[Tensor, " H"],
    positive_user: Int64[Tensor, " P"] | None = None,
    temperature: float = 1.0,
    log_q_positive: Float[Tensor, " P"] | None = None,
    log_q_negative: Float[Tensor, " N"] | None = None,
    positive_bias: Float[Tensor, " P"] | None = None,
    negative_bias: Float[Tensor, " N"] | None = None,
    weights: Float[Tensor, " P"] | None = None,
) -> Scalar:
    """Cross-entropy of users' items against N sampled items, shared by the batch.

    A row of ``user`` has one item or, where ``positive_user`` says of each item the row, any
    number; those then share one softmax and compete in it, as in `full_softmax`.
    ``log_q_negative`` is the log of a sample's expected share of the N: for draws with
    replacement the chance of one draw, for a set without repeats the chance to be in it, over
    N.

    With it the loss aims at `full_softmax`: a sample stands for ``1 / (N q)`` items, its
    logit is ``score / temperature - log(N q)``, and ``exp(loss)`` has the full softmax's as
    its expectation, for any N. The gradient's bias is of order 1 / N. For this the positive,
    there by right and not by chance, must *not* be corrected (arXiv 2507.09331). The classic
    form (Yi et al., RecSys 2019) corrects it too, by ``log_q_positive``, and has the same aim
    only if the row's own item is no hit when it is sampled.

    Args:
        hit_users, hit_rows: of known positives among the samples the user and the sample, the
            rows' own items included; they get no probability. Ascending by user is fastest.
        positive_bias, negative_bias: what is added to the logits of the items.

    Returns:
        The mean over items, in nats an interaction; for uninformative towers ``log(1 + N)``
        or, with ``log_q_negative``, about the log of the number of items.

    Raises:
        ValueError: ``log_q_positive`` came without ``log_q_negative``.

    >>> user, item, negatives = torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(4, 2)
    >>> hit = torch.tensor([0])
    >>> sampled_softmax(user, item, negatives, hit_users=hit, hit_rows=hit).item()  # log(1 + 3)
    1.386294...
    """
    if log_q_positive is not None and log_q_negative is None:
        raise ValueError("log_q_positive means nothing without log_q_negative: give both")
    user = _cooled(user, temperature)
    owner = user if positive_user is None else user.index_select(0, positive_user)
    own = dots(owner, positive_item)
    log_n = math.log(len(negative_item))
    if positive_bias is not None:
        own = own + positive_bias
    if log_q_positive is not None:
        own = own - (log_q_positive + log_n)
    bias = negative_bias
    if log_q_negative is not None:
        bias = -(log_q_negative + log_n) if bias is None else bias - (log_q_negative + log_n)
    excluded = _laid_flat(hit_users, hit_rows, len(negative_item))
    share = _shares(weights, own)
    if positive_user is None:
        return beside_own(user, negative_item, bias, own, share, excluded)
    # The chance of an item is that of any of its row's, times its share among those.
    together = _logsumexp_of_groups(own, positive_user, len(user))
    within = share @ (together.index_select(0, positive_user) - own)
    share = share.new_zeros(len(user)).index_add_(0, positive_user, share)
    return within + beside_own(user, negative_item, bias, together, share, excluded)


def full_softmax(
    user: Float[Tensor, "B D"],
    items: Float[Tensor, "I D"],
    target_rows: Int64[Tensor, " P"],
    target_users: Int64[Tensor, " P"],
    *,
    excluded_rows: Int64[Tensor, " E"] | None = None,
    excluded_users: Int64[Tensor, " E"] | None = None,
    target_weights: Float[Tensor, " P"] | None = None,
    bias: Float[Tensor, " I"] | None = None,
    temperature: float = 1.0,
    chunk_rows: int | None = None,
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
        bias: What is added to the logits of the items.
        temperature: Divides the scores.
        chunk_rows: How many users' logits are held at once; None for what suits their number.

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
        excluded = _laid_flat(excluded_users, excluded_rows, len(items))
    user = _cooled(user, temperature)
    return among_all(user, items, bias, targets, share[order], excluded, chunk_rows)


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


def _cooled(user: Float[Tensor, "B D"], temperature: float) -> Float[Tensor, "B D"]:
    return user if temperature == 1 else user / temperature


def _laid_flat(
    users: Int64[Tensor, " E"], rows: Int64[Tensor, " E"], width: int
) -> Int64[Tensor, " E"]:
    """Places of pairs in a matrix laid flat, ascending by user."""
    places = users * width + rows
    return places.sort()[0] if bool((users[1:] < users[:-1]).any()) else places


def _shares(weights: Tensor | None, like: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Weights that sum to 1, or are all 0."""
    weights = torch.ones_like(like) if weights is None else weights
    return weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
