"""Every loss with every source of others: beside plain loops, and beside all items at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, product
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from towers import learned

from loops import LOOPS, NEGATIVE_WEIGHT
from twotower.config import Loss, ModelConfig, NegativesFrom, TrainingConfig
from twotower.data.features import FeatureTable
from twotower.data.interactions import Interactions
from twotower.errors import ConfigError
from twotower.model.contrasts import distance_vectors
from twotower.model.history import PackedHistory
from twotower.model.two_tower import TwoTower
from twotower.training.batches import Batch, PairBatch, UserBatch, num_baskets
from twotower.training.choices import settled
from twotower.training.mining import Hard
from twotower.training.negatives import Memory
from twotower.training.objective import Objective, make_objective

LOSSES: tuple[Loss, ...] = get_args(Loss)
SOURCES: tuple[NegativesFrom, ...] = get_args(NegativesFrom)
USERS, ITEMS = 4, 6
# Item 5 is disliked by somebody and liked by nobody, item 6 was never met.
ROWS = [(1, 1), (1, 2), (2, 1), (2, 3), (2, 4), (3, 1), (4, 2), (4, 1)]
DISLIKED = [(1, 5), (2, 5), (3, 4), (4, 3)]
MET = 4


def log_of(liked: Sequence[tuple[int, int]], disliked: Sequence[tuple[int, int]]) -> Any:
    users, items = np.array([*liked, *disliked], np.int32).T
    labels = np.array([1] * len(liked) + [0] * len(disliked), np.float32)
    weights = np.ones(len(labels), np.float32)
    return Interactions(users, items, labels, weights=weights)


def table(rows: int, seed: int) -> FeatureTable:
    dense = torch.randn(rows + 1, 2, generator=torch.Generator().manual_seed(seed))
    none = torch.empty(rows + 1, 0, dtype=torch.int64)
    return FeatureTable(torch.arange(rows + 1), dense, none, ())


def objective_of(loss: Loss, *, has_history: bool = False, **training: Any) -> Objective:
    given = {"hard_ranks": (1, 2), "negative_weight": NEGATIVE_WEIGHT, **training}
    config = settled(TrainingConfig.model_validate(given), loss, ITEMS)
    return make_objective(
        loss,
        config,
        table(USERS, 1),
        table(ITEMS, 2),
        log_of(ROWS, DISLIKED),
        history_length=5,
        has_history=has_history,
    )


def towers(*, has_history: bool = False) -> TwoTower:
    """Towers that drop nothing, so that a loop can follow; no weight is zero."""
    config = ModelConfig(
        embedding_dim=3,
        user_hidden_dims=(4,),
        item_hidden_dims=(4,),
        dropout=0,
        id_dropout=0,
        history="mean" if has_history else "none",
        history_dropout=0.0,
        temperature=0.5,
    )
    return learned(config, users=USERS, items=ITEMS)


class Loops:
    """The same losses a row and an other at a time."""

    def __init__(self, objective: Objective, model: TwoTower) -> None:
        self.objective, self.model, self.config = objective, model, objective.config
        self.items = model.encode_items(objective.items)

    def of(self, batch: Batch) -> Tensor:
        return torch.stack([self.of_row(batch, r) for r in range(len(batch))]).mean()

    def of_row(self, batch: Batch, r: int) -> Tensor:
        owners, own = batch.owners(), int(batch.items[r])
        user = int(batch.user_rows[owners[r]])
        if isinstance(batch, UserBatch):
            liked = set(batch.items[owners == owners[r]].tolist())
        else:
            liked = {item for who, item in ROWS if who == user}
        score = self.scores(batch, r, user)
        others = []
        for item, basket in self.shared(batch):
            is_drawn_own = item == own and basket != owners[r]
            if item in liked and not (self.config.log_q == "classic" and is_drawn_own):
                continue
            others.append((score(item), 1 / self.expected(batch, r, item)))
        for item, expected in self.own(batch, r):
            others.append((score(item), 1 / expected))
        num_others = MET - len(liked)
        is_softmax = "softmax" in self.objective.loss
        if self.config.log_q == "none" and others:
            each = 1.0 if is_softmax else max(num_others, 1) / len(others)
            others = [(each_score, each) for each_score, _ in others]
        name = "softmax" if is_softmax else self.objective.loss
        name = "semi_hard" if self.config.semi_hard else name
        own_score = score(own)
        if self.config.log_q == "classic":
            own_score = own_score - np.log(self.expected(batch, r, own))
        assert self.config.margin != "auto"
        return LOOPS[name](own_score, others, max(num_others, 1), self.config.margin)

    def scores(self, batch: Batch, r: int, user: int) -> Any:
        model, packed = self.model, None
        if isinstance(batch, UserBatch):
            owners = batch.owners()
            rest = batch.items[(owners == owners[r]) & (np.arange(len(owners)) != r)]
            ends = torch.tensor([0, len(rest)])
            ids = self.objective.items.ids
            packed = PackedHistory(torch.from_numpy(rest), ends, self.items, ids)
        table = self.objective.users.take(torch.tensor([user]))
        users, items = model.encode_users(table, packed), self.items
        if self.objective.loss == "triplet":
            users, items = distance_vectors(users, items)
        elif self.objective.loss != "ccl":
            items = model.item_vectors(items, self.objective.items)
            users = model.user_vectors(users)
        found = (users @ items.T)[0]
        if self.objective.loss == "bce":
            found = model.slope * found + model.offset
        # Double, since a loop takes exponentials as they come.
        return lambda item: found[item].double()

    def shared(self, batch: Batch) -> list[tuple[int, int]]:
        """Items and the baskets of the batch that they are from."""
        source = self.config.negatives_from
        if source == "all":
            return [(item, -1) for item in range(1, MET + 1)]
        found = []
        if source in {"in_batch", "mixed"}:
            found += list(zip(batch.items.tolist(), batch.owners().tolist(), strict=True))
        if batch.negatives is not None:
            found += [(item, -1) for item in batch.negatives.tolist()]
        if self.config.distinct_negatives:
            found = list(dict(reversed(found)).items())
        return found

    def own(self, batch: Batch, r: int) -> list[tuple[int, float]]:
        found = []
        if isinstance(batch, PairBatch) and batch.other_rows is not None:
            found.append((int(batch.other_rows[r]), 1.0))
        if batch.hard is not None:
            items = [item for item in batch.hard.items[r].tolist() if item]
            found += [(item, self.expected(batch, r, item)) for item in items]
        return found

    def expected(self, batch: Batch, r: int, item: int) -> float:
        """How often an item was to be expected among the others of a row."""
        source, count = self.config.negatives_from, self.config.negatives
        assert count != "auto"
        if source in {"all", "one", "labels"}:
            return 1.0
        shares = [other == item for _, other in ROWS]
        share = sum(shares) / len(shares)
        rate = share
        if isinstance(batch, UserBatch):
            # Three of the four users have two items.
            rate = sum({(u, i) for u, i in ROWS} >= {(u, item)} for u in (1, 2, 4)) / 3
        chance = {"uniform": 1 / MET, "mixed": 1 / MET, "popularity": share}.get(source, 0.0)
        baskets = 0
        if source in {"in_batch", "mixed"}:
            baskets = max(num_baskets(batch) - 1, 1)
        if self.config.distinct_negatives:
            times = 1 - (1 - rate) ** baskets * (1 - chance) ** count
        else:
            times = baskets * rate + count * chance
        if batch.hard is not None:
            window = [each for each in batch.hard.windows[r].tolist() if each]
            if item in window:
                times += batch.hard.items.shape[1] / len(window)
        return times


def legal(loss: Loss) -> Iterator[dict[str, Any]]:
    """Settings of others that the loss goes with."""
    for source, log_q, is_distinct, hard, semi_hard in product(
        SOURCES, ("none", "classic", "corrected"), (False, True), (0, 2), (False, True)
    ):
        if semi_hard and loss != "triplet":
            continue
        training = {
            "negatives_from": source,
            "negatives": 3 if source in {"uniform", "popularity", "mixed"} else "auto",
            "log_q": log_q,
            "distinct_negatives": is_distinct,
            "hard_negatives": hard,
            "semi_hard": semi_hard,
        }
        try:
            given = TrainingConfig.model_validate({"hard_ranks": (1, 2), **training})
            settled(given, loss, ITEMS)
        except ConfigError:
            continue
        if loss == "bce" and source == "labels":
            continue
        yield training


CASES = [(loss, training) for loss in LOSSES for training in legal(loss)]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_with_all_others_it_goes_with_is_that_of_a_loop_over_them(
    loss: Loss,
) -> None:
    """The loss and its gradients, for every legal choice; `legal` says how many there are."""
    cases = list(legal(loss))
    least = {"softmax": 30, "in_batch_softmax": 15, "bce": 15, "triplet": 25}
    assert len(cases) >= least.get(loss, 20)
    for number, training in enumerate(cases):
        has_history = loss == "softmax" and number % 2 == 0
        objective = objective_of(loss, has_history=has_history, **training)
        model = towers(has_history=has_history)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        rng = np.random.default_rng(number)
        windows = np.tile(np.array([4, 3, 0], np.int32), (USERS + 1, 1))
        windows[2] = [2, 0, 0]
        asked = windows if training["hard_negatives"] else None
        for batch in islice(objective.batches(4, rng, asked), 1):
            made = objective.loss_of(model, batch)
            expected = Loops(objective, model).of(batch)
            close = {"rtol": 1e-3, "atol": 1e-5, "msg": str(training)}
            torch.testing.assert_close(made.double(), expected.double(), **close)
            ask = {"allow_unused": True, "materialize_grads": True}
            got, wanted = (torch.autograd.grad(one, weights, **ask) for one in (made, expected))
            torch.testing.assert_close(got, wanted, **close)


def rows_of(pairs: Sequence[tuple[int, int]], **more: Any) -> PairBatch:
    users, items = np.array(pairs, np.int64).reshape(-1, 2).T
    ones = np.ones(len(pairs), np.float32)
    # Only the first row counts, where a loss weighs rows.
    weights = (np.arange(len(pairs)) == 0).astype(np.float32)
    return PairBatch(users, items, ones, weights, None, **more)


def everything_sampled(
    objective: Objective, model: TwoTower, own: tuple[int, int]
) -> Iterator[tuple[float, Tensor]]:
    """Each loss of a row that sampling could give, and its chance."""
    config, negatives = objective.config, objective.negatives
    liked = [item for _, item in ROWS]
    shares = {item: liked.count(item) / len(liked) for item in range(1, MET + 1)}
    every = shares
    if config.negatives_from != "popularity":
        every = dict.fromkeys(shares, 1 / MET)
    others = shares if negatives.is_in_batch else {0: 1.0}
    remembered = shares if config.memory_batches else {0: 1.0}
    window = np.array([4, 3], np.int32)
    rows = 1 + negatives.is_in_batch
    for other, old in product(others, remembered):
        for drawn in product(every, repeat=negatives.count):
            for mined in product(window.tolist(), repeat=config.hard_negatives):
                batch = rows_of([own, (3, other)][:rows], negatives=np.array(drawn, np.int64))
                if config.hard_negatives:
                    items = np.tile(np.array(mined), (rows, 1))
                    batch = replace(batch, hard=Hard(items, np.tile(window, (rows, 1))))
                if old:
                    batch = replace(batch, memory=remembering(objective, model, old))
                chance = others[other] * remembered[old] / len(window) ** len(mined)
                for item in drawn:
                    chance *= every[item]
                yield chance, objective.loss_of(model, batch)


def remembering(objective: Objective, model: TwoTower, item: int) -> Memory:
    """What an earlier batch of one row left, had the weights been the same."""
    memory, table = Memory(1), objective.items.take(torch.tensor([item]))
    embeddings = model.encode_items(table)
    if objective.loss == "triplet":
        vectors = distance_vectors(embeddings, embeddings)[1]
    elif objective.loss == "ccl":
        vectors = embeddings
    else:
        vectors = model.item_vectors(embeddings, table)
    memory.keep(np.array([item]), vectors, 1)
    return memory


def beside_all(loss: Loss, model: TwoTower, own: tuple[int, int], **training: Any) -> Tensor:
    """The row's loss beside all items that its user does not like."""
    objective = objective_of(loss, negatives_from="all", **training)
    return objective.loss_of(model, rows_of([own]))


EXTRAS: dict[str, dict[str, Any]] = {
    "plain": {},
    "distinct": {"distinct_negatives": True},
    "hard": {"hard_negatives": 1},
    "distinct, hard and memory": {
        "distinct_negatives": True,
        "hard_negatives": 1,
        "memory_batches": 1,
    },
}


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize(
    ("loss", "source", "count"),
    [
        ("softmax", "uniform", 2),
        ("softmax", "popularity", 2),
        ("in_batch_softmax", "in_batch", 0),
        ("in_batch_softmax", "mixed", 1),
    ],
)
def test_the_mean_of_exp_loss_over_all_that_may_be_sampled_is_that_of_the_full_softmax(
    loss: Loss, source: NegativesFrom, count: int, extra: str
) -> None:
    """So the aim is the full softmax, whatever is sampled, mixed, deduplicated and mined."""
    training = {"negatives_from": source, "negatives": count or "auto", **EXTRAS[extra]}
    objective, model = objective_of(loss, **training), towers().eval()
    with torch.no_grad():
        # User 1 likes items 1 and 2: what is sampled may be a hit.
        found = list(everything_sampled(objective, model, (1, 1)))
        full = beside_all("softmax", model, (1, 1)).exp()
    assert sum(chance for chance, _ in found) == pytest.approx(1)
    mean = sum(chance * value.exp() for chance, value in found)
    torch.testing.assert_close(mean, full, rtol=1e-5, atol=0)


@pytest.mark.parametrize("extra", ["plain", "distinct, hard and memory"])
@pytest.mark.parametrize("source", ["uniform", "popularity"])
@pytest.mark.parametrize("loss", ["bce", "bpr", "ccl", "triplet"])
def test_corrected_the_mean_gradient_over_all_that_may_be_sampled_is_that_beside_all_items(
    loss: Loss, source: NegativesFrom, extra: str
) -> None:
    training = {
        "negatives_from": source,
        "negatives": 2,
        "log_q": "corrected",
        **EXTRAS[extra],
    }
    objective, model = objective_of(loss, **training), towers().eval()
    # No gradient goes into what is remembered, so the users' side is where they are equal.
    weights = [model.user_tower.output.weight, model.user_features.id_table.weight]  # type: ignore[union-attr]
    found = list(everything_sampled(objective, model, (1, 1)))
    mean = torch.stack([chance * value for chance, value in found]).sum()
    full = beside_all(loss, model, (1, 1))
    torch.testing.assert_close(mean, full, rtol=1e-5, atol=0)
    got, wanted = (torch.autograd.grad(one, weights) for one in (mean, full))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_uncorrected_it_is_not() -> None:
    model = towers().eval()
    training = {"negatives_from": "popularity", "negatives": 2, "log_q": "none"}
    with torch.no_grad():
        for loss in ("bpr", "softmax"):
            objective = objective_of(loss, **training)
            found = everything_sampled(objective, model, (1, 1))
            mean = sum(chance * value.exp() for chance, value in found)
            assert abs(mean / beside_all(loss, model, (1, 1)).exp() - 1) > 0.05


@pytest.mark.parametrize("source", ["uniform", "popularity", "mixed", "in_batch"])
@pytest.mark.parametrize("is_distinct", [False, True])
@pytest.mark.parametrize("log_q", ["classic", "corrected"])
def test_with_many_samples_the_gradient_is_that_of_the_full_softmax(
    source: NegativesFrom, is_distinct: bool, log_q: str
) -> None:
    """Within five per cent of thousands of samples; without repeats they are all items."""
    if is_distinct and log_q == "classic":
        return
    loss: Loss = "in_batch_softmax" if source in {"in_batch", "mixed"} else "softmax"
    training = {
        "negatives_from": source,
        "negatives": "auto" if source == "in_batch" else 4000,
        "distinct_negatives": is_distinct,
        "log_q": log_q,
    }
    objective, model = objective_of(loss, **training), towers().eval()
    rng = np.random.default_rng(0)
    others = [ROWS[n] for n in rng.integers(0, len(ROWS), 800)]
    drawn = objective.negatives.draw(rng)
    pairs = [(1, 1), *others] if objective.negatives.is_in_batch else [(1, 1)]
    sampled = objective.loss_of(model, rows_of(pairs, negatives=drawn))
    full = beside_all("softmax", model, (1, 1))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    ask = {"allow_unused": True, "materialize_grads": True}
    got, wanted = (
        torch.cat([each.flatten() for each in torch.autograd.grad(one, weights, **ask)])
        for one in (sampled, full)
    )
    assert (got - wanted).norm() < (1e-4 if is_distinct else 0.05) * wanted.norm()


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 999))
def test_what_is_remembered_is_compared_with_and_not_changed(seed: int) -> None:
    objective = objective_of("in_batch_softmax", memory_batches=2, negatives_from="in_batch")
    model = towers()
    sizes = []
    for batch in objective.batches(3, np.random.default_rng(seed)):
        assert batch.memory is not None
        sizes.append(len(batch.memory.items))
        loss = objective.loss_of(model, batch)
        table = model.item_features.id_table
        assert table is not None
        (to_items,) = torch.autograd.grad(loss, [table.weight])
        moved = set(to_items.any(1).nonzero().flatten().tolist())
        assert moved <= set(batch.items.tolist())
    assert sizes == [0, 3, 6]
    # Another epoch begins with none.
    first = next(iter(objective.batches(3, np.random.default_rng(seed))))
    assert first.memory is not None
    assert len(first.memory.items) == 0
