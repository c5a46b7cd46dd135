"""Features that stand in for what is not known: lessons for the layers before training.

A model that starts in closed form is good at once for items that were met and for users with a
history. Others are known by features alone, and the layers that read those have learned nothing
yet: here they learn to say the vector that an id, or a history, would have said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from twotower.data.features import FeatureTable
from twotower.data.interactions import Histories
from twotower.model.history import PackedHistory
from twotower.model.two_tower import TwoTower

_RATE = 1e-3
_BATCH_ROWS = 256
_STEPS = 300
# As many users say what features tell.
_MOST_USERS = 20_000


def teach_stand_ins(
    model: TwoTower,
    users: FeatureTable,
    items: FeatureTable,
    liked: Histories,
    *,
    history_length: int,
    seed: int,
) -> None:
    """Teach the layers of both towers, where their entities have features.

    Args:
        users, items: row 0 included, on the model's device.
        liked: the users' histories.
    """
    history_table, id_table = model.history_table, model.item_features.id_table
    assert model.history is not None
    assert history_table is not None
    assert id_table is not None
    device = id_table.weight.device
    rng = np.random.default_rng([seed, 6])
    model.eval()
    if model.item_features.has_features:
        met = items.ids.nonzero()[:, 0]
        weights = [*model.item_tower.parameters(), *model.item_features.feature_tables()]
        wanted = id_table.weight.detach()[items.ids[met]]
        _teach(weights, model.encode_items, items, met, wanted, rng)
    if model.user_features.has_features:
        rows = np.flatnonzero(liked.lengths() > 0)
        rows = np.sort(rng.permutation(rows)[:_MOST_USERS])
        recent = liked.latest(history_length)
        packed = PackedHistory.of(recent, rows, history_table.weight.detach())
        weights = [*model.user_tower.parameters(), *model.user_features.feature_tables()]

        def encode(part: FeatureTable) -> Tensor:
            nothing = torch.zeros(len(part) + 1, dtype=torch.int64, device=device)
            return model.encode_users(part, replace(packed, items=nothing[:0], offsets=nothing))

        known = torch.from_numpy(rows).to(device)
        _teach(weights, encode, users, known, model.history(packed), rng)


def _teach(
    weights: list[nn.Parameter],
    encode: Callable[[FeatureTable], Float[Tensor, "B D"]],
    table: FeatureTable,
    rows: Int64[Tensor, " N"],
    wanted: Float[Tensor, "N D"],
    rng: np.random.Generator,
) -> None:
    """Bring ``encode`` of rows whose ids are hidden near to ``wanted``, in squared error."""
    optimizer = torch.optim.Adam(weights, _RATE)
    for _ in range(_STEPS):
        places = rng.integers(len(rows), size=min(_BATCH_ROWS, len(rows)))
        chosen = torch.from_numpy(places).to(rows.device)
        part = table.take(rows[chosen])
        hidden = replace(part, ids=torch.zeros_like(part.ids))
        loss = nn.functional.mse_loss(encode(hidden), wanted[chosen])
        gradients = torch.autograd.grad(loss, weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimizer.step()
    for weight in weights:
        weight.grad = None
