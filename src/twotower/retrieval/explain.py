"""Why an item is on a list: what id, features, history, bias and popularity add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from twotower.data.interactions import Histories
from twotower.model.history import PackedHistory, PooledHistory
from twotower.retrieval.people import Known, encoded
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.wish import Part, Why

_SHOWN = 5


def explained(
    recommender: Recommender,
    known: Known,
    rows: Int64[np.ndarray, " K"],
    scores: Float32[np.ndarray, " K"],
    dial: float,
) -> list[Why]:
    """Why each item of one person's list is there.

    The vector before it is scaled is a sum (id, features, history), and the score is linear in
    it; so is a pooled history in its items. Where it is not, and for single features, a part is
    what the score loses without it.
    """
    # + 0, lest a dial at 0 give -0.
    by_popularity = dial * recommender.popularity.numpy()[rows] + 0.0
    if known.rests_on(recommender) == ["popularity"]:
        return [
            Why.model_construct(
                id=0.0,
                features=0.0,
                history=0.0,
                bias=0.0,
                popularity=float(dialled),
                items=[],
                columns=[],
                is_exact=True,
            )
            for dialled in by_popularity
        ]
    model = recommender.model
    items = recommender.item_vectors[torch.from_numpy(rows)]
    embeddings, bias = items[:, :-1], items[:, -1]
    with torch.inference_mode():
        table, histories = encoded(recommender, [known])
        packed = _packed(recommender, histories, 1)
        parts = model.user_parts(table, packed)
        scale = model.user_scale(torch.stack(parts).sum(0))
        own, features, history = (scale * part @ embeddings.T for part in parts)
        is_exact = isinstance(model.history, PooledHistory)
        if isinstance(model.history, PooledHistory):
            by_item = scale * model.history.shares(packed) @ embeddings.T
        else:
            by_item = _without_each_item(recommender, known, items, scores - by_popularity)
    by_column = _without_each_column(recommender, known, items, scores - by_popularity)
    names = recommender.items.of(known.history.astype(np.int64)).tolist()
    return [
        Why.model_construct(
            id=float(own[0, place]),
            features=float(features[0, place]),
            history=float(history[0, place]),
            bias=float(bias[place]),
            popularity=float(by_popularity[place]),
            items=_largest(names, by_item[:, place]),
            columns=_largest(list(known.features), by_column[:, place]),
            is_exact=is_exact or not len(names),
        )
        for place in range(len(rows))
    ]


def _packed(recommender: Recommender, histories: Histories, count: int) -> PackedHistory:
    shifted = Histories(histories.offsets[1:], histories.items)
    embeddings = recommender.item_vectors[:, :-1]
    return PackedHistory.of(shifted, np.arange(count), embeddings, recommender.item_ids)


def _without_each_item(
    recommender: Recommender,
    known: Known,
    items: Float32[Tensor, "K D1"],
    scores: Float32[np.ndarray, " K"],
) -> Float32[Tensor, "L K"]:
    """What scores lose when one item of the history is left out."""
    history = known.history if recommender.model.history is not None else known.history[:0]
    rest = [replace(known, history=np.delete(history, n)) for n in range(len(history))]
    return _lost(recommender, rest, [None] * len(rest), items, scores)


def _without_each_column(
    recommender: Recommender,
    known: Known,
    items: Float32[Tensor, "K D1"],
    scores: Float32[np.ndarray, " K"],
) -> Float32[Tensor, "F K"]:
    """What scores lose when one feature is left out."""
    names = list(known.features)
    return _lost(recommender, [known] * len(names), names, items, scores)


def _lost(
    recommender: Recommender,
    people: Sequence[Known],
    without: Sequence[str | None],
    items: Float32[Tensor, "K D1"],
    scores: Float32[np.ndarray, " K"],
) -> Float32[Tensor, "N K"]:
    if not people:
        return torch.empty((0, len(items)))
    vectors = recommender.encode_users(*encoded(recommender, people, without))
    return torch.from_numpy(scores) - vectors @ items.T


def _largest(names: Sequence[Any], adds: Float32[Tensor, " N"]) -> list[Part]:
    if not len(adds):
        return []
    order = torch.argsort(adds, descending=True)[:_SHOWN].tolist()
    return [Part.model_construct(name=names[n], adds=float(adds[n])) for n in order]
