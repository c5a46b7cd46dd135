"""Which loss goes with which others: what is open is settled, what can not be is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from twotower.config import LogQ, Loss, NegativesFrom, TrainingConfig
from twotower.errors import ConfigError, join_mistakes

SOFTMAX: frozenset[Loss] = frozenset({"softmax", "in_batch_softmax"})
# Those that weigh interactions.
WEIGHED: frozenset[Loss] = frozenset({"bce", "in_batch_softmax"})
# Up to here every item is an other in every step of a softmax; of more so many stand for all,
# beside those that the batch itself brings.
ALL_ITEMS = 20_000
_SOFTMAX_NEGATIVES = 8192
# Where each row of a batch has a user of its own, and not a part of a history.
_ALL_ITEMS_IN_ORDER = 5_000
_IN_ORDER_NEGATIVES = 2048
_NEGATIVES = 2048
_FIRST: Mapping[Loss, NegativesFrom] = {
    "bce": "labels",
    "triplet": "labels",
    "bpr": "one",
    "ccl": "uniform",
    "warp": "uniform",
    "in_batch_softmax": "in_batch",
    "softmax": "all",
}
# Where negatives are asked for and no source of them.
_FIRST_DRAWN: Mapping[Loss, NegativesFrom] = {
    "bpr": "uniform",
    "in_batch_softmax": "mixed",
    "softmax": "mixed",
}
_DRAWN: frozenset[NegativesFrom] = frozenset({"uniform", "popularity", "mixed"})
# Sources that all rows of a batch share, sampled and so with a log q.
_SAMPLED: frozenset[NegativesFrom] = _DRAWN | {"in_batch"}


def settled(
    training: TrainingConfig, loss: Loss, num_items: int, *, is_in_order: bool = False
) -> TrainingConfig:
    """The section with nothing about losses and others left on ``auto``.

    Args:
        is_in_order: that histories are read in order, each item found from those before it.

    Raises:
        ConfigError: choices that do not go together, all at once.
    """
    # Where softmax draws, all others are replaced by some only in a large catalogue.
    negatives = training.negatives
    source = training.negatives_from
    if negatives == "auto" and loss == "softmax" and source in {"auto", "all"}:
        most, drawn = ALL_ITEMS, _SOFTMAX_NEGATIVES
        if is_in_order:
            most, drawn = _ALL_ITEMS_IN_ORDER, _IN_ORDER_NEGATIVES
        negatives = 0 if num_items <= most or source == "all" else drawn
    if source == "auto":
        source = _FIRST_DRAWN.get(loss, _FIRST[loss]) if _is_asked(negatives) else _FIRST[loss]
    if negatives == "auto":
        negatives = min(_NEGATIVES, num_items) if source in _DRAWN else 0
    log_q: LogQ
    if training.log_q != "auto":
        log_q = training.log_q
    else:
        log_q = "corrected" if loss in SOFTMAX else "none"
    margin = training.margin
    if margin == "auto":
        margin = 0.4 if loss == "ccl" else 1.0
    chosen: dict[str, Any] = {
        "loss": loss,
        "negatives_from": source,
        "negatives": negatives,
        "log_q": log_q,
        "margin": margin,
    }
    made = training.model_copy(update=chosen)
    if mistakes := list(_mistakes(made, training, num_items)):
        raise ConfigError(join_mistakes("config", mistakes))
    return made


def _is_asked(negatives: int | str) -> bool:
    return isinstance(negatives, int) and negatives > 0


def _mistakes(made: TrainingConfig, given: TrainingConfig, num_items: int) -> Iterator[str]:
    loss, source = made.loss, made.negatives_from
    where = f"training.negatives_from {source!r}"
    if loss == "in_batch_softmax" and source not in {"in_batch", "mixed"}:
        yield (
            f"{where} has others from outside the batch, and training.loss "
            "'in_batch_softmax' none; use loss softmax, or negatives_from in_batch or mixed"
        )
    elif loss == "softmax" and source in {"labels", "one"}:
        yield (
            f"{where} gives a row one other, and a softmax needs many; use all, uniform, "
            "popularity, in_batch or mixed"
        )
    if source in _DRAWN and made.negatives == 0:
        yield f"{where} draws items, and training.negatives says 0 of them; give a number"
    if given.negatives_from in {"all", "in_batch"} and _is_asked(given.negatives):
        other = "mixed" if source == "in_batch" else "uniform"
        yield (
            f"{where} draws none, and training.negatives asks for {given.negatives}; set it to "
            f"auto, or negatives_from to {other}"
        )
    if made.distinct_negatives and source not in _SAMPLED:
        yield f"training.distinct_negatives goes with sampled others; {_instead(where)}"
    if made.memory_batches and source not in _SAMPLED:
        yield f"training.memory_batches goes with sampled others; {_instead(where)}"
    if made.semi_hard and (loss != "triplet" or source in {"labels", "one"}):
        yield (
            f"training.semi_hard chooses among many others of a triplet, and here is "
            f"training.loss {loss!r} with negatives_from {source!r}; set it to false"
        )
    yield from _mistakes_of_log_q(made, where)
    yield from _mistakes_of_hard(made, where, num_items)


def _mistakes_of_log_q(made: TrainingConfig, where: str) -> Iterator[str]:
    is_softmax = made.loss in SOFTMAX
    if made.log_q == "none" or (made.log_q == "corrected" and is_softmax):
        return
    if made.negatives_from not in _SAMPLED:
        yield (
            f"training.log_q {made.log_q!r} goes with sampled others; set it to auto, or "
            f"{_instead(where)}"
        )
    elif made.log_q == "corrected" and made.semi_hard:
        yield (
            "training.log_q 'corrected' weighs each of the others, and training.semi_hard "
            "takes one; set one of them to its default"
        )
    elif made.log_q == "classic" and not is_softmax:
        yield (
            f"training.log_q 'classic' is of the softmax losses, not of {made.loss!r}; use "
            "corrected or none"
        )
    elif made.log_q == "classic" and (made.distinct_negatives or made.hard_negatives):
        what = "distinct_negatives" if made.distinct_negatives else "hard_negatives"
        yield (
            "training.log_q 'classic' needs the liked item sampled as often as chance has it, "
            f"which training.{what} prevents; use corrected"
        )


def _mistakes_of_hard(made: TrainingConfig, where: str, num_items: int) -> Iterator[str]:
    if not made.hard_negatives:
        return
    first, last = made.hard_ranks
    if made.negatives_from not in _SAMPLED:
        yield f"training.hard_negatives goes beside sampled others; {_instead(where)}"
    if first > last:
        yield f"training.hard_ranks: the first rank {first} is after the last {last}; swap them"
    elif first > num_items:
        yield (
            f"training.hard_ranks begins at rank {first}, and there are {num_items:,} items; "
            "begin lower"
        )


def _instead(where: str) -> str:
    names = ", ".join(name for name in get_args(NegativesFrom) if name in _SAMPLED)
    return f"in place of {where} use one of {names}"
