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
from twotower.retrieval.wish import Others, Part, Why

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
    it; so is a pooled history in its items, where no layers read it. Where it is not, and for
    single features, a part is what the score loses without it.
    """
    # + 0, lest a dial at 0 give -0.
    by_popularity = dial * recommender.popularity.numpy()[rows] + 0.0
    if known.is_nobody:
        return [
            Why(
                id=0.0,
                features=0.0,
                history=0.0,
                bias=0.0,
                popularity=float(dialled),
                items=[],
                others=Others(count=0, adds=0.0),
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
        packed = PackedHistory.of(
            Histories(histories.offsets[1:], histories.items),
            np.zeros(1, np.int64),
            recommender.item_vectors[:, :-1],
            recommender.item_ids,
        )
        parts = model.user_parts(table, packed)
        scale = model.user_scale(torch.stack(parts).sum(0))
        own, features, history = (scale * part @ embeddings.T for part in parts)
        beside = np.zeros((len(known.history), len(rows)), np.float32)
        if recommender.blend is not None:
            beside = recommender.blend.of_each(known.history, rows)
        itself = scores - by_popularity - beside.sum(0)
        is_exact = model.history is None
        if isinstance(model.history, PooledHistory) and model.history.layers is None:
            is_exact = True
            by_item = scale * model.history.shares(packed) @ embeddings.T
        elif isinstance(model.history, PooledHistory) and model.history.ages is None:
            # Without one item the others say what they said.
            rests, _ = model.encode_users_for_parts(table, packed)
            by_item = torch.from_numpy(itself) - model.user_vectors(rests) @ items.T
        else:
            # What scores lose when one item of the history is left out.
            length = 0 if model.history is None else len(known.history)
            rest = [replace(known, history=np.delete(known.history, n)) for n in range(length)]
            by_item = _lost(recommender, rest, [None] * length, items, itself)
    if recommender.blend is not None:
        history = history + torch.from_numpy(beside.sum(0))
        added = torch.from_numpy(beside)
        by_item = by_item + added if len(by_item) else added
    columns = list(known.features)
    by_column = _lost(recommender, [known] * len(columns), columns, items, itself)
    names = recommender.items.of(known.history.astype(np.int64)).tolist()
    items_told = [_largest(names, adds) for adds in by_item.T]
    return [
        Why(
            id=float(own[0, place]),
            features=float(features[0, place]),
            history=float(history[0, place]),
            bias=float(bias[place]),
            popularity=float(by_popularity[place]),
            items=items_told[place][0],
            others=items_told[place][1],
            columns=_largest(columns, by_column[:, place])[0],
            is_exact=is_exact or not len(names),
        )
        for place in range(len(rows))
    ]


def _lost(
    recommender: Recommender,
    people: Sequence[Known],
    without: Sequence[str | None],
    items: Float32[Tensor, "K D1"],
    scores: Float32[np.ndarray, " K"],
) -> Float32[Tensor, "N K"]:
    """What scores lose when each person is known without one thing more.

    Args:
        without: of each a feature to leave out, or None.
    """
    if not people:
        return torch.empty((0, len(items)))
    vectors = recommender.encode_users(*encoded(recommender, people, without))
    return torch.from_numpy(scores) - vectors @ items.T


def _largest(names: Sequence[Any], adds: Float32[Tensor, " N"]) -> tuple[list[Part], Others]:
    """Those that count most, for or against, and the others together."""
    order = torch.argsort(adds.abs(), descending=True)
    largest = [Part(name=names[n], adds=float(adds[n])) for n in order[:_SHOWN].tolist()]
    rest = adds[order[_SHOWN:]]
    return largest, Others(count=len(rest), adds=float(rest.sum()))
