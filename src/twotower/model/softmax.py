"""Softmax over many items, a few users at a time in one buffer, gradients made on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from twotower.model.precision import product_dtype

# Logits that are held at once, and of how many users at least and at most: what the processor
# keeps near; of fewer users, going through all items' gradients costs more than it saves.
_HELD, _LEAST_ROWS, _MOST_ROWS = 2**20, 64, 256


def among_all(
    user: Float[Tensor, "B D"],
    items: Float[Tensor, "I D"],
    bias: Float[Tensor, " I"] | None,
    targets: Int64[Tensor, " P"],
    share: Float[Tensor, " P"],
    excluded: Int64[Tensor, " E"],
    chunk_rows: int | None,
) -> Float[Tensor, ""]:
    """Sum of ``share * -log(probability)`` over targets among the items, places laid flat."""
    with _Softmax(user, items, bias) as softmax, torch.no_grad():
        width = len(items)
        loss = share.new_zeros(())
        user_share = share.new_zeros(len(user)).index_add_(0, targets // width, share)
        # A user's share is put in last, where it scales D columns and not I.
        within_user = share / user_share.clamp_min(1e-30)[targets // width]
        for rows, logits, pairs, out in softmax.chunks(excluded, targets, chunk_rows):
            flat, at = logits.view(-1), targets[pairs] - rows.start * width
            target_logits = flat[at]
            flat.index_fill_(0, out, torch.finfo(flat.dtype).min)
            flat[at] = target_logits
            total = softmax.of(logits)
            loss += share[pairs] @ (total[at // width] - target_logits.to(total.dtype))
            if softmax.is_wanted:
                flat.index_add_(0, at, within_user[pairs].to(flat.dtype), alpha=-1)
                softmax.learn(rows, logits, user_share[rows])
    return softmax.with_gradients(loss)


def beside_own(
    user: Float[Tensor, "B D"],
    items: Float[Tensor, "I D"],
    bias: Float[Tensor, " I"] | None,
    own: Float[Tensor, " B"],
    share: Float[Tensor, " B"],
    excluded: Int64[Tensor, " E"],
) -> Float[Tensor, ""]:
    """Sum of ``share * -log(probability)`` of each user's own logit beside the items'."""
    with _Softmax(user, items, bias, own) as softmax, torch.no_grad():
        loss, none = share.new_zeros(()), excluded[:0]
        for rows, logits, _, out in softmax.chunks(excluded, none, None):
            logits.view(-1).index_fill_(0, out, torch.finfo(logits.dtype).min)
            others = softmax.of(logits)
            total = torch.logaddexp(others, own[rows])
            loss += share[rows] @ (total - own[rows])
            if softmax.is_wanted:
                # Probabilities are among the others so far: by this they are among all.
                factor = share[rows] * (others - total).exp_()
                softmax.learn(rows, logits, factor)
                softmax.gradients[-1][rows] = -factor
    return softmax.with_gradients(loss)


class _Softmax:
    """Logits of users and items a few users at a time, and the gradients of what they become.

    Attributes:
        gradients: of those of user, items, bias and own logits that are there, in this order.
        is_wanted: whether anybody asks for them.
    """

    def __init__(
        self, user: Tensor, items: Tensor, bias: Tensor | None, own: Tensor | None = None
    ) -> None:
        self.inputs = [each for each in (user, items, bias, own) if each is not None]
        self.is_wanted = torch.is_grad_enabled() and any(x.requires_grad for x in self.inputs)
        self._has_bias = bias is not None
        dtype = product_dtype(user)
        # Contiguous: rows of a slice do not begin where the processor likes to load.
        self._user, self._items = (x.detach().to(dtype).contiguous() for x in (user, items))
        self._bias = None if bias is None else bias.detach().to(dtype)
        self._without_autocast = torch.autocast(user.device.type, enabled=False)

    def __enter__(self) -> _Softmax:
        self._without_autocast.__enter__()  # type: ignore[no-untyped-call]
        self.gradients = [torch.zeros_like(x) for x in self.inputs if self.is_wanted]
        return self

    def __exit__(self, *error: Any) -> None:
        self._without_autocast.__exit__(*error)

    def chunks(
        self, excluded: Int64[Tensor, " E"], targets: Int64[Tensor, " P"], rows: int | None
    ) -> Iterator[tuple[slice, Float[Tensor, "r I"], slice, Int64[Tensor, " e"]]]:
        """Some users, their logits, their slice of the targets, and their excluded places."""
        count, width = len(self._user), len(self._items)
        step = rows or min(max(_HELD // max(width, 1), _LEAST_ROWS), _MOST_ROWS)
        starts = range(0, count, step)
        ends = torch.tensor([*starts, count], device=excluded.device) * width
        spans = zip(starts, _spans(targets, ends), _spans(excluded, ends), strict=True)
        buffer = self._user.new_empty(min(step, count), width)
        self._product = torch.empty_like(self._items)
        for start, pairs, out in spans:
            some = slice(start, min(start + step, count))
            logits = buffer[: some.stop - start]
            if self._bias is None:
                torch.mm(self._user[some], self._items.T, out=logits)
            else:
                torch.addmm(self._bias, self._user[some], self._items.T, out=logits)
            yield some, logits, pairs, excluded[out] - start * width

    def of(self, logits: Float[Tensor, "r I"]) -> Float[Tensor, " r"]:
        """The logsumexp of each row; leaves probabilities in the place of logits."""
        highest = logits.amax(dim=1)
        torch.softmax(logits, dim=1, out=logits)
        # The highest probability is at least 1 / I, so its log is safe; to look for it twice
        # is much cheaper than a logsumexp.
        kind = self.inputs[0].dtype
        return highest.to(kind) - logits.amax(dim=1).to(kind).log_()

    def learn(
        self, rows: slice, of_logits: Float[Tensor, "r I"], factor: Float[Tensor, " r"]
    ) -> None:
        """Take in the gradients of some users' logits, less a factor for each user."""
        of_user, of_items, user = self.gradients[0], self.gradients[1], self._user[rows]
        scaled = (user * factor.unsqueeze(1)).to(user.dtype)
        if user.dtype == of_user.dtype:
            torch.mm(of_logits, self._items, out=of_user[rows])
            of_items.addmm_(of_logits.T, scaled)
        else:
            of_user[rows] = of_logits @ self._items
            of_items += torch.mm(of_logits.T, scaled, out=self._product)
        of_user[rows] *= factor.unsqueeze(1)
        if self._has_bias and self.inputs[2].requires_grad:
            self.gradients[2] += torch.mm(factor.to(user.dtype)[None], of_logits)[0]

    def with_gradients(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The loss, from which they flow back."""
        apply: Callable[..., Tensor] = _WithGradients.apply
        return apply(loss, self.gradients, *self.inputs) if self.is_wanted else loss


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
