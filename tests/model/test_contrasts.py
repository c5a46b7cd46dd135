"""Each loss of a row beside plain loops over its others, and in blocks as at once."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import LargestTensor, chance, gradients, normal
from torch import Tensor

from loops import LOOPS
from twotower.model import contrasts, losses
from twotower.model.contrasts import Beside, Others, RowLoss, each_row

many_times = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 5)
LOSSES: dict[str, RowLoss] = {
    "softmax": contrasts.softmax,
    "bce": contrasts.binary_cross_entropy,
    "bpr": contrasts.bpr,
    "ccl": partial(contrasts.cosine_contrastive, margin=0.1, negative_weight=3.0),
    "warp": partial(contrasts.warp, margin=0.7),
    "triplet": partial(contrasts.triplet, margin=0.7),
    "semi_hard": partial(contrasts.semi_hard_triplet, margin=0.7),
}
MARGINS = {"ccl": 0.1}


def others_of(seed: int, rows: int, shared: int, own: int, *, by_row: bool) -> Others:
    is_hit = chance(seed, rows, shared) < 0.3
    shape = (rows, shared) if by_row else (shared,)
    hits = is_hit.nonzero(as_tuple=True)
    there = chance(seed + 1, rows, own) < 0.7
    return Others(
        normal(seed + 2, shared, 3, dtype=torch.float64),
        1 + 3 * chance(seed + 3, *shape, dtype=torch.float64),
        hits[0],
        hits[1],
        10 + 5 * chance(seed + 4, rows, dtype=torch.float64),
        normal(seed + 5, rows, own, 3, dtype=torch.float64) if own else None,
        2 * chance(seed + 6, rows, own, dtype=torch.float64) * there if own else None,
    )


def looped(
    name: str, user: Tensor, liked: Tensor, others: Others, *, is_even: bool
) -> list[Tensor]:
    found = []
    hits = set(zip(others.hit_rows.tolist(), others.hit_columns.tolist(), strict=True))
    for r in range(len(user)):
        each = []
        for n in range(len(others.vectors)):
            weight = others.stands_for[r, n] if others.stands_for.ndim == 2 else None
            weight = others.stands_for[n] if weight is None else weight
            if (r, n) not in hits:
                each.append((user[r] @ others.vectors[n], float(weight)))
        if others.own is not None and others.own_stand_for is not None:
            for h in range(others.own.shape[1]):
                if others.own_stand_for[r, h] > 0:
                    one = user[r] @ others.own[r, h], float(others.own_stand_for[r, h])
                    each.append(one)
        total = float(others.num_others[r])
        if is_even and each:
            each = [(score, total / len(each)) for score, _ in each]
        loop, margin = LOOPS[name], MARGINS.get(name, 0.7)
        found.append(loop(user[r] @ liked[r], each, total, margin))
    return found


@pytest.mark.parametrize("name", LOSSES)
@many_times
@given(seeds, sizes, sizes, st.integers(0, 2), st.booleans(), st.booleans())
def test_a_rows_loss_and_its_gradients_are_those_of_a_loop_over_its_others(
    name: str, seed: int, rows: int, shared: int, own: int, by_row: bool, is_even: bool
) -> None:
    others = others_of(seed, rows, shared, own, by_row=by_row)

    def fast(user: Tensor, liked: Tensor) -> Tensor:
        return each_row(LOSSES[name], user, liked, others, is_even=is_even).sum()

    def slow(user: Tensor, liked: Tensor) -> Tensor:
        return torch.stack(looped(name, user, liked, others, is_even=is_even)).sum()

    towers = [normal(seed + 7 + i, rows, 3, dtype=torch.float64) for i in range(2)]
    (value, got), (expected_value, expected) = (
        gradients(loss, *towers) for loss in (fast, slow)
    )
    torch.testing.assert_close(value, expected_value, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


class TestBlocks:
    @pytest.mark.parametrize("name", LOSSES)
    def test_give_the_loss_and_the_gradients_of_all_rows_at_once(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        others = others_of(1, 7, 5, 2, by_row=True)

        def loss(user: Tensor, liked: Tensor, shared: Tensor) -> Tensor:
            found = each_row(
                LOSSES[name], user, liked, Others(shared, *list(vars(others).values())[1:])
            )
            return found @ torch.arange(1.0, 8, dtype=torch.float64)

        towers = [normal(i, 7, 3, dtype=torch.float64) for i in (2, 3)]
        whole = gradients(loss, *towers, others.vectors)
        for scores in (1, 10, 15, 35):
            monkeypatch.setattr(contrasts, "_BLOCK_SCORES", scores)
            value, got = gradients(loss, *towers, others.vectors)
            torch.testing.assert_close(value, whole[0])
            torch.testing.assert_close(got, whole[1])

    def test_hold_no_more_scores_than_a_block_has_however_many_rows_there_are(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(contrasts, "_BLOCK_SCORES", 6000)
        none = torch.empty(0, dtype=torch.int64)
        items, user = normal(1, 600, 4), normal(2, 600, 4)
        others = Others(
            items.requires_grad_(), torch.ones(600), none, none, torch.full((600,), 600.0)
        )
        with LargestTensor() as largest:
            each_row(contrasts.bpr, user.requires_grad_(), items, others).sum().backward()
        assert largest.size <= 6000


def beside(own: float, others: list[float], stands_for: list[float] | None = None) -> Beside:
    weights = stands_for or [1.0] * len(others)
    return Beside(
        torch.tensor([own]),
        torch.tensor([others]),
        torch.tensor([weights]),
        torch.tensor([sum(weights)]),
    )


class TestWarp:
    def test_weighs_more_the_more_items_stand_above(self) -> None:
        few, many = (
            contrasts.warp(beside(0.0, [1.0, -9.0], [1.0, n]), margin=1.0) for n in (1.0, 99.0)
        )
        assert few.item() == many.item() == pytest.approx(2 * math.log(2))
        above = contrasts.warp(beside(0.0, [1.0, -9.0], [99.0, 1.0]), margin=1.0)
        assert above.item() == pytest.approx(2 * math.log(100))

    def test_lets_alone_what_is_far_enough_below(self) -> None:
        assert contrasts.warp(beside(5.0, [1.0, 2.0]), margin=1.0).item() == 0


class TestTriplet:
    @many_times
    @given(seeds, st.booleans())
    def test_of_distance_vectors_is_that_of_squared_distances(
        self, seed: int, is_semi_hard: bool
    ) -> None:
        user, liked = normal(seed, 1, 4), normal(seed + 1, 1, 4)
        others = normal(seed + 2, 5, 4)
        near = (user - liked).square().sum(dim=1)
        far = (user - others).square().sum(dim=1)
        users, items = contrasts.distance_vectors(user, torch.cat([liked, others]))
        scores = (users @ items.T)[0]
        made = beside(float(scores[0]), scores[1:].tolist())
        if is_semi_hard:
            farther = far[far > near]
            far = farther.min() if len(farther) else far.max()
            found = contrasts.semi_hard_triplet(made, margin=1.0)
        else:
            found = contrasts.triplet(made, margin=1.0)
        expected = torch.relu(near - far + 1).mean()
        torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)

    def test_beside_one_other_is_the_triplet_of_the_losses(self) -> None:
        user, liked, other = (normal(i, 1, 4) for i in range(3))
        users, items = contrasts.distance_vectors(user, torch.cat([liked, other]))
        own, less = (users @ items.T)[0].tolist()
        found = contrasts.triplet(beside(own, [less]), margin=0.5)
        expected = losses.triplet(user, liked, other, margin=0.5)
        torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)

    def test_is_nothing_where_there_are_no_others(self) -> None:
        for loss in (contrasts.triplet, contrasts.semi_hard_triplet):
            scores = Beside(torch.zeros(1), torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1))
            assert loss(scores, margin=1.0).item() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_scores_in_the_hundreds_break_nothing(name: str) -> None:
    for own, other in ((500.0, -500.0), (-500.0, 500.0)):
        scores = torch.tensor([own], requires_grad=True)
        others = torch.tensor([[other, 3.0]], requires_grad=True)
        made = Beside(scores, others, torch.tensor([[1.0, 0.0]]), torch.ones(1))
        LOSSES[name](made).sum().backward()
        for each in (scores, others):
            assert each.grad is not None
            assert each.grad.isfinite().all()
        # What stands for nothing is not there.
        assert others.grad is not None
        assert others.grad[0, 1] == 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_row_without_others_breaks_nothing(name: str) -> None:
    user = normal(1, 2, 3).requires_grad_()
    rows, columns = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    others = Others(normal(2, 2, 3), torch.ones(2), rows, columns, torch.zeros(2))
    for is_even in (False, True):
        found = each_row(LOSSES[name], user, normal(3, 2, 3), others, is_even=is_even)
        found.sum().backward()
        assert found.isfinite().all()
        assert user.grad is not None
        assert user.grad.isfinite().all()


def test_softmax_of_shared_others_is_the_sampled_softmax_of_the_losses() -> None:
    user, liked, items = (normal(i, 4, 3, dtype=torch.float64) for i in range(3))
    is_hit = chance(4, 4, 4) < 0.4
    log_q = chance(5, 4, dtype=torch.float64).log()
    hit_users, hit_rows = is_hit.nonzero(as_tuple=True)
    others = Others(items, 1 / (4 * log_q.exp()), hit_users, hit_rows, torch.ones(4))
    found = each_row(contrasts.softmax, user, liked, others).mean()
    expected = losses.sampled_softmax(
        user, liked, items, hit_users=hit_users, hit_rows=hit_rows, log_q_negative=log_q
    )
    torch.testing.assert_close(found, expected)
