"""Which losses and others go together; what each refusal says."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import pytest

from twotower.config import Loss, NegativesFrom, TrainingConfig
from twotower.errors import ConfigError
from twotower.training.choices import settled

LOSSES: tuple[Loss, ...] = get_args(Loss)
SOURCES: tuple[NegativesFrom, ...] = get_args(NegativesFrom)
# What docs/losses.md has as a table.
ONLY: dict[str, set[str]] = {
    "in_batch_softmax": {"in_batch", "mixed"},
    "softmax": {"all", "uniform", "popularity", "in_batch", "mixed"},
}


def made(loss: Loss, num_items: int = 100, **training: Any) -> TrainingConfig:
    return settled(TrainingConfig.model_validate(training), loss, num_items)


@pytest.mark.parametrize(("loss", "source"), [*product(LOSSES, SOURCES)])
def test_a_loss_takes_others_from_anywhere_but_a_softmax_from_where_there_are_many(
    loss: Loss, source: NegativesFrom
) -> None:
    if source in ONLY.get(loss, set(SOURCES)):
        found = made(loss, negatives_from=source)
        assert (found.loss, found.negatives_from) == (loss, source)
        assert (found.negatives != 0) == (source in {"uniform", "popularity", "mixed"})
    else:
        with pytest.raises(ConfigError, match=f"negatives_from '{source}'.* use "):
            made(loss, negatives_from=source)


@pytest.mark.parametrize(
    ("loss", "negatives", "source", "count"),
    [
        ("softmax", "auto", "all", 0),
        ("softmax", 0, "all", 0),
        ("softmax", 7, "mixed", 7),
        ("bpr", "auto", "one", 0),
        ("bpr", 7, "uniform", 7),
        ("in_batch_softmax", "auto", "in_batch", 0),
        ("in_batch_softmax", 7, "mixed", 7),
        ("ccl", "auto", "uniform", 100),
        ("warp", 7, "uniform", 7),
        # Labels say more than draws, and bce and triplet never used the number.
        ("bce", 7, "labels", 7),
        ("triplet", "auto", "labels", 0),
    ],
)
def test_a_number_of_negatives_alone_says_where_they_come_from(
    loss: Loss, negatives: int | str, source: str, count: int
) -> None:
    found = made(loss, negatives=negatives)
    assert (found.negatives_from, found.negatives) == (source, count)


def test_in_a_large_catalogue_some_items_stand_for_all() -> None:
    assert made("softmax", 20_001).negatives_from == "mixed"
    assert made("softmax", 20_001).negatives == 8192
    assert made("softmax", 20_001, negatives_from="all").negatives == 0
    assert made("bce", 20_001, negatives_from="mixed").negatives == 2048


def test_in_order_some_stand_for_all_sooner() -> None:
    found = [
        settled(TrainingConfig(), "softmax", num_items, is_in_order=True)
        for num_items in (5_000, 5_001)
    ]
    assert [(one.negatives_from, one.negatives) for one in found] == [
        ("all", 0),
        ("mixed", 2048),
    ]


@pytest.mark.parametrize(
    ("loss", "training", "message"),
    [
        ("bpr", {"negatives_from": "uniform", "negatives": 0}, "says 0 of them; give a number"),
        ("bpr", {"negatives_from": "all", "negatives": 3}, "or negatives_from to uniform"),
        ("bpr", {"negatives_from": "in_batch", "negatives": 3}, "or negatives_from to mixed"),
        ("bpr", {"distinct_negatives": True}, "distinct_negatives .* in place of .*'one' use"),
        ("softmax", {"memory_batches": 1}, "memory_batches .* in place of .*'all' use"),
        ("bce", {"hard_negatives": 1}, "hard_negatives .* in place of .*'labels' use"),
        ("bpr", {"semi_hard": True}, "semi_hard .*'bpr'.* set it to false"),
        ("triplet", {"semi_hard": True}, "semi_hard .*'labels'; set it to false"),
        ("bce", {"log_q": "corrected"}, "log_q 'corrected' goes with sampled others"),
        ("softmax", {"log_q": "classic"}, "log_q 'classic' goes with sampled others"),
        (
            "triplet",
            {"log_q": "corrected", "semi_hard": True, "negatives_from": "uniform"},
            "takes one; set one of them to its default",
        ),
        ("ccl", {"log_q": "classic"}, "of the softmax losses, not of 'ccl'"),
        (
            "in_batch_softmax",
            {"log_q": "classic", "distinct_negatives": True},
            r"training\.distinct_negatives prevents; use corrected",
        ),
        (
            "in_batch_softmax",
            {"log_q": "classic", "hard_negatives": 2},
            r"training\.hard_negatives prevents; use corrected",
        ),
        (
            "in_batch_softmax",
            {"hard_negatives": 2, "hard_ranks": [9, 5]},
            "first rank 9 is after the last 5; swap them",
        ),
        (
            "in_batch_softmax",
            {"hard_negatives": 2, "hard_ranks": [101, 200]},
            "begins at rank 101, and there are 100 items; begin lower",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_to_do(
    loss: Loss, training: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        made(loss, **training)
    assert len(str(caught.value).splitlines()) == 1


def test_all_that_does_not_go_together_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match="config has 2 errors") as caught:
        made("bpr", distinct_negatives=True, memory_batches=1)
    assert "distinct_negatives" in str(caught.value)
    assert "memory_batches" in str(caught.value)
