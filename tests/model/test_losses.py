"""Each loss beside a slow, obvious twin; what masks do; and where the sampled losses aim."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import LargestTensor, chance, gradients, normal
from torch import Tensor

from twotower.model.losses import (
    binary_cross_entropy,
    bpr,
    full_softmax,
    in_batch_softmax,
    sampled_softmax,
    triplet,
)

many_times = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 5)
dtypes = st.sampled_from([torch.float32, torch.float64])
temperatures = st.sampled_from([0.05, 0.5, 1.0, 3.0])


def assert_twins(
    fast: Callable[..., Tensor], slow: Callable[..., Tensor], *inputs: Tensor
) -> None:
    """Same value and gradients, the slow one reckoned in float64."""
    exact = inputs[0].dtype == torch.float64
    tolerance = {"rtol": 1e-8, "atol": 1e-8} if exact else {"rtol": 1e-4, "atol": 1e-5}
    value, got = gradients(fast, *inputs)
    expected_value, expected = gradients(slow, *[each.double() for each in inputs])
    assert value.dtype == inputs[0].dtype
    for one, other in zip([value, *got], [expected_value, *expected], strict=True):
        torch.testing.assert_close(one.double(), other, **tolerance)


def hits(is_hit: Tensor) -> dict[str, Tensor]:
    """A mask of users by samples as the pairs where it is true."""
    users, rows = is_hit.nonzero(as_tuple=True)
    return {"hit_users": users, "hit_rows": rows}


def mean(losses: list[Tensor], weights: Sequence[float] | None) -> Tensor:
    if weights is None:
        return torch.stack(losses).mean()
    pairs = zip(weights, losses, strict=True)
    return torch.stack([weight * loss for weight, loss in pairs]).sum() / sum(weights)


def minus_log_share(first: Tensor, others: list[Tensor]) -> Tensor:
    return torch.logsumexp(torch.stack([first, *others]), dim=0) - first


class TestBinaryCrossEntropy:
    @many_times
    @given(seeds, sizes, dtypes, st.booleans())
    def test_is_the_weighted_mean_of_minus_the_log_of_what_the_label_says(
        self, seed: int, rows: int, dtype: torch.dtype, weighted: bool
    ) -> None:
        labels = chance(seed, rows, dtype=dtype)
        weights = chance(seed + 1, rows, dtype=dtype) if weighted else None

        def slow(logits: Tensor) -> Tensor:
            losses = []
            for logit, label in zip(logits, labels.tolist(), strict=True):
                liked = 1 / (1 + torch.exp(-logit))
                losses.append(-label * liked.log() - (1 - label) * (1 - liked).log())
            return mean(losses, None if weights is None else weights.tolist())

        def fast(logits: Tensor) -> Tensor:
            return binary_cross_entropy(logits, labels, weights)

        assert_twins(fast, slow, normal(seed + 2, rows, dtype=dtype))

    def test_is_the_logit_itself_when_the_model_is_sure_and_wrong(self) -> None:
        loss = binary_cross_entropy(torch.tensor([300.0, -300.0]), torch.tensor([0.0, 1.0]))
        assert loss.item() == 300.0


class TestTriplet:
    @many_times
    @given(seeds, sizes, sizes, dtypes, st.sampled_from([0.0, 0.3, 2.0]))
    def test_is_the_mean_of_what_is_missing_to_the_margin(
        self, seed: int, rows: int, columns: int, dtype: torch.dtype, margin: float
    ) -> None:
        def slow(user: Tensor, liked: Tensor, disliked: Tensor) -> Tensor:
            losses = []
            for b in range(rows):
                missing = torch.tensor(margin, dtype=torch.float64)
                for d in range(columns):
                    missing = missing + (user[b, d] - liked[b, d]) ** 2
                    missing = missing - (user[b, d] - disliked[b, d]) ** 2
                losses.append(missing if missing > 0 else 0 * missing)
            return mean(losses, None)

        def fast(user: Tensor, liked: Tensor, disliked: Tensor) -> Tensor:
            return triplet(user, liked, disliked, margin=margin)

        inputs = [normal(seed + i, rows, columns, dtype=dtype) for i in range(3)]
        assert_twins(fast, slow, *inputs)

    def test_falls_as_the_liked_item_comes_nearer_or_the_disliked_one_goes(self) -> None:
        user, liked, disliked = torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2)
        before = triplet(user, liked, disliked, margin=1.0)
        assert triplet(user, 0.9 * liked, disliked, margin=1.0) < before
        assert triplet(user, liked, 1.1 * disliked, margin=1.0) < before

    def test_leaves_alone_what_is_far_enough_apart(self) -> None:
        user, liked, disliked = torch.zeros(1, 2), torch.zeros(1, 2), 2 * torch.ones(1, 2)

        def loss(*towers: Tensor) -> Tensor:
            return triplet(*towers, margin=1.0)

        assert all(not each.any() for each in gradients(loss, user, liked, disliked)[1])


class TestBpr:
    @many_times
    @given(seeds, sizes, st.integers(0, 4), dtypes)
    def test_is_the_mean_over_pairs_of_minus_log_sigmoid(
        self, seed: int, rows: int, negatives: int, dtype: torch.dtype
    ) -> None:
        shape = (rows, negatives) if negatives else (rows,)

        def slow(positive: Tensor, negative: Tensor) -> Tensor:
            losses = []
            for b in range(rows):
                for other in negative[b].reshape(-1):
                    losses.append(-(1 / (1 + torch.exp(other - positive[b]))).log())
            return mean(losses, None)

        positive, negative = (
            normal(seed, rows, dtype=dtype),
            normal(seed + 1, *shape, dtype=dtype),
        )
        assert_twins(bpr, slow, positive, negative)

    def test_falls_as_the_positive_rises_above_the_negative(self) -> None:
        worse, better = (bpr(torch.tensor([s]), torch.tensor([0.0])) for s in (0.1, 0.2))
        assert better < worse < bpr(torch.zeros(1), torch.zeros(1))

    def test_stays_exact_however_far_apart_the_scores_are(self) -> None:
        near, far = torch.tensor([0.0]), torch.tensor([500.0])
        assert bpr(near, far).item() == 500.0
        assert bpr(far, near).item() == 0.0


def looped_in_batch(
    user: Tensor,
    item: Tensor,
    is_hit: Tensor,
    temperature: float,
    log_q: Sequence[float] | None,
    weights: Sequence[float] | None,
) -> Tensor:
    losses = []
    for b in range(len(user)):
        others = []
        for c in range(len(item)):
            if c == b or is_hit[b, c]:
                continue
            logit = user[b] @ item[c] / temperature
            if log_q is not None:
                logit = logit - log_q[c] - math.log(len(item) - 1)
            others.append(logit)
        losses.append(minus_log_share(user[b] @ item[b] / temperature, others))
    return mean(losses, weights)


def looped_sampled(
    user: Tensor,
    positive_item: Tensor,
    negative_item: Tensor,
    is_hit: Tensor,
    temperature: float,
    log_q_positive: Sequence[float] | None,
    log_q_negative: Sequence[float] | None,
    weights: Sequence[float] | None,
) -> Tensor:
    losses, log_n = [], math.log(len(negative_item))
    for b in range(len(user)):
        positive = user[b] @ positive_item[b] / temperature
        if log_q_positive is not None:
            positive = positive - log_q_positive[b] - log_n
        others = []
        for n in range(len(negative_item)):
            if not is_hit[b, n]:
                logit = user[b] @ negative_item[n] / temperature
                if log_q_negative is not None:
                    logit = logit - log_q_negative[n] - log_n
                others.append(logit)
        losses.append(minus_log_share(positive, others))
    return mean(losses, weights)


def looped_full(
    user: Tensor,
    items: Tensor,
    targets: Sequence[tuple[int, int]],
    excluded: Sequence[tuple[int, int]],
    temperature: float,
    weights: Sequence[float] | None,
) -> Tensor:
    losses = []
    for b, i in targets:
        others = []
        for j in range(len(items)):
            if j != i and ((b, j) in targets or (b, j) not in excluded):
                others.append(user[b] @ items[j] / temperature)
        losses.append(minus_log_share(user[b] @ items[i] / temperature, others))
    return mean(losses, weights)


class TestSoftmaxTwins:
    @many_times
    @given(seeds, sizes, sizes, dtypes, temperatures, st.booleans(), st.booleans())
    def test_in_batch_softmax_is_that_of_a_loop_over_rows_and_items(
        self,
        seed: int,
        rows: int,
        columns: int,
        dtype: torch.dtype,
        temperature: float,
        corrected: bool,
        weighted: bool,
    ) -> None:
        is_hit = chance(seed, rows, rows) < 0.3
        log_q = chance(seed + 1, rows, dtype=dtype).log() if corrected else None
        weights = chance(seed + 2, rows, dtype=dtype) if weighted else None

        def fast(user: Tensor, item: Tensor) -> Tensor:
            return in_batch_softmax(
                user, item, is_hit, temperature=temperature, log_q=log_q, weights=weights
            )

        def slow(user: Tensor, item: Tensor) -> Tensor:
            lists = [None if each is None else each.tolist() for each in (log_q, weights)]
            return looped_in_batch(user, item, is_hit, temperature, *lists)

        towers = [normal(seed + i, rows, columns, dtype=dtype) for i in (3, 4)]
        assert_twins(fast, slow, *towers)

    @many_times
    @given(seeds, sizes, sizes, dtypes, temperatures, st.integers(0, 2), st.booleans())
    def test_sampled_softmax_is_that_of_a_loop_over_rows_and_samples(
        self,
        seed: int,
        rows: int,
        samples: int,
        dtype: torch.dtype,
        temperature: float,
        corrected: int,
        weighted: bool,
    ) -> None:
        is_hit = chance(seed, rows, samples) < 0.3
        q_negative = chance(seed + 1, samples, dtype=dtype).log() if corrected > 0 else None
        q_positive = chance(seed + 2, rows, dtype=dtype).log() if corrected > 1 else None
        weights = chance(seed + 3, rows, dtype=dtype) if weighted else None

        def fast(user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
            return sampled_softmax(
                user,
                positive,
                negative,
                **hits(is_hit),
                temperature=temperature,
                log_q_positive=q_positive,
                log_q_negative=q_negative,
                weights=weights,
            )

        def slow(*towers: Tensor) -> Tensor:
            options = (q_positive, q_negative, weights)
            lists = [None if each is None else each.tolist() for each in options]
            return looped_sampled(*towers, is_hit, temperature, *lists)

        shapes = enumerate([rows, rows, samples])
        towers = [normal(seed + 4 + i, size, 3, dtype=dtype) for i, size in shapes]
        assert_twins(fast, slow, *towers)

    @many_times
    @given(st.data(), seeds, sizes, st.integers(1, 6), sizes, st.booleans())
    def test_items_of_one_row_share_a_sampled_softmax_and_compete_in_it(
        self,
        data: st.DataObject,
        seed: int,
        rows: int,
        positives: int,
        samples: int,
        weighted: bool,
    ) -> None:
        owners = data.draw(
            st.lists(st.integers(0, rows - 1), min_size=positives, max_size=positives)
        )
        is_hit = chance(seed, rows, samples) < 0.3
        log_q = chance(seed + 1, samples, dtype=torch.float64).log()
        weights = chance(seed + 3, positives, dtype=torch.float64) if weighted else None

        def fast(user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
            return sampled_softmax(
                user,
                positive,
                negative,
                **hits(is_hit),
                positive_user=torch.tensor(owners),
                log_q_negative=log_q,
                weights=weights,
            )

        def slow(user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
            losses = []
            for own, row in enumerate(owners):
                rivals = [p for p, other in enumerate(owners) if other == row and p != own]
                others = [user[row] @ positive[p] for p in rivals]
                others += [
                    user[row] @ negative[n] - log_q[n] - math.log(samples)
                    for n in range(samples)
                    if not is_hit[row, n]
                ]
                losses.append(minus_log_share(user[row] @ positive[own], others))
            return mean(losses, None if weights is None else weights.tolist())

        shapes = enumerate([rows, positives, samples])
        towers = [normal(seed + 4 + i, size, 3, dtype=torch.float64) for i, size in shapes]
        assert_twins(fast, slow, *towers)

    @many_times
    @given(st.data(), seeds, sizes, st.integers(1, 7), dtypes, temperatures)
    def test_full_softmax_is_that_of_a_loop_over_pairs_and_items_whatever_the_chunks(
        self,
        data: st.DataObject,
        seed: int,
        rows: int,
        num_items: int,
        dtype: torch.dtype,
        temperature: float,
    ) -> None:
        pair = st.tuples(st.integers(0, rows - 1), st.integers(0, num_items - 1))
        targets = data.draw(st.lists(pair, min_size=1, max_size=8), label="targets")
        excluded = data.draw(st.none() | st.lists(pair, max_size=8), label="excluded")
        chunk_rows = data.draw(st.integers(1, rows + 1), label="chunk_rows")
        weighted = data.draw(st.booleans(), label="weighted")
        weights = chance(seed, len(targets), dtype=dtype) if weighted else None

        def fast(user: Tensor, items: Tensor) -> Tensor:
            return full_softmax(
                user,
                items,
                *columns_of(targets),
                excluded_rows=None if excluded is None else columns_of(excluded)[0],
                excluded_users=None if excluded is None else columns_of(excluded)[1],
                target_weights=weights,
                temperature=temperature,
                chunk_rows=chunk_rows,
            )

        def slow(user: Tensor, items: Tensor) -> Tensor:
            listed = None if weights is None else weights.tolist()
            return looped_full(user, items, targets, excluded or [], temperature, listed)

        towers = [
            normal(seed + 1 + i, n, 3, dtype=dtype) for i, n in enumerate([rows, num_items])
        ]
        assert_twins(fast, slow, *towers)


def columns_of(pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """The item rows and the user rows of pairs (user, item)."""
    users, items = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    return items, users


class TestFullSoftmax:
    def test_of_uninformative_towers_is_the_log_of_the_number_of_items_left(self) -> None:
        targets = columns_of([(0, 3), (1, 2)])
        user, items = torch.zeros(2, 3), torch.zeros(50, 3)
        assert full_softmax(user, items, *targets).item() == pytest.approx(math.log(50))
        rows, users = columns_of([(b, i) for b in range(2) for i in range(10, 20)])
        left = full_softmax(user, items, *targets, excluded_rows=rows, excluded_users=users)
        assert left.item() == pytest.approx(math.log(40))

    def test_is_least_when_probabilities_are_the_proportions_of_the_targets(self) -> None:
        proportions = torch.tensor([0.5, 0.25, 0.25])
        targets = columns_of([(0, 0), (0, 0), (0, 1), (0, 2)])

        def loss(user: Tensor, items: Tensor) -> Tensor:
            return full_softmax(user, items, *targets)

        towers = (torch.ones(1, 1), proportions.log().unsqueeze(1))
        value, (_, to_items) = gradients(loss, *towers)
        entropy = -(proportions * proportions.log()).sum()
        torch.testing.assert_close(value, entropy)
        torch.testing.assert_close(to_items, torch.zeros(3, 1), atol=1e-6, rtol=0)

    def test_an_excluded_pair_has_no_probability_and_no_gradient_at_all(self) -> None:
        user, items = normal(0, 2, 4), normal(1, 6, 4)
        item_rows, users = columns_of([(0, 5), (1, 5)])

        def loss(user: Tensor, items: Tensor) -> Tensor:
            return full_softmax(
                user,
                items,
                *columns_of([(0, 1), (1, 2)]),
                excluded_rows=item_rows,
                excluded_users=users,
            )

        value, (_, to_items) = gradients(loss, user, items)
        assert not to_items[5].any()
        assert to_items[:5].any(dim=1).all()
        items[5] = 1000 * user[0]
        assert torch.equal(loss(user, items), value)

    def test_an_exclusion_is_of_one_user_only(self) -> None:
        user, items = torch.ones(2, 1), torch.tensor([[0.0], [0.0], [3.0]])
        item_rows, users = columns_of([(0, 2)])
        for target_user, left in [(0, 2), (1, 2 + math.exp(3.0))]:
            targets = columns_of([(target_user, 0)])
            loss = full_softmax(
                user, items, *targets, excluded_rows=item_rows, excluded_users=users
            )
            assert loss.item() == pytest.approx(math.log(left))

    def test_a_target_that_is_excluded_too_stays_a_target(self) -> None:
        user, items, pair = normal(0, 1, 4), normal(1, 6, 4), columns_of([(0, 1)])
        both = full_softmax(user, items, *pair, excluded_rows=pair[0], excluded_users=pair[1])
        assert torch.equal(both, full_softmax(user, items, *pair))

    def test_a_user_without_targets_has_no_part_even_with_nothing_left_to_show(self) -> None:
        everything = columns_of([(1, i) for i in range(6)])

        def loss(user: Tensor, items: Tensor) -> Tensor:
            target = columns_of([(0, 1)])
            rows, users = everything
            return full_softmax(user, items, *target, excluded_rows=rows, excluded_users=users)

        def alone(user: Tensor, items: Tensor) -> Tensor:
            return full_softmax(user[:1], items, *columns_of([(0, 1)]))

        towers = (normal(0, 2, 4), normal(1, 6, 4))
        value, (to_user, to_items) = gradients(loss, *towers)
        expected, (_, to_items_alone) = gradients(alone, *towers)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(to_items, to_items_alone)
        assert not to_user[1].any()

    def test_weights_of_one_over_the_number_of_targets_give_the_mean_over_users(self) -> None:
        user, items = normal(0, 2, 4), normal(1, 6, 4)
        first, second = [(0, 1), (0, 2), (0, 5)], [(1, 4)]
        weights = torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0])
        together = full_softmax(
            user, items, *columns_of([*first, *second]), target_weights=weights
        )
        apart = [full_softmax(user, items, *columns_of(each)) for each in (first, second)]
        torch.testing.assert_close(together, (apart[0] + apart[1]) / 2)

    def test_half_of_a_list_of_pairs_is_refused(self) -> None:
        user, items, targets = torch.zeros(1, 2), torch.zeros(3, 2), columns_of([(0, 1)])
        with pytest.raises(ValueError, match="give both"):
            full_softmax(user, items, *targets, excluded_rows=targets[0])


class TestInBatchAndSampledSoftmax:
    def test_of_uninformative_towers_is_the_log_of_the_number_of_candidates(self) -> None:
        zeros, negatives = torch.zeros(8, 3), torch.zeros(5, 3)
        loss = in_batch_softmax(zeros, zeros, torch.zeros(8, 8, dtype=torch.bool))
        assert loss.item() == pytest.approx(math.log(8))
        loss = sampled_softmax(
            zeros, zeros, negatives, **hits(torch.zeros(8, 5, dtype=torch.bool))
        )
        assert loss.item() == pytest.approx(math.log(1 + 5))

    def test_an_accidental_hit_has_no_probability_and_no_gradient_at_all(self) -> None:
        user, item = normal(0, 4, 3), normal(1, 4, 3)
        is_hit = torch.zeros(4, 4, dtype=torch.bool)
        is_hit[0, 2] = True
        only_first = torch.tensor([1.0, 0.0, 0.0, 0.0])

        def loss(user: Tensor, item: Tensor) -> Tensor:
            return in_batch_softmax(user, item, is_hit, temperature=0.5, weights=only_first)

        value, (_, to_item) = gradients(loss, user, item)
        assert not to_item[2].any()
        assert to_item[[0, 1, 3]].any(dim=1).all()
        item[2] = 1000 * user[0]
        assert torch.equal(loss(user, item), value)

    def test_a_sample_that_is_a_hit_has_no_probability_and_no_gradient_at_all(self) -> None:
        user, item, negatives = normal(0, 2, 3), normal(1, 2, 3), normal(2, 4, 3)
        is_hit = torch.zeros(2, 4, dtype=torch.bool)
        is_hit[:, 3] = True

        def loss(user: Tensor, item: Tensor, negatives: Tensor) -> Tensor:
            log_q = torch.full((4,), -9.0)
            return sampled_softmax(user, item, negatives, **hits(is_hit), log_q_negative=log_q)

        value, (_, _, to_negatives) = gradients(loss, user, item, negatives)
        assert not to_negatives[3].any()
        assert to_negatives[:3].any(dim=1).all()
        negatives[3] = 1000 * user[0]
        assert torch.equal(loss(user, item, negatives), value)

    def test_with_nothing_but_hits_there_is_nothing_to_learn(self) -> None:
        def loss(user: Tensor, item: Tensor) -> Tensor:
            return in_batch_softmax(user, item, torch.ones(3, 3, dtype=torch.bool))

        value, towers = gradients(loss, normal(0, 3, 2), normal(1, 3, 2))
        assert value.item() == 0
        assert all(not each.any() for each in towers)

    def test_the_diagonal_is_the_positive_whatever_is_hit_says(self) -> None:
        user, item, is_hit = normal(0, 4, 3), normal(1, 4, 3), chance(2, 4, 4) < 0.5
        eye = torch.eye(4, dtype=torch.bool)
        losses = [in_batch_softmax(user, item, each) for each in (is_hit | eye, is_hit & ~eye)]
        assert torch.equal(*losses)

    def test_the_mask_of_hits_is_left_as_it_was(self) -> None:
        is_hit = torch.zeros(3, 3, dtype=torch.bool)
        in_batch_softmax(normal(0, 3, 2), normal(1, 3, 2), is_hit)
        assert not is_hit.any()

    def test_temperature_divides_scores_and_never_log_q(self) -> None:
        log_q = torch.tensor([0.7, 0.2, 0.1]).log()
        no_hits = torch.zeros(3, 3, dtype=torch.bool)

        def loss(user: Tensor, item: Tensor, temperature: float) -> Tensor:
            return in_batch_softmax(user, item, no_hits, temperature=temperature, log_q=log_q)

        zeros, user, item = torch.zeros(3, 2), normal(0, 3, 2), normal(1, 3, 2)
        torch.testing.assert_close(loss(zeros, zeros, 0.02), loss(zeros, zeros, 1.0))
        right = looped_in_batch(user, item, no_hits, 0.5, log_q.tolist(), None)
        wrong = looped_in_batch(user, item, no_hits, 0.5, (log_q / 0.5).tolist(), None)
        torch.testing.assert_close(loss(user, item, 0.5), right)
        assert abs(wrong - right) > 0.1

    def test_positives_learn_when_all_else_is_frozen(self) -> None:
        user, item, negatives = normal(0, 2, 3), normal(1, 2, 3), normal(2, 4, 3)
        no_hits = torch.zeros(2, 4, dtype=torch.bool)

        def loss(user: Tensor, item: Tensor, negatives: Tensor) -> Tensor:
            return sampled_softmax(user, item, negatives, **hits(no_hits))

        expected = gradients(loss, user, item, negatives)[1][1]
        got = gradients(lambda item: loss(user, item, negatives), item)[1][0]
        assert torch.equal(got, expected)

    def test_a_chance_of_the_positive_alone_is_refused(self) -> None:
        user, no_hits = torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bool)
        with pytest.raises(ValueError, match="give both"):
            sampled_softmax(user, user, user, **hits(no_hits), log_q_positive=torch.zeros(2))


# A small world, so that whatever can be sampled can be counted: one user, four items, the
# first of which was met. In some tests the last is another of the user's positives.
WORLD_ITEMS = 4
Q = (0.55, 0.25, 0.15, 0.05)
Loss = Callable[[Tensor, Tensor, Sequence[int], Tensor | None, bool], Tensor]


def sampled_world(
    user: Tensor, items: Tensor, samples: Sequence[int], log_q: Tensor | None, two: bool
) -> Tensor:
    """The sampled softmax's loss of the world's user, given the samples."""
    rows = torch.tensor(samples)
    is_hit = (rows == 0) | ((rows == WORLD_ITEMS - 1) & two)
    chances = None if log_q is None else log_q[rows]
    return sampled_softmax(
        user, items[:1], items[rows], **hits(is_hit[None]), log_q_negative=chances
    )


def in_batch_world(
    user: Tensor, items: Tensor, samples: Sequence[int], log_q: Tensor | None, two: bool
) -> Tensor:
    """The in-batch loss of the world's user as row 0; the samples are other people's rows."""
    rows = torch.tensor([0, *samples])
    is_hit = (rows == 0) | ((rows == WORLD_ITEMS - 1) & two)
    everybody = torch.cat([user, normal(99, len(samples), user.shape[1], dtype=user.dtype)])
    return in_batch_softmax(
        everybody,
        items[rows],
        is_hit.expand(len(rows), -1),
        log_q=None if log_q is None else log_q[rows],
        weights=torch.eye(len(rows), dtype=user.dtype)[0],
    )


def full_world(user: Tensor, items: Tensor, two: bool) -> Tensor:
    other = columns_of([(0, WORLD_ITEMS - 1)] if two else [])
    target = columns_of([(0, 0)])
    return full_softmax(user, items, *target, excluded_rows=other[0], excluded_users=other[1])


def counts(total: int, kinds: int) -> Iterator[tuple[int, ...]]:
    if kinds == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in counts(total - first, kinds - 1):
            yield (first, *rest)


def expected_gradients(
    loss: Callable[[Tensor, Tensor, Sequence[int]], Tensor],
    towers: Sequence[Tensor],
    q: Sequence[float],
    draws: int,
) -> Tensor:
    """The mean gradient over all that ``draws`` draws from q can give, each by its chance."""
    total = torch.zeros(sum(each.numel() for each in towers), dtype=torch.float64)
    for times in counts(draws, len(q)):
        log_chance = math.lgamma(draws + 1)
        for n, chance_of_one in zip(times, q, strict=True):
            log_chance += n * math.log(chance_of_one) - math.lgamma(n + 1)
        samples = [row for row, n in enumerate(times) for _ in range(n)]

        def given_samples(*towers: Tensor, samples: list[int] = samples) -> Tensor:
            return loss(*towers, samples)

        parts = gradients(given_samples, *towers)[1]
        total += math.exp(log_chance) * torch.cat([each.flatten() for each in parts])
    return total


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Thousands of tiny products: on a busy machine threads would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("world", [sampled_world, in_batch_world])
class TestAimOfSampledLosses:
    @settings(max_examples=10, deadline=None)
    @given(seed=seeds, draws=st.integers(1, 3), two=st.booleans())
    def test_with_log_q_the_mean_of_exp_loss_is_that_of_the_full_softmax_for_any_n(
        self, world: Loss, seed: int, draws: int, two: bool
    ) -> None:
        user, items = (normal(seed + i, n, 3, dtype=torch.float64) for i, n in ((0, 1), (1, 4)))
        log_q = torch.tensor(Q, dtype=torch.float64).log()
        mean_of_exp = sum(
            math.prod(Q[row] for row in samples)
            * world(user, items, samples, log_q, two).exp().item()
            for samples in product(range(WORLD_ITEMS), repeat=draws)
        )
        assert mean_of_exp == pytest.approx(full_world(user, items, two).exp().item())

    def test_the_bias_of_the_gradient_halves_with_twice_the_samples_only_with_log_q(
        self, world: Loss
    ) -> None:
        # Three items here, the third of them rare: all draws of 48 are then 1,225.
        q = (0.6, 0.3, 0.1)
        log_q = torch.tensor(q, dtype=torch.float64).log()
        towers = (normal(3, 1, 2, dtype=torch.float64), normal(5, 3, 2, dtype=torch.float64))

        def whole(user: Tensor, items: Tensor) -> Tensor:
            return full_softmax(user, items, *columns_of([(0, 0)]))

        aim = torch.cat([each.flatten() for each in gradients(whole, *towers)[1]])

        def bias(draws: int, log_q: Tensor | None) -> float:
            def loss(user: Tensor, items: Tensor, samples: Sequence[int]) -> Tensor:
                return world(user, items, samples, log_q, False)

            return float((expected_gradients(loss, towers, q, draws) - aim).norm() / aim.norm())

        corrected, plain = ([bias(draws, each) for draws in (24, 48)] for each in (log_q, None))
        assert corrected[1] < 0.05
        assert 0.4 < corrected[1] / corrected[0] < 0.6
        assert plain[1] > 0.2
        assert plain[1] / plain[0] > 0.9


class TestCorrectedLogQ:
    @many_times
    @given(seeds, sizes, st.integers(1, 6))
    def test_has_the_gradient_of_the_weighted_loss_that_the_paper_has(
        self, seed: int, rows: int, samples: int
    ) -> None:
        """Khrylchenko et al., RecSys 2025 (arXiv 2507.09331), from the words of the paper.

        The positive stands in no denominator and is not corrected; each example weighs
        ``1 - P(positive)``, through which no gradient goes.
        """
        is_hit = chance(seed, rows, samples) < 0.3
        log_q = chance(seed + 1, samples, dtype=torch.float64).log()

        def ours(user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
            return sampled_softmax(
                user, positive, negative, **hits(is_hit), log_q_negative=log_q
            )

        def theirs(user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
            losses = []
            for b in range(rows):
                own = user[b] @ positive[b]
                left = [n for n in range(samples) if not is_hit[b, n]]
                if not left:
                    losses.append(0 * own)
                    continue
                others = torch.stack([user[b] @ negative[n] - log_q[n] for n in left])
                others = others - math.log(samples)
                share = torch.softmax(torch.cat([own[None], others]), 0)[0]
                losses.append((1 - share).detach() * (others.logsumexp(0) - own))
            return torch.stack(losses).mean()

        towers = [
            normal(seed + 2 + i, size, 3, dtype=torch.float64)
            for i, size in enumerate([rows, rows, samples])
        ]
        got, expected = (gradients(loss, *towers)[1] for loss in (ours, theirs))
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


class TestAimOfSampledSoftmax:
    @settings(max_examples=10, deadline=None)
    @given(seeds, st.integers(1, 3))
    def test_any_sampler_will_do_whose_expected_shares_are_known(
        self, seed: int, samples: int
    ) -> None:
        # A chance for each tuple of samples: dependent draws, mixtures, sets without repeats.
        tuples = list(product(range(WORLD_ITEMS), repeat=samples))
        chances = chance(seed, len(tuples), dtype=torch.float64)
        chances = chances / chances.sum()
        share = torch.zeros(WORLD_ITEMS, dtype=torch.float64)
        for drawn, of_tuple in zip(tuples, chances, strict=True):
            for row in drawn:
                share[row] += of_tuple / samples
        user, items = (normal(seed + i, n, 3, dtype=torch.float64) for i, n in ((1, 1), (2, 4)))
        mean_of_exp = sum(
            of_tuple * sampled_world(user, items, drawn, share.log(), False).exp()
            for drawn, of_tuple in zip(tuples, chances, strict=True)
        )
        torch.testing.assert_close(mean_of_exp, full_world(user, items, False).exp())

    @pytest.mark.parametrize(("own_item_is_a_hit", "arrives"), [(False, True), (True, False)])
    def test_the_classic_form_arrives_only_if_the_own_item_may_be_a_negative(
        self, own_item_is_a_hit: bool, arrives: bool
    ) -> None:
        # As if a million had been drawn: each item once, with its share of all draws for a q.
        user, items = normal(3, 1, 2, dtype=torch.float64), normal(5, 3, 2, dtype=torch.float64)
        q = (0.6, 0.3, 0.1)
        log_q = torch.tensor(q, dtype=torch.float64).log()
        rows = torch.tensor(
            [i for i, share in enumerate(q) for _ in range(int(10_000 * share))]
        )
        is_hit = (rows == 0)[None] & own_item_is_a_hit

        def classic(user: Tensor, items: Tensor) -> Tensor:
            return sampled_softmax(
                user,
                items[:1],
                items[rows],
                **hits(is_hit),
                log_q_positive=log_q[:1],
                log_q_negative=log_q[rows],
            )

        def whole(user: Tensor, items: Tensor) -> Tensor:
            return full_softmax(user, items, *columns_of([(0, 0)]))

        got, aim = (gradients(loss, user, items)[1][1] for loss in (classic, whole))
        assert bool((got - aim).norm() < 0.01 * aim.norm()) is arrives


# 600 users and 600 items: more than one chunk of users.
HITS = chance(0, 600, 600) < 0.01


def full(user: Tensor, items: Tensor) -> Tensor:
    rows = torch.arange(600)
    return full_softmax(
        user, items, rows, rows, excluded_rows=rows * 7 % 600, excluded_users=rows
    )


def in_batch(user: Tensor, items: Tensor) -> Tensor:
    return in_batch_softmax(user, items, HITS, log_q=normal(1, 600, dtype=user.dtype))


def sampled(user: Tensor, items: Tensor) -> Tensor:
    return sampled_softmax(user, items, items.flip(0), **hits(HITS))


def test_the_softmax_over_a_hundred_thousand_items_is_exact_and_holds_few_users_logits() -> (
    None
):
    """The plain one would hold 300 times 100,000 logits, their softmax and its gradient."""
    rows, num_items, chunk = 300, 100_000, 32
    user, items = normal(1, rows, 4), normal(2, num_items, 4)
    targets = (torch.arange(rows) * 331, torch.arange(rows))

    def chunked(user: Tensor, items: Tensor) -> Tensor:
        return full_softmax(user, items, *targets, chunk_rows=chunk)

    with LargestTensor() as largest:
        value, got = gradients(chunked, user, items)
    assert largest.size == max(chunk * num_items, items.numel())
    expected_value, expected = gradients(
        lambda user, items: torch.nn.functional.cross_entropy(user @ items.T, targets[0]),
        user,
        items,
    )
    torch.testing.assert_close(value, expected_value)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("loss", [full, in_batch, sampled])
class TestGradientsMadeInTheForwardPass:
    def test_never_hold_the_logits_of_all_users_at_once(
        self, loss: Callable[..., Tensor]
    ) -> None:
        user, items = normal(1, 600, 4), normal(2, 600, 4)
        with LargestTensor() as largest:
            loss(user.requires_grad_(), items.requires_grad_()).backward()
        assert largest.size < 600 * 600

    def test_are_the_same_to_the_bit_each_time(self, loss: Callable[..., Tensor]) -> None:
        towers = (normal(1, 600, 4), normal(2, 600, 4))
        (value, first), (again, second) = gradients(loss, *towers), gradients(loss, *towers)
        assert torch.equal(value, again)
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))

    def test_agree_with_finite_differences(self, loss: Callable[..., Tensor]) -> None:
        towers = [normal(i, 600, 2, dtype=torch.float64).requires_grad_() for i in (1, 2)]
        assert torch.autograd.gradcheck(loss, towers, fast_mode=True)

    def test_scale_with_what_the_loss_is_multiplied_by_and_add_up(
        self, loss: Callable[..., Tensor]
    ) -> None:
        towers = (normal(1, 600, 4), normal(2, 600, 4))
        expected = gradients(loss, *towers)[1]
        user, items = (each.requires_grad_() for each in towers)
        tripled = 3 * loss(user, items)
        tripled.backward(retain_graph=True)
        tripled.backward()
        torch.testing.assert_close([user.grad, items.grad], [6 * each for each in expected])

    def test_refuse_to_be_differentiated_again(self, loss: Callable[..., Tensor]) -> None:
        user, items = normal(1, 600, 4).requires_grad_(), normal(2, 600, 4)
        (to_user,) = torch.autograd.grad(loss(user, items) ** 2, user, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            to_user.sum().backward()

    def test_reach_one_tower_when_the_other_is_frozen(
        self, loss: Callable[..., Tensor]
    ) -> None:
        user, items = normal(1, 600, 4), normal(2, 600, 4)
        to_user, to_items = gradients(loss, user, items)[1]
        assert torch.equal(gradients(lambda user: loss(user, items), user)[1][0], to_user)
        assert torch.equal(gradients(lambda items: loss(user, items), items)[1][0], to_items)

    def test_can_be_left_out_without_a_change_of_the_value(
        self, loss: Callable[..., Tensor]
    ) -> None:
        user, items = normal(1, 600, 4).requires_grad_(), normal(2, 600, 4)
        with torch.no_grad():
            value = loss(user, items)
        assert not value.requires_grad
        assert torch.equal(value, loss(user, items).detach())

    def test_stay_finite_with_scores_in_the_thousands(
        self, loss: Callable[..., Tensor]
    ) -> None:
        value, towers = gradients(loss, 50 * normal(1, 600, 4), 50 * normal(2, 600, 4))
        assert value.isfinite()
        assert all(each.isfinite().all() for each in towers)

    def test_under_autocast_come_of_rounded_logits_and_are_not_rounded_themselves(
        self, loss: Callable[..., Tensor]
    ) -> None:
        towers = (normal(1, 600, 4), normal(2, 600, 4))
        value, exact = gradients(loss, *towers)

        def in_bf16(*towers: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return loss(*towers)

        rounded_value, rounded = gradients(in_bf16, *towers)
        assert value != rounded_value
        assert rounded_value.dtype == torch.float32
        torch.testing.assert_close(rounded_value, value, rtol=1e-3, atol=0)
        for one, other in zip(rounded, exact, strict=True):
            assert one.dtype == torch.float32
            assert (one - other).norm() < 0.02 * other.norm()
