"""Signs that a training failed, or that its figures are too good to be true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from twotower.data.arrays import rows_met
from twotower.data.entities import Entities
from twotower.data.interactions import Interactions, histories
from twotower.data.leaks import leak_suspects
from twotower.data.splits import Split
from twotower.data.tables import Dataset
from twotower.evaluation.rankers import IN_WORDS
from twotower.training.sampling import PositivePairs

# Fewer rows than this fail by chance.
_ENOUGH = 100
# In fewer epochs than this a good start may hardly be left.
_FEW_EPOCHS = 5
# So much less than the first epoch's loss is no learning, but what is drawn by chance.
_LITTLE = 0.01
# A baseline that was tried with fewer settings is not tuned.
_FEW_TRIALS = 4
# Such a share of given pairs may come again by accident.
_FEW_PAIRS = 0.01


def alarms(
    *,
    losses: Sequence[float],
    guessing: float,
    ranked: Sequence[float],
    in_closed_form: bool,
    beats_popularity: bool,
    items: Float32[Tensor, "I D"],
    lists: Int64[np.ndarray, "U K"],
    ndcg: float,
    best_baseline: float | None,
    is_at_bound: bool,
    baselines: Mapping[str, Mapping[str, Any]],
    dataset: Dataset,
    parts: Split,
) -> list[str]:
    """A sentence for each sign, most serious first.

    Args:
        losses: of training, an entry an epoch.
        guessing: what a loss is worth that tells nothing; NaN where nobody knows.
        ranked: NDCG on validation, an entry an epoch.
        in_closed_form: whether training began so, which is below that already.
        beats_popularity: whether what was learned makes better lists than popularity does.
        items: their embeddings.
        lists: what the test users get, item rows, -1 for none.
        ndcg: of these lists.
        best_baseline: the same of the best baseline.
        is_at_bound: whether the temperature was learned and ended at the lowest there is.
        baselines: those of the verdict, and how they were tuned.
    """
    known = parts.train.followed_by(parts.val)
    return [
        *_stuck(
            losses,
            guessing,
            ranked,
            in_closed_form=in_closed_form,
            beats_popularity=beats_popularity,
        ),
        *_at_bound(is_at_bound),
        *_collapsed(items),
        *_same_for_all(lists, len(dataset.items)),
        *_too_good(ndcg, best_baseline, len(lists)),
        *_hardly_tuned(baselines),
        *_unknown(known, parts),
        *_from_the_future(parts),
        *met_before(known, parts),
        *_leaks(dataset, known, parts),
    ]


def _stuck(
    losses: Sequence[float],
    guessing: float,
    ranked: Sequence[float],
    *,
    in_closed_form: bool,
    beats_popularity: bool,
) -> Iterator[str]:
    if not losses:
        return
    what_to_do = (
        "try a higher training.learning_rate and embedding_learning_rate, and see whether "
        "users and items of the interactions are those of the tables"
    )
    lowest = min(losses)
    if lowest > 0.98 * guessing:
        yield (
            f"the training loss never came below {lowest:.3f}, and guessing has "
            f"{guessing:.3f}: nothing was learned; {what_to_do}"
        )
        return
    # Of millions of rows the first epoch may learn nearly all, of which better lists than
    # popular ones tell. Those of a start in closed form are the start's; a good one may be hard
    # to leave, but who leaves it ranks otherwise.
    is_told = np.isfinite(guessing) or beats_popularity
    if in_closed_form:
        is_told = not ranked or max(ranked) - min(ranked) > _LITTLE * max(ranked)
    if not is_told and _is_still(losses):
        beyond = "beyond the start in closed form " if in_closed_form else ""
        yield (
            f"the training loss stayed at the first epoch's {losses[0]:.3f}, never below "
            f"{lowest:.3f} in {len(losses)} epochs: {beyond}nothing was learned; {what_to_do}"
        )


def _is_still(losses: Sequence[float]) -> bool:
    """Whether a loss stays where its first epoch was, but for what is drawn by chance.

    Three epochs are taken together: each alone may be low by chance.
    """
    if len(losses) < _FEW_EPOCHS:
        return False
    lowest = np.convolve(losses, np.full(3, 1 / 3), "valid").min()
    return bool(losses[0] - lowest < _LITTLE * abs(losses[0]))


def _at_bound(is_at_bound: bool) -> Iterator[str]:
    if is_at_bound:
        yield (
            "the learned temperature ended at 0.01, the lowest there is, from where nothing "
            "moves it: the towers are as sure as they can be, of train perhaps; lower "
            "training.learning_rate, raise model.temperature, where it begins, or use loss "
            "softmax, which holds it fixed"
        )


def _collapsed(items: Float32[Tensor, "I D"]) -> Iterator[str]:
    """All vectors point the same way: the mean of their directions is nearly one long."""
    if len(items) < _ENOUGH:
        return
    directions = torch.nn.functional.normalize(items, dim=1)
    alike = float(directions.mean(0).norm())
    if alike > 0.98:
        yield (
            f"the item embeddings are all alike (the mean direction is {alike:.2f} long): they "
            "collapsed; lower training.learning_rate or use loss softmax"
        )


def _same_for_all(lists: Int64[np.ndarray, "U K"], num_items: int) -> Iterator[str]:
    shown = np.unique(lists[lists >= 0])
    width = lists.shape[1]
    if len(lists) >= _ENOUGH and num_items > 10 * width and len(shown) <= 2 * width:
        yield (
            f"nearly everybody gets the same list: {len(shown)} of {num_items:,} items fill "
            f"the first {width} places of {len(lists):,} users"
        )


def _too_good(ndcg: float, best_baseline: float | None, users: int) -> Iterator[str]:
    if users >= _ENOUGH and ndcg > 0.95 and (best_baseline is None or best_baseline < 0.8):
        yield (
            f"NDCG is {ndcg:.3f}, which is too good to be true: look for a feature that tells "
            "what was held out (`twotower inspect` names suspects)"
        )


def _hardly_tuned(baselines: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    few = {
        name: tuning
        for name, tuning in baselines.items()
        if tuning.get("trials", _FEW_TRIALS) < _FEW_TRIALS and not tuning["tried_all"]
    }
    if few:
        each = ", ".join(f"{IN_WORDS[name]} {tuning['trials']}" for name, tuning in few.items())
        seconds = max(tuning["budget_seconds"] for tuning in few.values())
        yield (
            f"of some baselines {seconds:g} s were enough for few settings ({each}), and an "
            "untuned one is no fair opponent: the comparison may flatter the towers; raise "
            "evaluation.baseline_seconds"
        )


def _unknown(known: Interactions, parts: Split) -> Iterator[str]:
    assert parts.test is not None
    for what, rows, there in (
        ("users", parts.test.user_rows, known.user_rows),
        ("items", parts.test.item_rows, known.item_rows),
    ):
        share = float((~np.isin(rows, rows_met(there))).mean()) if len(rows) else 0.0
        if share > 0.2 and not parts.name.startswith("cold"):
            yield (
                f"{share:.0%} of test interactions are with {what} that training never met; "
                "only their features can speak for them"
            )


def _from_the_future(parts: Split) -> Iterator[str]:
    """A given split whose train part has rows from after the beginning of test."""
    train, test = parts.train, parts.test
    assert test is not None
    if parts.name != "given" or train.times is None or test.times is None or not len(test):
        return
    later = float((train.times > np.median(test.times)).mean())
    if later > 0.01:
        yield (
            f"{later:.0%} of the train interactions are later than half of the test ones: what "
            "they tell could not be known then; if time matters, cut by it (data.split: time)"
        )


def met_before(known: Interactions, parts: Split) -> Iterator[str]:
    """Given parts that hold the same pairs: copies, or what people did once more."""
    if parts.name != "given":
        return
    assert parts.test is not None
    for name, part, before, where in (
        ("test", parts.test, known, "train or validation"),
        ("validation", parts.val, parts.train, "train"),
    ):
        share = _share_met(part.positives(), before)
        if share > _FEW_PAIRS:
            yield (
                f"{share:.0%} of the {name} part's liked pairs are in {where} too; lists are "
                "not asked for them again, but if they are copies the parts were not cut "
                "cleanly, and figures of labels know their answers: take them out"
            )


def _share_met(part: Interactions, before: Interactions) -> float:
    if not len(part) or not len(before):
        return 0.0
    num_users = int(max(part.user_rows.max(), before.user_rows.max()))
    num_items = int(max(part.item_rows.max(), before.item_rows.max()))
    met = PositivePairs.of(histories(before, num_users=num_users), num_items=num_items)
    return float(met.contain(part.user_rows, part.item_rows).mean())


def _leaks(dataset: Dataset, known: Interactions, parts: Split) -> Iterator[str]:
    """Features that follow all interactions more closely than those before test."""
    assert parts.test is not None
    every = known.followed_by(parts.test)
    sides: tuple[tuple[Literal["user", "item"], Entities], ...] = (
        ("user", dataset.users),
        ("item", dataset.items),
    )
    for who, entities in sides:
        for column, what in leak_suspects(
            entities, who, every, dataset.repeats.values()
        ).items():
            yield (
                f"{who}s: {column} follows the {what} of all interactions, the test part "
                "included: if it was computed from them, the figures are too good; take it "
                "from before the split or declare it 'ignore'"
            )
